"""The supervised trees of this user that run now, found in /proc: nothing has to be registered, so nothing is stale.

Each supervisor has a child that calls itself ``asl-warden``, with the tree below it, and its trace open for appending.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from agent_safety_layer.errors import TraceError
from agent_safety_layer.trace.parts import first_of, parts
from agent_safety_layer.trace.reader import EVENT_BEGINS, TraceReader
from asl_hooks import usage
from asl_hooks.warden import descendants, parent_of

_CHUNK = 1 << 20


@dataclass(slots=True)
class Counts:
    """Events and blocked ones of a trace that grows: ``read`` takes in what has come since."""

    path: str
    events: int = 0
    blocked: int = 0
    _at: int = 0
    _rest: bytes = b""

    def read(self) -> None:
        """Count what has been written since the last time."""
        with open(self.path, "rb") as file:
            file.seek(self._at)
            while chunk := file.read(_CHUNK):
                self._at += len(chunk)
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                for line in lines:
                    if line.startswith(EVENT_BEGINS):
                        self.events += 1
                        self.blocked += _is_blocked(line)


def _is_blocked(line: bytes) -> bool:
    # A quote within a value is escaped, so neither can be part of a name.
    at = line.rfind(b',"effective":"')
    return line.startswith(b'block"', at + 14) if at >= 0 else b',"decision":{"action":"block"' in line


@dataclass(frozen=True, slots=True)
class Running:
    """One run. Memory is an upper bound: what processes share may be counted once for each."""

    run: str
    name: str
    command: list[str]
    supervisor: int
    began: float
    processes: int
    memory_bytes: int
    cpu_seconds: float
    events: int
    blocked: int
    trace: str


@dataclass(slots=True)
class Watcher:
    """Looks who runs, again and again; of each trace only what is new is read."""

    _counts: dict[str, Counts] = field(default_factory=dict)

    def look(self) -> list[Running]:
        """The runs of this user, the oldest first."""
        found = [one for warden in _wardens() if (one := self._run(warden)) is not None]
        there = {one.trace for one in found}
        self._counts = {path: counts for path, counts in self._counts.items() if first_of(path) in there}
        return sorted(found, key=lambda one: (one.began, one.run))

    def _run(self, warden: int) -> Running | None:
        supervisor = parent_of(warden)
        path, header = _trace_of(supervisor)
        if header is None:
            return None
        path = first_of(path)
        counts = [self._counts.setdefault(part, Counts(part)) for part in parts(path)]
        try:
            for one in counts:
                one.read()
        except OSError:
            return None
        used = usage.measure(warden)
        found = header.get("time")
        return Running(
            str(header.get("run", "")),
            str(header.get("name", "")),
            [str(word) for word in header.get("command") or ()],
            supervisor,
            float(found) if isinstance(found, int | float) else 0.0,
            len(descendants(warden)),
            used.memory_bytes,
            used.cpu_s,
            sum(one.events for one in counts),
            sum(one.blocked for one in counts),
            path,
        )


def _wardens() -> Iterator[int]:
    ours = os.geteuid()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid == ours:
                with open(f"/proc/{name}/comm", "rb") as file:
                    if file.read() == b"asl-warden\n":
                        yield int(name)
        except OSError:
            continue


def _trace_of(supervisor: int) -> tuple[str, dict[str, Any] | None]:
    """The trace that a process has open for appending, and its header; None when there is none."""
    folder = f"/proc/{supervisor}"
    try:
        for fd in os.listdir(f"{folder}/fd"):
            with open(f"{folder}/fdinfo/{fd}", "rb") as file:
                flags = int(file.read().split(b"flags:\t", 1)[1].split()[0], 8)
            path = os.readlink(f"{folder}/fd/{fd}")
            if flags & os.O_APPEND and flags & os.O_WRONLY and os.path.isfile(path):
                try:
                    with TraceReader(path) as reader:
                        return path, reader.header
                except TraceError:
                    continue
    except OSError:
        pass
    return "", None
