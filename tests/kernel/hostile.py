"""A tree that does what it can to outlive its run. Its argument marks every process of it in /proc/<pid>/cmdline.

Run as ``python hostile.py MARK KIND...``; each kind is one way, all at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time


def daemon() -> None:
    """Double fork, a session of its own, no standard descriptors."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 3)
            linger()
        os._exit(0)


def deaf() -> None:
    """Ignores every signal that can be ignored."""
    if os.fork() == 0:
        for number in range(1, 32):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(number, signal.SIG_IGN)
        linger()


def stopped() -> None:
    """Stops itself."""
    if os.fork() == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        linger()


def vforked() -> None:
    """A parent that is stuck in vfork(2) because its child does not go on."""
    if os.fork() == 0:
        ctypes.CDLL(None).vfork()
        linger()


def bomb() -> None:
    """Forks as fast as it can; every child does the same."""
    if os.fork() == 0:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                os.fork()
            except OSError:
                time.sleep(0.01)


def churn() -> None:
    """Is always somebody else: each process forks its successor and exits, in a session of its own."""
    if os.fork() == 0:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                if os.fork():
                    os._exit(0)
                os.setsid()
            except OSError:
                time.sleep(0.001)


def linger() -> None:
    """Live on for long enough to be found."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        time.sleep(1)
    os._exit(0)


KINDS = {kind.__name__: kind for kind in (daemon, deaf, stopped, vforked, bomb, churn)}

if __name__ == "__main__":
    for name in sys.argv[2:]:
        KINDS[name]()
    print("ready", flush=True)
    linger()
