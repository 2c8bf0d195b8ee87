"""Standard descriptors that the caller has closed: kept from being taken by the first file that is opened."""

from __future__ import annotations

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
