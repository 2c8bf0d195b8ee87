"""Exec: judged at the call, and again on what really runs, before its first instruction.

The kernel reads path and argv after the supervisor has, so the first judgement alone could be fooled by a second
thread, a link swapped in time, or a script that becomes another. So the thread is seized, and at the exec stop
(``asl_hooks.ptrace``) the real executable and argv are compared, and judged where they differ: interpreters of ``#!``
scripts, and whatever a race put in place. What may not run is killed there.
"""

from __future__ import annotations

import _signal
import os
import stat
from errno import EACCES, ELOOP, ESRCH
from time import time

from agent_safety_layer.engine.objects import signed
from agent_safety_layer.engine.operation import Operation
from agent_safety_layer.events import ASK, BLOCK, Decision, Event, text_of
from asl_hooks import memory, ptrace
from asl_hooks._abi import linux
from asl_hooks.paths import Located, base_of, locate, name_of
from asl_hooks.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.engine.answers import Stopped
    from agent_safety_layer.engine.recorder import Recorder
    from agent_safety_layer.engine.view import View
    from asl_hooks.backend import Backend, Call
    from asl_hooks.processes import Process

_LONGEST_CMDLINE = 1 << 21


class Execs:
    """Describes exec calls."""

    def __init__(self, view: View) -> None:
        self._view = view

    def exec(self, call: Call, process: Process, name: str) -> Operation:
        """execve, execveat.

        ``OSError`` where the kernel would fail it anyway, so that a search along PATH makes no events.
        """
        args = call.args
        dir_fd, at, flags = linux.AT_FDCWD, 0, 0
        if name == "execveat":
            dir_fd, at, flags = signed(args[0]), 1, args[4] & 0xFFFFFFFF
        raw = memory.read_string(process.mem, args[at])
        if not raw and flags & linux.AT_EMPTY_PATH:
            held = self._view.copy_descriptor(call, dir_fd)
            found = Located(name_of(held), held)
        else:
            path = raw if raw.startswith(b"/") else base_of(call.tid, dir_fd) + b"/" + raw
            found = locate(path, process.pid, call.tid, not flags & linux.AT_SYMLINK_NOFOLLOW)
        if found.fd < 0:
            raise OSError(found.errno, "nothing to execute")
        try:
            mode = os.fstat(found.fd).st_mode
            if stat.S_ISLNK(mode):
                raise OSError(ELOOP, "a symbolic link")
            if not stat.S_ISREG(mode) or not os.access(b"/proc/self/fd/%d" % found.fd, os.X_OK):
                raise OSError(EACCES, "not executable")
            argv = tuple(text_of(word) for word in memory.read_strings(process.mem, args[at + 1]))
        finally:
            os.close(found.fd)
        canonical, spelled = text_of(found.path), text_of(raw)
        event = self._view.event(
            "process.exec",
            call,
            process,
            path=canonical,
            spelled=spelled if spelled != canonical else "",
            argv=argv,
            cwd=_cwd(call.tid),
        )
        return Operation(event, None, bounded=True)


class ExecCheck:
    """Lets execs go and checks what they became."""

    def __init__(self, backend: Backend, view: View, recorder: Recorder, *, verify: bool) -> None:
        self._backend = backend
        self._view = view
        self._recorder = recorder
        self._verify = verify
        self._seized: dict[int, tuple[int, Event]] = {}  # thread: its process, and what was judged

    def let_go(self, stopped: Stopped, event: Event, decision: Decision, effective: str) -> None:
        """Let the kernel run an exec that was judged, to be stopped again before the new program begins."""
        call, process = stopped.call, stopped.process
        process.exec_pending = True
        process.cache.clear()
        if not self._view.executable(event.path) and event.path.startswith("/"):
            self._deny(stopped, event, "it lies outside of what the kernel was told at the start may be executed")
            return
        if self._verify:
            if call.tid not in self._seized:
                try:
                    ptrace.seize(call.tid)
                except OSError as error:
                    if error.errno == ESRCH:
                        self._backend.fail(call, ESRCH)
                    else:
                        self._deny(stopped, event, f"it could not be traced to be verified: {error.strerror}")
                    return
            self._seized[call.tid] = (process.pid, event)
        if self._backend.proceed(call):
            self._recorder.record(event, decision, effective, "", stopped.started)

    def _deny(self, stopped: Stopped, event: Event, reason: str) -> None:
        self._backend.fail(stopped.call, EACCES)
        self._recorder.record(event, Decision(BLOCK, "exec", "", reason), BLOCK, "EACCES", stopped.started)

    def stops(self) -> None:
        """Look at the threads that were seized; SIGCHLD says when."""
        for stop in ptrace.stops({tid: pid for tid, (pid, _) in self._seized.items()}):
            pid, judged = self._seized.pop(stop.tid)
            if stop.exec:
                self._check(pid, stop.stopped, judged)
            elif not stop.gone:
                ptrace.detach(stop.stopped, stop.signal)

    def _check(self, pid: int, stopped: int, judged: Event) -> None:
        started = time()
        process = self._view.processes.get(pid)
        try:
            actual = real(pid, judged)
            if process is not None:
                process.refresh()
        except OSError as error:
            decision = Decision(BLOCK, "exec", "", f"what really runs could not be read: {error.strerror}")
            self._kill(pid, judged, decision, started)
            return
        if actual is not None:
            decision = self._view.decide(actual)
            enforced = self._view.decide_enforced(actual).action
            if enforced in (BLOCK, ASK):
                self._kill(pid, actual, decision, started)
                return
            self._recorder.record(actual, decision, enforced, "", started)
        ptrace.detach(stopped)

    def _kill(self, pid: int, event: Event, decision: Decision, started: float) -> None:
        try:
            os.kill(pid, _signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._recorder.record(event, decision, BLOCK, "SIGKILL", started)


def real(pid: int, judged: Event) -> Event | None:
    """What runs in *pid* now, as an event, when that is not what was judged; None when it is exactly that.

    ``OSError`` when it cannot be read: then it must not run.
    """
    exe = text_of(os.readlink(b"/proc/%d/exe" % pid))
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read(_LONGEST_CMDLINE).split(b"\0")[:-1]
    argv = tuple(text_of(word) for word in words)
    if exe == judged.path and argv == (judged.argv or ("",)):
        return None
    return replace(judged, path=exe, argv=argv, spelled="", detail="what the kernel runs for it")


def _cwd(tid: int) -> str:
    try:
        return text_of(os.readlink(b"/proc/%d/cwd" % tid))
    except OSError:
        return ""
