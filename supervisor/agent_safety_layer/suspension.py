"""Stopping as a job that reads, or writes, its terminal in the background does: with the whole tree, and in time.

The kernel stops the process group of whoever reads, so that the shell sees a stopped job. Were that simply us, the rest
of the tree would go on with nobody to hold its limits, and the tree can bring it about at will. So the signals come
by a descriptor, the tree is stopped first, and a timer continues us when the run's time is over.
"""

from __future__ import annotations

import _signal
import os
import struct
from time import monotonic

from asl_hooks._abi import ctypes, linux

_SIGNALS = (_signal.SIGTTIN, _signal.SIGTTOU)
_CLOCK_MONOTONIC = 1
_SPEC = struct.Struct("=4q")


class Suspension:
    """Holds the two signals back from ``take`` to ``release``; ``fd`` polls readable when one has come."""

    def __init__(self, warden: int) -> None:
        self._warden = warden
        self._before: set[int] = set()
        self.fd = -1

    def take(self) -> None:
        """From now on neither signal stops us. For the main thread, before there are others."""
        self._before = {int(number) for number in _signal.pthread_sigmask(_signal.SIG_BLOCK, _SIGNALS)}
        mask = sum(1 << number - 1 for number in _SIGNALS).to_bytes(8, "little")
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self.fd = linux.bind("signalfd4", ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)(
            -1, mask, 8, flags
        )

    def release(self) -> None:
        """As it was before."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self._before)

    def arrived(self) -> bool:
        """Whether a signal was there, which now it is not."""
        try:
            return bool(os.read(self.fd, 4096))
        except BlockingIOError:
            return False

    def suspend(self, until: float) -> None:
        """Stop the tree and us, until somebody continues us, or at the time *until* (monotonic seconds, may be inf)."""
        if until <= monotonic():
            return
        from asl_hooks.throttle import stop_all

        stopped = stop_all(self._warden)
        timer = _continue_at(until) if until < float("inf") else -1
        os.kill(os.getpid(), _signal.SIGSTOP)
        if timer >= 0:
            linux.bind("timer_delete", ctypes.c_int)(timer)
        for pid in stopped:
            try:
                os.kill(pid, _signal.SIGCONT)
            except ProcessLookupError:
                continue


def _continue_at(until: float) -> int:
    """A timer that continues this process at *until*: SIGCONT does, even for who is stopped."""
    event = struct.pack("=QiiQ", 0, _signal.SIGCONT, 0, 0).ljust(64, b"\0")
    timer = ctypes.c_int()
    create = linux.bind("timer_create", ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    create(_CLOCK_MONOTONIC, event, ctypes.addressof(timer))
    left = max(until - monotonic(), 0.001)
    settle = linux.bind("timer_settime", ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    settle(timer.value, 0, _SPEC.pack(0, 0, int(left), int(left % 1 * 1e9)), None)
    return timer.value
