"""The hosts that the requests of one HTTP/1 connection name, from the first to the last. Pure, incremental.

Requests follow each other on a connection, and each can name another host, so where one ends must be known. A header is
read for names as the most lenient server would read it; what says how long a body is must be plain, because whoever
takes a request for a part of a body overlooks it. Sources: RFC 9110, RFC 9112.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.egress.sniff import Sniffer

LONGEST_HEADER = 65_536
_LONGEST_LINE = 4096
_HEX = frozenset(b"0123456789abcdefABCDEF")


class Requests:
    """Watches what the client sends. ``done`` when nothing more is of interest, ``fault`` says what cannot be followed.

    ``opaque`` makes what looks at the bytes behind a CONNECT or an Upgrade, which may be anything.
    """

    def __init__(self, opaque: Callable[[], Sniffer]) -> None:
        self.done = False
        self.fault = ""
        self._opaque = opaque
        self._held = bytearray()
        self._skip = 0  # bytes of a body that are still to come
        self._take: Callable[[bytes], tuple[bytes, tuple[str, ...]]] = self._header
        self._inner: Sniffer | None = None

    def feed(self, data: bytes) -> tuple[str, ...]:
        """The names that became known with these bytes."""
        names: tuple[str, ...] = ()
        while data and not self.done:
            if self._skip:
                size = min(self._skip, len(data))
                self._skip -= size
                data = data[size:]
                continue
            data, found = self._take(data)
            names += found
        return names

    def _fail(self, why: str) -> tuple[bytes, tuple[str, ...]]:
        self.done = True
        self.fault = why
        return b"", ()

    def _header(self, data: bytes) -> tuple[bytes, tuple[str, ...]]:
        held = self._held
        if not held:
            data = data.lstrip(b"\r\n")  # a server skips empty lines before a request
        start = max(len(held) - 3, 0)
        held += data
        ends = ((held.find(mark, start), len(mark)) for mark in (b"\n\n", b"\n\r\n"))
        end, size = min((end for end in ends if end[0] >= 0), default=(-1, 0))
        if end < 0 and len(held) > LONGEST_HEADER:
            return self._fail(f"a request's header longer than {LONGEST_HEADER} bytes")
        if end < 0:
            return b"", ()
        header, rest = bytes(held[: end + 1]), bytes(held[end + size :])
        held.clear()
        return self._request(header, rest)

    def _request(self, header: bytes, rest: bytes) -> tuple[bytes, tuple[str, ...]]:
        # Read as the most lenient server would: a bare CR ends a line, a name may be indented or folded. Where the
        # header ends is read as the strictest would, so that nothing which a server takes for a field is left out.
        plain = header.replace(b"\r\n", b"\n")
        line, *fields = plain.replace(b"\r", b"\n").split(b"\n")
        method, target, *_ = *line.split(), b"", b""
        if b"HTTP/" not in line.upper():
            return self._fail("what follows a request is none")
        if method == b"PRI":
            return self._fail("HTTP/2 without TLS")
        names = []
        if method.upper() == b"CONNECT":
            names.append(host(target))
        elif b"://" in target:
            names.append(host(target.partition(b"://")[2]))
        framing: dict[bytes, set[bytes]] = {}
        upgrades = method.upper() == b"CONNECT"
        strict = frozenset(plain.split(b"\n"))
        for field, following in zip(fields, [*fields[1:], b""], strict=True):
            key, colon, text = field.partition(b":")
            name = key.strip().lower()
            if not colon:
                continue
            if name == b"host":
                folded = following if following[:1] in (b" ", b"\t") else b""
                names.append(host(text + folded))
            elif name == b"upgrade":
                upgrades = True
            elif name in (b"content-length", b"transfer-encoding"):
                if field not in strict or name != key.lower() or following[:1] in (b" ", b"\t"):
                    return self._fail("a request whose length can be read in two ways")
                framing.setdefault(name, set()).add(text.strip(b" \t").lower())
        if not self._frame(framing):
            return self._fail("a request whose length can be read in two ways")
        if upgrades:
            self._take = self._beyond
        return rest, tuple(names)

    def _frame(self, framing: dict[bytes, set[bytes]]) -> bool:
        """Whether it is clear how long the body is."""
        self._take = self._header
        if not framing:
            return True
        if len(framing) > 1:
            return False
        ((name, values),) = framing.items()
        if name == b"transfer-encoding":
            self._take = self._chunk_size
            return values == {b"chunked"}
        (value, *others) = values
        if others or not value.isdigit() or len(value) > 18:
            return False
        self._skip = int(value)
        return True

    def _beyond(self, data: bytes) -> tuple[bytes, tuple[str, ...]]:
        """What a server that agrees takes for another protocol; for one that does not it is the next request."""
        if self._inner is None:
            self._inner = self._opaque()
        names = self._inner.feed(data)
        self.done, self.fault = self._inner.done, self._inner.fault
        return b"", names

    def _line(self, data: bytes) -> tuple[bytes | None, bytes]:
        """The next line, None while it is not whole, and what comes after it."""
        held = self._held
        end = data.find(b"\n")
        held += data if end < 0 else data[: end + 1]
        if len(held) > _LONGEST_LINE:
            self._fail("a chunk's header without end")
            return None, b""
        if end < 0:
            return None, b""
        line = bytes(held)
        held.clear()
        return line, data[end + 1 :]

    def _chunk_size(self, data: bytes) -> tuple[bytes, tuple[str, ...]]:
        line, rest = self._line(data)
        if line is None:
            return rest, ()
        size = line.rstrip(b"\r\n").partition(b";")[0]
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or not size or len(size) > 15 or not _HEX.issuperset(size):
            return self._fail("a chunk whose length can be read in two ways")
        self._skip = int(size, 16)
        self._take = self._chunk_end if self._skip else self._trailer
        return rest, ()

    def _chunk_end(self, data: bytes) -> tuple[bytes, tuple[str, ...]]:
        line, rest = self._line(data)
        if line is None:
            return rest, ()
        if line != b"\r\n":
            return self._fail("a chunk longer than it says")
        self._take = self._chunk_size
        return rest, ()

    def _trailer(self, data: bytes) -> tuple[bytes, tuple[str, ...]]:
        line, rest = self._line(data)
        if line is not None and line in (b"\r\n", b"\n"):
            self._take = self._header
        return rest, ()


def host(authority: bytes) -> str:
    """The host of ``[user@]host[:port][/path]``, in lower case, without brackets and final dot."""
    for separator in (b"/", b"?", b"#"):
        authority = authority.partition(separator)[0]
    name = authority.strip().rpartition(b"@")[2]
    name = name[1:].partition(b"]")[0] if name.startswith(b"[") else name.partition(b":")[0]
    return name.decode("ascii", "backslashreplace").lower().removesuffix(".")
