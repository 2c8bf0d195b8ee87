"""Checking an exec after it happened, with ptrace(2): stop at the new program's door, look, let go or kill.

    tracee        waits in execve (notified) ──────── CONTINUE ──► kernel runs execve ──► exec stop ── detach ──►
    first instruction supervisor    seize(tid) ─ proceed ─                                       wait ── look at exe,
    argv ─┘

An ``execve`` that fails gives no stop, so nothing here ever waits: ``stops`` collects what has happened. A thread
whose exec failed stays seized until it stops for anything else (a signal), where it is let go with that signal, or
until its next exec. python-ptrace has bindings for most of ptrace but not for SEIZE, EXITKILL or exec stops of seized
tasks (0.9.9), and takes 40 ms to import: this is on the way to the first instruction of every program, so the five
requests are made directly.
"""

from __future__ import annotations

import os

from asl_hooks._abi import linux
from asl_hooks.value import value

_OPTIONS = linux.PTRACE_O_TRACEEXEC | linux.PTRACE_O_EXITKILL


@value
class Stop:
    """A traced task stopped, or is ``gone``. ``tid`` is as it was seized, ``stopped`` the id to detach it by.

    ``exec`` tells an exec stop; ``signal`` is what it is about to receive (0 for none).
    """

    tid: int
    stopped: int
    exec: bool = False
    signal: int = 0
    gone: bool = False


def seize(tid: int) -> None:
    """Trace *tid* for exec stops; it is killed if this process dies. ``OSError``: ESRCH, or EPERM where tracing is
    refused.
    """
    linux.ptrace(linux.PTRACE_SEIZE, tid, None, _OPTIONS)


def stops(seized: dict[int, int]) -> list[Stop]:
    """What has happened to the *seized* threads (thread id: process id) since the last call. Never blocks, and leaves
    the
    statuses of other children alone."""
    return [stop for tid, pid in seized.items() if (stop := _stop_of(tid, pid)) is not None]


def _stop_of(tid: int, pid: int) -> Stop | None:
    # After an exec by a thread that is not the leader, the task bears the leader's id: look there as well.
    for task in (tid, pid) if tid != pid else (tid,):
        try:
            found, status = os.waitpid(task, os.WNOHANG | linux.WALL)
        except ChildProcessError:
            continue
        if found == 0:
            return None
        if not os.WIFSTOPPED(status):
            continue
        event = status >> 16
        if event == linux.PTRACE_EVENT_EXEC:
            return Stop(tid, task, exec=True)
        return Stop(tid, task, signal=0 if event == linux.PTRACE_EVENT_STOP else os.WSTOPSIG(status))
    return Stop(tid, tid, gone=True)


def detach(tid: int, signal: int = 0) -> None:
    """Let a stopped task go on untraced, with *signal* if not 0. A task that was killed meanwhile is no error."""
    try:
        linux.ptrace(linux.PTRACE_DETACH, tid, None, signal)
    except ProcessLookupError:
        pass
