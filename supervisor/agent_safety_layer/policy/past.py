"""What had happened in a recorded run before one of its events: the state in which a policy decides about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_safety_layer.policy.decision import decide, judge_of
from agent_safety_layer.policy.state import State, advance
from agent_safety_layer.trace.reader import TraceReader

if TYPE_CHECKING:
    from agent_safety_layer.events import TraceEntry
    from agent_safety_layer.policy.model import Policy

_FAMILY = ("process.fork", "process.exit")


def before(path: str, policy: Policy, entry: TraceEntry) -> State:
    """The state under *policy* just before *entry* of the trace at *path*. Events count in the order of their times.

    Of the trace only what can change a state is kept: who descends from whom, and what rules with ``after`` wait for.
    """
    state = State()
    if not policy.stateful:
        return state
    triggers = [matcher for _, matcher in judge_of(policy).triggers]
    known: set[tuple[int, int]] = set()
    earlier = []
    with TraceReader(path) as reader:
        for one in reader:
            event = one.event
            if (event.time, one.seq) >= (entry.event.time, entry.seq):
                continue
            family = (event.pid, event.ppid)
            if event.kind in _FAMILY or family not in known or any(matcher.holds(event) for matcher in triggers):
                known.add(family)
                earlier.append(one)
    for one in sorted(earlier, key=lambda one: (one.event.time, one.seq)):
        state = advance(policy, state, one.event, decide(policy, state, one.event))
    return state


__all__ = ["before"]
