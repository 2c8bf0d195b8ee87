"""Events in words: what ``match`` patterns see, and what reasons name."""

from __future__ import annotations

from agent_safety_layer.policy.commands import join

_READABLE = 40  # characters of ``{a,b,c}``

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.events import Event
    from agent_safety_layer.policy.model import Entry, Host


def text_of_event(event: Event) -> str:
    """What ``match`` is matched against: the command line, the path (``a -> b`` for two), ``host:port ip:port``."""
    kind = event.kind
    if kind == "process.exec":
        return join(event.argv) or event.path
    if kind.startswith("file.") or kind == "net.unix":
        return f"{event.path} -> {event.path2}" if event.path2 else event.path
    if kind.startswith("net."):
        return " ".join(with_port(name, event.port) for name in (event.host, event.ip) if name)
    return " ".join(part for part in (event.op, event.syscall, event.detail) if part)


def destination(event: Event) -> str:
    """Where a network event goes, as a person writes it: ``api.x.com:443``, ``[::1]:80``, ``/run/x.sock``."""
    return (
        with_port(event.host or event.ip, event.port) if event.host or event.ip else event.path or "an unnamed socket"
    )


def with_port(name: str, port: int) -> str:
    """Host and port as they are written, with an IPv6 address in brackets."""
    name = f"[{name}]" if ":" in name else name
    return f"{name}:{port}" if port else name


def listed(entries: tuple[Entry, ...] | tuple[Host, ...], limit: int = 4) -> str:
    """The first few entries of a list in words. Long lists of choices in braces are only counted."""
    texts = list(dict.fromkeys(entry.text for entry in entries))
    shown = [text for text in texts if "," not in text or len(text) <= _READABLE][:limit] or texts[:1]
    more = f" and {len(texts) - len(shown)} more" if len(texts) > len(shown) else ""
    return (", ".join(shown) + more) or "nothing"
