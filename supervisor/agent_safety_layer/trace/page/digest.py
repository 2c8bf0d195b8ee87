"""What the page shows of a run, collected in one pass over its trace. Bounded, whatever the trace's size."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent_safety_layer.events import ALLOW, ASK, BLOCK, Event
from agent_safety_layer.tally import Tally, counted
from agent_safety_layer.terminal import visible
from agent_safety_layer.trace import redact
from agent_safety_layer.wording import address_of, object_of, shell_joined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_safety_layer.trace.reader import Line, TraceReader

EVENTS = 100_000
BUCKETS = 160  # at least so many make up the timeline, at most twice as many
GROUPS = ("file", "net", "process", "other")
_PROCESSES = 5000
_FILES = 20_000
_HOSTS = 2000
_LONGEST = 600  # characters of one name
_THEN = " → "  # the same process runs another program
_READS = ("file.read", "file.list", "process.exec")


@dataclass(slots=True)
class Process:
    """One process from its first event to its last. ``parent`` is an index into the list of processes, or -1."""

    pid: int
    parent: int
    began: float
    ended: float
    program: str = ""
    command: str = ""
    events: int = 0
    blocked: int = 0
    over: bool = False
    cpu_s: float = 0.0
    peak_bytes: int = 0


@dataclass(slots=True)
class Host:
    """One destination: how often it was tried, what became of it, by which programs."""

    tried: int = 0
    blocked: int = 0
    asked: int = 0
    programs: set[str] = field(default_factory=set)


class Timeline:
    """How many events of each group there were in each stretch of time, and how many were refused.

    Nobody knows at first how long the run lasts: stretches begin short, and when there are too many, two become one.
    """

    def __init__(self) -> None:
        self.width_s = 0.001
        self.buckets: list[dict[str, int]] = []

    def add(self, at: float, group: str, denied: bool) -> None:
        """Count one event."""
        while at >= self.width_s * 2 * BUCKETS:
            self.width_s *= 2
            pairs = zip(self.buckets[::2], [*self.buckets[1::2], {}], strict=False)
            self.buckets = [{key: a.get(key, 0) + b.get(key, 0) for key in a.keys() | b.keys()} for a, b in pairs]
        place = int(at / self.width_s)
        while len(self.buckets) <= place:
            self.buckets.append({})
        bucket = self.buckets[place]
        bucket[group] = bucket.get(group, 0) + 1
        if denied:
            bucket[BLOCK] = bucket.get(BLOCK, 0) + 1


@dataclass(slots=True)
class Digest:
    """All that the page shows. Times are seconds since ``began``, which is seconds since the epoch.

    ``events`` are those that the table lists: all, or where there are too many, all that were not simply allowed and as
    many of the rest as fit. ``files`` is ``{path: [reads, changes, denials]}``.
    """

    header: dict[str, Any]
    footer: dict[str, Any] | None
    truncated_after: int | None
    tally: Tally
    began: float
    lasted: float
    events: list[Line]
    processes: list[Process]
    of_process: dict[int, int]  # of a listed event, by its seq: the index of its process
    files: dict[str, list[int]]
    hosts: dict[str, Host]
    timeline: Timeline
    limits: list[tuple[float, str, str]]
    unlisted: dict[str, int]  # what did not fit: processes, files, hosts


def digest(reader: TraceReader, most: int = EVENTS) -> Digest:
    """Read the trace to its end."""
    found = reader.header.get("time")
    began = float(found) if isinstance(found, int | float) else 0.0
    collected = _Collected(began)
    tally = _tally(reader.header)
    notable: list[Line] = []
    plain: list[Line] = []
    for line in reader.lines():
        entry = line.entry
        if entry is None:
            continue
        effective = entry.outcome.effective
        decision = counted(entry.decision, effective, entry.outcome.result)
        tally.add(entry.event, decision, effective)
        collected.add(entry.event, entry.seq, decision.action, effective)
        is_plain = entry.decision.action == effective == ALLOW
        chosen = plain if is_plain else notable
        if len(chosen) < most:
            chosen.append(line)
    _add_usage(collected.processes, began, reader.footer or {})
    room = max(0, most - len(notable))
    events = sorted(notable + plain[:room], key=lambda line: line.number)
    return Digest(
        reader.header,
        reader.footer,
        reader.truncated_after,
        tally,
        began,
        max(collected.latest - began, (reader.footer or {}).get("wall_seconds", 0.0), 1e-6),
        events,
        collected.processes,
        collected.of_process,
        collected.files,
        collected.hosts,
        collected.timeline,
        collected.limits,
        collected.unlisted,
    )


def _add_usage(processes: list[Process], began: float, footer: dict[str, Any]) -> None:
    """What the footer says that processes used; a pid can have been several processes' one after the other."""
    usage = footer.get("usage")
    listed = usage.get("processes") if isinstance(usage, dict) else None
    accounts: dict[int, list[dict[str, Any]]] = {}
    for account in listed if isinstance(listed, list) else ():
        accounts.setdefault(account.get("pid", 0), []).append(account)
    for process in processes:
        for account in accounts.get(process.pid, ()):
            if process.began - 0.5 <= account.get("began", 0.0) - began <= process.ended + 0.5:
                process.cpu_s = account.get("cpu_user_seconds", 0.0) + account.get("cpu_system_seconds", 0.0)
                process.peak_bytes = account.get("peak_memory_bytes", 0)


def _tally(header: dict[str, Any]) -> Tally:
    """Counts; with the policy at hand that the run was decided by, it says what would allow a denial."""
    from functools import partial

    from agent_safety_layer.errors import TraceError
    from agent_safety_layer.policy.remedies import remedy
    from agent_safety_layer.trace.replay import recorded_policy

    try:
        return Tally(remedy=partial(remedy, recorded_policy(header)))
    except TraceError:
        return Tally()


class _Collected:
    def __init__(self, began: float) -> None:
        self.began = self.latest = began
        self.processes: list[Process] = []
        self.of_process: dict[int, int] = {}
        self.files: dict[str, list[int]] = {}
        self.hosts: dict[str, Host] = {}
        self.timeline = Timeline()
        self.limits: list[tuple[float, str, str]] = []
        self.unlisted = {"processes": 0, "files": 0, "hosts": 0}
        self._living: dict[int, int] = {}

    def add(self, event: Event, seq: int, action: str, effective: str) -> None:
        at = max(0.0, event.time - self.began)
        self.latest = max(self.latest, event.time)
        denied = BLOCK in (action, effective)
        group = event.kind.partition(".")[0]
        self.timeline.add(at, group if group in GROUPS else "other", denied)
        if event.pid:
            self._process(event, seq, at, denied)
        if event.path.startswith("/") and (event.kind.startswith("file.") or event.kind == "process.exec"):
            for path in (event.path, event.path2):
                if path:
                    self._file(path, event.kind, denied)
        if event.kind.startswith("net.") and (event.host or event.ip or event.path):
            self._host(event, action, denied)
        if event.kind == "limit.hit":
            self.limits.append((at, visible(event.detail, _LONGEST), effective))

    def _process(self, event: Event, seq: int, at: float, denied: bool) -> None:
        index = self._living.get(event.pid, -1)
        if index < 0 or self.processes[index].over:
            if len(self.processes) >= _PROCESSES:
                self.unlisted["processes"] += index < 0
                return
            index = self._living[event.pid] = len(self.processes)
            self.processes.append(Process(event.pid, self._living.get(event.ppid, -1), at, at))
        process = self.processes[index]
        process.ended = max(process.ended, at)
        process.events += 1
        process.blocked += denied
        self.of_process[seq] = index
        program = event.exe
        if event.kind == "process.exec" and not denied:
            program = event.path or program
            command = visible(shell_joined(redact.arguments(event.argv)), _LONGEST)
            first = process.command.partition(_THEN)[0]
            process.command = f"{first}{_THEN}{command}" if first else command
        if program:
            process.program = visible(os.path.basename(program), 60)
        if event.kind == "process.exit":
            process.over = True

    def _file(self, path: str, kind: str, denied: bool) -> None:
        path = visible(path, _LONGEST)
        counts = self.files.get(path)
        if counts is None:
            if len(self.files) >= _FILES:
                self.unlisted["files"] += 1
                return
            counts = self.files[path] = [0, 0, 0]
        counts[2 if denied else 0 if kind in _READS else 1] += 1

    def _host(self, event: Event, action: str, denied: bool) -> None:
        name = visible(address_of(event) if event.host or event.ip else event.path, _LONGEST)
        host = self.hosts.get(name)
        if host is None:
            if len(self.hosts) >= _HOSTS:
                self.unlisted["hosts"] += 1
                return
            host = self.hosts[name] = Host()
        host.tried += 1
        host.blocked += denied
        host.asked += action == ASK
        if event.exe and len(host.programs) < 5:
            host.programs.add(visible(os.path.basename(event.exe), 40))


def data(found: Digest) -> dict[str, Any]:
    """The digest as JSON's types, for the page's script: texts once each, events in columns."""
    texts = _Texts()
    columns: dict[str, list[int]] = {name: [] for name in ("t", "us", "p", "k", "a", "e", "o", "r", "w", "s", "x", "n")}
    for line in found.events:
        entry = line.entry
        assert entry is not None
        event, decision, outcome = entry.event, entry.decision, entry.outcome
        rule = f"{decision.rule} {decision.where}".strip()
        row: Sequence[int] = (
            *(round(max(0.0, event.time - found.began) * 1e6), outcome.us, found.of_process.get(entry.seq, -1)),
            *(texts.of(event.kind), texts.of(decision.action), texts.of(outcome.effective)),
            *(texts.of(object_of(event)), texts.of(rule), texts.of(decision.reason), texts.of(event.syscall)),
            *(texts.of(outcome.result), entry.seq),
        )
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    return {
        "lasted": round(found.lasted, 6),
        "events": columns,
        "total": found.tally.events,
        "processes": [
            [
                *(p.pid, p.parent, round(p.began, 6), round(p.ended, 6), texts.of(p.program), texts.of(p.command)),
                *(p.events, p.blocked, round(p.cpu_s, 3), p.peak_bytes),
            ]
            for p in found.processes
        ],
        "files": [[texts.of(path), *counts] for path, counts in sorted(found.files.items())],
        "hosts": [
            [texts.of(name), host.tried, host.blocked, host.asked, texts.of(", ".join(sorted(host.programs)))]
            for name, host in sorted(found.hosts.items(), key=lambda pair: (-pair[1].blocked, -pair[1].tried, pair[0]))
        ],
        "unlisted": found.unlisted,
        "texts": texts.list,
    }


class _Texts:
    def __init__(self) -> None:
        self.list: list[str] = [""]
        self._places: dict[str, int] = {"": 0}

    def of(self, text: str) -> int:
        place = self._places.get(text)
        if place is None:
            place = self._places[text] = len(self.list)
            self.list.append(visible(text, _LONGEST))
        return place
