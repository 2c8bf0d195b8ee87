"""Entries for people: one line each, aligned, coloured, and safe to print whatever the tracee called its files."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_safety_layer.events import ACTIONS, ALLOW, AUDIT, BLOCK, GROUPS, KINDS, TraceEntry
from agent_safety_layer.terminal import paint, visible
from agent_safety_layer.wording import object_of

if TYPE_CHECKING:
    from collections.abc import Iterable

_COLOUR = {ALLOW: "green", AUDIT: "blue", BLOCK: "red"}  # the rest is yellow


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries to show; an empty set lets all through."""

    kinds: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()
    pids: frozenset[int] = frozenset()

    @classmethod
    def of(cls, kinds: Iterable[str] = (), actions: Iterable[str] = (), pids: Iterable[int] = ()) -> Filter:
        """The filter, groups of kinds (``file``) spelled out. Raises ``ValueError`` for unknown kinds and actions."""
        spelled: set[str] = set()
        for kind in kinds:
            if kind not in GROUPS and kind not in KINDS:
                raise ValueError(f"{kind!r} is not a kind of event: {' '.join((*GROUPS, *KINDS))}")
            spelled.update(GROUPS.get(kind, (kind,)))
        wanted = frozenset(actions)
        for action in wanted.difference(ACTIONS):
            raise ValueError(f"{action!r} is not an action: {' '.join(ACTIONS)}")
        return cls(frozenset(spelled), wanted, frozenset(pids))

    def passes(self, entry: TraceEntry) -> bool:
        """Whether the entry is to be shown. An action matches what was decided or what was done."""
        return (
            (not self.kinds or entry.event.kind in self.kinds)
            and (not self.actions or entry.decision.action in self.actions or entry.outcome.effective in self.actions)
            and (not self.pids or entry.event.pid in self.pids)
        )


def row(entry: TraceEntry, colour: bool = False) -> str:
    """The entry as a line without newline: time, pid, program, kind, action, object, result, rule and its place."""
    event, decision, outcome = entry.event, entry.decision, entry.outcome
    action = decision.action if outcome.effective == decision.action else f"{decision.action}>{outcome.effective}"
    shown = paint(f"{action:<7}", _COLOUR.get(outcome.effective, "yellow"), colour)
    clock = time.strftime("%H:%M:%S", time.localtime(event.time)) + f"{event.time % 1:.3f}"[1:5]
    program = visible(os.path.basename(event.exe), 15)
    said = f"{clock} {event.pid:>7} {program:<15} {event.kind:<15} {shown} {visible(object_of(event)) or '-'}"
    if outcome.result:
        said += f" = {visible(outcome.result)}"
    if decision.action != ALLOW and decision.rule:
        place = f" {decision.where}" if decision.where else ""
        said += paint(f"  [{visible(decision.rule + place)}]", "dim", colour)
    return said


def heading() -> str:
    """The names of the columns of ``row``."""
    return f"{'TIME':<12} {'PID':>7} {'PROGRAM':<15} {'KIND':<15} {'ACTION':<7} OBJECT"
