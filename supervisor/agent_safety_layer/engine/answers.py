"""Answering an operation: judged, then refused, waved through, performed here, or put to a person.

judge ─┬─ can only fail ─────► the call fails as it would without us: nothing is lost, nobody is asked
       ├─ block ──────────────► refuse: the call fails, the agent goes on
       ├─ Python policies ────► the call waits for their answer, the strictest holds
       ├─ require_approval ───► park: the call waits for a person; then apply or refuse
       └─ the rest ── apply ─┬─ bounded by the kernel: proceed
                             ├─ may wait for others: perform on a thread of its own
                             └─ perform, then give the result or inject the descriptor
"""

from __future__ import annotations

import _thread
import os
from errno import EACCES, EAGAIN, EALREADY, EINPROGRESS, EINVAL, EPERM

from agent_safety_layer.engine.custom import stricter
from agent_safety_layer.engine.gate import Answer
from agent_safety_layer.engine.operation import Injected, Operation
from agent_safety_layer.engine.recorder import errno_name, result_text
from agent_safety_layer.events import ALLOW, ASK, AUDIT, BLOCK, RANK, Decision, strictest
from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.engine.custom import Custom
    from agent_safety_layer.engine.execs import ExecCheck
    from agent_safety_layer.engine.gate import Gate
    from agent_safety_layer.engine.plans import Plans
    from agent_safety_layer.engine.recorder import Recorder
    from agent_safety_layer.engine.view import View
    from asl_hooks.backend import Backend, Call
    from asl_hooks.processes import Process

ALLOWED = Decision(ALLOW)
_OUTSIDE = Decision(BLOCK, "tree", "", "it belongs to somebody outside of this run")
_WOULD_WAIT = (EAGAIN, EALREADY, EINPROGRESS)
_MOST_ASIDE = 512  # threads, each of which waits for a tracee that waits
_REFUSED = {"file": EACCES, "net": EACCES, "process.exec": EACCES}  # everything else is EPERM


@value
class Stopped:
    """A stopped call with the process that made it and the time at which it was taken up."""

    call: Call
    process: Process
    started: float


class Answers:
    """Answers operations. ``later`` runs a callable in the loop's thread and may be called from any."""

    def __init__(
        self,
        backend: Backend,
        view: View,
        recorder: Recorder,
        plans: Plans,
        execs: ExecCheck,
        gate: Gate,
        later: Callable[[Callable[[], None]], None],
        custom: Custom | None = None,
    ) -> None:
        self._custom = custom
        self._backend = backend
        self._view = view
        self._recorder = recorder
        self._plans = plans
        self._execs = execs
        self._gate = gate
        self._later = later
        self._tells = backend.tells
        self._lenient = view.enforced is not view.policy  # some layer only observes
        self._stateful = view.policy.stateful
        self._kills = view.policy.on_violation == "kill"
        self._aside = 0
        self.on_violation: Callable[[], None] = lambda: None

    def judge(self, stopped: Stopped, operation: Operation) -> None:
        """Decide about the operation and do what the decision says."""
        event = operation.event
        if event is None:
            self._apply(stopped, operation, ALLOWED, ALLOW)
            return
        view = self._view
        decision = view.decide(event)
        if operation.outside:
            decision = strictest(decision, _OUTSIDE)
        action = decision.action
        if self._lenient and action in (BLOCK, ASK) and not operation.outside:
            action = view.decide_enforced(event).action
            if action not in (BLOCK, ASK):
                action = AUDIT
        if self._stateful:
            view.advance(event, decision)
        if self._custom is None or action == BLOCK:
            self._decided(stopped, operation, decision, action)
        else:
            events = stopped.process.execs.get(stopped.call.tid, (event,)) if event.kind == "process.exec" else (event,)
            self._custom.ask(events, lambda said: self._advised(stopped, operation, decision, action, said))

    def _advised(
        self, stopped: Stopped, operation: Operation, decision: Decision, action: str, said: Decision | None
    ) -> None:
        """Go on with what the Python policies said."""
        assert self._custom is not None
        if not self._backend.valid(stopped.call):
            self._withdrawn(stopped, operation, decision)
            return
        if said is not None and RANK[said.action] > RANK[action]:
            action = said.action if self._custom.binding or said.action not in (BLOCK, ASK) else AUDIT
        self._decided(stopped, operation, stricter(decision, said), action)

    def _decided(self, stopped: Stopped, operation: Operation, decision: Decision, action: str) -> None:
        if action in (BLOCK, ASK) and operation.futile is not None and (errno := operation.futile()):
            self._finish(stopped, operation, decision, ALLOW, 0, errno)
        elif action == BLOCK:
            self._refuse(stopped, operation, decision)
        elif action == ASK:
            self._park(stopped, operation, decision)
        else:
            self._apply(stopped, operation, decision, action)

    def _refuse(self, stopped: Stopped, operation: Operation, decision: Decision, answer: Answer | None = None) -> None:
        event = operation.event
        assert event is not None
        operation.close()
        own = operation.refusal() if operation.refusal is not None else 0
        errno = own or _REFUSED.get(event.kind) or _REFUSED.get(event.kind.partition(".")[0], EPERM)
        # Told first: what the program says about its error then comes after it, and it finds it in $ASL_DENIALS.
        self._recorder.record(event, decision, BLOCK, errno_name(errno), stopped.started, answer)
        if self._kills:
            self._later(self.on_violation)  # and the program never hears of it
        else:
            self._backend.fail(stopped.call, errno)

    def _park(self, stopped: Stopped, operation: Operation, decision: Decision) -> None:
        event = operation.event
        assert event is not None

        if event.kind == "file.read" and operation.fds and self._execs.reads_script(event, operation.fds[0]):
            self._apply(stopped, operation, decision, ALLOW)
            return
        runs = event.kind == "process.exec"
        if runs:
            self._execs.show(stopped)

        def answered(answer: Answer) -> None:
            if not self._backend.valid(stopped.call):
                self._execs.forget(stopped)
                self._withdrawn(stopped, operation, decision)
                return
            if answer.allowed and runs and self._execs.changed(stopped):
                answer = Answer(False, "what would run has changed since it was asked about")
            # Much can have happened meanwhile, and an answer lifts no block.
            now = self._view.decide_enforced(event)
            if now.action == BLOCK or not answer.allowed:
                self._execs.forget(stopped)
                self._refuse(stopped, operation, now if now.action == BLOCK else decision, answer)
                return
            self._view.approve(event)
            self._apply(stopped, operation, decision, ALLOW)

        self._gate.ask(event, decision, answered)

    def _apply(self, stopped: Stopped, operation: Operation, decision: Decision, effective: str) -> None:
        event = operation.event
        if operation.prepare is not None:
            prepare, operation.prepare = operation.prepare, None
            prepare(lambda errno: self._prepared(stopped, operation, decision, effective, errno))
        elif event is not None and event.kind == "process.exec":
            operation.close()
            self._execs.let_go(stopped, event, decision, effective)
        elif operation.bounded:
            self._wave(stopped, operation, decision, effective)
        elif operation.blocking and (done := _attempt_at_once(operation)) is not None:
            self._finish(stopped, operation, decision, effective, *done)
        elif operation.blocking:
            try:
                if self._aside >= _MOST_ASIDE:
                    raise RuntimeError("enough of them")
                _thread.start_new_thread(self._perform_aside, (stopped, operation, decision, effective))
                self._aside += 1
            except RuntimeError:  # no more threads for those who wait
                self._finish(stopped, operation, decision, effective, 0, EAGAIN)
        else:
            self._finish(stopped, operation, decision, effective, *_attempt(operation, operation.perform))

    def _prepared(self, stopped: Stopped, operation: Operation, decision: Decision, effective: str, errno: int) -> None:
        if not self._backend.valid(stopped.call):
            self._withdrawn(stopped, operation, decision)
        elif errno:
            self._finish(stopped, operation, decision, effective, 0, errno)
        else:
            self._apply(stopped, operation, decision, effective)

    def _wave(self, stopped: Stopped, operation: Operation, decision: Decision, effective: str) -> None:
        operation.close()
        if operation.mutates:
            self._plans.epoch += 1
        event = operation.event

        def record(result: int | None) -> None:
            if event is None:
                return
            body, slot = self._recorder.record(event, decision, effective, result_text(result), stopped.started)
            if self._answers_again(decision):
                self._plans.keep(stopped.call, stopped.process, b"", body, slot, described=event.spelled or event.path)

        told = record if self._tells and event is not None else None
        if not self._backend.proceed(stopped.call, told):
            self._withdrawn(stopped, operation, decision)
        elif told is None:
            record(None)

    def _withdrawn(self, stopped: Stopped, operation: Operation, decision: Decision) -> None:
        """Nobody waits for the answer any more. Rules with ``after`` look back on what was judged: it is recorded."""
        operation.close()
        if self._stateful and operation.event is not None:
            self._recorder.record(operation.event, decision, ALLOW, "EINTR", stopped.started)

    def _answers_again(self, decision: Decision) -> bool:
        """Whether the same call may be answered the same way unasked: a person's yes is for one time."""
        return not self._stateful and self._custom is None and decision.action not in (ASK, BLOCK)

    def _perform_aside(self, stopped: Stopped, operation: Operation, decision: Decision, effective: str) -> None:
        done = _attempt(operation, operation.perform)

        def finish() -> None:
            self._aside -= 1
            self._finish(stopped, operation, decision, effective, *done)

        self._later(finish)

    def _finish(
        self,
        stopped: Stopped,
        operation: Operation,
        decision: Decision,
        effective: str,
        result: int | Injected,
        errno: int,
    ) -> None:
        backend, call, event = self._backend, stopped.call, operation.event

        def record(returned: int | None) -> None:
            if event is None:
                return
            said = errno_name(errno) or result_text(returned)
            body, slot = self._recorder.record(event, decision, effective, said, stopped.started)
            if operation.reopen and not errno and self._answers_again(decision):
                self._plans.keep(
                    call, stopped.process, operation.reopen, body, slot, described=event.spelled or event.path
                )

        told = self._tells and not errno
        if errno:
            done = backend.fail(call, errno)
        elif isinstance(result, Injected):
            done = backend.inject(call, result.fd, result.cloexec, record if told else None)
            os.close(result.fd)
        else:
            done = backend.give(call, result)
            if told and done:
                record(result)
        operation.close()
        if operation.mutates:
            self._plans.epoch += 1
        if not done:
            self._withdrawn(stopped, operation, decision)
        elif not told:
            record(None)


def _attempt(operation: Operation, act: Callable[[], int | Injected] | None) -> tuple[int | Injected, int]:
    """The result of performing an operation, and the errno that stopped it (0 for none)."""
    assert act is not None
    try:
        if operation.acting is not None:
            with operation.acting:
                return act(), 0
        return act(), 0
    except OSError as error:
        return 0, error.errno or EPERM
    except (ValueError, OverflowError):  # an argument that Python's wrappers refuse: a NUL byte, a huge number
        return 0, EINVAL


def _attempt_at_once(operation: Operation) -> tuple[int | Injected, int] | None:
    """The same, or None when others have to be waited for."""
    if operation.at_once is None:
        return None
    done = _attempt(operation, operation.at_once)
    return None if done[1] in _WOULD_WAIT else done
