"""Waiting in a tracee's stead, on a thread of its own: until it can be done, or the tracee is to look at a signal.

A thread that waits for an answer hears fatal signals only (``asl_hooks.processes.interruption``), so nothing here stays
in a system call: it is tried without waiting, and in between the tracee is looked at.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
from errno import EAGAIN, EINPROGRESS
from time import monotonic, sleep

from asl_hooks.processes import interruption

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SHORTEST_S, _LONGEST_S = 0.001, 0.02
_SOL_SOCKET, _SO_SNDTIMEO = 1, 21
_TIMEVAL = struct.Struct("=qq")
_libc = ctypes.CDLL(None, use_errno=True)


def patiently(fd: int, tid: int, attempt: Callable[[], int]) -> int:
    """The result of *attempt*, tried whenever *fd* can be written, for as long as it raises ``BlockingIOError``.

    ``OSError`` with the errno that the waiting thread *tid* shall see when a signal or the socket's own time limit
    (SO_SNDTIMEO) ends the wait.
    """
    until = 0.0
    poll = select.poll()
    pause_s = _SHORTEST_S
    ready = False
    while True:
        try:
            return attempt()
        except BlockingIOError as error:
            late = EAGAIN if error.errno == EAGAIN else EINPROGRESS
        if not until:
            until = _deadline(fd)
            poll.register(fd, select.POLLOUT)
        _go_on(tid, until, late)
        if ready:  # and yet it would block: the other side is full (datagrams, connections)
            sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_S)
        ready = bool(poll.poll(_LONGEST_S * 1000))


def connect(fd: int, address: bytes, tid: int) -> int:
    """Connect the blocking socket *fd*; 0, or ``OSError`` as ``patiently``."""
    return patiently(fd, tid, lambda: connect_at_once(fd, address))


def connect_at_once(fd: int, address: bytes) -> int:
    """Connect the blocking socket *fd*, which for a moment is not one, as far as that takes no waiting: 0, or
    ``BlockingIOError`` where it does. Asked again, it tells what has become of it, and so does the kernel: the caller
    may look, or try once more, as it could after a connect of its own.
    """
    os.set_blocking(fd, False)
    try:
        for _ in range(2):  # on one machine the answer is there as soon as it was asked for
            if not _libc.connect(fd, address, len(address)):
                return 0
            errno = ctypes.get_errno()
            if errno != EINPROGRESS:
                break
    finally:
        os.set_blocking(fd, True)
    raise OSError(errno, os.strerror(errno))


def _go_on(tid: int, until: float, late: int) -> None:
    errno = interruption(tid) or (late if monotonic() >= until else 0)
    if errno:
        raise OSError(errno, "the wait is over")


def _deadline(fd: int) -> float:
    seconds, micros = _TIMEVAL.unpack(_option(fd, _SO_SNDTIMEO, 16))
    return monotonic() + seconds + micros / 1e6 if seconds or micros else float("inf")


def _option(fd: int, option: int, size: int) -> bytes:
    value, length = ctypes.create_string_buffer(size), ctypes.c_uint(size)
    if _libc.getsockopt(fd, _SOL_SOCKET, option, value, ctypes.byref(length)) < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return value.raw
