"""Events in Chrome's trace event format (JSON): ui.perfetto.dev shows each process as a track.

Each event is a complete event (``X``) on its thread; denials carry the colour of an error. Times are microseconds since
the run began.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TextIO

from agent_safety_layer.events import ASK, BLOCK, TraceEntry
from agent_safety_layer.trace.encode import dumps
from agent_safety_layer.wording import object_of

if TYPE_CHECKING:
    from agent_safety_layer.trace.reader import TraceReader


def export(reader: TraceReader, out: TextIO) -> None:
    """Write one JSON object. Processes are named when they are first seen; memory grows with their number only."""
    found = reader.header.get("time")
    began = float(found) if isinstance(found, int | float) else 0.0
    names: dict[int, str] = {}
    out.write('{"displayTimeUnit":"ms","otherData":' + dumps({"run": str(reader.header.get("run", ""))}))
    out.write(',"traceEvents":[\n')
    separator = ""
    for entry in reader:
        event = entry.event
        program = os.path.basename(event.exe) or "?"
        if names.get(event.pid) != program:
            names[event.pid] = program
            out.write(separator + dumps(_metadata("process_name", event.pid, {"name": program})))
            separator = ",\n"
        out.write(separator + dumps(_complete(entry, began)))
        separator = ",\n"
    out.write("\n]}\n")


def _metadata(name: str, pid: int, args: dict[str, object]) -> dict[str, object]:
    return {"name": name, "ph": "M", "pid": pid, "tid": pid, "ts": 0, "args": args}


def _complete(entry: TraceEntry, began: float) -> dict[str, object]:
    event, decision, outcome = entry.event, entry.decision, entry.outcome
    said = object_of(event)
    shown: dict[str, object] = {
        "name": f"{event.kind} {said}"[:200],
        "cat": f"{event.kind.partition('.')[0]},{decision.action}",
        "ph": "X",
        "pid": event.pid,
        "tid": event.tid or event.pid,
        "ts": round(max(event.time - began, 0.0) * 1e6),
        "dur": max(outcome.us, 1),
        "args": {
            "seq": entry.seq,
            "object": said,
            "action": decision.action,
            "effective": outcome.effective,
            "rule": decision.rule,
            "where": decision.where,
            "reason": decision.reason,
            "syscall": event.syscall,
            "result": outcome.result,
        },
    }
    if BLOCK in (decision.action, outcome.effective):
        shown["cname"] = "terrible"
    elif decision.action == ASK:
        shown["cname"] = "bad"
    return shown
