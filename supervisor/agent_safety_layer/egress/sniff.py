"""Which host a client names in its first bytes: TLS server name, or HTTP/1 Host and absolute target. Pure, incremental.

On an address that many names share, the name inside decides who is reached. The bytes are looked at *before* each piece
is forwarded, and a server acts only on a complete ClientHello or header, so nothing needs to be held back: the piece
that would complete a wrong name is the one that is never sent. Protocols that are neither go by unhindered at once.

Not seen: the name inside an encrypted ClientHello, HTTP/2 without TLS, and later requests on the same connection.
Sources: RFC 8446 section 4.1.2, RFC 6066 section 3, RFC 9112.
"""

from __future__ import annotations

LIMIT = 65_536
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME = 22, 1, 0
_TEXT = frozenset((*b"\t\v\f\r", *range(0x20, 0x7F), *range(0x80, 0x100)))


class Sniffer:
    """Watches one connection's client side until it is clear what it names.

    ``done`` is true when no further bytes are of interest. ``fault`` says why the connection names nothing although its
    protocol should ("" otherwise). ``protocol`` is "", "TLS" or "HTTP".
    """

    def __init__(self) -> None:
        self.done = False
        self.fault = ""
        self.protocol = ""
        self._held = bytearray()
        self._hello = bytearray()

    def feed(self, data: bytes) -> tuple[str, ...]:
        """The host names, in lower case without port, that became known with these bytes."""
        if not self._held and not self.protocol:
            data = data.lstrip(b"\r\n")  # a server skips empty lines before a request
        if self.done or not data:
            return ()
        self._held += data
        if not self.protocol:
            self.protocol = self._recognise(data)
        names: tuple[str, ...] = ()
        if self.protocol == "TLS":
            names = self._tls()
        elif self.protocol == "HTTP" and b"\n" in data:
            names = self._http()
        if not self.done and len(self._held) + len(self._hello) > LIMIT:
            self._fail(f"opening longer than {LIMIT} bytes")
        if self.done:
            self._held.clear()
            self._hello.clear()
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

    def _http(self) -> tuple[str, ...]:
        held = bytes(self._held).lstrip(b"\r\n")
        end = min((at for mark in (b"\n\n", b"\n\r\n") if (at := held.find(mark)) >= 0), default=-1)
        if end < 0:
            return ()
        self.done = True
        # Read as the most lenient server would: a bare CR ends a line, a name may be indented or folded. Where the
        # header ends is read as the strictest would, so that nothing which a server takes for a field is left out.
        line, *fields = held[:end].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        method, target, *_ = *line.split(), b"", b""
        names = []
        if method.upper() == b"CONNECT":
            names.append(_host(target))
        elif b"://" in target:
            names.append(_host(target.partition(b"://")[2]))
        for field, following in zip(fields, [*fields[1:], b""], strict=True):
            key, colon, text = field.partition(b":")
            if colon and key.strip().lower() == b"host":
                folded = following if following[:1] in (b" ", b"\t") else b""
                names.append(_host(text + folded))
        return tuple(names)


def _host(authority: bytes) -> str:
    """The host of ``[user@]host[:port][/path]``, in lower case, without brackets and final dot."""
    for separator in (b"/", b"?", b"#"):
        authority = authority.partition(separator)[0]
    host = authority.strip().rpartition(b"@")[2]
    host = host[1:].partition(b"]")[0] if host.startswith(b"[") else host.partition(b":")[0]
    return host.decode("ascii", "backslashreplace").lower().removesuffix(".")


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
