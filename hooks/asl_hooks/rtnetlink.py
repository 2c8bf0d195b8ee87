"""Links, addresses and routes by rtnetlink: the six messages that a network namespace of ours needs, and nothing else.

Encoders are pure and return one request each; ``apply`` sends requests and raises what the kernel answers. Layouts and
constants are those of ``linux/netlink.h``, ``linux/rtnetlink.h`` and ``linux/if_link.h`` (see rtnetlink(7)).

Why not pyroute2: importing it takes 170 to 290 ms, which a run would wait for at its first packet; these messages take
2 ms together. The tests read what these messages made back through pyroute2.
"""

from __future__ import annotations

import os
import struct

from asl_hooks._abi import ctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

AF_INET, AF_INET6 = 2, 10
_AF_NETLINK, _SOCK_RAW, _SOCK_CLOEXEC = 16, 3, 0o2000000
_NEWLINK, _NEWADDR, _NEWROUTE = 16, 20, 24
_REQUEST, _ACK, _EXCL, _CREATE = 0x1, 0x4, 0x200, 0x400
_IFF_UP = 0x1
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 3, 4, 18, 28
_MTU = 65_535  # of both ends of a veth pair: nothing on the way needs smaller packets
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_F_NODAD = 1, 2, 0x02
_RTA_OIF, _RTA_GATEWAY = 4, 5
_TABLE_MAIN, _PROTO_BOOT, _SCOPE_UNIVERSE, _SCOPE_HOST, _TYPE_UNICAST, _TYPE_LOCAL = 254, 3, 0, 254, 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


def link_up(index: int) -> bytes:
    """The request that brings the link with this *index* up."""
    return _request(_NEWLINK, 0, _link(index, _IFF_UP))


def veth_pair(index: int, name: str, peer_index: int, peer_name: str, peer_namespace: int) -> bytes:
    """The request for two joined links: *name* here, *peer_name* in the namespace behind the descriptor."""
    peer = _link(peer_index) + _attribute(_IFLA_IFNAME, peer_name.encode() + b"\0")
    peer += _attribute(_IFLA_NET_NS_FD, struct.pack("=i", peer_namespace)) + _attribute(
        _IFLA_MTU, struct.pack("=I", _MTU)
    )
    info = _attribute(_INFO_KIND, b"veth\0") + _attribute(_INFO_DATA, _attribute(_VETH_PEER, peer))
    body = _link(index) + _attribute(_IFLA_IFNAME, name.encode() + b"\0") + _attribute(_IFLA_LINKINFO, info)
    body += _attribute(_IFLA_MTU, struct.pack("=I", _MTU))
    return _request(_NEWLINK, _CREATE | _EXCL, body)


def address(index: int, packed: bytes, prefix: int) -> bytes:
    """The request that gives the link an address (4 or 16 bytes), usable at once: no duplicate address detection."""
    head = struct.pack("=BBBBI", _family(packed), prefix, _IFA_F_NODAD, 0, index)
    return _request(_NEWADDR, _CREATE | _EXCL, head + _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed))


def default_route(index: int, gateway: bytes) -> bytes:
    """The request that sends everything of the gateway's family through *gateway* on the link."""
    return _route(_family(gateway), index, _TYPE_UNICAST, _SCOPE_UNIVERSE, _attribute(_RTA_GATEWAY, gateway))


def everything_local(family: int, index: int) -> bytes:
    """The request that makes every address of *family* one of this host's own.

    The route stands in the main table: in the local table it would come before the routes to the neighbours.
    """
    return _route(family, index, _TYPE_LOCAL, _SCOPE_HOST, b"")


def apply(requests: Iterable[bytes]) -> None:
    """Every request has been carried out, in order, in the calling thread's namespace; else ``OSError``."""
    fd = _libc.socket(_AF_NETLINK, _SOCK_RAW | _SOCK_CLOEXEC, 0)
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"socket(AF_NETLINK): {os.strerror(error)}")
    try:
        for request in requests:
            os.write(fd, request)
            error = -int(struct.unpack_from("=i", os.read(fd, 8192), 16)[0])
            if error:
                raise OSError(error, f"rtnetlink: {os.strerror(error)}")
    finally:
        os.close(fd)


def _family(packed: bytes) -> int:
    return AF_INET if len(packed) == 4 else AF_INET6


def _route(family: int, index: int, kind: int, scope: int, more: bytes) -> bytes:
    head = struct.pack("=BBBBBBBBI", family, 0, 0, 0, _TABLE_MAIN, _PROTO_BOOT, scope, kind, 0)
    return _request(_NEWROUTE, _CREATE | _EXCL, head + _attribute(_RTA_OIF, struct.pack("=I", index)) + more)


def _link(index: int, flags: int = 0) -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, flags, flags)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def _request(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | _ACK | flags, 1, 0) + body
