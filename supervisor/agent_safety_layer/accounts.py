"""What each process of a tree has used, and what the tree used over time: looked up while it runs.

The kernel tells what a process used to whoever waits for it, and that is its parent. So the living are looked at again
and again: soon after they begin, then often while they are busy and seldom while they are not, and once more when they
end, if we are there before their parent. What a process did after the last look is missing from its figures; those of
the whole tree come from the warden and are complete.
"""

from __future__ import annotations

import os
from time import monotonic, time

from asl_hooks import usage
from asl_hooks.warden import parent_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from asl_hooks.processes import Process

LISTED = 200  # processes
SAMPLES = 240
_SOONEST_S, _LATEST_S = 0.05, 1.0
_COSTS_S = 50e-6  # seconds to look at a busy process; looking may take a fiftieth of the time
_BUSY_S = 0.002  # CPU time since the last look


class Account:
    """One process: CPU seconds, bytes of memory at its peak, bytes read and written by it and by what it waited for."""

    __slots__ = (
        "began",
        "cpu",
        "ended",
        "exe",
        "peak_bytes",
        "pid",
        "ppid",
        "read",
        "rss",
        "shared",
        "written",
    )

    def __init__(self, pid: int, ppid: int, exe: str, now: float) -> None:
        self.pid, self.ppid, self.exe = pid, ppid, exe
        self.began = self.ended = now
        self.cpu = (0.0, 0.0)
        self.peak_bytes = self.rss = self.shared = self.read = self.written = 0

    def look(self) -> bool:
        """Look at it; whether it has been busy since the last look. What it holds of memory changes with that."""
        try:
            cpu = usage.cpu_times(self.pid)
            busy = sum(cpu) - sum(self.cpu) >= _BUSY_S
            if busy or not self.peak_bytes:
                self.cpu = cpu
                peak, self.rss, self.shared = usage.resident(self.pid)
                self.peak_bytes = max(self.peak_bytes, peak)
                self.read, self.written = usage.transferred(self.pid)
        except OSError:
            return False
        return busy

    def last_look(self, now: float) -> None:
        """Look at it when it ends: what is still to be seen of it."""
        self.ended = now
        try:
            self.cpu = usage.cpu_times(self.pid)
            self.peak_bytes = max(self.peak_bytes, usage.resident(self.pid)[0])
            self.read, self.written = usage.transferred(self.pid)
        except OSError:
            pass
        self.rss = self.shared = 0

    def told(self) -> dict[str, object]:
        """For the trace's footer and the report."""
        return {
            "pid": self.pid,
            "ppid": self.ppid,
            "exe": self.exe,
            "began": round(self.began, 6),
            "wall_seconds": round(self.ended - self.began, 6),
            "cpu_user_seconds": round(self.cpu[0], 6),
            "cpu_system_seconds": round(self.cpu[1], 6),
            "peak_memory_bytes": self.peak_bytes,
            "read_bytes": self.read,
            "written_bytes": self.written,
        }


class Accounts:
    """The accounts of a tree. *descendants* tells its processes, those too that never made a call that was stopped;
    *memory* what it uses together where that is measured, and 0 where it is not.

    ``samples`` are ``[seconds since the start, CPU seconds, bytes of memory, processes]``, at most ``SAMPLES`` of them:
    when there are too many, every other one goes. ``next_look`` is in monotonic seconds.
    """

    def __init__(self, descendants: Callable[[], list[int]], memory: Callable[[], int] | None = None) -> None:
        self._descendants = descendants
        self._memory = memory
        self._living: dict[Process, Account] = {}
        self._silent: dict[int, Account] = {}  # by pid: those that have not made themselves known
        self._ended: list[tuple[float, int, Account]] = []  # those that used most, and some more
        self._ended_cpu_s = 0.0
        self._count = 0
        self._started = 0.0
        self._every_s = 0.0  # between samples
        self._wait_s = _SOONEST_S
        self.samples: list[list[float]] = []
        self.next_look = 0.0

    def start(self, now: float) -> None:
        """The run begins at *now* (monotonic seconds)."""
        self._started = now
        self.next_look = now + _SOONEST_S

    def new(self, process: Process) -> None:
        """A process has made itself known."""
        account = self._silent.pop(process.pid, None) or Account(process.pid, process.ppid, process.exe, time())
        self._living[process] = account
        self._wait_s = _SOONEST_S
        self.next_look = min(self.next_look, monotonic() + _SOONEST_S)

    def look(self, now: float) -> None:
        """Look at all living processes and take a sample. *now* is monotonic seconds."""
        self._find_silent()
        busy = False
        for process, account in self._living.items():
            account.exe = process.exe
            busy = account.look() or busy
        for account in self._silent.values():
            busy = account.look() or busy
        self._wait_s = _SOONEST_S if busy else min(self._wait_s * 2, _LATEST_S)
        self.next_look = now + max(self._wait_s, self.living * _COSTS_S * 50)
        self._sample(now - self._started)

    def gone(self, process: Process) -> None:
        """A process has ended; its parent may not have waited for it yet."""
        account = self._living.pop(process, None)
        if account is not None:
            account.exe = process.exe
            self._close(account)

    def _find_silent(self) -> None:
        """Who is there without having made a call that was stopped, and who of those has gone."""
        there = self._descendants()
        known = {process.pid for process in self._living}
        now = time()
        for pid in there:
            if pid not in known and pid not in self._silent:
                try:
                    exe = os.readlink(b"/proc/%d/exe" % pid).decode("utf-8", "backslashreplace")
                    self._silent[pid] = Account(pid, parent_of(pid), exe, now)
                except OSError:
                    continue  # it has gone, or is about to
        for pid in self._silent.keys() - set(there):
            self._close(self._silent.pop(pid))

    def _close(self, account: Account) -> None:
        account.last_look(time())
        self._ended_cpu_s += sum(account.cpu)
        self._count += 1
        # Memory decides of the idle.
        self._ended.append((sum(account.cpu) + account.peak_bytes / (1 << 40), self._count, account))
        if len(self._ended) > 2 * LISTED:
            self._ended = self._most()

    def _most(self) -> list[tuple[float, int, Account]]:
        return sorted(self._ended, reverse=True)[:LISTED]

    def last(self, pid: int, cpu: tuple[float, float], read: int, written: int) -> None:
        """What the child had used in the end, by the word of the warden, who waits for it."""
        ended = (account for _, _, account in self._ended)
        for account in (*self._living.values(), *self._silent.values(), *ended):
            if account.pid == pid:
                account.cpu, account.read, account.written = cpu, read, written
                break

    def end(self, now: float) -> None:
        """The tree is about to be ended: the last look at what is left of it."""
        self.look(now)
        for process in tuple(self._living):
            self.gone(process)
        while self._silent:
            self._close(self._silent.popitem()[1])

    @property
    def memory_bytes(self) -> int:
        """What the tree uses now: measured, or what its processes have for their own and the most that one shares."""
        measured = self._memory() if self._memory is not None else 0
        living = (*self._living.values(), *self._silent.values())
        return measured or sum(one.rss for one in living) + max((one.shared for one in living), default=0)

    @property
    def living(self) -> int:
        """How many processes there are."""
        return len(self._living) + len(self._silent)

    @property
    def cpu_s(self) -> float:
        """CPU seconds that the tree has used, as far as was seen."""
        living = (*self._living.values(), *self._silent.values())
        return self._ended_cpu_s + sum(sum(account.cpu) for account in living)

    def _sample(self, at: float) -> None:
        if self.samples and at - self.samples[-1][0] < self._every_s:
            return
        self.samples.append([round(at, 3), round(self.cpu_s, 3), self.memory_bytes, self.living])
        if len(self.samples) > SAMPLES:
            del self.samples[1::2]
            self._every_s = 2 * at / SAMPLES

    def told(self) -> dict[str, object]:
        """For the trace's footer and the report: those that used most, first what used most CPU time."""
        listed = [account.told() for _, _, account in self._most()]
        return {"processes": listed, "unlisted": self._count - len(listed), "samples": self.samples}
