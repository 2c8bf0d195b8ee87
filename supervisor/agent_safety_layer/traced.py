"""A supervisor's trace as a session that can be replayed: each event that a policy was asked about is an operation."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from agent_safety_layer.custom import operation_of
from agent_safety_layer.events import Decision, Event, TraceEntry
from agent_safety_layer.replay import RecordedOperation, RecordedSession
from agent_safety_layer.trace.reader import TraceReader, parse
from agent_safety_layer.trace.replay import FAMILY, UNASKED, as_judged, out_of_policy
from agent_safety_layer.wording import shell_joined


@dataclass
class TracedOperation(RecordedOperation):
    """An operation that a supervisor recorded.

    Policy files judge its ``event``, after what ``before`` tells of processes that began and ended; they keep the
    ``recorded`` decision where they could not know better: the line was redacted, or the supervisor itself refused.
    Other policies and boundaries look at ``operation`` and ``input_data``: ``path``, ``command``, ``host``, ``port``.
    """

    event: Event = field(default_factory=lambda: Event("op.call"), kw_only=True)
    before: tuple[Event, ...] = field(default=(), kw_only=True)
    recorded: Decision | None = field(default=None, kw_only=True)


def session_of(path: str | os.PathLike[str]) -> RecordedSession:
    """The run whose trace, plain or compressed, is at *path*.

    Operations stand in the order in which they were judged. Raises ``TraceError`` when it cannot be read.
    """
    with TraceReader(path) as reader:
        operations: list[RecordedOperation] = []
        before: list[Event] = []
        for number, raw in as_judged(reader.path, reader):
            line = parse(raw, number, reader.path)
            if line.entry is None:
                continue
            if line.entry.event.kind in UNASKED:
                if line.entry.event.kind in FAMILY:
                    before.append(line.entry.event)
                continue
            kept = line.redacted or out_of_policy(line.entry.decision)
            operations.append(_operation(line.entry, tuple(before), kept))
            before.clear()
        header, footer = reader.header, reader.footer
    run, began = str(header.get("run", "")), float(header.get("time", 0.0))
    command = shell_joined(map(str, header.get("command") or ()))
    return RecordedSession(
        run,
        str(header.get("name") or command),
        began,
        began + footer["wall_seconds"] if footer is not None and "wall_seconds" in footer else None,
        operations,
        {"trace": reader.path, "header": header, "footer": footer, "truncated_after": reader.truncated_after},
    )


def _operation(entry: TraceEntry, before: tuple[Event, ...], kept: bool) -> TracedOperation:
    event, outcome = entry.event, entry.outcome
    text, given = operation_of(event)
    failed = outcome.result if outcome.result and not outcome.result.isdigit() else None
    return TracedOperation(
        str(entry.seq),
        event.time,
        text,
        event.kind,
        given,
        outcome.result,
        failed,
        outcome.us / 1000,
        {"pid": event.pid, "exe": event.exe, "cwd": event.cwd},
        event=event,
        before=before,
        recorded=entry.decision if kept else None,
    )


__all__ = ["TracedOperation", "session_of"]
