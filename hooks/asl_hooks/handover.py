"""Handing a descriptor to a stopped task that nobody listens for: it is made to receive it by calls of its own.

    supervisor                                    tracee, stopped at an open
        │  becomes  mmap, socketpair, fcntl, close   │  once for each program: a page for what follows, one end of a
        │  pidfd_getfd ◄──────────── the other end ──│  pair of sockets at a high number, close-on-exec
        │  write the page, send the descriptor       │
        │  becomes  recvmsg ────────────────────────►│  the lowest free number, as open(2) would have given
        │  the original registers, that number ─────►│  goes on

Whatever else shares the page, the code or the descriptors with the task can rewrite them meanwhile. It gains nothing:
the calls have their numbers and arguments from registers, which nobody but the tracer can write; what lies in the page
says where the tree's own memory is written, and which of the tree's own descriptors is what. What the supervisor takes
from it is one descriptor, and it sends there only if that is an unnamed Unix socket made by this very process. What was
sent and is received by another thread, or by a child that shares the socket, was opened for the tree and stays in it.
A task that is found anywhere else than at the next call of this sequence is killed.

Who opens the folder of its own descriptors gives the socket up first, so that it finds what it has without us.

Descriptors go through a channel one at a time, so that each reaches the call that it is for. A task that dies on the
way leaves the channel broken: whoever else shares it makes another.
"""

from __future__ import annotations

import _socket
import os
import struct
from errno import EMFILE, EPROTO

from asl_hooks import syscalls
from asl_hooks._abi import linux
from asl_hooks.memory import read, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    Calls = Generator[tuple[int, tuple[int, ...]], int, int]

_ARCH = syscalls.native_arch()
_MMAP, _SOCKETPAIR, _FCNTL, _CLOSE, _RECVMSG = (
    syscalls.numbers(_ARCH)[name] for name in ("mmap", "socketpair", "fcntl", "close", "recvmsg")
)
_PAGE = 4096
_READ_WRITE, _PRIVATE_ANONYMOUS = 3, 0x22
_DGRAM = _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
_F_DUPFD_CLOEXEC = 1030
_PLACES = (
    240,
    56,
    12,
    3,
)  # where the tracee's end may lie: high, in a table that stays small, within its limit
_SO_DOMAIN = 39
_MSG_CMSG_CLOEXEC = 0x40000000
_SOL_SOCKET, _SCM_RIGHTS = 1, 1
# In the page: struct msghdr, struct iovec, a byte of data, struct cmsghdr with room for one descriptor.
_MESSAGE = struct.Struct("=QI4xQQQQi4xQQ8xQiii4x")
_IOV, _DATA, _CONTROL = 56, 72, 80
_CONTROL_BYTES = 24
_PAIR = struct.Struct("=ii")


def lists_descriptors(fd: int) -> bool:
    """Whether *fd* is a folder in which the descriptors of a process lie."""
    path = os.readlink(f"/proc/self/fd/{fd}")
    return path.endswith("/fd") and path.startswith("/proc/")


class Channel:
    """The way for descriptors into the processes that share one end of a socket pair.

    ``busy`` while one is on its way, or the channel is being made; ``broken`` once something may be left in it.
    """

    __slots__ = ("_memories", "_number", "_ours", "_page", "broken", "busy", "waiting")

    def __init__(self) -> None:
        self.busy = False
        self.broken = False
        self.waiting: list[tuple[Any, Any]] = []  # the tracer's: whose turn comes next
        self._ours: _socket.socket | None = None
        self._number = -1
        self._page = 0
        self._memories: dict[int, int] = {}  # of each process that uses it: a fork copies the page

    def hand_over(self, pid: int, fd: int, cloexec: bool) -> Calls:
        """The calls by which a task of process *pid* receives *fd*; the result is its number there, or ``-errno``.

        The channel is broken when that went wrong in a way that another channel may cure.
        """
        self.broken = True  # until all is well
        memory = self._memories.get(pid, -1)
        if memory < 0:
            memory = self._memories[pid] = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        if self._ours is None:
            result = yield from self._connect(pid, memory)
            if result < 0:
                return result
        return (yield from self._receive(memory, fd, cloexec))

    def _connect(self, pid: int, memory: int) -> Calls:
        page = yield _MMAP, (0, _PAGE, _READ_WRITE, _PRIVATE_ANONYMOUS, -1, 0)
        if -_PAGE < page < 0:
            return page
        self._page = page
        result = yield _SOCKETPAIR, (_socket.AF_UNIX, _DGRAM, 0, page)
        if result < 0:
            return result
        theirs, ours = _PAIR.unpack(read(memory, page, _PAIR.size))
        self._ours = self._fetch(pid, ours)
        yield _CLOSE, (ours,)
        number = -EMFILE
        for place in _PLACES:
            number = yield _FCNTL, (theirs, _F_DUPFD_CLOEXEC, place)
            if number >= 0:
                break
        yield _CLOSE, (theirs,)
        self._number = number
        return min(number, 0)

    @staticmethod
    def _fetch(pid: int, number: int) -> _socket.socket:
        """Our copy of the process's descriptor *number*, which must be one end of a pair that it made."""
        pidfd = linux.pidfd_open(pid, 0)
        try:
            fd = linux.pidfd_getfd(pidfd, number, 0)
        finally:
            os.close(pidfd)
        ours = _socket.socket(fileno=fd)
        try:
            maker = struct.unpack("=iII", ours.getsockopt(_SOL_SOCKET, _socket.SO_PEERCRED, 12))[0]
            if (
                ours.getsockopt(_SOL_SOCKET, _SO_DOMAIN) != _socket.AF_UNIX
                or ours.type & 0xF != _socket.SOCK_DGRAM
                or ours.getsockname()
                or maker != pid
            ):
                raise OSError(EPROTO, "another descriptor was put in its place")
        except BaseException:
            ours.close()
            raise
        return ours

    def _receive(self, memory: int, fd: int, cloexec: bool) -> Calls:
        assert self._ours is not None
        page = self._page
        message = _MESSAGE.pack(
            *(0, 0, page + _IOV, 1, page + _CONTROL, _CONTROL_BYTES, 0),
            *(page + _DATA, 1),
            *(0, 0, 0, 0),
        )
        write(memory, page, message)
        rights = ((_SOL_SOCKET, _SCM_RIGHTS, fd.to_bytes(4, "little")),)
        self._ours.sendmsg((b"\0",), rights, _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
        result = yield _RECVMSG, (self._number, page, _socket.MSG_DONTWAIT | (_MSG_CMSG_CLOEXEC if cloexec else 0))
        if result < 0:
            return result
        fields = _MESSAGE.unpack(read(memory, page, _MESSAGE.size))
        self.broken = False
        length, number = fields[5], fields[12]
        return max(number, 0) if length else -EMFILE  # without room for it the message comes alone

    def withdraw(self) -> Calls:
        """The call by which a process gives its end up; others who share it keep theirs."""
        yield _CLOSE, (self._number,)
        return 0

    def join(self, pid: int) -> None:
        """Process *pid* shares it."""
        self._memories[pid] = -1

    def leave(self, pid: int) -> None:
        """Process *pid* does not any more. Without any who does, it is closed."""
        memory = self._memories.pop(pid, -1)
        if memory >= 0:
            os.close(memory)
        if not self._memories:
            self.broken = True
            if self._ours is not None:
                self._ours.close()
                self._ours = None
