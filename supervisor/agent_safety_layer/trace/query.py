"""Which events of a trace to look at, and how many there are of what. Memory stays flat whatever the trace's size.

Most lines of a large trace are never parsed. A query knows bytes that its events' lines must hold, and what lies
between those is skipped at the speed of a memory scan; for counts, lines are told apart by their bytes and each
distinct one is parsed once.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_safety_layer.events import ACTIONS, GROUPS, KINDS, TraceEntry
from agent_safety_layer.policy.globs import PathIndex, Wildcard, expand_braces
from agent_safety_layer.policy.hosts import HostIndex, event_ip, parse_host
from agent_safety_layer.policy.quantities import seconds
from agent_safety_layer.trace.reader import EVENT_BEGINS, TraceReader, parse, time_of
from agent_safety_layer.wording import address_of

if TYPE_CHECKING:
    from agent_safety_layer.trace.reader import Line

_DISTINCT = 1 << 16
_VALUES = 1 << 20
OTHERS = "(others)"

# What can be counted by, and what it is of an entry.
FIELDS: dict[str, Callable[[TraceEntry], str]] = {
    "kind": lambda e: e.event.kind,
    "action": lambda e: e.decision.action,
    "effective": lambda e: e.outcome.effective,
    "rule": lambda e: f"{e.decision.rule} {e.decision.where}".strip(),
    "reason": lambda e: e.decision.reason,
    "result": lambda e: e.outcome.result,
    "syscall": lambda e: e.event.syscall,
    "exe": lambda e: e.event.exe,
    "path": lambda e: e.event.path,
    "folder": lambda e: os.path.dirname(e.event.path),
    "suffix": lambda e: os.path.splitext(e.event.path)[1],
    "host": lambda e: e.event.host or e.event.ip,
    "address": lambda e: address_of(e.event) if e.event.host or e.event.ip else "",
    "port": lambda e: str(e.event.port or ""),
    "proto": lambda e: e.event.proto,
    "command": lambda e: " ".join(e.event.argv[:1]),
    "flags": lambda e: e.event.flags,
    "op": lambda e: e.event.op,
    "span": lambda e: e.event.span,
    "pid": lambda e: str(e.event.pid),
    "ppid": lambda e: str(e.event.ppid),
}
_OF_PROCESS = ("pid", "ppid")


@dataclass(frozen=True, slots=True)
class Query:
    """What events must be like: of every set that is not empty, one member has to fit. Made by ``query``.

    ``since`` and ``until`` are seconds since the epoch, both included; ``needles`` are bytes that every line of a
    fitting event holds, the rarest first.
    """

    kinds: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()
    pids: frozenset[int] = frozenset()
    syscalls: frozenset[str] = frozenset()
    results: frozenset[str] = frozenset()
    paths: PathIndex[bool] | None = None
    hosts: HostIndex | None = None
    exes: tuple[Wildcard | PathIndex[bool], ...] = ()
    since: float | None = None
    until: float | None = None
    needles: tuple[bytes, ...] = ()

    def passes(self, entry: TraceEntry) -> bool:
        """Whether the event fits. An action fits what was decided or what was done, a path either of two."""
        return self.fits(entry) and self.in_process(entry.event.pid) and self.in_time(entry.event.time)

    def fits(self, entry: TraceEntry) -> bool:
        """``passes`` but for process and time: what equal lines have in common."""
        event, decision, outcome = entry.event, entry.decision, entry.outcome
        return (
            (not self.kinds or event.kind in self.kinds)
            and (not self.actions or decision.action in self.actions or outcome.effective in self.actions)
            and (not self.syscalls or event.syscall in self.syscalls)
            and (not self.results or outcome.result in self.results)
            and (self.paths is None or any(path and self.paths.find(path) for path in (event.path, event.path2)))
            and (not self.exes or any(_runs(pattern, event.exe) for pattern in self.exes))
            and (self.hosts is None or self._reaches(entry))
        )

    def _reaches(self, entry: TraceEntry) -> bool:
        assert self.hosts is not None
        event = entry.event
        if not event.host and not event.ip:
            return False
        found = self.hosts.find(*event_ip(event), event.port) or self.hosts.find_any(event.port)
        return found is not None

    def in_process(self, pid: int) -> bool:
        """Whether events of this process are asked for."""
        return not self.pids or pid in self.pids

    def in_time(self, at: float) -> bool:
        """Whether events of this time are asked for."""
        return (self.since is None or at >= self.since) and (self.until is None or at <= self.until)


def query(
    *,
    kinds: Iterable[str] = (),
    actions: Iterable[str] = (),
    pids: Iterable[int] = (),
    syscalls: Iterable[str] = (),
    results: Iterable[str] = (),
    paths: Iterable[str] = (),
    hosts: Iterable[str] = (),
    exes: Iterable[str] = (),
    since: float | None = None,
    until: float | None = None,
) -> Query:
    """The query for events that fit one of each. Raises ``ValueError`` saying what is wrong.

    Kinds may be groups (``net``). Paths and hosts are written as in a policy: a path means it and everything below,
    ``*`` stays within a segment, ``**`` crosses; a relative one fits anywhere. A program is a path or a bare name.
    """
    kinds, actions, paths, exes = tuple(kinds), frozenset(actions), tuple(paths), tuple(exes)
    pids, syscalls, results, hosts = frozenset(pids), frozenset(syscalls), frozenset(results), tuple(hosts)
    spelled: set[str] = set()
    for kind in kinds:
        if kind not in GROUPS and kind not in KINDS:
            raise ValueError(f"{kind!r} is not a kind of event: {' '.join((*GROUPS, *KINDS))}")
        spelled.update(GROUPS.get(kind, (kind,)))
    for action in actions.difference(ACTIONS):
        raise ValueError(f"{action!r} is not an action: {' '.join(ACTIONS)}")
    made_hosts = []
    for host in hosts:
        try:
            made_hosts.append(parse_host(host))
        except ValueError as error:
            raise ValueError(f"{host!r} is not a host: {error}") from None
    needles = (
        _literal(paths),
        *(_field("result", result) for result in _only(results)),
        *(b'"pid":%d,' % pid for pid in _only(pids)),
        b'"host":"' if hosts else b"",
        *(_field("syscall", syscall) for syscall in _only(syscalls)),
        *((b'":"%b"' % action.encode()) for action in _only(actions)),
        *((b'"kind":"%b' % (kind.encode() + (b"." if kind in GROUPS else b'"'))) for kind in _only(kinds)),
        _literal(exes),
    )
    return Query(
        frozenset(spelled),
        actions,
        pids,
        syscalls,
        results,
        PathIndex((form, True) for path in paths for form in _forms(path)) if paths else None,
        HostIndex(made_hosts) if hosts else None,
        tuple(Wildcard(exe) if "/" not in exe else PathIndex((form, True) for form in _forms(exe)) for exe in exes),
        since,
        until,
        tuple(needle for needle in needles if needle),
    )


def _only(texts: Iterable[str] | Iterable[int]) -> list:  # type: ignore[type-arg]
    """The one that must be there; nothing when there are several to choose from."""
    known = list(texts)
    return known if len(known) == 1 else []


def _field(name: str, text: str) -> bytes:
    return f'"{name}":"{text}"'.encode() if text.isascii() and text.isalnum() else b""


def _literal(patterns: tuple[str, ...]) -> bytes:
    """The longest part of the pattern that stands in a line as it stands there."""
    if len(patterns) != 1 or "{" in patterns[0]:
        return b""
    text = re.sub(r"\[[^]]*\]|\\.", "*", patterns[0])
    return max(re.findall(r"[\w./@+-]+", text.rstrip("/"), re.ASCII), key=len, default="").strip("/").encode()


def _forms(pattern: str) -> Iterator[str]:
    for form in expand_braces(pattern):
        yield form if form.startswith(("/", "**")) else f"**/{form}"


def _runs(pattern: Wildcard | PathIndex[bool], exe: str) -> bool:
    if isinstance(pattern, Wildcard):
        return pattern.matches(os.path.basename(exe))
    return bool(exe and pattern.find(exe))


def select(reader: TraceReader, wanted: Query) -> Iterator[Line]:
    """The trace's events that fit, in its order."""
    first, *others = wanted.needles or (b"",)
    timed = wanted.since is not None or wanted.until is not None
    for number, raw in reader.raw(first):
        if raw[:15] == EVENT_BEGINS and all(needle in raw for needle in others):
            if timed and not wanted.in_time(_time(raw, number, reader)):
                continue
            line = parse(raw, number, reader.path)
            if line.entry is not None and wanted.passes(line.entry):
                yield line


def _time(raw: bytes, number: int, reader: TraceReader) -> float:
    try:
        return time_of(raw)
    except (ValueError, IndexError):
        line = parse(raw, number, reader.path)
        return line.entry.event.time if line.entry is not None else 0.0


class Count:
    """How many fitting events there are of each value of a field, over any number of traces.

    Beyond a million values the rest is counted as ``(others)``.
    """

    def __init__(self, field: str) -> None:
        self._of = FIELDS[field]
        self._by_process = field in _OF_PROCESS
        self._values: dict[str, int] = {}

    @property
    def values(self) -> list[tuple[str, int]]:
        """Each value with its count, the most frequent first; events without that field are left out."""
        return sorted(((v, n) for v, n in self._values.items() if v), key=lambda pair: (-pair[1], pair[0]))

    def add(self, reader: TraceReader, wanted: Query) -> None:
        """Count the trace's events."""
        if wanted.pids or self._by_process or wanted.since is not None or wanted.until is not None:
            for line in select(reader, wanted):
                if line.entry is not None:
                    self._count(self._of(line.entry), 1)
            return
        known: dict[tuple[bytes, bytes], list[int]] = {}
        values: list[str] = []
        for number, raw in reader.raw(wanted.needles[0] if wanted.needles else b""):
            if raw[:15] != EVENT_BEGINS:
                continue
            parts = raw.split(b",", 8)  # the first eight hold type, seq, time, us, kind, pid, tid, ppid
            key = (parts[4], parts[-1])
            seen = known.get(key)
            if seen is None:
                if len(known) >= _DISTINCT:
                    self._flush(known, values)
                seen = known[key] = [0]
                entry = parse(raw, number, reader.path).entry
                values.append(self._of(entry) if entry is not None and wanted.fits(entry) else "")
            seen[0] += 1
        self._flush(known, values)

    def _flush(self, known: dict[tuple[bytes, bytes], list[int]], values: list[str]) -> None:
        for seen, said in zip(known.values(), values, strict=True):
            self._count(said, seen[0])
        known.clear()
        values.clear()

    def _count(self, said: str, n: int) -> None:
        if said not in self._values and len(self._values) >= _VALUES:
            said = OTHERS
        self._values[said] = self._values.get(said, 0) + n


def moment(text: str, began: float, now: float) -> float:
    """The time that *text* means, in seconds since the epoch. Raises ``ValueError``.

    ``+90s`` is after the run *began*, ``10m`` is before *now*, ``14:05:30`` is on the day that the run began, and a
    whole date may have a time: ``2026-11-23T14:05``. Local time, unless it says otherwise (``Z``, ``+02:00``).
    """
    said = text.strip()
    if said.startswith("+"):
        return began + seconds(said[1:])
    from datetime import datetime

    if re.fullmatch(r"\d{1,2}:\d\d(:\d\d(\.\d+)?)?", said):
        said = f"{time.strftime('%Y-%m-%d', time.localtime(began))}T{said.zfill(5) if said.count(':') == 1 else said}"
    try:
        return datetime.fromisoformat(said).timestamp()
    except ValueError:
        pass
    try:
        return now - seconds(said)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a time: write 2026-11-23T14:05, 14:05:30, +90s (after the start) or 10m (ago)"
        ) from None
