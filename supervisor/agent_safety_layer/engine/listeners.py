"""Which sockets are the tree's own: what is sent to them does not leave the run.

A name or a port says nothing once its socket is closed, for then anybody may take it. So each is kept with the inode of
the socket, or of the file, that the tree made, and looked up again whenever it matters: first where it was, in the
process that bound it, which takes a tenth of finding it among all sockets of the machine.
"""

from __future__ import annotations

import os
import struct

from asl_hooks import sockaddr, sockets
from asl_hooks._abi import linux
from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asl_hooks.processes import Process

_LISTENING = b"0A"  # in /proc/net/tcp


@value
class Bound:
    """A socket that the tree receives with: its inode and network namespace, whether it takes IPv4 as well, and where
    it was: a process and its descriptor.
    """

    inode: int
    namespace: int
    takes_ipv4: bool
    process: Process
    fd: int


class Listeners:
    """The sockets that the tree has bound or listens on."""

    def __init__(self) -> None:
        self._abstract: dict[tuple[bytes, int], int] = {}  # by name and type: those are name spaces of their own
        self._ports: dict[tuple[str, str, int], Bound] = {}
        self._files: set[tuple[int, int]] = set()

    def add_abstract(self, name: bytes, type_: int, fd: int) -> None:
        """The tree bound the socket *fd* to an abstract name."""
        self._abstract[name, type_] = os.fstat(fd).st_ino

    def add_file(self, path: bytes) -> None:
        """The tree bound a socket to *path*, which now is a file."""
        found = os.lstat(path)
        self._files.add((found.st_dev, found.st_ino))

    def add_port(self, proto: str, held: int, process: Process, fd: int) -> None:
        """The tree receives with the socket *held*, which is descriptor *fd* of *process*."""
        at, inode = sockets.name_of(held), os.fstat(held).st_ino
        known = self._ports.get((proto, at.ip, at.port))
        if known is None or (known.inode, known.process, known.fd) != (inode, process, fd):
            takes_ipv4 = at.ip == "::" and sockets.takes_ipv4(held)
            bound = Bound(inode, sockets.namespace(held), takes_ipv4, process, fd)
            self._ports[proto, at.ip, at.port] = bound

    def has_abstract(self, name: bytes, type_: int, tid: int) -> bool:
        """Whether a socket that the tree bound to the abstract *name* is still there, as thread *tid* sees it."""
        inode = self._abstract.get((name, type_))
        if inode is not None and _is_listed(b"/proc/%d/net/unix" % tid, 6, inode):
            return True
        self._abstract.pop((name, type_), None)
        return False

    def has_file(self, fd: int) -> bool:
        """Whether the held socket file *fd* is one that the tree made."""
        found = os.fstat(fd)
        return (found.st_dev, found.st_ino) in self._files

    def has_port(self, proto: str, ip: str, port: int, held: int, tid: int) -> bool:
        """Whether it is the tree that receives what its thread *tid* sends with the socket *held* to *port* of *ip*, an
        address of its loopback or the unspecified one.
        """
        namespace = sockets.namespace(held)
        for at in (ip, "::") if ":" in ip else (ip, "0.0.0.0", "::"):
            bound = self._ports.get((proto, at, port))
            if bound is None or bound.namespace != namespace:
                continue
            if at == "::" and ip != "::1" and not bound.takes_ipv4:  # the unspecified address can mean either loopback
                continue
            if (namespace and _is_there(bound, proto, at, port)) or _is_anywhere(bound.inode, proto, at, port, tid):
                return True
            self._ports.pop((proto, at, port), None)
        return False


def _is_there(bound: Bound, proto: str, ip: str, port: int) -> bool:
    """Whether the socket is where it was, and receives."""
    try:
        fd = linux.pidfd_getfd(bound.process.pidfd, bound.fd, 0)
    except OSError:
        return False
    try:
        if os.fstat(fd).st_ino != bound.inode or (proto == "tcp" and sockets.options(fd, sockets.SO_ACCEPTCONN) == [0]):
            return False
        at = sockets.name_of(fd)
        return (at.ip, at.port) == (ip, port)
    except OSError:  # no socket
        return False
    finally:
        os.close(fd)


def _is_anywhere(inode: int, proto: str, ip: str, port: int, tid: int) -> bool:
    """The same for somebody who may have been handed it: it is looked for among all sockets of the namespace."""
    packed = sockaddr.inet_pton(sockaddr.AF_INET6 if ":" in ip else sockaddr.AF_INET, ip)
    words = "".join(f"{word:08X}" for (word,) in struct.iter_unpack("=I", packed))
    local = f"{words}:{port:04X}".encode()  # an IPv4 address ends the line of an IPv6 socket as it is
    wanted = b"%d" % inode
    for table in (proto, f"{proto}6"):
        try:
            with open(f"/proc/{tid}/net/{table}", "rb") as file:
                for fields in map(bytes.split, file):
                    if fields[9:10] == [wanted] and fields[1].endswith(local):
                        return proto != "tcp" or fields[3] == _LISTENING
        except OSError:
            continue
    return False


def _is_listed(table: bytes, column: int, inode: int) -> bool:
    wanted = b"%d" % inode
    try:
        with open(table, "rb") as file:
            return any(line.split()[column : column + 1] == [wanted] for line in file)
    except OSError:
        return False
