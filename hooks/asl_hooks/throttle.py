"""A share of the processors for a tree without a cgroup: it is stopped and continued in turns.

    used more than its share? ─ SIGSTOP to all that run ─ for as long as the share needs to catch up ─ SIGCONT to those

Only processes that this stopped are continued. Parents that wait with WUNTRACED can see it; a cgroup's ``cpu.max``,
which nobody can see, is better where there is one.
"""

from __future__ import annotations

import _signal
import os

from asl_hooks.usage import measure
from asl_hooks.warden import descendants

_TURN_S = 0.1
_LONGEST_PAUSE_S = 1.0
_STOPPED = b"TtZX"


class Throttle:
    """Keeps the tree below *warden* at *percent* of one processor, on average over a few turns.

    Call ``turn`` whenever the time that it returned has come.
    """

    def __init__(self, warden: int, percent: float) -> None:
        self._warden = warden
        self._share = percent / 100
        self._looked_at = 0.0
        self._cpu_s = 0.0
        self._debt_s = 0.0  # of time that has yet to pass for what has been used
        self._stopped: list[int] = []

    def turn(self, now: float) -> float:
        """Stop the tree, let it go on, or neither; the time (as *now*, monotonic seconds) of the next turn."""
        if self._stopped:
            for pid in self._stopped:
                _send(pid, _signal.SIGCONT)
            self._stopped = []
            return now + _TURN_S
        cpu_s = measure(self._warden).cpu_s
        if self._looked_at:
            owed_s = (cpu_s - self._cpu_s) / self._share - (now - self._looked_at)
            self._debt_s = max(self._debt_s + owed_s, -_TURN_S)  # idling saves up for one turn, no more
        self._cpu_s, self._looked_at = cpu_s, now
        pause_s = min(self._debt_s, _LONGEST_PAUSE_S)
        if pause_s < _TURN_S / 10:
            return now + _TURN_S
        self._stopped = stop_all(self._warden)
        return now + pause_s


def stop_all(warden: int) -> list[int]:
    """Stop what runs below *warden*; the pids of what was stopped by that."""
    stopped = []
    for pid in descendants(warden):
        if _state(pid) not in _STOPPED:
            _send(pid, _signal.SIGSTOP)
            stopped.append(pid)
    return stopped


def _state(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0]
    except OSError:
        return b"X"


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
