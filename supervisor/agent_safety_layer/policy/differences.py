"""How two policies differ, by example: what one allows and the other does not; and lines that can never matter.

``witnesses`` gives the operations on which policies could disagree; both decide each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_safety_layer.events import RANK, Decision, Event
from agent_safety_layer.policy.commands import CommandIndex
from agent_safety_layer.policy.decision import decide
from agent_safety_layer.policy.effective import limits
from agent_safety_layer.policy.files import CHANGES
from agent_safety_layer.policy.globs import PathIndex
from agent_safety_layer.policy.hosts import HostIndex, event_ip
from agent_safety_layer.policy.model import Entry, Host, Policy, Rule
from agent_safety_layer.policy.ruleset import Matcher
from agent_safety_layer.policy.state import State
from agent_safety_layer.policy.witnesses import events
from asl_hooks.value import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent_safety_layer.policy.model import Layer

_LISTS = {
    "files": ("read", "write", "block", "ask", "protect"),
    "network": ("allow", "block", "ask", "listen", "unix"),
    "exec": ("allow", "block", "ask"),
}
_PID = 1
_IDLE_LIMIT = 400  # lines looked at


@dataclass(frozen=True, slots=True)
class Difference:
    """Operations that the policies decide otherwise by the same pair of rules; ``example`` is the simplest of them.

    ``later``: only once what rules with ``after`` wait for has happened.
    """

    example: Event
    first: Decision
    second: Decision
    count: int
    later: bool = False

    @property
    def looser(self) -> bool:
        """Whether the second policy is the looser one here."""
        return RANK[self.second.action] < RANK[self.first.action]


@dataclass(frozen=True, slots=True)
class Idle:
    """A line of a policy without which every operation would be decided as it is with it."""

    layer: str
    key: str
    text: str
    origin: str


def differences(first: Policy, second: Policy) -> list[Difference]:
    """The differences, what the second policy allows more before what it allows less."""
    found: dict[tuple[object, ...], Difference] = {}
    later = _happened(first, second)
    for event in events((first, second)):
        states = [(State(), False)] + ([(_for(later, event), True)] if later is not None else [])
        plain = ("", "")
        for state, after in states:
            one, two = decide(first, state, event), decide(second, state, event)
            if one.action == two.action or (one.action, two.action) == plain:
                continue
            plain = (one.action, two.action)
            key = (
                "" if event.kind in CHANGES else event.kind,
                one.action,
                one.rule,
                one.where,
                two.action,
                two.rule,
                two.where,
            )
            known = found.get(key)
            count = known.count + 1 if known is not None else 1
            example = known.example if known is not None else event
            found[key] = Difference(example, one, two, count, known.later if known is not None else after)
    return sorted(found.values(), key=lambda one: (not one.looser, one.example.kind, -one.count))


def _happened(*policies: Policy) -> State | None:
    """A state in which all that rules wait for has happened; None when none waits."""
    rules = [rule for policy in policies for layer in policy.layers for rule in layer.rules if rule.after is not None]
    if not rules:
        return None
    return State({}, {_PID: frozenset(rule.key for rule in rules)}, frozenset((rule.key, "") for rule in rules))


def _for(state: State, event: Event) -> State:
    """The state with *event*'s paths as those that it happened to."""
    keys = {key for key, _ in state.paths}
    return State(
        state.parents, state.marks, frozenset((key, path) for key in keys for path in (event.path, event.path2))
    )


def settings(first: Policy, second: Policy) -> Iterator[tuple[str, str, str]]:
    """What differs besides decisions: name, the first policy's value, the second's."""
    one, two = dict(_settings(first)), dict(_settings(second))
    for name in dict.fromkeys((*one, *two)):
        if one.get(name) != two.get(name):
            yield name, one.get(name, "none"), two.get(name, "none")


def _settings(policy: Policy) -> Iterator[tuple[str, str]]:
    yield "mode", policy.mode
    yield "on_violation", policy.on_violation
    yield "record", policy.record
    approvals = policy.approvals
    yield "approvals", f"{approvals.timeout_s:g}s, then {approvals.on_timeout}"
    yield from ((f"limits.{name}", amount) for name, amount in limits(policy.limits))
    for layer in policy.layers:
        held = layer.environment
        for key, entries in (("pass", held.keep), ("block", held.block), ("secrets", held.secrets)):
            yield from ((f"environment.{key} {entry.text}", "listed") for entry in entries)
        yield from ((f"environment.set {name}", text) for name, text in held.put)


# Lines that can never matter


def idle(policy: Policy) -> list[Idle]:
    """The lines of the policy's own files (not of built-in profiles) that change no decision.

    A line is told only when examples of what it means were tried and all of them are decided the same without it.
    """
    lines = [(at, key, entry) for at, layer in enumerate(policy.layers) for key, entry in _lines(layer)]
    lines = [line for line in lines if _ours(line[2])][:_IDLE_LIMIT]
    if not lines:
        return []
    about = _Finder([(key, entry) for _, key, entry in lines])
    tried: dict[int, list[Event]] = {}
    for event in events((policy,), apart=True):
        for number in about.lines(event):
            tried.setdefault(number, []).append(event)
    return [
        Idle(policy.layers[at].name, key, _text(entry), entry.origin)
        for number, (at, key, entry) in enumerate(lines)
        if number in tried and not _matters(policy, at, key, entry, tried[number])
    ]


class _Finder:
    """Which of some lines are about an event."""

    def __init__(self, lines: list[tuple[str, Entry | Host | Rule]]) -> None:
        self._paths: PathIndex[int] = PathIndex()
        self._tests: list[tuple[int, str, Callable[[Event], bool]]] = []
        for number, (key, entry) in enumerate(lines):
            if isinstance(entry, Rule):
                self._tests.append((number, "", Matcher(entry.condition).holds))
            elif isinstance(entry, Host):
                self._tests.append((number, "net.", _reached(HostIndex((entry,)))))
            elif key.startswith("exec."):
                self._tests.append((number, "process.exec", _run(CommandIndex((entry,)), entry)))
            else:
                for form in entry.forms:
                    self._paths.add(form, number)

    def lines(self, event: Event) -> set[int]:
        """The numbers of the lines."""
        found = {number for number, kind, test in self._tests if event.kind.startswith(kind) and test(event)}
        for path in {event.path, event.path2}:
            if path.startswith("/"):
                found.update(self._paths.find(path), self._paths.find(f"{path.rstrip('/')}/."))
        return found


def _reached(index: HostIndex) -> Callable[[Event], bool]:
    def test(event: Event) -> bool:
        port = -1 if event.kind == "net.dns" else event.port
        return bool(index.find(*event_ip(event), port) or index.find_any(port))

    return test


def _run(index: CommandIndex, entry: Entry) -> Callable[[Event], bool]:
    return lambda event: entry.text == "*" or index.find(event.argv, event.path or event.exe) is not None


def _all(policy: Policy, event: Event) -> State:
    later = _happened(policy)
    return _for(later, event) if later is not None else State()


def _matters(policy: Policy, at: int, key: str, entry: Entry | Host | Rule, examples: list[Event]) -> bool:
    without = _without(policy, at, key, entry)
    for event in examples:
        for state in (State(), _all(policy, event)) if policy.stateful else (State(),):
            if decide(policy, state, event).action != decide(without, state, event).action:
                return True
    return False


def _without(policy: Policy, at: int, key: str, entry: Entry | Host | Rule) -> Policy:
    layer = policy.layers[at]
    section, _, name = key.partition(".")
    if not name:
        made: Layer = replace(layer, rules=tuple(rule for rule in layer.rules if rule is not entry))
    else:
        held: Any = getattr(layer, section)
        kept = tuple(one for one in getattr(held, name) if one is not entry)
        made = replace(layer, **{section: replace(held, **{name: kept})})
    return Policy((*policy.layers[:at], made, *policy.layers[at + 1 :]))


def _lines(layer: Layer) -> Iterator[tuple[str, Entry | Host | Rule]]:
    for section, names in _LISTS.items():
        held = getattr(layer, section)
        for name in names if held is not None else ():
            for entry in getattr(held, name) or ():
                yield f"{section}.{name}", entry
    for rule in layer.rules:
        yield "rules", rule


def _ours(entry: Entry | Host | Rule) -> bool:
    return bool(entry.origin) and entry.origin != "built-in" and not entry.origin.startswith("profiles/")


def _text(entry: Entry | Host | Rule) -> str:
    return getattr(entry, "text", "") or getattr(entry, "name", "")


__all__ = ["Difference", "Idle", "differences", "idle", "settings"]
