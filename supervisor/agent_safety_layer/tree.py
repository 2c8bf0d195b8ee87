"""The life of a launched tree: its signals, its limits, its end."""

from __future__ import annotations

import _signal
import os
import select
from time import monotonic, time

from agent_safety_layer.accounts import Accounts
from agent_safety_layer.errors import TraceError, UsageError
from agent_safety_layer.events import BLOCK, WARN, Decision, Event
from agent_safety_layer.limits import GRACE_S, TIMES_OUT, Crossing, Watch
from agent_safety_layer.meter import Meter
from agent_safety_layer.report import Ending
from agent_safety_layer.suspension import Suspension
from asl_hooks import warden

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent_safety_layer.engine.loop import Engine
    from agent_safety_layer.engine.recorder import Recorder
    from agent_safety_layer.live import LiveLine
    from agent_safety_layer.output import Output
    from agent_safety_layer.policy import Limits
    from agent_safety_layer.terminal import Stderr
    from asl_hooks.cgroup import Subtree
    from asl_hooks.launch import Launched
    from asl_hooks.throttle import Throttle

_FORWARDED = (
    *(_signal.SIGTERM, _signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGUSR1, _signal.SIGUSR2),
    *(_signal.SIGWINCH, _signal.SIGCONT),
)
_INTERRUPTS = (_signal.SIGINT, _signal.SIGQUIT)
_FROM_TERMINAL = (*_INTERRUPTS, _signal.SIGWINCH)
FLUSH_S = 2.0  # for what a tree that has ended by itself has sent and the network has not taken yet
_AT_ONCE = ("memory", "written")  # what would go on growing while the tree is asked to end


class Tree:
    """One launched tree, from ``live`` to its ``end``."""

    def __init__(
        self,
        engine: Engine,
        launched: Launched,
        limits: Limits,
        recorder: Recorder,
        stderr: Stderr,
        group: Subtree | None = None,
        output: Output | None = None,
        line: LiveLine | None = None,
    ) -> None:
        self._line = line
        self._line_at = 0.0
        self._began = monotonic()
        self._engine = engine
        self._launched = launched
        self._grace_s = GRACE_S if limits.grace_s is None else limits.grace_s
        self._recorder = recorder
        self._stderr = stderr
        self._group = group
        self._output = output
        self._meter = Meter(Watch(limits), launched.warden, recorder, group, output)
        self._accounts = Accounts(lambda: warden.descendants(launched.warden), self._meter.memory_now)
        self._throttle: Throttle | None = None
        self._throttle_at = 0.0
        if limits.cpu_percent is not None and (group is None or "cpu" not in group.holds):
            from asl_hooks.throttle import Throttle

            self._throttle = Throttle(launched.warden, limits.cpu_percent)
        self._status: int | None = None
        self._used: tuple[float, ...] = (0.0, 0.0, 0, 0, 0)
        self._kill_at = 0.0
        self._outcome = ""
        self._interrupts = 0
        self._interrupted_by = 0
        self._ended = False
        self._saved: dict[int, Any] = {}
        self._suspension = Suspension(launched.warden)

    def live(self, started: float) -> Ending:
        """Let the child go and serve the tree until the child has ended; then end what is left. *started* is when the
        run began, in monotonic seconds.
        """
        engine, launched = self._engine, self._launched
        engine.watch(launched.status)
        engine.on_signal = self._signalled
        engine.answers.on_violation = lambda: self._stop("violation", 0)
        engine.pause_at = self._meter.most_events
        engine.on_new, engine.on_gone = self._accounts.new, self._accounts.gone
        self._meter.start(monotonic())  # what starting costs is not the tree's
        self._take_signals()
        self._accounts.start(monotonic())
        if self._output is not None:
            self._output.start(lambda: engine.later(lambda: None))  # wakes the loop, which then looks
        try:
            os.write(launched.go, b"g")
            while self._status is None and not self._ended:
                self._turn()
            self.end()
            try:
                self._engine.egress.finish(0.0 if self._outcome else FLUSH_S)
            except TraceError as error:
                self._untraceable(error)
        finally:
            self._give_back_signals()
        return self._ending(monotonic() - started)

    def _turn(self) -> None:
        from agent_safety_layer.engine.loop import Exited

        now = monotonic()
        waits = [self._accounts.next_look - now]
        if self._line is not None:
            waits.append(self._line_at - now)
        if self._recorder.pending:
            waits.append(0.2)
        if not self._outcome:
            waits.append(self._meter.next_look - now)
        if self._kill_at:
            waits.append(self._kill_at - now)
        elif self._throttle is not None:
            waits.append(self._throttle_at - now)
        try:
            ready = self._engine.turn(max(min(waits), 0.0))
        except Exited:
            ready = []  # nobody can make a call any more; the warden's word comes
        except TraceError as error:
            ready = []
            self._untraceable(error)
        now = monotonic()
        try:
            self._engine.tick(now)
        except TraceError as error:
            self._untraceable(error)
        if self._launched.status in ready and not self._ended:
            self._read_status()
        if now >= self._accounts.next_look:
            self._accounts.look(now)
        if self._line is not None and now >= self._line_at:
            self._show(self._line, now)
        if not self._outcome and self._status is None:
            for crossing in self._meter.look(now):
                self._crossed(crossing)
        if self._kill_at and now >= self._kill_at:
            self.end()
        elif self._throttle is not None and now >= self._throttle_at and not self._outcome:
            self._throttle_at = self._throttle.turn(now)

    def _untraceable(self, error: TraceError) -> None:
        self._stderr.write(f"asl-supervise: {error}\n")
        self._stop("trace_full", 0)

    def _show(self, line: LiveLine, now: float) -> None:
        from agent_safety_layer.live import EVERY_S, said

        self._line_at = now + EVERY_S
        accounts, recorder = self._accounts, self._recorder
        line.draw(said(now - self._began, accounts.living, accounts.memory_bytes, recorder.count, recorder.blocked))

    def _read_status(self) -> None:
        data = os.read(self._launched.status, warden.STATUS.size)
        if len(data) != warden.STATUS.size:  # the warden died: nothing of the tree may live on
            self._outcome = self._outcome or "failed"
            self._status = _signal.SIGKILL
            return
        status, pid, *used = warden.STATUS.unpack(data)
        if pid:
            self._told_of(status, pid, used)
        self._used = tuple(used)

    def _told_of(self, status: int, pid: int, used: list[float]) -> None:
        """The warden has told how the child ended and what it had used."""
        self._status = status
        user_s, system_s, _, read, written = used
        self._accounts.last(pid, (user_s, system_s), int(read), int(written))

    def signal(self, number: int) -> None:
        """Send the child a signal; nobody when it has gone, whose id may by then be another's."""
        try:
            _signal.pidfd_send_signal(self._launched.pidfd, number)
        except ProcessLookupError:
            pass

    def kill(self, number: int) -> None:
        """End the whole tree now, as by that signal."""
        self._interrupted_by = number
        self._stop("signaled", 0)

    # -- limits ----------------------------------------------------------------------------------------------------

    def _crossed(self, crossing: Crossing) -> None:
        """Write down that a limit is near or reached; when reached, end the tree."""
        now = time()
        name = crossing.name
        event = Event("limit.hit", self._launched.pid, self._launched.pid, os.getpid(), detail=crossing.text, time=now)
        reason = f"{crossing.text} {'are used up' if crossing.hit else 'are used'}"
        action = BLOCK if crossing.hit else WARN
        self._recorder.record(event, Decision(action, f"limits.{name}", "", reason), action, "", now)
        if crossing.hit:
            self._stop(name, 0 if name in _AT_ONCE else self._grace_s)

    def _tell_refused(self, forks: int) -> None:
        """Write down that the kernel refused processes or threads."""
        decision = Decision(BLOCK, "limits.processes", "", f"processes: the kernel refused {forks} more")
        event = Event("limit.hit", self._launched.pid, self._launched.pid, os.getpid(), detail=decision.reason)
        self._recorder.record(event, decision, BLOCK, "EAGAIN", time())

    def _stop(self, outcome: str, grace_s: float) -> None:
        """End the tree because of *outcome*: ask all of it first if there is grace, then kill everything."""
        if self._outcome:
            return
        self._outcome = outcome
        if grace_s and not self._ended:
            for pid in warden.descendants(self._launched.warden):
                _send(pid, _signal.SIGTERM)
                _send(pid, _signal.SIGCONT)
            self._kill_at = monotonic() + grace_s
        else:
            self.end()

    # -- signals ---------------------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        try:
            for number in (*_FORWARDED, _signal.SIGCHLD, _signal.SIGALRM):
                self._saved[number] = _signal.getsignal(number)
                if self._saved[number] is not _signal.SIG_IGN or number == _signal.SIGCHLD:
                    _signal.signal(number, lambda *_: None)
            self._suspension.take()
            self._engine.watch(self._suspension.fd, self._suspend)
            self._engine.guard()
            self._saved[-1] = _signal.set_wakeup_fd(self._engine.wake_fd, warn_on_full_buffer=False)
        except ValueError as error:  # not in the main thread
            raise UsageError(
                "A supervised run needs the main thread, for its signals.", remedy="Start it there."
            ) from error

    def _give_back_signals(self) -> None:
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        _signal.set_wakeup_fd(self._saved.pop(-1, -1))
        for number, handler in self._saved.items():
            _signal.signal(number, handler if handler is not None else _signal.SIG_DFL)
        self._suspension.release()

    def _signalled(self, number: int) -> None:
        resized = number == _signal.SIGWINCH and self._output is not None and self._output.resize()
        if number in _INTERRUPTS:
            self._interrupts += 1
            if self._interrupts > 1:
                self.kill(number)
                return
        if number in _FROM_TERMINAL and self._shares_foreground():
            # The terminal sent it to the child as well; who asked for the size before we changed it must ask again.
            # We are told too, and find nothing changed.
            if resized:
                os.killpg(0, number)
            return
        self.signal(number)

    def _suspend(self) -> None:
        """One of our group was in the background and used the terminal all the same: the job is to stop."""
        if self._suspension.arrived() and not self._outcome and _front() not in (0, os.getpgrp()):
            self._suspension.suspend(self._meter.deadline)

    def _shares_foreground(self) -> bool:
        """Whether a signal typed on the terminal reaches the child by itself: it is in our group, and that is in
        front.
        """
        try:
            return os.getpgid(self._launched.pid) == os.getpgrp() == _front()
        except OSError:
            return False

    # -- the end ---------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """End everything that is left of the tree. Postcondition: none of it lives. A second call does nothing."""
        if self._ended:
            return
        self._ended = True
        self._engine.closing = True
        self._accounts.end(monotonic())
        launched = self._launched
        try:
            os.write(launched.control, b"e")
        except BrokenPipeError:
            pass
        os.close(launched.go)
        poll = select.poll()
        poll.register(launched.status, select.POLLIN)
        wait_ms = 1
        said = False
        while not said:
            ready = poll.poll(wait_ms)
            self._engine.collect()  # a traced process is not dead for the warden before we have seen it
            wait_ms = min(wait_ms * 2, 20)
            if not ready:
                continue
            data = os.read(launched.status, warden.STATUS.size)
            if len(data) != warden.STATUS.size:
                break
            status, pid, *used = warden.STATUS.unpack(data)
            if pid and self._status is None:
                self._told_of(status, pid, used)
            self._used = tuple(used)
            said = not pid
        if not said:  # it was killed
            warden.end_strays(launched.warden, self._engine.collect)
        for fd in (launched.control, launched.status, launched.pidfd):
            os.close(fd)
        if self._output is not None:
            self._output.drain(-1 if not self._outcome else 1.0)
        if self._line is not None:
            self._line.clear()
        if not self._outcome:
            for crossing in self._meter.counted(int(self._used[4])):  # what came faster than we looked
                self._crossed(crossing)

    def reap(self) -> None:
        """Wait for the warden, whose last word has come: that takes longer than there is reason to wait for."""
        os.waitpid(self._launched.warden, 0)

    def _ending(self, wall_s: float) -> Ending:
        status = _signal.SIGKILL if self._status is None else self._status
        user_s, system_s, peak, read, written = self._used
        signal = self._interrupted_by or (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)
        code = 128 + signal if signal else os.WEXITSTATUS(status)
        outcome = self._outcome
        if self._group is not None:
            found = self._group.usage()
            user_s, system_s = max(found.cpu_user_s, user_s), max(found.cpu_system_s, system_s)
            self._meter.peak_bytes = max(found.peak_bytes, self._meter.peak_bytes)
            if found.killed and not outcome:
                limit = self._meter.limit("memory")
                outcome = self._outcome = "memory"
                self._crossed(Crossing("memory", limit, limit, True))
            if found.refused:
                self._tell_refused(found.refused)
        outcome = outcome or ("signaled" if signal else "exited")
        if outcome in TIMES_OUT:
            code = 124
        elif outcome in ("memory", "output", "written", "operations"):
            code = 137
        elif outcome in ("trace_full", "failed"):
            code = 125
        return Ending(
            outcome,
            code,
            signal,
            wall_s,
            user_s,
            system_s,
            int(peak),
            tree_peak_memory_bytes=max(self._meter.peak_bytes, int(peak)),
            processes=self._engine.started,
            read_bytes=int(read),
            written_bytes=int(written),
            usage=self._accounts.told(),
        )


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _front() -> int:
    """The process group in front of our terminal, 0 where there is none."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return os.tcgetpgrp(terminal)
    except OSError:
        return 0
    finally:
        os.close(terminal)
