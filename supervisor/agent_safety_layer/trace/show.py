"""Entries for people: one line each, aligned, coloured, and safe to print whatever the tracee called its files."""

from __future__ import annotations

import os
import time

from agent_safety_layer.events import ALLOW, AUDIT, BLOCK, TraceEntry
from agent_safety_layer.terminal import paint, visible
from agent_safety_layer.wording import object_of

_COLOUR = {ALLOW: "green", AUDIT: "blue", BLOCK: "red"}  # the rest is yellow


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
