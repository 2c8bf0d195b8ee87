"""Whose terminal a pseudo-terminal is: the one that the run was given, the tree's own, or somebody else's.

Terminals come and go during a run, and their names are used again, so none is known for good. One is the tree's own
when a process of it holds the other side, which the kernel tells (``tty-index`` in fdinfo, proc(5)).
"""

from __future__ import annotations

import os
import stat

from asl_hooks.warden import descendants

_FIRST_MAJOR, _LAST_MAJOR, _PER_MAJOR = 136, 143, 256


class Terminals:
    """The terminals of the tree below *warden*."""

    def __init__(self, warden: int) -> None:
        self._warden = warden
        self._given = {_controlling(), *(_device(fd) for fd in (0, 1, 2))}

    def is_foreign(self, there: os.stat_result) -> bool:
        """Whether it is a pseudo-terminal that is neither given to the tree nor its own."""
        major = os.major(there.st_rdev)
        if not stat.S_ISCHR(there.st_mode) or not _FIRST_MAJOR <= major <= _LAST_MAJOR or there.st_rdev in self._given:
            return False
        index = b"%d" % ((major - _FIRST_MAJOR) * _PER_MAJOR + os.minor(there.st_rdev))
        # A list of children can miss one, when others end meanwhile.
        return not any(_holds(pid, index) for _ in range(3) for pid in (os.getpid(), *descendants(self._warden)))


def _controlling() -> int:
    with open("/proc/self/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[4])


def _device(fd: int) -> int:
    try:
        return os.fstat(fd).st_rdev
    except OSError:
        return 0


def _holds(pid: int, index: bytes) -> bool:
    """Whether the process has the other side of terminal *index* open."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for name in names:
        try:
            if not os.readlink(f"/proc/{pid}/fd/{name}").endswith("ptmx"):
                continue
            with open(f"/proc/{pid}/fdinfo/{name}", "rb") as file:
                fields = dict(line.split(b":", 1) for line in file if b":" in line)
        except OSError:
            continue
        if fields.get(b"tty-index", b"").strip() == index:
            return True
    return False
