"""DNS on the wire, as much as an interceptor needs: one question in, one answer out. Pure (RFC 1035, 6891, 8914).

Only ordinary questions are read; whatever else arrives is None and is to be dropped, for there is no server behind us
that it could be meant for. Answers never say more than addresses.
"""

from __future__ import annotations

import struct

from asl_hooks.value import value

NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
A, PTR, AAAA, OPT, ANY = 1, 12, 28, 41, 255
TTL_S = 60
_BLOCKED = 15  # extended DNS error (RFC 8914): "blocked", shown by dig and kdig
_LONGEST_UDP = 1232


@value
class Query:
    """A question. ``name`` is as asked, labels joined by dots, bytes beyond ASCII as ``\\xNN``; ``question`` is raw."""

    id: int
    name: str
    type: int
    recursion: bool
    extended: bool
    question: bytes


def parse_query(packet: bytes) -> Query | None:
    """The question of a standard query with exactly one, of class IN; else None. Only OPT is seen of others."""
    if len(packet) < 17:
        return None
    ident, flags, questions, answers, authorities, additionals = struct.unpack_from("!6H", packet)
    if flags & 0xF800 or questions != 1 or answers or authorities:  # a response, or not a standard query
        return None
    end = 12
    labels: list[bytes] = []
    while True:
        length = packet[end] if end < len(packet) else 64
        if length > 63:  # a compression pointer has nothing to point back to in a question
            return None
        end += 1
        if not length:
            break
        labels.append(packet[end : end + length])
        end += length
    if end - 12 > 255 or end + 4 > len(packet):
        return None
    kind, klass = struct.unpack_from("!HH", packet, end)
    if klass != 1:
        return None
    end += 4
    extended = additionals > 0 and packet[end : end + 3] == b"\0\0\x29"
    name = ".".join(label.decode("ascii", "backslashreplace") for label in labels)
    return Query(ident, name, kind, bool(flags & 0x0100), extended, packet[12:end])


def reply(query: Query, rcode: int, addresses: tuple[bytes, ...] = (), *, blocked: str = "") -> bytes:
    """The answer: *addresses* (4 bytes each for A, 16 for AAAA) under the name that was asked for, or an error.

    *blocked* is told to clients that can read it. Recursion is always available: glibc takes an empty answer without
    that bit for a lame delegation and would try the next server.
    """
    flags = 0x8080 | (0x0100 if query.recursion else 0) | rcode
    parts = [struct.pack("!6H", query.id, flags, 1, len(addresses), 0, int(query.extended)), query.question]
    for packed in addresses:
        parts.append(struct.pack("!HHHIH", 0xC00C, query.type, 1, TTL_S, len(packed)) + packed)
    if query.extended:
        text = blocked.encode()[:200]
        option = struct.pack("!HHH", 15, 2 + len(text), _BLOCKED) + text if blocked else b""
        parts.append(struct.pack("!BHHIH", 0, OPT, _LONGEST_UDP, 0, len(option)) + option)
    return b"".join(parts)


class Frames:
    """Cuts a TCP stream into messages: each has its length in two bytes before it."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete by now."""
        self._held += data
        whole: list[bytes] = []
        while len(self._held) >= 2:
            end = 2 + int.from_bytes(self._held[:2], "big")
            if len(self._held) < end:
                break
            whole.append(bytes(self._held[2:end]))
            del self._held[:end]
        return whole


def framed(message: bytes) -> bytes:
    """The message as it goes over TCP."""
    return len(message).to_bytes(2, "big") + message
