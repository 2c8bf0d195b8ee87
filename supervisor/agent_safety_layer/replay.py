"""Recordings of sessions, and what other policies would have made of them.

RecordedOperation, RecordedSession   what was done         SessionRecorder   writes it down
ReplayResult                         what would have been  SessionReplayer   finds that out
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent_safety_layer.boundaries import Boundary, BoundarySet
from agent_safety_layer.policies import Policy, PolicyAction, PolicySet
from agent_safety_layer.tracing import Trace, Tracer, TraceStatus, dumps, iso, new_id, write

_TRACE, _COMPRESSED = b'{"type":"header"', b"\x28\xb5\x2f\xfd"  # how traces begin; the second is zstd's


@dataclass
class RecordedOperation:
    """One operation with what went in and what came out. ``timestamp`` is seconds since the epoch."""

    id: str
    timestamp: float
    operation: str
    operation_type: str
    input_data: dict[str, Any]
    output_data: Any
    error: str | None
    duration_ms: float
    context: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The operation as plain values, with ``timestamp_iso`` for readers."""
        return {
            "id": self.id,
            "timestamp": self.timestamp,
            "timestamp_iso": iso(self.timestamp),
            "operation": self.operation,
            "operation_type": self.operation_type,
            "input_data": self.input_data,
            "output_data": self.output_data,
            "error": self.error,
            "duration_ms": self.duration_ms,
            "context": self.context,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RecordedOperation:
        """The operation that ``to_dict`` was of. Raises ``KeyError`` for what is missing."""
        return cls(
            id=data["id"],
            timestamp=data["timestamp"],
            operation=data["operation"],
            operation_type=data["operation_type"],
            input_data=data["input_data"],
            output_data=data["output_data"],
            error=data.get("error"),
            duration_ms=data["duration_ms"],
            context=data.get("context") or {},
        )


@dataclass
class RecordedSession:
    """The operations of one session, in the order in which they began."""

    id: str
    name: str
    started_at: float
    ended_at: float | None
    operations: list[RecordedOperation]
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def duration_ms(self) -> float | None:
        """Milliseconds from start to end; None while the session is open."""
        return None if self.ended_at is None else (self.ended_at - self.started_at) * 1000

    def to_dict(self) -> dict[str, Any]:
        """The session as plain values, with times for readers."""
        return {
            "id": self.id,
            "name": self.name,
            "started_at": self.started_at,
            "started_at_iso": iso(self.started_at),
            "ended_at": self.ended_at,
            "ended_at_iso": None if self.ended_at is None else iso(self.ended_at),
            "duration_ms": self.duration_ms,
            "operations": [operation.to_dict() for operation in tuple(self.operations)],
            "metadata": self.metadata,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RecordedSession:
        """The session that ``to_dict`` was of. Raises ``KeyError`` for what is missing."""
        return cls(
            id=data["id"],
            name=data["name"],
            started_at=data["started_at"],
            ended_at=data.get("ended_at"),
            operations=[RecordedOperation.from_dict(operation) for operation in data["operations"]],
            metadata=data.get("metadata") or {},
        )

    def save(self, path: str | Path) -> None:
        """Write the session as JSON to a file, whose folders are made. What JSON has no form for appears as ``str``."""
        write(path, dumps(self.to_dict(), pretty=True))

    @classmethod
    def load(cls, path: str | Path) -> RecordedSession:
        """The session in the file: what ``save`` wrote, or a supervisor's trace, plain or compressed.

        Raises ``OSError``, ``json.JSONDecodeError``, ``KeyError`` for what is missing, ``TraceError`` for a trace.
        """
        with open(path, "rb") as file:
            begins = file.read(len(_TRACE))
        if begins == _TRACE or begins[:4] == _COMPRESSED:
            from agent_safety_layer.traced import session_of

            return session_of(path)
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))


class SessionRecorder:
    """Records operations into ``session``.

    >>> recorder = SessionRecorder("demo")
    >>> begun = recorder.start_operation("read", "function", {"path": "/tmp/a"})
    >>> recorder.end_operation(begun, "content")
    >>> recorder.finish().operations[0].output_data
    'content'
    """

    def __init__(self, name: str = "recorded_session", metadata: dict[str, Any] | None = None) -> None:
        self.session = RecordedSession(new_id(), name, time.time(), None, [], metadata or {})
        self._running: dict[str, tuple[RecordedOperation, float]] = {}

    @property
    def session_id(self) -> str:
        """The id of the session."""
        return self.session.id

    def start_operation(
        self,
        operation: str,
        operation_type: str,
        input_data: dict[str, Any],
        context: dict[str, Any] | None = None,
    ) -> str:
        """Begin to record an operation, and return its id for ``end_operation``."""
        entry = RecordedOperation(
            new_id(), time.time(), operation, operation_type, input_data, None, None, 0, context or {}
        )
        self._running[entry.id] = entry, time.perf_counter()
        self.session.operations.append(entry)
        return entry.id

    def end_operation(self, operation_id: str, output_data: Any = None, error: str | None = None) -> None:
        """Record how an operation ended. An id that is not known, or has ended, is ignored."""
        running = self._running.pop(operation_id, None)
        if running is None:
            return
        entry, started = running
        entry.duration_ms = (time.perf_counter() - started) * 1000
        entry.output_data = output_data
        entry.error = error

    def record_operation(
        self,
        operation: str,
        operation_type: str,
        input_data: dict[str, Any],
        output_data: Any,
        error: str | None = None,
        duration_ms: float = 0,
        context: dict[str, Any] | None = None,
    ) -> str:
        """Record an operation that is over; returns its id."""
        entry = RecordedOperation(
            *(new_id(), time.time(), operation, operation_type, input_data, output_data, error, duration_ms),
            context=context or {},
        )
        self.session.operations.append(entry)
        return entry.id

    def finish(self) -> RecordedSession:
        """The session, ended now."""
        self.session.ended_at = time.time()
        return self.session

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_running": {}}  # what runs here does not run in a copy


@dataclass
class ReplayResult:
    """What would have become of a recorded session.

    ``blocked_details`` has for each blocked operation ``operation``, ``operation_type``, ``input`` and ``blocked_by``:
    the policies and boundaries that block it, with reasons. Operations that a person would be asked about count as
    allowed; ``trace`` marks them.
    """

    session_id: str
    original_session_id: str
    policies_applied: list[str]
    total_operations: int
    blocked_operations: int
    allowed_operations: int
    warnings: int
    blocked_details: list[dict[str, Any]]
    trace: Trace

    @property
    def block_rate(self) -> float:
        """Percentage of the operations that would have been blocked."""
        return self.blocked_operations / self.total_operations * 100 if self.total_operations else 0

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values."""
        return {
            "session_id": self.session_id,
            "original_session_id": self.original_session_id,
            "policies_applied": self.policies_applied,
            "total_operations": self.total_operations,
            "blocked_operations": self.blocked_operations,
            "allowed_operations": self.allowed_operations,
            "warnings": self.warnings,
            "block_rate": self.block_rate,
            "blocked_details": self.blocked_details,
            "trace": self.trace.to_dict(),
        }


class SessionReplayer:
    """Judges recorded sessions by other policies and boundaries; nothing is executed unless ``dry_run`` is False.

    A session is one that was recorded in this process, or a supervised run: ``RecordedSession.load("run.jsonl")``.

    Time boundaries judge the recorded durations. Of a resource boundary only the count of operations can be replayed.
    Boundaries start from zero for each replay, and yours are left as they were.

    >>> recorder = SessionRecorder()
    >>> for operation in ("ls", "rm -rf /tmp/x"):
    ...     _ = recorder.record_operation(operation, "function", {}, None)
    >>> replayer = SessionReplayer(policies=[Policy.block_pattern("rm", "no")])
    >>> replayer.replay(recorder.finish()).block_rate
    50.0
    """

    def __init__(
        self,
        policies: list[Policy] | None = None,
        executor: Callable[[RecordedOperation], Any] | None = None,
        boundaries: list[Boundary] | None = None,
    ) -> None:
        self.policy_set = PolicySet(policies)
        self.boundary_set = BoundarySet(boundaries)
        self.executor = executor

    def add_policy(self, policy: Policy) -> None:
        """Add a policy."""
        self.policy_set.add(policy)

    def add_boundary(self, boundary: Boundary) -> None:
        """Add a boundary."""
        self.boundary_set.add(boundary)

    def replay(self, session: RecordedSession, dry_run: bool = True) -> ReplayResult:
        """What this replayer's policies and boundaries make of the session.

        With ``dry_run=False`` the ``executor`` is called for what they let pass; an exception of it is recorded.
        """
        return self._replay(session, self.policy_set, None if dry_run else self.executor)

    def compare_policies(
        self, session: RecordedSession, policy_sets: dict[str, list[Policy]]
    ) -> dict[str, ReplayResult]:
        """What each of several sets of policies makes of the session, by the sets' names. Nothing is executed."""
        return {name: self._replay(session, PolicySet(policies), None) for name, policies in policy_sets.items()}

    @staticmethod
    def diff_results(result_a: ReplayResult, result_b: ReplayResult) -> dict[str, Any]:
        """Which operations only one of two results blocks, which both do, and by how many percent they differ."""
        in_a = [detail["operation"] for detail in result_a.blocked_details]
        in_b = [detail["operation"] for detail in result_b.blocked_details]
        return {
            "only_blocked_in_a": [name for name in dict.fromkeys(in_a) if name not in in_b],
            "only_blocked_in_b": [name for name in dict.fromkeys(in_b) if name not in in_a],
            "blocked_in_both": [name for name in dict.fromkeys(in_a) if name in in_b],
            "block_rate_diff": result_b.block_rate - result_a.block_rate,
            "a": _totals(result_a),
            "b": _totals(result_b),
        }

    def _replay(
        self, session: RecordedSession, policies: PolicySet, executor: Callable[[RecordedOperation], Any] | None
    ) -> ReplayResult:
        tracer = Tracer(f"replay_{session.name}")
        policies = PolicySet([policy.fresh() for policy in policies])
        boundaries = BoundarySet([boundary.fresh() for boundary in self.boundary_set])
        details: list[dict[str, Any]] = []
        warnings = 0
        for operation in tuple(session.operations):
            context = {"operation_type": operation.operation_type, **operation.context, **operation.input_data}
            results = policies.evaluate_recorded(operation, context)
            past = {"memory_mb": None, "cpu_percent": None, "open_files": None}
            violations = boundaries.check_all({**past, "execution_time": operation.duration_ms / 1000, **context})
            by = [{"policy": result.policy_name, "reason": result.reason} for result in results if result.is_blocked]
            by += [{"policy": found.boundary_name, "reason": found.reason} for found in violations]
            noted = [result for result in results if not result.is_blocked]
            warnings += sum(result.action is PolicyAction.WARN for result in noted)
            entry = tracer.begin(operation.operation, operation.input_data)
            if noted:
                entry.metadata["policies"] = [
                    {"policy": result.policy_name, "action": result.action.value, "reason": result.reason}
                    for result in noted
                ]
            if by:
                details.append(
                    {
                        "operation": operation.operation,
                        "operation_type": operation.operation_type,
                        "input": operation.input_data,
                        "blocked_by": by,
                    }
                )
                tracer.end_operation(entry.id, TraceStatus.BLOCKED, error=by[0]["reason"] or "Operation blocked")
                continue
            output, error = operation.output_data, operation.error
            if executor is not None:
                try:
                    output, error = executor(operation), None
                except Exception as raised:
                    output, error = None, str(raised)
            status = TraceStatus.COMPLETED if error is None else TraceStatus.FAILED
            tracer.end_operation(entry.id, status, output, error)
        trace = tracer.finish()
        total = len(session.operations)
        return ReplayResult(
            session_id=trace.id,
            original_session_id=session.id,
            policies_applied=[policy.name for policy in policies] + [boundary.name for boundary in boundaries],
            total_operations=total,
            blocked_operations=len(details),
            allowed_operations=total - len(details),
            warnings=warnings,
            blocked_details=details,
            trace=trace,
        )


def _totals(result: ReplayResult) -> dict[str, Any]:
    return {
        "blocked": result.blocked_operations,
        "allowed": result.allowed_operations,
        "block_rate": result.block_rate,
    }


__all__ = ["RecordedOperation", "RecordedSession", "ReplayResult", "SessionRecorder", "SessionReplayer"]
