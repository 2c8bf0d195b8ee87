"""Socket addresses as the kernel reads them from memory: raw bytes to a value, without the ``socket`` module's
import."""

from __future__ import annotations

from asl_hooks.value import value

AF_UNSPEC, AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 0, 1, 2, 10, 16
LONGEST = 128  # sizeof(struct sockaddr_storage)


def inet_ntop(family: int, packed: bytes) -> str:
    """As in ``socket``, which only runs that use the network load."""
    from _socket import inet_ntop

    return inet_ntop(family, packed)


def inet_pton(family: int, ip: str) -> bytes:
    """The way back."""
    from _socket import inet_pton

    return inet_pton(family, ip)


@value
class Address:
    """A decoded address. ``ip`` and ``port`` for IPv4 and IPv6 (a v4-mapped address as IPv4), ``path`` for Unix
    sockets.

    ``path`` is the raw name: starting with NUL for an abstract one, empty for none. ``family`` is as written.
    """

    family: int
    ip: str = ""
    port: int = 0
    path: bytes = b""


def parse(raw: bytes) -> Address:
    """The address in *raw*; families that are not known come back with the family alone. ``ValueError`` when it is
    too short.
    """
    if len(raw) < 2:
        raise ValueError("an address needs a family")
    family = int.from_bytes(raw[:2], "little")
    if family == AF_INET or (family == AF_UNSPEC and len(raw) >= 16):
        if len(raw) < 8:
            raise ValueError("a short IPv4 address")
        a, b, c, d = raw[4:8]
        return Address(family, f"{a}.{b}.{c}.{d}", int.from_bytes(raw[2:4], "big"))
    if family == AF_INET6:
        if len(raw) < 24:
            raise ValueError("a short IPv6 address")
        packed, port = raw[8:24], int.from_bytes(raw[2:4], "big")
        if packed[:12] == b"\0" * 10 + b"\xff\xff":
            return Address(family, inet_ntop(AF_INET, packed[12:]), port)
        return Address(family, inet_ntop(AF_INET6, packed), port)
    if family == AF_UNIX:
        name = raw[2:]
        return Address(family, path=name if name[:1] == b"\0" else name.split(b"\0", 1)[0])
    return Address(family)


def inet(family: int, ip: str, port: int) -> bytes:
    """The address as the kernel reads it, for a socket of *family*; an IPv4 address is mapped for an IPv6 one."""
    if family != AF_INET6:
        return AF_INET.to_bytes(2, "little") + port.to_bytes(2, "big") + inet_pton(AF_INET, ip) + bytes(8)
    packed = inet_pton(AF_INET6, ip if ":" in ip else f"::ffff:{ip}")
    return AF_INET6.to_bytes(2, "little") + port.to_bytes(2, "big") + bytes(4) + packed + bytes(4)
