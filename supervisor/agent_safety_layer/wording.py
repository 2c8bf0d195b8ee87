"""How events and denials are put into words: what was attempted, and what would allow it."""

from __future__ import annotations

from agent_safety_layer.events import ASK
from agent_safety_layer.trace import redact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent_safety_layer.events import Decision, Event

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_")


def object_of(event: Event) -> str:
    """What the event acts on, as a person would name it: path, address, command line. Redacted, not escaped."""
    if event.argv:
        return shell_joined(redact.arguments(event.argv))
    if event.path:
        return f"{event.path} -> {event.path2}" if event.path2 else event.path
    if event.host or event.ip:
        return address_of(event)
    if event.target or event.signal:
        return f"signal {event.signal} to process {event.target}" if event.signal else f"process {event.target}"
    return redact.text(event.detail) or event.op or event.syscall


def address_of(event: Event) -> str:
    """``host:port``, with the address in parentheses when a name is known for it; IPv6 in brackets."""
    ip = f"[{event.ip}]" if ":" in event.ip else event.ip
    port = f":{event.port}" if event.port else ""
    if event.host and event.ip and event.host != event.ip:
        return f"{event.host}{port} ({ip})"
    return (event.host or ip) + port


def shell_joined(argv: Iterable[str]) -> str:
    """The argv as one would type it into a shell."""
    return " ".join(quoted(word) for word in argv)


def quoted(word: str) -> str:
    """The word in single quotes when a shell would not take it as it stands."""
    return word if word and _PLAIN.issuperset(word) else "'" + word.replace("'", "'\"'\"'") + "'"


def remedy_of(event: Event, decision: Decision) -> str:
    """What would allow the event: a flag where one suffices, else the line of the policy to change. Not escaped."""
    change = _change(decision.where)
    if decision.action == ASK:
        return "answer the question (--approve tty)" + (f", or {change}" if change else "")
    return _flag(event, decision.rule) or change


def _change(where: str) -> str:
    if where == "built-in":  # cannot be changed
        return ""
    if where.startswith("profiles/"):
        return f"extend the profile in a policy of your own, `without` the entry at {where}"
    return f"change {where}" if where else ""


def _flag(event: Event, rule: str) -> str:
    """The flag that adds to the allowlist that *rule* is, or nothing when the rule is not one."""
    if rule == "files.write":
        return f"--allow-write {quoted(event.path)}"
    if rule == "files.read":
        return f"--allow-read {quoted(event.path)}"
    if rule in ("network.allow", "network.private_ips") and (event.host or event.ip):
        # A name does not vouch for a private address that it resolves to: the address itself must be listed.
        name = event.host if event.host and rule == "network.allow" else event.ip
        name = f"[{name}]" if ":" in name else name
        return f"--allow-host {quoted(f'{name}:{event.port}' if event.port else name)}"
    return ""
