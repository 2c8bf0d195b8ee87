"""One operation of a safety layer under way: judged, perhaps asked about, run, measured, recorded.

admit ── no ──▶ blocked entry, on_violation, SafetyViolation (or None)
  │ yes
enter ─ the function ─ leave ──▶ ended: completed, failed, or over a boundary
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, TypeVar

from agent_safety_layer import spans
from agent_safety_layer.events import ALLOW, ASK, BLOCK, Decision, Event, Outcome, TraceEntry
from agent_safety_layer.policies import PolicyAction, PolicyResult
from agent_safety_layer.replay import SessionRecorder
from agent_safety_layer.spans import Stepped
from agent_safety_layer.tracing import Span, TraceLevel, Tracer, TraceStatus, current_span
from agent_safety_layer.violations import Crossed, SafetyCheckResult, SafetyViolation

if TYPE_CHECKING:
    from agent_safety_layer.compiled import Sandbox
    from agent_safety_layer.layer import SafetyLayer
    from agent_safety_layer.sandbox import Call

T = TypeVar("T")
_log = logging.getLogger("agent_safety_layer")
_sequence = itertools.count(1)
_running: ContextVar[tuple[object, ...]] = ContextVar("asl_running", default=())  # the layers of what runs


class Operation:
    """One operation. ``line`` is its text with the arguments', ``context`` is judged, ``shown`` recorded."""

    __slots__ = (
        *("_begun", "_entered", "_entry", "_record", "_recorder", "_result", "_since", "_tokens", "_tracer"),
        *("arguments", "context", "layer", "line", "name", "seconds", "shown"),
    )

    def __init__(
        self,
        layer: SafetyLayer,
        name: str,
        context: dict[str, Any],
        shown: dict[str, Any],
        tracer: Tracer | None,
        *,
        line: str = "",
        arguments: Sequence[str] = (),
        recorder: SessionRecorder | None = None,
    ) -> None:
        self.layer = layer
        self.name = name
        self.context = context
        self.shown = shown
        self.line = line or name
        self.arguments = arguments
        self.seconds = 0.0
        self._tracer = tracer
        self._recorder = recorder
        self._entry = tracer.begin(name, shown) if tracer is not None else None
        self._record = ""
        if recorder is not None:
            self._record = recorder.start_operation(name, str(context.get("operation_type", "function")), shown)
        self._result: SafetyCheckResult | None = None
        self._tokens: tuple[Token[Span | None] | None, Token[tuple[object, ...]] | None] | None = None
        self._since = 0.0
        self._entered = False
        self._begun = False  # for the supervisor, if there is one

    def run(self, func: Callable[[], T]) -> T | None:
        """What *func* returns; None when it may not run and the layer does not raise."""
        if not self.admit():
            return None
        self.enter()
        try:
            output = func()
        except BaseException as error:
            self.leave()
            self.broke(error)
            return None
        self.leave()
        return output if self.completed(output) else None

    async def run_async(self, func: Callable[[], Awaitable[T]]) -> T | None:
        """What *func*'s awaitable gives. It is cancelled when a time boundary's time is over."""
        if not await self.admit_async():
            return None
        return await self.run_admitted(func)

    async def run_admitted(self, func: Callable[[], Awaitable[T]]) -> T | None:
        """Like ``run_async``, once admitted."""
        limit = self.layer.boundary_set.seconds_left()
        scope = None
        if limit is not None and asyncio_runs():
            from asyncio import timeout

            scope = timeout(limit)
        self.enter()
        try:
            if scope is None:
                output = await self.stepping(func())
            else:
                async with scope:
                    output = await self.stepping(func())
        except BaseException as error:
            self.leave()
            if scope is not None and limit is not None and scope.expired() and isinstance(error, TimeoutError):
                self.seconds = max(self.seconds, math.nextafter(limit, math.inf))
                if not self.completed(None):
                    return None
            self.broke(error)
            return None
        self.leave()
        return output if self.completed(output) else None

    def admit(self) -> bool:
        """Whether it may run. Otherwise it is recorded as blocked, and ``SafetyViolation`` raised if the layer does."""
        try:
            result = self.layer.judge(self.name, self.context, self.line, self.arguments)
            if result.requires_approval:
                self.layer.ask(result, self.name, self.shown)
        except BaseException as error:
            self.failed(error)
            raise
        return self._admitted(result)

    async def admit_async(self) -> bool:
        """Like ``admit``; the event loop goes on while a person is asked."""
        try:
            result = self.layer.judge(self.name, self.context, self.line, self.arguments)
            if result.requires_approval:
                await self.layer.ask_async(result, self.name, self.shown)
        except BaseException as error:
            self.failed(error)
            raise
        return self._admitted(result)

    def _admitted(self, result: SafetyCheckResult) -> bool:
        self._result = result
        if result.policy_results:
            self._note(result)
        if result.allowed and self._announced():
            return True
        if result.allowed:
            refused = PolicyResult(PolicyAction.BLOCK, "supervisor", "the supervisor's policy forbids the operation")
            result = self._result = SafetyCheckResult(False, [*result.policy_results, refused])
        self._close(TraceStatus.BLOCKED, None, result.blocked_reason or "Operation blocked")
        self.layer.violated(result)
        return False

    def _note(self, result: SafetyCheckResult) -> None:
        """Bring what policies said without blocking into the trace; warnings also into the log."""
        for found in result.policy_results:
            if found.action is PolicyAction.WARN:
                _log.warning("%s: %s (policy %s)", self.name, found.reason or "warning", found.policy_name)
                if self._entry is not None:
                    self._entry.level = TraceLevel.WARNING
        if self._entry is not None:
            self._entry.metadata["policies"] = [
                {"policy": found.policy_name, "action": found.action.value, "reason": found.reason}
                for found in result.policy_results
            ]

    def _announced(self) -> bool:
        """Whether the supervisor, if there is one that listens, was told of the operation and does not forbid it."""
        if self._entry is None or not spans.supervised():
            return True
        self._begun = spans.began(self._entry.id, current_span(), self.name, " ".join(self.arguments))
        return self._begun

    def enter(self) -> None:
        """From here on this thread or task runs the operation, and its clock runs."""
        if self._begun and self._entry is not None:
            spans.now(self._entry.id)
        token = self._tracer.enter(self._entry) if self._tracer is not None and self._entry is not None else None
        self._entered = True
        if self.layer.boundary_set.boundaries or self.layer.sinks:
            self._tokens = token, _running.set((*_running.get(), self.layer))
            self._since = time.perf_counter()
        elif token is not None:
            self._tokens = token, None

    def sandboxed(self, func: Callable[[], Any], sandbox: Sandbox, expected: Any = None) -> Call:
        """The call of *func* in a sandbox, as a part of this operation."""
        from agent_safety_layer.sandbox import Call

        return Call(self.layer, self.name, func, sandbox, self._entry.id if self._entry is not None else "", expected)

    def stepping(self, awaitable: Awaitable[T]) -> Awaitable[T]:
        """The awaitable, each step of which the supervisor, if there is one, sees in this operation's span."""
        return Stepped(awaitable, self._entry.id) if self._begun and self._entry is not None else awaitable

    def leave(self) -> None:
        """It rests, or is over."""
        self._rest()
        if self._begun:
            spans.now(current_span())

    def _rest(self) -> None:
        if self._tokens is not None:
            span, running = self._tokens
            self._tokens = None
            if running is not None:
                self.seconds += time.perf_counter() - self._since
                _running.reset(running)
            if span is not None:
                Tracer.leave(span)

    def overran(self) -> bool:
        """Whether a time boundary's time for one operation is over, for one that runs in steps."""
        limit = self.layer.boundary_set.seconds_left()
        return limit is not None and self.seconds > limit

    def completed(self, output: object) -> bool:
        """Record that it ran; False when it turns out to have crossed a boundary and the layer does not raise."""
        if self.layer.boundary_set.boundaries:
            violations = self._finished()
            if violations:
                results = self._result.policy_results if self._result is not None else []
                result = self._result = SafetyCheckResult(False, results, violations)
                self._close(TraceStatus.BLOCKED, None, violations[0].reason)
                self.layer.violated(result)
                return False
        self._close(TraceStatus.COMPLETED, output, None)
        return True

    def failed(self, error: BaseException) -> None:
        """Record that it ended with an exception, which is the caller's to raise."""
        if self._entered and self.layer.boundary_set.boundaries:
            self._finished()
        self._close(TraceStatus.FAILED, None, str(error), type(error).__name__)

    def broke(self, error: BaseException) -> None:
        """Raise *error*, recorded; or, when a sandbox says that it crossed a line, what the layer makes of that."""
        if not isinstance(error, Crossed):
            self.failed(error)
            raise error
        if self.layer.boundary_set.boundaries:
            self._finished()
        before = self._result.policy_results if self._result is not None else []
        result = self._result = SafetyCheckResult(False, [*before, *error.results], error.violations)
        self._close(TraceStatus.BLOCKED, None, result.blocked_reason)
        try:
            self.layer.violated(result)
        except SafetyViolation as violation:
            raise violation from error.__cause__

    def _finished(self) -> list[Any]:
        nested = any(layer is self.layer for layer in _running.get())
        return self.layer.boundary_set.finished(self.seconds, nested=nested)

    def _close(self, status: TraceStatus, output: object, error: str | None, kind: str = "") -> None:
        if status is TraceStatus.BLOCKED and not self._entered and not self._begun:
            self._announced()
        if self._begun and self._entry is not None:
            said = kind or error if status is not TraceStatus.COMPLETED else ""
            how = f"{status.value}: {said}" if said else status.value
            spans.ended(self._entry.id, current_span(), self.name, how)
        if self._tracer is not None and self._entry is not None:
            self._tracer.end(self._entry.id)
            self._entry.status = status
            self._entry.output_data = output
            self._entry.error = error
        if self._recorder is not None:
            self._recorder.end_operation(self._record, output, error)
        if self.layer.sinks:
            self._tell(status, kind)

    def _tell(self, status: TraceStatus, kind: str) -> None:
        """Give the layer's sinks what the supervisor's trace would hold."""
        result = self._result
        decision = result.decision if result is not None else Decision(ALLOW)
        blocked = status is TraceStatus.BLOCKED
        applied = BLOCK if blocked else ALLOW if decision.action == ASK else decision.action
        event = Event(
            "op.call",
            pid=os.getpid(),
            tid=threading.get_native_id(),
            ppid=os.getppid(),
            op=self.name,
            detail=" ".join(self.arguments),
            span=self._entry.id if self._entry is not None else "",
            time=time.time(),
        )
        outcome = Outcome(applied, "EACCES" if blocked else kind, int(self.seconds * 1_000_000))
        self.layer.tell(TraceEntry(next_in_sequence(), event, decision, outcome))


def next_in_sequence() -> int:
    """The position of the next entry that sinks get, counted over this process."""
    return next(_sequence)


def asyncio_runs() -> bool:
    """Whether this thread runs an asyncio event loop. Asks without importing asyncio: then none can run."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


__all__ = ["Operation", "asyncio_runs", "next_in_sequence"]
