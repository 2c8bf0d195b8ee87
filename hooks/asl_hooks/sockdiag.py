"""Who listens on this machine's loopback, asked of the kernel without connecting (sock_diag(7))."""

from __future__ import annotations

import select
import socket
import struct
from errno import EINPROGRESS

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP = 4, 20, 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_LISTEN = 1 << 10
_ANSWER_MS = 20
_HEADER = struct.Struct("=IHHII")
_QUERY = struct.Struct("=BBBBI")  # family, protocol, extensions, padding, states; then the id
_ID = struct.Struct("!HH16s16s12x")
_FOUND = struct.Struct("!4xHH16s")  # of inet_diag_msg: ports, source address
_HERE = (b"\0" * 16, b"\0" * 15 + b"\1", b"\0" * 10 + b"\xff\xff\x7f\0\0\1")  # ::, ::1, ::ffff:127.0.0.1


def refuses(ip: str, port: int) -> bool:
    """Whether a connection to *port* of the loopback address *ip* would be refused; False when that is not known."""
    try:
        return not _listening(port) and _connect(ip, port)
    except OSError:
        return False


def _listening(port: int) -> bool:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as asking:
        for family in (socket.AF_INET, socket.AF_INET6):
            query = _QUERY.pack(family, socket.IPPROTO_TCP, 0, 0, _LISTEN) + _ID.pack(port, 0, b"", b"")
            asking.send(_HEADER.pack(_HEADER.size + len(query), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, family, 0) + query)
            if _answers(asking, port, family):
                return True
    return False


def _answers(asking: socket.socket, port: int, family: int) -> bool:
    found = False
    while True:
        data = asking.recv(65536)
        at = 0
        while at + _HEADER.size <= len(data):
            size, kind, _, _, _ = _HEADER.unpack_from(data, at)
            if kind == _NLMSG_ERROR:
                raise OSError(-struct.unpack_from("=i", data, at + _HEADER.size)[0], "sock_diag")
            if kind == _NLMSG_DONE:
                return found
            source_port, _, source = _FOUND.unpack_from(data, at + _HEADER.size)
            here = source[0] in (0, 127) if family == socket.AF_INET else source in _HERE
            found = found or (source_port == port and here)
            at += (size + 3) & ~3


def _connect(ip: str, port: int) -> bool:
    """Whether it is refused in earnest: rules of a packet filter can lead elsewhere."""
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM) as trying:
        trying.setblocking(False)
        error = trying.connect_ex((ip, port))
        if error == EINPROGRESS:  # the answer of one's own machine is there, or on its way
            poll = select.poll()
            poll.register(trying, select.POLLOUT)
            error = trying.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if poll.poll(_ANSWER_MS) else 0
        return error != 0
