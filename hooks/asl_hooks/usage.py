"""What a tree uses, read from /proc: for machines, and users, without a cgroup.

The figures of processes that have gone are in their parents' (the kernel adds them when they are waited for), so the
living and the warden above them account for all, except children that a parent lets the kernel reap (SIGCHLD ignored).
"""

from __future__ import annotations

import os

from asl_hooks.value import value
from asl_hooks.warden import descendants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGESIZE")


@value
class Usage:
    """Sums over a tree. ``memory_bytes`` is anonymous and shared memory that is mapped, as an upper bound."""

    cpu_s: float = 0.0
    memory_bytes: int = 0
    processes: int = 0
    threads: int = 0


def measure(warden: int) -> Usage:
    """What the tree below *warden* has used (CPU) and uses now (the rest). About 20 µs a process."""
    ticks = sum(_stat(warden)[13:15])
    memory = processes = threads = 0
    for pid in descendants(warden):
        fields = _stat(pid)
        if not any(fields):
            continue
        ticks += sum(fields[11:15])
        processes += 1
        threads += fields[17]
        memory += _resident(pid)
    return Usage(ticks / _TICKS, memory, processes, threads)


def tasks(warden: int) -> int:
    """How many threads the tree has, those of single-threaded processes included."""
    return sum(_stat(pid)[17] for pid in descendants(warden))


def written(warden: int) -> int:
    """Bytes that the tree below *warden* has written, to whatever."""
    return sum(_written(pid) for pid in (warden, *descendants(warden)))


def memory(warden: int) -> int:
    """Bytes of memory of the tree, each shared page once: anonymous, swapped, shared, and memfds held open.

    Slower than ``measure``: the kernel walks the page tables. Files in tmpfs that nobody maps are not in it.
    """
    pids = descendants(warden)
    return sum(_proportional(pid) for pid in pids) + _memfds(pids)


def _stat(pid: int) -> list[int]:
    """The numbers of ``/proc/<pid>/stat`` after the name, the state as 0; zeros when the process has gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return [0] * 22
    return [0, *(int(field) for field in fields[1:22])]


def _resident(pid: int) -> int:
    """Anonymous and shared resident memory; what is mapped from files can be dropped, and is not counted."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            text = file.read()
    except OSError:
        return 0
    return sum(_kib(text, name) for name in (b"\nRssAnon:", b"\nRssShmem:", b"\nVmSwap:")) * 1024


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            text = file.read()
    except OSError:
        return 0
    return sum(_kib(text, name) for name in (b"\nPss_Anon:", b"\nPss_Shmem:", b"\nSwapPss:")) * 1024


def _kib(text: bytes, name: bytes) -> int:
    at = text.find(name)
    return int(text[at + len(name) : text.find(b"kB", at)]) if at >= 0 else 0


def _memfds(pids: Iterable[int]) -> int:
    """What open memfds hold and no mapping shows: those that are mapped as well are counted twice by up to that."""
    sizes: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                path = f"/proc/{pid}/fd/{fd}"
                if os.readlink(path).startswith("/memfd:"):
                    found = os.stat(path)
                    sizes[found.st_dev, found.st_ino] = found.st_blocks * 512
        except OSError:
            continue
    return sum(sizes.values())


def _written(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            text = file.read()
    except OSError:
        return 0
    at = text.find(b"wchar: ")
    return int(text[at + 7 : text.find(b"\n", at)])
