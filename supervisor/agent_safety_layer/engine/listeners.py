"""Which sockets are the tree's own: what is sent to them does not leave the run.

A name or a port says nothing once its socket is closed, for then anybody may take it. So each is kept with the inode of
the socket, or of the file, that the tree made, and looked up again whenever it matters.
"""

from __future__ import annotations

import os


class Listeners:
    """The sockets that the tree has bound or listens on."""

    def __init__(self) -> None:
        self._abstract: dict[tuple[bytes, int], int] = {}  # by name and type: those are name spaces of their own
        self._ports: dict[tuple[str, int], int] = {}
        self._files: set[tuple[int, int]] = set()

    def add_abstract(self, name: bytes, type_: int, fd: int) -> None:
        """The tree bound the socket *fd* to an abstract name."""
        self._abstract[name, type_] = os.fstat(fd).st_ino

    def add_file(self, path: bytes) -> None:
        """The tree bound a socket to *path*, which now is a file."""
        found = os.lstat(path)
        self._files.add((found.st_dev, found.st_ino))

    def add_port(self, proto: str, port: int, fd: int) -> None:
        """The tree receives on *port* with the socket *fd*."""
        self._ports[proto, port] = os.fstat(fd).st_ino

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

    def has_port(self, proto: str, port: int, tid: int) -> bool:
        """Whether the tree still receives on *port*."""
        inode = self._ports.get((proto, port))
        if inode is None:
            return False
        if any(_is_listed(f"/proc/{tid}/net/{proto}{family}".encode(), 9, inode) for family in ("", "6")):
            return True
        del self._ports[proto, port]
        return False


def _is_listed(table: bytes, column: int, inode: int) -> bool:
    wanted = b"%d" % inode
    try:
        with open(table, "rb") as file:
            return any(line.split()[column : column + 1] == [wanted] for line in file)
    except OSError:
        return False
