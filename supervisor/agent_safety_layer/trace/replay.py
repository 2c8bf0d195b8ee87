"""A recorded run, decided again: what other policies would have said to each event, and which rule says otherwise.

It is the same ``decide`` and ``advance`` that the run used, so there is nothing here that could disagree with it.
Events that no policy was asked about keep the recorded decision, and so do redacted ones: the line shows less of them
than was judged.

Most lines of a trace differ from an earlier one only in their number, time and process. Policies look at none of the
three (rules with ``after`` look at the process), so lines are told apart by the bytes in between, and each distinct one
is parsed and judged once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from agent_safety_layer.errors import TraceError
from agent_safety_layer.events import BLOCK, PYTHON, RANK, Decision, Event
from agent_safety_layer.policy import State, advance, decide
from agent_safety_layer.policy.decision import judge_of
from agent_safety_layer.policy.plain import rebuilt
from agent_safety_layer.trace.reader import EVENT_BEGINS, TraceReader, parse, time_of
from agent_safety_layer.wording import object_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from agent_safety_layer.policy import Policy

_DISTINCT = 1 << 16  # lines remembered; then what was counted is handed on and the memory begins anew
_CHANGES = 1000
# What happened without a policy being asked.
UNASKED = frozenset(
    (
        *("process.fork", "process.exit", "process.deny", "limit.hit", "op.log"),
        *("approval.asked", "approval.answered", "session.start", "session.end", "session.gap"),
    )
)
FAMILY = ("process.fork", "process.exit")  # what changes who descends from whom


@dataclass(slots=True)
class Change:
    """Operations that are decided otherwise: what they have in common, how many, and the first one's place."""

    kind: str
    object: str
    before: Decision
    after: Decision
    seq: int
    count: int = 0


@dataclass(slots=True)
class Verdicts:
    """What one policy says to the events of a trace. ``policy`` is None for what was recorded.

    ``counts`` is ``{kind: {action: events}}``; ``changes`` are the distinct operations that get another action, the
    first thousand, ``unlisted`` counts the events of the rest; ``reruled`` counts events with the same action by
    another rule. ``kept`` counts events that were not decided again, of them ``redacted`` because the line shows too
    little.
    """

    name: str
    policy: Policy | None
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    changed: dict[tuple[object, ...], Change] = field(default_factory=dict)
    moves: dict[tuple[str, str], int] = field(default_factory=dict)
    unlisted: int = 0
    reruled: int = 0
    kept: int = 0
    redacted: int = 0

    @property
    def changes(self) -> list[Change]:
        """The distinct changes: what becomes stricter first, then the most frequent."""
        return sorted(
            self.changed.values(), key=lambda c: (RANK[c.before.action] - RANK[c.after.action], -c.count, c.seq)
        )

    def events(self, *actions: str) -> int:
        """How many events get one of these actions; all when none is named."""
        return sum(
            n for of_kind in self.counts.values() for action, n in of_kind.items() if action in actions or not actions
        )

    def new(self, action: str) -> int:
        """How many events get *action* that did not before."""
        return sum(n for (before, after), n in self.moves.items() if after == action != before)

    @property
    def looser(self) -> int:
        """How many events get a looser action than before."""
        return sum(n for (before, after), n in self.moves.items() if RANK[after] < RANK[before])

    def count(self, seen: _Seen, decision: Decision, n: int) -> None:
        """Count *n* events that were decided so."""
        kind, before = seen.event.kind, seen.decision
        of_kind = self.counts.setdefault(kind, {})
        of_kind[decision.action] = of_kind.get(decision.action, 0) + n
        if seen.kept:
            self.kept += n
            self.redacted += n if seen.redacted else 0
        if decision.action == before.action:
            if (decision.rule, decision.where) != (before.rule, before.where):
                self.reruled += n
            return
        move = (before.action, decision.action)
        self.moves[move] = self.moves.get(move, 0) + n
        key = (kind, object_of(seen.event), *move, decision.rule, decision.where, before.rule, before.where)
        change = self.changed.get(key)
        if change is None:
            if len(self.changed) >= _CHANGES:
                self.unlisted += n
                return
            change = self.changed[key] = Change(kind, str(key[1]), before, decision, seen.seq)
        change.count += n


@dataclass(frozen=True, slots=True)
class LimitUse:
    """One limit of a policy against what the run used of it. ``was_hit``: the recorded run came to this limit's end."""

    name: str
    limit: float | None
    used: float
    was_hit: bool

    @property
    def hit(self) -> bool:
        """Whether the run would have come to the limit's end."""
        return self.limit is not None and self.used >= self.limit


@dataclass(frozen=True, slots=True)
class Replayed:
    """A trace decided again: what was ``recorded``, and what each policy says, in the order given."""

    header: dict[str, Any]
    footer: dict[str, Any] | None
    truncated_after: int | None
    recorded: Verdicts
    verdicts: tuple[Verdicts, ...]

    def limits(self, verdicts: Verdicts) -> list[LimitUse]:
        """The limits that the policy has, or the run hit, as far as the run's end says what it used."""
        footer = self.footer or {}
        cpu = footer.get("cpu_user_seconds", 0.0) + footer.get("cpu_system_seconds", 0.0)
        used = {
            "wall_time_s": footer.get("wall_seconds", 0.0),
            "cpu_time_s": cpu,
            "memory_bytes": footer.get("tree_peak_memory_bytes", 0),
            "written_bytes": footer.get("written_bytes", 0),
            "operations": self.recorded.events(),
        }
        outcome = footer.get("outcome", "")
        limits = verdicts.policy.limits if verdicts.policy is not None else None
        found = []
        for name, amount in used.items():
            shown = name.removesuffix("_s").removesuffix("_bytes")
            limit, was_hit = getattr(limits, name, None), outcome in (name, shown)
            if limit is not None or was_hit:
                found.append(LimitUse(shown, limit, amount, was_hit))
        return found


class _Seen:
    """A distinct line: its event, the recorded decision, how often it came, each policy's answer."""

    __slots__ = ("answers", "by_state", "calm", "decision", "event", "kept", "n", "redacted", "seq", "triggers")

    def __init__(self, raw: bytes, number: int, policies: Sequence[Policy], file: str) -> None:
        line = parse(raw, number, file)
        if line.entry is None:
            raise TraceError(f"A {line.type} line begins like an event.", file=file, line=number)
        self.event: Event = line.entry.event
        self.decision: Decision = line.entry.decision
        self.seq = line.entry.seq
        self.n = 0
        self.redacted = line.redacted
        self.kept = line.redacted or self.event.kind in UNASKED or out_of_policy(self.decision)
        # In the empty state; what a rule with `after` adds to it depends on the process.
        self.answers = tuple(self.decision if self.kept else decide(policy, State(), self.event) for policy in policies)
        self.by_state: dict[tuple[int, Decision], int] = {}
        self.triggers: dict[int, bool] = {}
        self.calm: dict[
            int, bool
        ] = {}  # by policy: neither decided by the state nor able to change it, but for parents


def out_of_policy(decision: Decision) -> bool:
    """Whether no policy file says so: a Python policy decided, or the supervisor itself refused a signal out of the
    tree or an exec that could not be verified."""
    by_supervisor = decision.action == BLOCK and not decision.where and decision.rule in ("tree", "exec")
    return by_supervisor or decision.where == PYTHON


def refused_late(decision: Decision) -> bool:
    """Whether the policy files' decision had been made, and had changed the state, before this one."""
    return out_of_policy(decision) and decision.rule != "tree"


def replay(path: str, policies: Sequence[tuple[str, Policy]]) -> Replayed:
    """What each of the (named) policies says to the events of the trace at *path*.

    Memory stays flat. Raises ``TraceError`` when the trace cannot be read.
    """
    recorded = Verdicts("recorded", None)
    verdicts = tuple(Verdicts(name, policy) for name, policy in policies)
    with TraceReader(path) as reader:
        memory = _Memory([policy for _, policy in policies], recorded, verdicts, reader.path)
        walks = [_Walk(at, policy) for at, (_, policy) in enumerate(policies) if policy.stateful]
        try:
            if walks:
                _walk(path, reader, memory, walks)
            else:
                _count(reader, memory)
        except (ValueError, IndexError):
            remedy = "asl trace verify tells which line was changed."
            raise TraceError("A line is not as a supervisor writes it.", file=reader.path, remedy=remedy) from None
        memory.flush()
        return Replayed(reader.header, reader.footer, reader.truncated_after, recorded, verdicts)


def _count(reader: TraceReader, memory: _Memory) -> None:
    known, learn = memory.known, memory.learn
    for number, raw in reader.raw():
        if raw[:15] == EVENT_BEGINS:
            parts = raw.split(b",", 8)  # the first eight hold type, seq, time, us, kind, pid, tid, ppid
            key = (parts[4], parts[-1])
            seen = known.get(key)
            if seen is None:
                seen = learn(key, raw, number)
            seen.n += 1


class _Memory:
    """The distinct lines so far, by what a decision can depend on: all but number, time, duration and process."""

    def __init__(self, policies: Sequence[Policy], recorded: Verdicts, verdicts: Sequence[Verdicts], file: str) -> None:
        self.known: dict[tuple[bytes, bytes], _Seen] = {}
        self._policies = policies
        self._recorded = recorded
        self._verdicts = verdicts
        self._file = file

    def learn(self, key: tuple[bytes, bytes], raw: bytes, number: int) -> _Seen:
        """Remember a line that is like no other."""
        if len(self.known) >= _DISTINCT:
            self.flush()
        seen = self.known[key] = _Seen(raw, number, self._policies, self._file)
        return seen

    def flush(self) -> None:
        """Hand the counts on, and forget."""
        for seen in self.known.values():
            self._recorded.count(seen, seen.decision, seen.n)
            for at, (verdicts, answer) in enumerate(zip(self._verdicts, seen.answers, strict=True)):
                rest = seen.n
                for (of, decision), n in seen.by_state.items():
                    if of == at:
                        verdicts.count(seen, decision, n)
                        rest -= n
                if rest:
                    verdicts.count(seen, answer, rest)
        self.known.clear()


def _walk(path: str, reader: TraceReader, memory: _Memory, walks: Sequence[_Walk]) -> None:
    """Like ``_count``, for policies of which some have rules with ``after``."""
    for number, raw in as_judged(path, reader):
        parts = raw.split(b",", 8)
        key = (parts[4], parts[-1])
        seen = memory.known.get(key)
        if seen is None:
            seen = memory.learn(key, raw, number)
        seen.n += 1
        if parts[5][:6] != b'"pid":':  # a gap has no process
            continue
        pid, ppid = int(parts[5][6:]), int(parts[7][7:])
        for walk in walks:
            if not (seen.calm.get(walk.at) and ppid in walk.state.parents.get(pid, ())):
                walk.step(seen, pid, ppid)


def as_judged(path: str, reader: TraceReader) -> Iterator[tuple[int, bytes]]:
    """The event lines in the order in which they were judged.

    A call that waits (for a person, for a FIFO) is recorded when it is over and has the time at which it was taken up,
    so some lines stand behind those that were judged after them. They are looked for first, and kept.
    """
    with TraceReader(path) as first:
        late = sorted(_late(first))
    numbers = {number for _, number, _ in late}
    waiting = iter(late)
    due = next(waiting, None)
    for number, raw in reader.raw():
        if raw[:15] != EVENT_BEGINS or number in numbers:
            continue
        if due is not None:
            time = time_of(raw)
            while due is not None and due[0] < time:
                yield due[1:]
                due = next(waiting, None)
        yield number, raw
    for _, number, raw in chain((due,) if due is not None else (), waiting):
        yield number, raw


def _late(reader: TraceReader) -> Iterator[tuple[float, int, bytes]]:
    """The event lines with a time before that of an earlier line."""
    latest = b""  # as it is written; times of one length compare as their bytes do
    for number, raw in reader.raw():
        if raw[:15] == EVENT_BEGINS:
            time = raw.split(b",", 3)[2]
            if time >= latest and len(time) == len(latest):
                latest = time
            elif latest and float(time[7:]) < float(latest[7:]):
                yield float(time[7:]), number, raw
            else:
                latest = time


class _Walk:
    """One policy that looks at what happened earlier, on its way through the events.

    ``advance`` is called only where it could have something to do: when a trigger holds, or the process is new. What
    was found to change nothing changes nothing until the state is another.
    """

    def __init__(self, at: int, policy: Policy) -> None:
        self.at = at
        self._policy = policy
        self._matchers = tuple(matcher for _, matcher in judge_of(policy).triggers)
        rules = (rule for layer in policy.layers for rule in layer.rules if rule.after is not None)
        self._kinds = frozenset(kind for rule in rules for kind in rule.condition.on)
        self.state = State()
        self._decided: dict[tuple[int, int, int], Decision] = {}
        self._idle: set[tuple[int, int, int, bool]] = set()

    def step(self, seen: _Seen, pid: int, ppid: int) -> None:
        """Decide about the event in the present state, and let it have happened."""
        kind = seen.event.kind
        decision = seen.answers[self.at]
        if kind in self._kinds and not seen.kept:
            key = (seen.seq, pid, ppid)
            decided = self._decided.get(key)
            if decided is None:
                event = _of_process(seen.event, pid, ppid)
                decided = self._decided[key] = decide(self._policy, self.state, event)
            if decided is not decision:
                counted = (self.at, decided)
                seen.by_state[counted] = seen.by_state.get(counted, 0) + 1
                decision = decided
        if kind in UNASKED and kind not in FAMILY:
            return
        holds = seen.triggers.get(self.at)
        if holds is None:
            holds = seen.triggers[self.at] = any(matcher.holds(seen.event) for matcher in self._matchers)
            seen.calm[self.at] = not holds and kind not in FAMILY and (seen.kept or kind not in self._kinds)
        if holds or kind in FAMILY or (pid and ppid and ppid not in self.state.parents.get(pid, ())):
            self._advance(seen, pid, ppid, decision)

    def _advance(self, seen: _Seen, pid: int, ppid: int, decision: Decision) -> None:
        idle = (seen.seq, pid, ppid, decision.action == BLOCK)
        if idle in self._idle:
            return
        event = _of_process(seen.event, pid, ppid)
        if seen.kept and refused_late(decision):
            decision = decide(self._policy, self.state, event)  # what the state was advanced by, before it was refused
        state = advance(self._policy, self.state, event, decision)
        if state is self.state:
            self._idle.add(idle)
        else:
            self.state = state
            self.forget()

    def forget(self) -> None:
        """What was found before need not hold any more."""
        self._decided.clear()
        self._idle.clear()


def _of_process(event: Event, pid: int, ppid: int) -> Event:
    fields: tuple[Any, ...] = event  # type: ignore[assignment]  # every value is a tuple
    return Event(fields[0], pid, fields[2], ppid, *fields[4:])


def recorded_policy(header: Mapping[str, Any]) -> Policy:
    """The policy that the run was decided by. Raises ``TraceError`` when the trace does not hold it."""
    layers = (header.get("policy") or {}).get("layers")
    if layers is None:
        remedy = "Name one with -p. Runs of this version record theirs."
        raise TraceError("The trace does not hold its policy.", remedy=remedy)
    try:
        return rebuilt(layers)
    except ValueError as error:
        raise TraceError(f"The trace's policy cannot be used: {error}.") from None


def recorded_variables(header: Mapping[str, Any]) -> dict[str, str]:
    """What ``WORKSPACE``, ``HOME`` and the others stood for in the run."""
    found = (header.get("policy") or {}).get("variables")
    variables = {str(name): str(said) for name, said in found.items()} if isinstance(found, dict) else {}
    cwd = str(header.get("cwd") or "/")
    return {"WORKSPACE": cwd, "HOME": cwd, **variables, "CWD": cwd}


__all__ = [
    "FAMILY",
    "UNASKED",
    "Change",
    "LimitUse",
    "Replayed",
    "Verdicts",
    "as_judged",
    "out_of_policy",
    "recorded_policy",
    "recorded_variables",
    "refused_late",
    "replay",
]
