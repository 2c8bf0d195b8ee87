"""What a process has done before it asks, as its run's trace tells: counts and the latest operations."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from agent_safety_layer.errors import TraceError
from agent_safety_layer.trace.reader import parse
from agent_safety_layer.wording import object_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_safety_layer.events import Event

_TAIL_BYTES = 1 << 19
_LATEST = 3
_SYSTEM = ("/usr/", "/lib", "/etc/", "/proc/", "/dev/", "/sys/", "/opt/")  # what programs read to start


def before(trace: str, pids: Sequence[int]) -> list[str]:
    """A line for each process of *pids* that has done something lately: ``sh (7): 12 file.read, 1 net.connect; last
    file.write /w/a.txt``. Empty when the trace cannot be read.
    """
    try:
        with open(trace, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            tail = file.read().split(b"\n")
    except OSError:
        return []
    return [line for pid in pids if (line := _line(pid, tail))]


def _line(pid: int, tail: Sequence[bytes]) -> str:
    mark = b'"pid":%d,' % pid
    events = [event for raw in tail if mark in raw and (event := _event(raw)) is not None and event.pid == pid]
    if not events:
        return ""
    counts: dict[str, int] = {}
    for event in events:
        counts[event.kind] = counts.get(event.kind, 0) + 1
    named = os.path.basename(events[-1].exe) or "process"
    done = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items(), key=lambda each: -each[1]))
    own = [event for event in reversed(events) if event.kind != "file.read" or not event.path.startswith(_SYSTEM)]
    latest = list(dict.fromkeys(f"{event.kind} {object_of(event)}" for event in own))[:_LATEST]
    last = f"; last {'; '.join(latest)}" if latest else ""
    return f"{named} ({pid}): {done}{last}"


def _event(raw: bytes) -> Event | None:
    try:
        entry = parse(raw + b"\n", 0).entry
    except TraceError:  # the tail begins in the middle of a line
        return None
    return entry.event if entry is not None and not entry.event.kind.startswith("approval.") else None
