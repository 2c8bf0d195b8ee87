"""Which host a client names: TLS server name in its first bytes, HTTP/1 Host and target in any. Pure, incremental.

On an address that many names share, the name inside decides who is reached. The bytes are looked at *before* each piece
is forwarded, and a server acts only on a complete ClientHello or header, so nothing needs to be held back: the piece
that would complete a wrong name is the one that is never sent. Protocols that are neither go by unhindered at once.

Not seen: the name inside an encrypted ClientHello, and what is inside TLS. HTTP/2 without TLS is a fault.
Sources: RFC 8446 section 4.1.2, RFC 6066 section 3; for HTTP see ``requests``.
"""

from __future__ import annotations

from agent_safety_layer.egress.requests import Requests

LIMIT = 65_536
_TUNNELS = 8
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME = 22, 1, 0
_TEXT = frozenset((*b"\t\v\f\r", *range(0x20, 0x7F), *range(0x80, 0x100)))


class Sniffer:
    """Watches one connection's client side until it is clear what it names.

    ``done`` is true when no further bytes are of interest. ``fault`` says why the connection names nothing although its
    protocol should ("" otherwise). ``protocol`` is "", "TLS" or "HTTP".
    """

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth  # of tunnels in tunnels
        self.done = False
        self.fault = ""
        self.protocol = ""
        self._held = bytearray()
        self._hello = bytearray()
        self._requests: Requests | None = None

    def feed(self, data: bytes) -> tuple[str, ...]:
        """The host names, in lower case without port, that became known with these bytes."""
        if not self._held and not self.protocol:
            data = data.lstrip(b"\r\n")  # a server skips empty lines before a request
        if self.done or not data:
            return ()
        if self._requests is not None:
            return self._http(self._requests, data)
        self._held += data
        if not self.protocol:
            self.protocol = self._recognise(data)
        names: tuple[str, ...] = ()
        if self.protocol == "TLS":
            names = self._tls()
        elif self.protocol == "HTTP":
            if self._depth >= _TUNNELS:
                return self._fail("tunnels in tunnels")
            self._requests = Requests(lambda: Sniffer(self._depth + 1))
            opening = bytes(self._held)
            self._held.clear()
            return self._http(self._requests, opening)
        if not self.done and len(self._held) + len(self._hello) > LIMIT:
            self._fail(f"opening longer than {LIMIT} bytes")
        if self.done:
            self._held.clear()
            self._hello.clear()
        return names

    def _http(self, requests: Requests, data: bytes) -> tuple[str, ...]:
        names = requests.feed(data)
        self.done, self.fault = requests.done, requests.fault
        return names

    def _recognise(self, data: bytes) -> str:
        held = self._held
        if 20 <= held[0] <= 23:  # a TLS record
            if len(held) < 2:
                return ""
            if held[1] == 3:
                return "TLS"
        elif held[0] & 0x80:  # perhaps a ClientHello in the format of SSL 2, which has no room for a name
            if len(held) < 5:
                return ""
            if held[2] == _CLIENT_HELLO and (held[3], held[4]) in {(0, 2), (3, 0), (3, 1), (3, 2), (3, 3)}:
                self._fail("TLS without a server name (SSL 2 format)")
                return "TLS"
        else:
            newline = data.find(b"\n")
            if not _TEXT.issuperset(data[:newline] if newline >= 0 else data):
                self.done = True
                return ""
            if newline < 0:
                return ""
            if b"HTTP/" in held.partition(b"\n")[0].upper():
                return "HTTP"
        self.done = True
        return ""

    def _fail(self, why: str) -> tuple[str, ...]:
        self.done = True
        self.fault = why
        return ()

    def _tls(self) -> tuple[str, ...]:
        if self.done:
            return ()
        held, hello = self._held, self._hello
        while len(held) >= 5:
            end = 5 + int.from_bytes(held[3:5], "big")
            if held[0] != _HANDSHAKE or held[1] != 3 or end > 16_645:
                return self._fail("malformed TLS ClientHello")
            if len(held) < end:
                break
            hello += held[5:end]
            del held[:end]
        if hello and hello[0] != _CLIENT_HELLO:
            return self._fail("TLS that does not begin with a ClientHello")
        size = int.from_bytes(hello[1:4], "big")
        if len(hello) < 4 or len(hello) < 4 + size:
            return ()
        try:
            names = _server_names(bytes(hello[4 : 4 + size]))
        except (IndexError, ValueError):
            return self._fail("malformed TLS ClientHello")
        self.done = True
        if not names:
            self.fault = "TLS without a server name"
        return names


def _server_names(hello: bytes) -> tuple[str, ...]:
    """Every host name in the server_name extensions; ``ValueError`` or ``IndexError`` when it is no ClientHello."""
    at = 2 + 32  # version, random
    at += 1 + hello[at]  # session id
    at += 2 + _u16(hello, at)  # cipher suites
    at += 1 + hello[at]  # compression methods
    if at == len(hello):
        return ()
    end = at + 2 + _u16(hello, at)
    at += 2
    if end != len(hello):
        raise ValueError("extensions do not fill the ClientHello")
    names = []
    while at < end:
        kind, length = _u16(hello, at), _u16(hello, at + 2)
        body = hello[at + 4 : at + 4 + length]
        at += 4 + length
        if kind == _SERVER_NAME:
            names += _name_list(body)
    if at != end:
        raise ValueError("an extension is longer than its place")
    return tuple(names)


def _name_list(body: bytes) -> list[str]:
    if _u16(body, 0) != len(body) - 2:
        raise ValueError("server name list of the wrong length")
    names, at = [], 2
    while at < len(body):
        length = _u16(body, at + 1)
        name = body[at + 3 : at + 3 + length]
        if len(name) != length:
            raise ValueError("server name longer than its place")
        if body[at] == 0:
            names.append(name.decode("ascii", "backslashreplace").lower().removesuffix("."))
        at += 3 + length
    return names


def _u16(data: bytes, at: int) -> int:
    if at + 2 > len(data):
        raise IndexError(at)
    return data[at] << 8 | data[at + 1]
