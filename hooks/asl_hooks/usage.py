"""What a tree uses, read from /proc: for machines, and users, without a cgroup.

The figures of processes that have gone are in their parents' (the kernel adds them when they are waited for), so the
living and the warden above them account for all, except children that a parent lets the kernel reap (SIGCHLD ignored).
Shared memory is what is mapped or what open memfds hold, whichever is more; files in tmpfs are not looked for.
"""

from __future__ import annotations

import os

from asl_hooks.value import value
from asl_hooks.warden import cpu_times, descendants, transferred

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_TICKS = os.sysconf("SC_CLK_TCK")
_FEW = 256


@value
class Usage:
    """CPU time of a tree, and its memory: an upper bound that counts what processes share once for each."""

    cpu_s: float = 0.0
    memory_bytes: int = 0


def measure(warden: int) -> Usage:
    """What the tree below *warden* has used (CPU) and uses now (memory). About 50 µs a process."""
    ticks = sum(_stat(warden)[13:15])
    anonymous = shared = 0
    pids = descendants(warden)
    for pid in pids:
        ticks += sum(_stat(pid)[11:15])
        own, common = _resident(pid, "status", b"\nRssAnon:", b"\nVmSwap:", b"\nRssShmem:")
        anonymous += own
        shared += common
    return Usage(ticks / _TICKS, anonymous + max(shared, _memfds(pids, _FEW)))


def memory(warden: int) -> int:
    """Bytes of memory of the tree below *warden*, each shared page once. The kernel walks all page tables for it."""
    anonymous = shared = 0
    pids = descendants(warden)
    for pid in pids:
        own, common = _resident(pid, "smaps_rollup", b"\nPss_Anon:", b"\nSwapPss:", b"\nPss_Shmem:")
        anonymous += own
        shared += common
    return anonymous + max(shared, _memfds(pids, 1 << 20))


def resident(pid: int) -> tuple[int, int, int]:
    """Bytes of memory of a process: its peak since its exec; what is its own now, swapped or not; what it shares.

    Zeros when it has gone or is about to.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            text = file.read()
    except OSError:
        return 0, 0, 0
    own = _kib(text, b"\nRssAnon:") + _kib(text, b"\nVmSwap:")
    return _kib(text, b"\nVmHWM:") * 1024, own * 1024, _kib(text, b"\nRssShmem:") * 1024


def tasks(warden: int) -> int:
    """How many threads the tree has, those of single-threaded processes included."""
    return sum(_stat(pid)[17] for pid in descendants(warden))


def written(warden: int) -> int:
    """Bytes that the tree below *warden* has written, to whatever."""
    return sum(_written(pid) for pid in (warden, *descendants(warden)))


def _stat(pid: int) -> list[int]:
    """The numbers of ``/proc/<pid>/stat`` after the name, the state as 0; zeros when the process has gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return [0] * 18
    return [0, *(int(field) for field in fields[1:18])]


def _resident(pid: int, name: str, *fields: bytes) -> tuple[int, int]:
    """Bytes in ``/proc/<pid>/<name>``: of all *fields* but the last together, and of the last; 0 when it has gone."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            text = file.read()
    except OSError:
        return 0, 0
    *own, common = (_kib(text, field) * 1024 for field in fields)
    return sum(own), common


def _kib(text: bytes, name: bytes) -> int:
    at = text.find(name)
    return int(text[at + len(name) : text.find(b"kB", at)]) if at >= 0 else 0


def _memfds(pids: Iterable[int], most: int) -> int:
    """What the memfds hold that are among the first *most* descriptors of each process."""
    sizes: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            for fd in os.listdir(f"/proc/{pid}/fd")[:most]:
                path = f"/proc/{pid}/fd/{fd}"
                if os.readlink(path).startswith("/memfd:"):
                    found = os.stat(path)
                    sizes[found.st_dev, found.st_ino] = found.st_blocks * 512
        except OSError:
            continue
    return sum(sizes.values())


def _written(pid: int) -> int:
    try:
        return transferred(pid)[1]
    except OSError:
        return 0


__all__ = ["Usage", "cpu_times", "measure", "memory", "resident", "tasks", "transferred", "written"]
