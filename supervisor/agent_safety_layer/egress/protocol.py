"""What the supervisor and its egress process say to each other: one message a datagram of a socket pair. Pure.

    egress → supervisor                          supervisor → egress
    Ready | Failed       once, after the start
    Ask                  may this go on?         Answer
    Opened               it is done              Open, Release
    Resolved             checked, or why not     Resolve
    Named                the book has grown
    Happened, Lost       for the trace
                                                 (hanging up: end)

A message is its name and its fields, joined by NUL. Text that comes from the network has its NULs replaced before.
"""

from __future__ import annotations

from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@value
class Ready:
    """The egress process serves. ``dns_port``: the responder's on 127.0.0.1; 0 with a namespace."""

    dns_port: int


@value
class Failed:
    """It could not be set up (an ``UnsupportedError`` by its fields) and has ended."""

    wanted: str
    found: str
    remedy: str


@value
class Ask:
    """May this go on? ``kind`` is an event kind; ``ip`` is empty while a name has not been resolved."""

    id: int
    kind: str
    host: str
    ip: str
    port: int
    proto: str


@value
class Answer:
    """The decision's action and reason. For connections only allow, audit and warn let it go on.

    ``lasts`` is 1 when the same question would get the same answer until the run ends, so that it need not be asked.
    """

    id: int
    action: str
    reason: str
    lasts: int = 0


@value
class Open:
    """There shall be a listener that receives what the tree sends to this address and port."""

    id: int
    ip: str
    port: int
    proto: str


@value
class Release:
    """That listener shall be gone."""

    id: int
    ip: str
    port: int
    proto: str


@value
class Opened:
    """The answer to both: 0 or the errno."""

    id: int
    errno: int


@value
class Resolve:
    """Judge, resolve and check as for a connection, but let the supervisor dial."""

    id: int
    ip: str
    port: int
    proto: str


@value
class Resolved:
    """The name that was meant and the address to dial, or no address and the reason."""

    id: int
    host: str
    ip: str
    reason: str


@value
class Finish:
    """The tree is gone: what it has sent goes on its way, within so many milliseconds; then tell what came of all that
    is open, and end.
    """

    within_ms: int


@value
class Named:
    """The address book's new entry; sent before the tree can know of it."""

    host: str
    ip4: str
    ip6: str


@value
class Happened:
    """For the trace: what came of a connection or question. ``result`` is "" or the name of an errno or DNS error.

    ``source`` is the port of the tree's end (0 for a question), ``dialled`` the address that the tree used.
    """

    kind: str
    host: str
    ip: str
    port: int
    proto: str
    result: str
    reason: str
    sent: int
    received: int
    source: int = 0
    dialled: str = ""


@value
class Lost:
    """So many ``Happened`` were dropped because the supervisor did not keep up."""

    count: int


Message = (
    Ready | Failed | Ask | Answer | Open | Release | Opened | Resolve | Resolved | Named | Finish | Happened | Lost
)
_KINDS: dict[str, Any] = {kind.__name__: kind for kind in Message.__args__}
LONGEST = 8192


def encode(message: Message) -> bytes:
    """The message as one datagram, at most ``LONGEST`` bytes: long text fields are cut."""
    fields: Any = message
    texts = (str(field).replace("\0", "\\x00")[:1024] for field in fields)
    return "\0".join((type(message).__name__, *texts)).encode("utf-8", "backslashreplace")


def decode(datagram: bytes) -> Message:
    """The message; ``decode(encode(m)) == m`` for text without NUL up to 1,024 characters. Else ``ValueError``."""
    name, *texts = datagram.decode().split("\0")
    kind = _KINDS.get(name)
    if kind is None or len(texts) != len(kind._fields):
        raise ValueError(f"not a message: {datagram[:80]!r}")
    types = kind.__annotations__.values()
    message: Message = kind(*(int(t) if of == "int" else t for of, t in zip(types, texts, strict=True)))
    return message
