"""Listening sockets inside the tree's and the capture namespace, made by a helper process that has joined them.

A socket belongs for ever to the namespace in which it was made, and joining a user namespace cannot be undone. So a
forked helper goes in, builds the capture namespace, and hands out sockets over SCM_RIGHTS; the egress process itself
stays on the host, where it dials. The helper ends when the egress process does.
"""

from __future__ import annotations

import errno
import os
import socket

from agent_safety_layer.egress.privileges import close_all_but, die_with_parent
from asl_hooks import netns
from asl_hooks.errors import UnsupportedError

TREE, CAPTURE = "tree", "capture"
BACKLOG = 4096


class SocketMaker:
    """The helper, seen from the egress process. ``UnsupportedError`` from the constructor when it cannot be set up."""

    def __init__(self, net_fd: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        if os.fork() == 0:
            try:
                close_all_but({theirs.fileno(), net_fd})
                _serve(theirs, net_fd, parent)
            finally:
                os._exit(0)
        theirs.close()
        self._channel = ours
        hello = ours.recv(4096).decode()
        if hello != "ready":
            raise UnsupportedError(*hello.split("\0"))

    def listener(self, where: str, proto: str, ip: str, port: int) -> socket.socket:
        """A non-blocking socket, bound to the port, listening if TCP. In the capture namespace it serves all.

        ``OSError`` as from bind; ``EADDRINUSE`` in the tree's namespace: the tree has a server of its own there.
        """
        self._channel.send(f"{where} {proto} {ip} {port}".encode())
        answer, fds, _flags, _address = socket.recv_fds(self._channel, 64, 1)
        if not fds:
            error = int(answer or errno.EPIPE)
            raise OSError(error, os.strerror(error))
        made = socket.socket(fileno=fds[0])
        made.setblocking(False)
        return made


def _serve(channel: socket.socket, net_fd: int, parent: int) -> None:
    try:
        netns.join(net_fd)
        die_with_parent(parent)  # after the join: gaining capabilities resets it
        capture_fd = netns.build_capture(net_fd)
    except UnsupportedError as error:
        channel.send("\0".join((error.wanted, error.found, error.remedy)).encode())
        return
    except OSError as error:
        wanted = "the tree's network namespace must be joined"
        channel.send(
            "\0".join((wanted, str(error), "Run with the network off or without a network namespace.")).encode()
        )
        return
    channel.send(b"ready")
    namespaces = {TREE: net_fd, CAPTURE: capture_fd}
    while request := channel.recv(256).decode():
        where, proto, ip, port = request.split(" ")
        netns.switch(namespaces[where])
        try:
            with _bound(where, proto, ip, int(port)) as made:
                socket.send_fds(channel, [b"0"], [made.fileno()])
        except OSError as error:
            channel.send(str(error.errno or errno.EIO).encode())


def _bound(where: str, proto: str, ip: str, port: int) -> socket.socket:
    kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
    if where == TREE:
        made = _bind(socket.AF_INET6 if ":" in ip else socket.AF_INET, kind, ip, port)
    else:
        try:
            made = _bind(socket.AF_INET6, kind, "::", port)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            made = _bind(socket.AF_INET, kind, "0.0.0.0", port)
    if proto == "tcp":
        made.listen(BACKLOG)
    return made


def _bind(family: int, kind: int, ip: str, port: int) -> socket.socket:
    made = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(ip != "::"))
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((ip, port))
    except OSError:
        made.close()
        raise
    return made
