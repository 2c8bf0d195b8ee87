"""Traces of operations in this process: who called what, with what, how it ended and how long it took.

    TraceEntry   one operation or message        Tracer          records them, knows which is running
    Trace        all of one session              TraceExporter   JSON and a summary to read

Which entry is running is known per thread and per asyncio task, so that nested and concurrent operations each get the
parent that they have.
"""

from __future__ import annotations

import json
import os
import re
import time
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any


class TraceLevel(Enum):
    """How much an entry matters."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class TraceStatus(Enum):
    """What became of an operation."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    BLOCKED = "blocked"
    SKIPPED = "skipped"


_SIGNS = {
    TraceStatus.PENDING: "○",
    TraceStatus.RUNNING: "→",
    TraceStatus.COMPLETED: "✓",
    TraceStatus.FAILED: "✗",
    TraceStatus.BLOCKED: "⊘",
    TraceStatus.SKIPPED: "⊖",
}


_ids: list[str] = []  # ready to be taken: one system call makes many
os.register_at_fork(after_in_child=_ids.clear)  # or parent and child would take the same ones


def new_id() -> str:
    """A random UUID (version 4) as text: like ``str(uuid.uuid4())``, at a fifth of its price."""
    try:
        return _ids.pop()
    except IndexError:
        random = os.urandom(16 * 64).hex()
        texts = [random[place : place + 32] for place in range(0, len(random), 32)]
        made = [f"{t[:8]}-{t[8:12]}-4{t[13:16]}-{'89ab'[int(t[16], 16) & 3]}{t[17:20]}-{t[20:]}" for t in texts]
        _ids.extend(made[1:])
        return made[0]


def iso(timestamp: float) -> str:
    """The local time of day, without a zone, as ISO 8601."""
    return datetime.fromtimestamp(timestamp).isoformat()


@dataclass
class TraceEntry:
    """One operation. ``timestamp`` is seconds since the epoch, ``duration_ms`` None while it runs.

    ``metadata["policies"]`` lists the policies that had something to say: ``{"policy", "action", "reason"}``.
    """

    id: str
    timestamp: float
    operation: str
    status: TraceStatus
    level: TraceLevel = TraceLevel.INFO
    input_data: dict[str, Any] | None = None
    output_data: Any | None = None
    error: str | None = None
    duration_ms: float | None = None
    parent_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The entry as plain values, with ``timestamp_iso`` for readers."""
        return {
            "id": self.id,
            "timestamp": self.timestamp,
            "timestamp_iso": iso(self.timestamp),
            "operation": self.operation,
            "status": self.status.value,
            "level": self.level.value,
            "input_data": self.input_data,
            "output_data": self.output_data,
            "error": self.error,
            "duration_ms": self.duration_ms,
            "parent_id": self.parent_id,
            "metadata": self.metadata,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TraceEntry:
        """The entry that ``to_dict`` was of. Raises ``KeyError`` without id, timestamp, operation or status."""
        return cls(
            id=data["id"],
            timestamp=data["timestamp"],
            operation=data["operation"],
            status=TraceStatus(data["status"]),
            level=TraceLevel(data.get("level", "info")),
            input_data=data.get("input_data"),
            output_data=data.get("output_data"),
            error=data.get("error"),
            duration_ms=data.get("duration_ms"),
            parent_id=data.get("parent_id"),
            metadata=data.get("metadata") or {},
        )


@dataclass
class Trace:
    """All entries of one session, in the order in which they began."""

    id: str
    name: str
    started_at: float
    ended_at: float | None = None
    entries: list[TraceEntry] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def duration_ms(self) -> float | None:
        """Milliseconds from start to end; None while the session is open."""
        return None if self.ended_at is None else (self.ended_at - self.started_at) * 1000

    @property
    def entry_count(self) -> int:
        """How many entries there are."""
        return len(self.entries)

    @property
    def error_count(self) -> int:
        """How many operations failed."""
        return sum(entry.status is TraceStatus.FAILED for entry in self.entries)

    @property
    def blocked_count(self) -> int:
        """How many operations were blocked."""
        return sum(entry.status is TraceStatus.BLOCKED for entry in self.entries)

    def to_dict(self) -> dict[str, Any]:
        """The trace as plain values, with the counts and times for readers."""
        return {
            "id": self.id,
            "name": self.name,
            "started_at": self.started_at,
            "started_at_iso": iso(self.started_at),
            "ended_at": self.ended_at,
            "ended_at_iso": None if self.ended_at is None else iso(self.ended_at),
            "duration_ms": self.duration_ms,
            "entry_count": self.entry_count,
            "error_count": self.error_count,
            "blocked_count": self.blocked_count,
            "entries": [entry.to_dict() for entry in tuple(self.entries)],
            "metadata": self.metadata,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Trace:
        """The trace that ``to_dict`` was of. Raises ``KeyError`` without id, name or started_at."""
        return cls(
            id=data["id"],
            name=data["name"],
            started_at=data["started_at"],
            ended_at=data.get("ended_at"),
            entries=[TraceEntry.from_dict(entry) for entry in data.get("entries", ())],
            metadata=data.get("metadata") or {},
        )


class Span:
    """An open entry on the way from the running operation out to the first one."""

    __slots__ = ("entry", "outer", "started", "tracer")

    def __init__(self, tracer: Tracer, entry: TraceEntry, outer: Span | None) -> None:
        self.tracer = tracer
        self.entry = entry
        self.outer = outer
        self.started = time.perf_counter()


_current: ContextVar[Span | None] = ContextVar("asl_span", default=None)


def current_span() -> str:
    """The id of the innermost running operation of this thread or task; empty when there is none."""
    span = _innermost(_current.get())
    return span.entry.id if span is not None else ""


def _innermost(span: Span | None) -> Span | None:
    """The first that has not ended: operations may end in another order, or another task, than they began."""
    while span is not None and span.entry.id not in span.tracer._open:
        span = span.outer
    return span


class Tracer:
    """Records entries into ``trace``.

    >>> tracer = Tracer("demo")
    >>> outer = tracer.start_operation("plan")
    >>> inner = tracer.start_operation("read")
    >>> tracer.end_operation(inner); tracer.end_operation(outer)
    >>> [entry.parent_id == outer for entry in tracer.finish().entries]
    [False, True]
    """

    def __init__(self, name: str = "default", metadata: dict[str, Any] | None = None) -> None:
        self.trace = Trace(new_id(), name, time.time(), metadata=metadata or {})
        self._open: dict[str, Span] = {}

    @property
    def trace_id(self) -> str:
        """The id of the trace."""
        return self.trace.id

    def start_operation(
        self,
        operation: str,
        input_data: dict[str, Any] | None = None,
        level: TraceLevel = TraceLevel.INFO,
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Begin an operation within the one that is running, and return its entry's id for ``end_operation``."""
        entry = self.begin(operation, input_data, level, metadata)
        _current.set(self._open[entry.id])
        return entry.id

    def end_operation(
        self,
        entry_id: str,
        status: TraceStatus = TraceStatus.COMPLETED,
        output_data: Any | None = None,
        error: str | None = None,
    ) -> None:
        """End an operation. An id that is not known is ignored; one that has ended gets the new outcome."""
        entry = self.end(entry_id)
        if entry is None:
            return
        entry.status = status
        entry.output_data = output_data
        entry.error = error
        _current.set(_innermost(_current.get()))

    def begin(
        self,
        operation: str,
        input_data: dict[str, Any] | None = None,
        level: TraceLevel = TraceLevel.INFO,
        metadata: dict[str, Any] | None = None,
    ) -> TraceEntry:
        """Open an entry without making it the running one; ``enter`` and ``leave`` do, and ``end`` closes it."""
        outer = _innermost(_current.get())
        entry = TraceEntry(
            new_id(),
            time.time(),
            operation,
            TraceStatus.RUNNING,
            level,
            input_data,
            parent_id=self._parent(outer),
            metadata=metadata or {},
        )
        self._open[entry.id] = Span(self, entry, outer)
        self.trace.entries.append(entry)
        return entry

    def enter(self, entry: TraceEntry) -> Token[Span | None]:
        """Make an open entry the running one of this thread or task, until ``leave``."""
        span = self._open[entry.id]
        span.outer = _innermost(_current.get())
        return _current.set(span)

    @staticmethod
    def leave(token: Token[Span | None]) -> None:
        """Make the entry the running one that was so before ``enter``."""
        _current.reset(token)

    def end(self, entry_id: str) -> TraceEntry | None:
        """Close an entry and note how long it took; status and outcome are the caller's to set."""
        span = self._open.pop(entry_id, None)
        if span is not None:
            span.entry.duration_ms = (time.perf_counter() - span.started) * 1000
            return span.entry
        entry = self._find_entry(entry_id)  # ended before, or begun in the process that this is a copy from
        if entry is not None and entry.duration_ms is None:
            entry.duration_ms = (time.time() - entry.timestamp) * 1000
        return entry

    def add_entry(
        self,
        operation: str,
        status: TraceStatus,
        level: TraceLevel = TraceLevel.INFO,
        input_data: dict[str, Any] | None = None,
        output_data: Any | None = None,
        error: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Record what takes no time, within the running operation; returns the entry's id."""
        parent = self._parent(_innermost(_current.get()))
        entry = TraceEntry(
            new_id(), time.time(), operation, status, level, input_data, output_data, error, 0, parent, metadata or {}
        )
        self.trace.entries.append(entry)
        return entry.id

    def log(self, message: str, level: TraceLevel = TraceLevel.INFO, metadata: dict[str, Any] | None = None) -> None:
        """Record a message."""
        self.add_entry(message, TraceStatus.COMPLETED, level, metadata=metadata)

    def log_blocked(
        self,
        operation: str,
        reason: str,
        input_data: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Record an operation that was not let run; returns the entry's id."""
        return self.add_entry(
            operation, TraceStatus.BLOCKED, TraceLevel.WARNING, input_data, error=reason, metadata=metadata
        )

    def log_error(
        self,
        operation: str,
        error: str,
        input_data: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Record an operation that failed; returns the entry's id."""
        return self.add_entry(
            operation, TraceStatus.FAILED, TraceLevel.ERROR, input_data, error=error, metadata=metadata
        )

    def finish(self) -> Trace:
        """The trace, ended now. What is recorded later is added to the same trace."""
        self.trace.ended_at = time.time()
        return self.trace

    def get_entries(
        self,
        status: TraceStatus | None = None,
        level: TraceLevel | None = None,
        operation_pattern: str | None = None,
    ) -> list[TraceEntry]:
        """The entries of this status and level in whose operation the regular expression is found."""
        pattern = None if operation_pattern is None else re.compile(operation_pattern)
        return [
            entry
            for entry in tuple(self.trace.entries)
            if (status is None or entry.status is status)
            and (level is None or entry.level is level)
            and (pattern is None or pattern.search(entry.operation))
        ]

    def _parent(self, span: Span | None) -> str | None:
        """The innermost operation of this very trace: another session's may run in between."""
        while span is not None and (span.tracer is not self or span.entry.id not in self._open):
            span = span.outer
        return span.entry.id if span is not None else None

    def _find_entry(self, entry_id: str) -> TraceEntry | None:
        return next((entry for entry in reversed(self.trace.entries) if entry.id == entry_id), None)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # what runs here does not run in a copy


class TraceExporter:
    """Traces as JSON, as files and as text to read."""

    @staticmethod
    def to_json(trace: Trace, pretty: bool = True) -> str:
        """The trace as JSON. What JSON has no form for appears as its ``str``.

        >>> TraceExporter.to_json(Trace("1", "n", 0.0), pretty=False)[:23]
        '{"id": "1", "name": "n"'
        """
        return dumps(trace.to_dict(), pretty)

    @staticmethod
    def to_file(trace: Trace, path: str | Path, pretty: bool = True) -> None:
        """Write the JSON to a file, whose folders are made. Raises ``OSError``."""
        write(path, TraceExporter.to_json(trace, pretty))

    @staticmethod
    def from_json(json_str: str) -> Trace:
        """The trace in the JSON. Raises ``json.JSONDecodeError``, or ``KeyError`` for what is missing."""
        return Trace.from_dict(json.loads(json_str))

    @staticmethod
    def from_file(path: str | Path) -> Trace:
        """The trace in the file. Raises ``OSError`` and what ``from_json`` raises."""
        return TraceExporter.from_json(Path(path).read_text(encoding="utf-8"))

    @staticmethod
    def to_summary(trace: Trace) -> str:
        """The trace in lines to read: totals, then each operation with a sign for how it ended.

        >>> trace = Trace("1", "n", 0.0, 1.0, [TraceEntry("2", 0.5, "op", TraceStatus.COMPLETED, duration_ms=12.0)])
        >>> print(TraceExporter.to_summary(trace).splitlines()[-1])
          ✓ op (12.0ms)
        """
        lines = [f"Trace: {trace.name} ({trace.id})", f"Started: {iso(trace.started_at)}"]
        if trace.ended_at is not None:
            lines.append(f"Ended: {iso(trace.ended_at)}")
            lines.append(f"Duration: {trace.duration_ms:.2f}ms")
        lines += [
            f"Entries: {trace.entry_count}",
            f"Errors: {trace.error_count}",
            f"Blocked: {trace.blocked_count}",
            "",
            "Operations:",
        ]
        for entry in tuple(trace.entries):
            took = "" if entry.duration_ms is None else f" ({entry.duration_ms:.1f}ms)"
            lines.append(f"  {_SIGNS[entry.status]} {entry.operation}{took}")
            if entry.error:
                lines.append(f"    Error: {entry.error}")
        return "\n".join(lines)


def dumps(value: object, pretty: bool) -> str:
    """JSON, whatever is in the value: unknown objects and keys as ``str``, a circle as ``...``."""
    indent = 2 if pretty else None
    try:
        return json.dumps(value, indent=indent, default=str)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(_plain(value, ()), indent=indent)


def _plain(value: object, outer: tuple[int, ...]) -> object:
    if value is None or isinstance(value, str | int | float):
        return value
    if id(value) in outer or len(outer) > 100:
        return "..."
    within = (*outer, id(value))
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _plain(member, within) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member, within) for member in value]
    return str(value)


def write(path: str | Path, text: str) -> None:
    """Write a text file, in UTF-8; its folders are made."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


__all__ = [
    "Trace",
    "TraceEntry",
    "TraceExporter",
    "TraceLevel",
    "TraceStatus",
    "Tracer",
    "current_span",
]
