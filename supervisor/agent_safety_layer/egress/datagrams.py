"""A UDP socket that answers for every address: it tells which one a datagram was sent to, and sends from that one."""

from __future__ import annotations

import socket
import struct

from agent_safety_layer.egress.addresses import canonical
from asl_hooks.value import value

LONGEST = 65_535
Peer = tuple[str, int]


@value
class Datagram:
    """What arrived: the payload, who sent it (as the socket spells it), and to which canonical address."""

    data: bytes
    peer: Peer
    to: str


class Datagrams:
    """Wraps a bound, non-blocking UDP socket of either family. IPv6 sockets may be dual-stack."""

    def __init__(self, bound: socket.socket) -> None:
        self.socket = bound
        self._is6 = bound.family == socket.AF_INET6
        if self._is6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            bound.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)  # the addresses are on no interface
        else:
            bound.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)

    def receive(self) -> Datagram | None:
        """The next datagram, None when there is none now."""
        try:
            data, ancillary, _flags, peer = self.socket.recvmsg(LONGEST, 128)
        except OSError:  # nothing there, or an ICMP error for something sent before
            return None
        to = ""
        for level, kind, content in ancillary:
            if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                to = canonical(socket.inet_ntop(socket.AF_INET6, content[:16]))
            elif (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
                to = socket.inet_ntop(socket.AF_INET, content[8:12])
        return Datagram(data, (peer[0], peer[1]), to) if to else None

    def send(self, data: bytes, peer: Peer, source: str) -> None:
        """The datagram goes to *peer* from the address *source*, or is lost, as datagrams may be."""
        if self._is6:
            text = source if ":" in source else f"::ffff:{source}"
            info = socket.inet_pton(socket.AF_INET6, text) + struct.pack("=I", 0)
            control = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)
        else:
            control = (socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=I4s4x", 0, socket.inet_aton(source)))
        try:
            self.socket.sendmsg([data], [control], 0, peer)
        except OSError:
            return


_IP_PKTINFO, _IPV6_FREEBIND = 8, 78  # linux/in.h, linux/in6.h; not in the socket module of Python 3.11
