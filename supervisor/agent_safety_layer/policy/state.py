"""What has happened so far, as far as rules with ``after`` ask: per process and its descendants, and per path.

    fork(1→2)   read(2)   fork(2→3)   exit(2)   connect(3)      connect(1)
                  mark      inherits   handed on   marked          not marked

A process counts what it did and what any process it descends from did, whenever that was: an ancestor can still pass on
what it learns. States are values: ``advance`` gives a new one and leaves the old as it was, so that a replay is exact.
"""

from __future__ import annotations

from agent_safety_layer.events import BLOCK, Decision, Event
from agent_safety_layer.policy.decision import judge_of
from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.policy.model import Policy, Rule

_NONE: frozenset[str] = frozenset()
_NOBODY: frozenset[int] = frozenset()


@value
class State:
    """``parents`` of processes, the ``marks`` (keys of rules) that they carry, and ``paths`` marked for a rule.

    The dicts are never changed once they are in a state.
    """

    parents: dict[int, frozenset[int]] = {}  # noqa: RUF012  # never changed; see above
    marks: dict[int, frozenset[str]] = {}  # noqa: RUF012
    paths: frozenset[tuple[str, str]] = frozenset()

    def happened(self, rule: Rule, event: Event) -> bool:
        """Whether what the rule's ``after`` asks for has happened before this event."""
        after = rule.after
        if after is None:
            return True
        if after.same_path:
            return any((rule.key, path) in self.paths for path in (event.path, event.path2) if path)
        if not self.marks:
            return False
        key, marks, parents = rule.key, self.marks, self.parents
        if event.kind == "net.dns" and not event.pid:  # nobody knows who asked: it may have been any of them
            return any(key in marked for marked in marks.values())
        seen: set[int] = set()
        todo = [event.pid, event.ppid]
        while todo:
            pid = todo.pop()
            if pid in seen:
                continue
            seen.add(pid)
            if key in marks.get(pid, _NONE):
                return True
            todo.extend(parents.get(pid, _NOBODY))
        return False


def advance(policy: Policy, state: State, event: Event, decision: Decision) -> State:
    """The state after *event*, to which *decision* was the answer that was carried out.

    A blocked event did not happen. The very same state comes back when nothing in the policy is stateful.
    """
    triggers = judge_of(policy).triggers
    if not triggers:
        return state
    state = _family(state, event)
    if decision.action == BLOCK:
        return state
    marks, paths = dict(state.marks), set(state.paths)
    for rule, matcher in triggers:
        if not matcher.holds(event):
            continue
        if rule.after is not None and rule.after.same_path:
            paths.update((rule.key, path) for path in (event.path, event.path2) if path)
        else:
            marks[event.pid] = marks.get(event.pid, _NONE) | {rule.key}
    if marks == state.marks and len(paths) == len(state.paths):
        return state
    return State(state.parents, marks, frozenset(paths))


def _family(state: State, event: Event) -> State:
    """The state with what the event tells about who descends from whom."""
    parents, marks = state.parents, state.marks
    if event.kind == "process.fork" and event.target:
        parents = {**parents, event.target: frozenset((event.pid,))}
        marks = {pid: marked for pid, marked in marks.items() if pid != event.target}
        return State(parents, marks, state.paths)
    if event.kind == "process.exit":
        return _without(state, event.pid)
    known = parents.get(event.pid, _NOBODY)
    if event.pid and event.ppid and event.ppid not in known:
        # Another parent than before: it was adopted, or its number was used again. Counting both errs on the strict
        # side.
        return State({**parents, event.pid: known | {event.ppid}}, marks, state.paths)
    return state


def _without(state: State, gone: int) -> State:
    """The state once a process is gone: its children keep what it carried."""
    parents, marks = dict(state.parents), dict(state.marks)
    above, left = parents.pop(gone, _NOBODY), marks.pop(gone, _NONE)
    for pid, mine in state.parents.items():
        if gone in mine:
            parents[pid] = (mine - {gone}) | above
            if left:
                marks[pid] = marks.get(pid, _NONE) | left
    return State(parents, marks, state.paths)
