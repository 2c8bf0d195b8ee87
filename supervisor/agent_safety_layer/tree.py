"""The life of a launched tree: its signals, its limits, its end."""

from __future__ import annotations

import _signal
import os
import select
from time import monotonic

from agent_safety_layer.errors import TraceError, UsageError
from agent_safety_layer.limits import GRACE_S
from agent_safety_layer.report import Ending
from asl_hooks import warden

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent_safety_layer.engine.loop import Engine
    from agent_safety_layer.engine.recorder import Recorder
    from agent_safety_layer.policy import Limits
    from agent_safety_layer.terminal import Stderr
    from asl_hooks.launch import Launched

_FORWARDED = (
    *(_signal.SIGTERM, _signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGUSR1, _signal.SIGUSR2),
    *(_signal.SIGWINCH, _signal.SIGCONT),
)
_FROM_TERMINAL = (_signal.SIGINT, _signal.SIGQUIT)


class Tree:
    """The life of a launched tree: signals, limits, its end."""

    def __init__(self, engine: Engine, launched: Launched, limits: Limits, recorder: Recorder, stderr: Stderr) -> None:
        self._engine = engine
        self._launched = launched
        self._limits = limits
        self._recorder = recorder
        self._stderr = stderr
        self._status: tuple[int, ...] | None = None
        self._usage = (0.0, 0.0, 0)
        self._kill_at = 0.0
        self._outcome = ""
        self._interrupts = 0
        self._ended = False
        self._saved: dict[int, Any] = {}

    def live(self, started: float) -> Ending:
        """Let the child go and serve the tree until the child has ended; then end what is left."""
        engine, launched = self._engine, self._launched
        engine.watch(launched.status)
        engine.on_signal = self._signalled
        engine.answers.on_violation = lambda: self._stop("violation", 0)
        self._take_signals()
        try:
            os.write(launched.go, b"g")
            limits = self._limits
            wall = started + limits.wall_time_s if limits.wall_time_s is not None else 0.0
            sampled = limits.cpu_time_s is not None or limits.memory_bytes is not None
            while self._status is None:
                self._turn(wall, sampled)
            self.end()
        finally:
            self._give_back_signals()
        return self._ending(monotonic() - started)

    def _turn(self, wall: float, sampled: bool) -> None:
        from agent_safety_layer.engine.loop import Exited

        now = monotonic()
        engine = self._engine
        waits = [0.2] if self._recorder.pending or sampled else []
        for at in (wall if not self._outcome else 0.0, self._kill_at):
            if at:
                waits.append(max(at - now, 0.0))
        try:
            ready = engine.turn(min(waits, default=-1))
        except Exited:
            ready = [self._launched.status]
        now = monotonic()
        try:
            engine.tick(now)
        except TraceError as error:
            self._stderr.write(f"asl-supervise: {error}\n")
            self._stop("trace_full", 0)
        if self._launched.status in ready:
            self._read_status()
        if wall and now >= wall and not self._outcome:
            self._stop("wall_time", GRACE_S)
        if sampled and not self._outcome:
            self._sample()
        if self._kill_at and now >= self._kill_at:
            self.end()

    def _read_status(self) -> None:
        data = os.read(self._launched.status, warden.STATUS.size)
        if len(data) != warden.STATUS.size:  # the warden died: nothing of the tree may live on
            self._status = (9, 0)
            self._outcome = self._outcome or "failed"
            return
        status, pid, user, system, peak = warden.STATUS.unpack(data)
        if pid:
            self._status = (status, pid)
        self._usage = (user, system, peak)

    def _sample(self) -> None:
        """Limits on the whole tree where no cgroup holds them: add up what its processes use."""
        limits = self._limits
        ticks = os.sysconf("SC_CLK_TCK")
        cpu, memory = 0.0, 0
        for pid in warden.descendants(self._launched.warden):
            try:
                with open(f"/proc/{pid}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            cpu += sum(int(field) for field in fields[11:15]) / ticks
            memory += int(fields[21]) * 4096
        if limits.cpu_time_s is not None and cpu >= limits.cpu_time_s:
            self._stop("cpu_time", GRACE_S)
        elif limits.memory_bytes is not None and memory >= limits.memory_bytes:
            self._stop("memory", 0)

    def _stop(self, outcome: str, grace_s: float) -> None:
        """End the tree because of *outcome*: ask the child first if there is grace, then kill everything."""
        if self._outcome:
            return
        self._outcome = outcome
        if grace_s:
            self._send(_signal.SIGTERM)
            self._send(_signal.SIGCONT)
            self._kill_at = monotonic() + grace_s
        else:
            self.end()

    def _send(self, number: int) -> None:
        try:
            os.kill(self._launched.pid, number)
        except ProcessLookupError:
            pass

    # -- signals ---------------------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        try:
            for number in (*_FORWARDED, _signal.SIGCHLD):
                self._saved[number] = _signal.getsignal(number)
                if self._saved[number] is not _signal.SIG_IGN or number == _signal.SIGCHLD:
                    _signal.signal(number, lambda *_: None)
            self._saved[-1] = _signal.set_wakeup_fd(self._engine.wake_fd, warn_on_full_buffer=False)
        except ValueError as error:  # not in the main thread
            raise UsageError(
                "A supervised run needs the main thread, for its signals.", remedy="Start it there."
            ) from error

    def _give_back_signals(self) -> None:
        _signal.set_wakeup_fd(self._saved.pop(-1, -1))
        for number, handler in self._saved.items():
            _signal.signal(number, handler if handler is not None else _signal.SIG_DFL)

    def _signalled(self, number: int) -> None:
        if number in _FROM_TERMINAL:
            self._interrupts += 1
            if self._interrupts > 1:
                self._stop("signaled", 0)
                return
            if self._shares_foreground():
                return  # the terminal sent it to the child as well
        self._send(number)

    def _shares_foreground(self) -> bool:
        """Whether a signal typed on the terminal reaches the child by itself: it is in our group, and that is in
        front.
        """
        try:
            return os.getpgid(self._launched.pid) == os.getpgrp() == os.tcgetpgrp(2)
        except OSError:
            return False

    # -- the end ---------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """End everything that is left of the tree. Postcondition: none of it lives. A second call does nothing."""
        if self._ended:
            return
        self._ended = True
        self._engine.closing = True
        launched = self._launched
        try:
            os.write(launched.control, b"e")
        except BrokenPipeError:
            pass
        os.close(launched.go)
        poll = select.poll()
        poll.register(launched.status, select.POLLIN)
        while True:
            poll.poll(1000)
            try:
                data = os.read(launched.status, warden.STATUS.size)
            except OSError:
                break
            if len(data) != warden.STATUS.size:
                break
            status, pid, user, system, peak = warden.STATUS.unpack(data)
            if pid and self._status is None:
                self._status = (status, pid)
            self._usage = (user, system, peak)
        os.waitpid(launched.warden, 0)
        for fd in (launched.control, launched.status, launched.pidfd):
            os.close(fd)
        if self._status is None:
            self._status = (9, 0)

    def _ending(self, wall_s: float) -> Ending:
        assert self._status is not None
        status = self._status[0]
        user, system, peak = self._usage
        signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = 128 + signal if signal else os.WEXITSTATUS(status)
        outcome = self._outcome or ("signaled" if signal else "exited")
        if outcome in ("wall_time", "cpu_time"):
            code = 124
        elif outcome == "memory":
            code = 137
        elif outcome in ("violation", "trace_full", "failed"):
            code = 125 if outcome != "violation" else code
        return Ending(outcome, code, signal, wall_s, user, system, peak)
