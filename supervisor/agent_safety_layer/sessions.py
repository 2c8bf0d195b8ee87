"""``SafetySession``: several operations under one trace."""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from agent_safety_layer import spans
from agent_safety_layer.events import ALLOW, Decision, Event, Outcome
from agent_safety_layer.events import TraceEntry as Line
from agent_safety_layer.guards import returned_by, sandbox_of
from agent_safety_layer.operation import Operation, next_in_sequence
from agent_safety_layer.replay import RecordedSession, SessionRecorder
from agent_safety_layer.tracing import Trace, TraceLevel, Tracer, current_span
from agent_safety_layer.violations import SafetyCheckResult

if TYPE_CHECKING:
    from agent_safety_layer.compiled import Source
    from agent_safety_layer.layer import SafetyLayer

T = TypeVar("T")


class SafetySession:
    """Runs operations under a layer and traces them. Made by ``SafetyLayer.session``.

    Operations may run in several threads and tasks at once. ``tracer`` has the trace, ``recorder`` the recording, None
    unless ``record``.
    """

    def __init__(self, safety_layer: SafetyLayer, name: str = "session", record: bool = False) -> None:
        self.safety_layer = safety_layer
        self.name = name
        self.record = record
        self.tracer = Tracer(name)
        self.recorder = SessionRecorder(name) if record else None

    def __enter__(self) -> SafetySession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.finish()

    async def __aenter__(self) -> SafetySession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.finish()

    def check(self, operation: str, context: dict[str, Any] | None = None) -> SafetyCheckResult:
        """Whether the operation may run, without running it; as ``SafetyLayer.check``."""
        return self.safety_layer.check(operation, context)

    def execute(
        self,
        operation: str,
        func: Callable[[], T],
        context: dict[str, Any] | None = None,
        operation_type: str = "function",
        sandbox: Source = False,
        limits: Mapping[str, Any] | None = None,
    ) -> T:
        """What *func* returns, run if the operation may. None when it may not and the layer does not raise.

        ``operation`` is what patterns are looked for in, and ``context`` what boundaries judge. ``operation_type`` is
        for approvals; one in the context counts unless another is given here. An async *func* gives an awaitable that
        does all of this; a gate is then waited for without stopping the event loop. ``sandbox`` and ``limits`` are
        those of ``SafetyLayer.guard``.

        Raises ``SafetyViolation``, and whatever *func* raises.
        """
        if inspect.iscoroutinefunction(func):
            return cast(T, self.execute_async(operation, func, context, operation_type, sandbox, limits))
        confined = sandbox_of(sandbox, limits)
        running = self._operation(operation, context, operation_type)
        if confined is not None:
            return cast(T, running.run(running.sandboxed(func, confined, returned_by(func)).run))
        if not running.admit():
            return cast(T, None)
        running.enter()
        try:
            output = func()
        except BaseException as error:
            running.leave()
            running.failed(error)
            raise
        running.leave()
        if inspect.iscoroutine(output):  # ``lambda: fetch()``
            return cast(T, running.run_admitted(lambda: output))
        return output if running.completed(output) else cast(T, None)

    async def execute_async(
        self,
        operation: str,
        func: Callable[[], Awaitable[T]],
        context: dict[str, Any] | None = None,
        operation_type: str = "function",
        sandbox: Source = False,
        limits: Mapping[str, Any] | None = None,
    ) -> T:
        """Like ``execute``, for a function whose result is to be awaited."""
        confined = sandbox_of(sandbox, limits)
        running = self._operation(operation, context, operation_type)
        if confined is not None:
            return cast(T, await running.run_async(running.sandboxed(func, confined, returned_by(func)).arun))
        return cast(T, await running.run_async(func))

    def log(self, message: str, level: TraceLevel = TraceLevel.INFO) -> None:
        """Add a message to the trace."""
        self.tracer.log(message, level)
        if spans.supervised():
            spans.said(current_span(), level.value, message)
        if self.safety_layer.sinks:
            event = Event(
                "op.log",
                pid=os.getpid(),
                tid=threading.get_native_id(),
                ppid=os.getppid(),
                op=level.value,
                detail=message,
                span=current_span(),
                time=time.time(),
            )
            self.safety_layer.tell(Line(next_in_sequence(), event, Decision(ALLOW), Outcome(ALLOW)))

    def finish(self) -> Trace:
        """The trace, ended now. Leaving the ``with`` block does the same."""
        if self.recorder is not None:
            self.recorder.finish()
        return self.tracer.finish()

    def get_recording(self) -> RecordedSession | None:
        """The recording, ended now; None unless the session records."""
        return self.recorder.finish() if self.recorder is not None else None

    def _operation(self, operation: str, context: dict[str, Any] | None, operation_type: str) -> Operation:
        shown = dict(context or {})
        if operation_type != "function" or "operation_type" not in shown:
            shown["operation_type"] = operation_type
        return Operation(self.safety_layer, operation, dict(shown), shown, self.tracer, recorder=self.recorder)


__all__ = ["SafetySession"]
