"""The run loop: stopped calls in, answers and trace lines out.

    poll ─┬─ listener: receive ─ planned? ─ describe ─ judge (``answers``)
          ├─ wake:     signals (SIGCHLD: exec stops), what threads and people answered
          ├─ pidfds:   a process of the tree has gone
          └─ watched:  for the caller

What one repeated open costs: poll, RECV, one read of memory, SEND (or an open and ADDFD), and an append to the trace's
buffer; see ``plans``.
"""

from __future__ import annotations

import _signal
import os
import select
from _collections import deque
from _functools import partial
from errno import EACCES, EAGAIN, EINVAL, EPERM
from time import time

from agent_safety_layer.engine.answers import ALLOWED, Answers, Stopped
from agent_safety_layer.engine.describers import Describers
from agent_safety_layer.engine.execs import ExecCheck
from agent_safety_layer.engine.plans import Plan, Plans, open_again
from agent_safety_layer.engine.recorder import errno_name
from agent_safety_layer.engine.routine import Routine
from agent_safety_layer.engine.spans import Spans
from agent_safety_layer.events import ALLOW, BLOCK, Decision, Event
from agent_safety_layer.native import core
from asl_hooks import filters, syscalls
from asl_hooks.backend import Call
from asl_hooks.identity import ActingAs
from asl_hooks.usage import tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent_safety_layer._core import Core
    from agent_safety_layer.engine.custom import Custom
    from agent_safety_layer.engine.egress import Egress
    from agent_safety_layer.engine.gate import Gate
    from agent_safety_layer.engine.recorder import Recorder
    from agent_safety_layer.engine.view import View
    from asl_hooks.backend import Backend
    from asl_hooks.processes import Process

_NOT_NEEDED = Decision(BLOCK, "filter", "", "no agent needs this system call")
_new: Any = tuple.__new__
_EPOCH_S = 1.0
_UNPOLLED = 16  # calls of a backend that has more, before everything else is looked at
_TURN_S = 0.2  # timers are looked at this often, and the trace is flushed


class Exited(Exception):
    """The loop is over: nothing of the tree is left that could make a call."""


class Engine:
    """Answers the calls of one tree until it is gone.

    ``max_processes`` is 0 for no limit. ``verify_exec``: what an exec became is checked before it runs. ``span`` is the
    one that the whole tree runs in. ``custom`` are Python policies that have a say, too.
    """

    def __init__(
        self,
        backend: Backend,
        view: View,
        recorder: Recorder,
        *,
        egress: Callable[[Engine], Egress],
        gate: Callable[[Engine], Gate],
        verify_exec: bool,
        max_processes: int = 0,
        span: str = "",
        custom: Custom | None = None,
    ) -> None:
        self._backend = backend
        self._tells = backend.tells
        self._view = view
        self._recorder = recorder
        self._refused_in_part = {syscalls.number(name, syscalls.native_arch()) for name in filters.conditional()}
        self._max_processes = max_processes
        self._forks_left = 0
        self._next_told = 0.0
        self._ready: deque[Callable[[], None]] = deque()  # what threads leave for the loop to do
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.epoll()
        self._poll.register(backend.fileno(), select.EPOLLIN)
        self._poll.register(self._wake_r, select.EPOLLIN)
        self._unpolled = _UNPOLLED
        self._watched: dict[int, Callable[[], None]] = {}
        self._plans = Plans()
        self._execs = ExecCheck(backend, view, recorder, verify=verify_exec, custom=custom)
        backend.follow(self._execs.became, self._exited)
        self.gate = gate(self)
        self.answers = Answers(backend, view, recorder, self._plans, self._execs, self.gate, self.later, custom)
        self._next_epoch = 0.0
        self.on_signal: Callable[[int], None] = lambda _: None
        self.on_new: Callable[[Process], None] = lambda _: None
        self.on_gone: Callable[[Process], None] = lambda _: None
        self.closing = False  # nobody forks any more
        self.pause_at = 1 << 62  # when there have been so many events, every turn ends after one call
        self.egress = egress(self)
        self._describers = Describers(view, self.egress)
        self._routine = Routine(backend, view, recorder, self._plans, self._describers.objects())
        self._core: Core | None = None
        if custom is not None:
            self._routine.stop()
        elif core is not None and backend.name == "notify" and not view.policy.stateful:
            self._core = core.Core(
                backend.fileno(),
                self._poll.fileno(),
                recorder.lines,
                view.processes.by_tid,
                self._plans,
                Plan,
                self._routine.verdicts,
                self._routine.verdict,
                self._describers.objects().as_creator,
                recorder.flush,
                partial(_new, Call),
            )
        arch = syscalls.native_arch()
        self._umask = syscalls.number("umask", arch)
        self._prctl = syscalls.number("prctl", arch)
        self._spans = Spans(view, recorder, span)
        self._creds = {syscalls.number(name, arch) for name in syscalls.tagged("creds")}
        self._creds_vary = False
        self._forks = {syscalls.number(name, arch) for name in ("clone", "fork", "vfork")}

    # -- the loop ------------------------------------------------------------------------------------------------------

    @property
    def wake_fd(self) -> int:
        """Write a signal's number here (``signal.set_wakeup_fd``) to have it handled; 0 only wakes the loop."""
        return self._wake_w

    @property
    def started(self) -> int:
        """How many processes of the tree have made themselves known so far."""
        return self._view.processes.started

    def watch(self, fd: int, ready: Callable[[], None] | None = None) -> None:
        """Also wake up when *fd* polls readable, and call *ready*; without that ``turn`` returns it."""
        self._poll.register(fd, select.EPOLLIN)
        if ready is not None:
            self._watched[fd] = ready

    def unwatch(self, fd: int) -> None:
        """No longer."""
        self._poll.unregister(fd)
        self._watched.pop(fd, None)

    def turn(self, timeout_s: float) -> list[int]:
        """Wait at most *timeout_s* (for ever when negative) and handle what is there, for at most ``_TURN_S`` while
        calls keep coming. Watched descriptors that are ready come back. Raises ``Exited`` once no tracee is left.
        """
        until = 0.0
        while True:
            found: Call | list[tuple[int, int]] | None
            if self._core is not None and self._recorder.listener is None:
                found = self._core.turn(timeout_s, until, self.pause_at)
            else:
                found = self._wait(timeout_s)
            if isinstance(found, list):
                return self._handle(found)
            now = self._take(found)
            if not until:
                until = now + _TURN_S
                timeout_s = _TURN_S if timeout_s < 0 else min(timeout_s, _TURN_S)
            if now >= until or self._recorder.count >= self.pause_at:
                return []

    def _wait(self, timeout_s: float) -> Call | list[tuple[int, int]] | None:
        """The next call, None when it was taken back, or whatever else there is."""
        backend = self._backend
        if self._unpolled < _UNPOLLED and backend.pending:
            self._unpolled += 1
        else:
            self._unpolled = 0
            ready = self._poll.poll(0 if backend.pending else timeout_s)
            if (ready or not backend.pending) and ready != [(backend.fileno(), select.EPOLLIN)]:
                return ready
        return backend.receive()

    def _handle(self, ready: list[tuple[int, int]]) -> list[int]:
        """Handle a mix of readiness: those who have gone first, so that a call never meets a dead process's entry."""
        listener = self._backend.fileno()
        others: list[int] = []
        calls = 0
        for fd, what in ready:
            if fd == listener:
                calls = what
            elif fd == self._wake_r:
                self._woken()
            else:
                process = self._view.processes.by_pidfd(fd)
                if process is None:
                    others += self._readable(fd)
                else:
                    self._gone(process)
        if calls & select.EPOLLIN or self._backend.pending:
            self._take(self._backend.receive())
        elif calls & (select.EPOLLHUP | select.EPOLLERR):
            self._poll.unregister(listener)
            raise Exited
        return others

    def _readable(self, fd: int) -> list[int]:
        ready = self._watched.get(fd)
        if ready is None:
            return [fd]
        ready()
        return []

    def tick(self, now: float) -> None:
        """Flush when due. By and by paths may lead elsewhere through others' doing, and threads may have gone."""
        if self._recorder.due(now):
            self._recorder.flush()
        if now >= self._next_epoch:
            self._next_epoch = now + _EPOCH_S
            self._plans.epoch += 1
            self._view.processes.forget_threads()

    def _woken(self) -> None:
        try:
            numbers = os.read(self._wake_r, 4096)
        except BlockingIOError:
            return
        for number in set(numbers):
            if number == _signal.SIGCHLD:
                self._execs.stops()
                self._backend.child()
            elif number not in (0, _signal.SIGALRM):
                self.on_signal(number)
        while self._ready:
            self._ready.popleft()()

    def guard(self) -> None:
        """Whatever the tree does, a turn ends in time. For the main thread."""
        self._backend.guard()
        if self._core is not None:
            self._core.guard()

    def collect(self) -> None:
        """Take what has become of traced threads: one that was killed is not gone for its parent before that."""
        self._execs.stops()
        self._backend.collect()

    def later(self, action: Callable[[], None]) -> None:
        """Have the loop call *action*; the one thing here that other threads may call."""
        self._ready.append(action)
        try:
            os.write(self._wake_w, b"\0")
        except BlockingIOError:
            pass  # it is awake

    def _exited(self, tid: int) -> None:
        process = self._view.processes.get(tid)
        if process is not None and process.pid == tid:
            self._gone(process)

    def _gone(self, process: Process) -> None:
        self.on_gone(process)  # first of all: there is a race for it
        self._poll.unregister(process.pidfd)
        now = time()
        span = process.span_of(process.pid)
        event = Event("process.exit", process.pid, process.pid, process.ppid, process.exe, span=span, time=now)
        self._view.processes.remove(process)
        self._view.advance(event, ALLOWED)
        self._execs.gone(process.pid)
        self.gate.withdraw(process.pid)
        self._recorder.record(event, ALLOWED, ALLOW, "", now)

    # -- one call ------------------------------------------------------------------------------------------------------

    def _take(self, call: Call | None) -> float:
        """Take up one call; the time at which that was."""
        backend = self._backend
        started = self._view.now = time()
        if call is None:
            return started
        try:
            process, new = self._view.processes.find(call.tid)
            if new:
                if not backend.valid(call):  # the id may by now be that of a process outside the tree
                    self._view.processes.remove(process)
                    return started
                self._poll.register(process.pidfd, select.EPOLLIN)
                self._spans.inherit(process)
                self.on_new(process)
        except (OSError, KeyError):
            backend.fail(call, EACCES)  # it died, or cannot be looked at: what cannot be read is not allowed
            return started
        shape = self._plans.shapes.get(call.nr)
        if shape is not None and self._serve_planned(call, process, shape, started):
            return started
        stopped = Stopped(call, process, started)
        if not self._routine.serve(stopped):
            self._describe(stopped)
        return started

    def _serve_planned(self, call: Call, process: Process, shape: tuple[int, int, int], started: float) -> bool:
        """Answer an open as it was answered before. False when it must be looked at."""
        plan = self._plans.find(call, process, shape)
        if plan is None:
            return False
        told = partial(self._recorder.repeat, plan.body, plan.slot, started) if self._tells else None
        if plan.reopen:
            flags = call.args[shape[2]]
            fd = open_again(plan.reopen, flags)
            if fd < 0:
                return False
            done = self._backend.inject(call, fd, bool(flags & os.O_CLOEXEC), told)
            os.close(fd)
        else:
            done = self._backend.proceed(call, told)
        if done and told is None:
            self._recorder.repeat(plan.body, plan.slot, started)
        return True

    def _describe(self, stopped: Stopped) -> None:
        call, process = stopped.call, stopped.process
        if call.nr in self._refused_in_part and (errno := self._view.kernel.refusal(call)):
            self._deny(stopped, "process.deny", errno, _NOT_NEEDED)
            return
        describe = self._describers.find(call.nr)
        if describe is None:
            self._keep_books(stopped)
            return
        try:
            if self._creds_vary:
                process.identify(call.tid)
                acting = ActingAs(process)
                with acting:
                    operation = describe(call, process)
                operation.acting = acting
            else:
                operation = describe(call, process)
        except OSError as error:
            self._backend.fail(call, error.errno or EPERM)
            return
        except (ValueError, OverflowError):  # an argument that Python's wrappers refuse
            self._backend.fail(call, EINVAL)
            return
        self.answers.judge(stopped, operation)

    def _keep_books(self, stopped: Stopped) -> None:
        call, process = stopped.call, stopped.process
        if call.nr == self._umask:
            process.umask = call.args[0] & 0o777
        elif call.nr == self._prctl:
            errno = self._spans.hear(call, process)
            if errno:
                self._backend.fail(call, errno)
            else:
                self._backend.give(call, 0)
            return
        elif call.nr in self._creds:
            # From now on some process may be somebody else: what is done for it is done with its identity.
            self._creds_vary = True
            self._plans.shapes.clear()
            self._routine.stop()
            self._core = None
        elif call.nr in self._forks:
            if self.closing:
                self._backend.fail(call, EAGAIN)
                return
            if self._max_processes and not self._may_fork(stopped):
                return
        else:
            self._deny(stopped, "process.deny", self._view.kernel.refusal(call) or EPERM, _NOT_NEEDED)
            return
        self._backend.proceed(call)

    def _may_fork(self, stopped: Stopped) -> bool:
        """Whether there is room for another process or thread. They are counted anew whenever there may be none."""
        if self._forks_left <= 0:
            living = tasks(self._view.warden)
            self._forks_left = self._max_processes - living
            if self._forks_left <= 0:
                if stopped.started < self._next_told:  # a fork bomb is told of once a second
                    self._backend.fail(stopped.call, EAGAIN)
                    return False
                self._next_told = stopped.started + 1
                reason = f"processes: {living} of {self._max_processes}"
                self._deny(stopped, "limit.hit", EAGAIN, Decision(BLOCK, "limits.processes", "", reason))
                return False
        self._forks_left -= 1
        return True

    def _deny(self, stopped: Stopped, kind: str, errno: int, decision: Decision) -> None:
        """Refuse a call that no policy decides about, and record that."""
        event = self._view.event(kind, stopped.call, stopped.process)
        self._recorder.record(event, decision, BLOCK, errno_name(errno), stopped.started)
        self._backend.fail(stopped.call, errno)

    def close(self) -> None:
        """Let go of everything."""
        self.gate.close()
        self._describers.close()
        self.egress.close()
        self._view.processes.close()
        self._backend.close()
        self._poll.close()
        os.close(self._wake_r)
        os.close(self._wake_w)
