"""Standard descriptors that the caller has closed: kept from being taken by the first file that is opened."""

from __future__ import annotations

import fcntl
import os


def hold_places() -> tuple[int, ...]:
    """Those of 0, 1 and 2 that were closed. Establishes: all three are open, those on /dev/null and close-on-exec."""
    closed = []
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            closed.append(fd)
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # takes the lowest free number
            if null != fd:
                os.dup2(null, fd, inheritable=False)
                os.close(null)
    return tuple(closed)


def out_of_places(fd: int) -> int:
    """The descriptor, or a close-on-exec copy above 2 in its stead: as 0, 1 or 2 every child would find it."""
    if not 0 <= fd <= 2:
        return fd
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return copy
