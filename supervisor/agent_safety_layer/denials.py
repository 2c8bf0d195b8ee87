"""Denials as they happen: a line on stderr for people, at most a few per second, and a JSON line for the agent."""

from __future__ import annotations

import os

from agent_safety_layer.engine.gate import UNASKED
from agent_safety_layer.events import BLOCK, WARN
from agent_safety_layer.terminal import paint, visible
from agent_safety_layer.trace.encode import dumps
from agent_safety_layer.wording import object_of, remedy_of
from asl_hooks.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.engine.gate import Answer
    from agent_safety_layer.events import Decision, Event
    from agent_safety_layer.terminal import Stderr

PER_SECOND = 5
FILE_BYTES = 4 * 1024 * 1024
_TOLD = 4096  # different ones remembered
_OBJECT = 300  # characters of a name on the terminal


class Denials:
    """Tells of denials and warnings. ``fd`` is the open file at ``$ASL_DENIALS``, or -1; it stays the caller's.

    The agent decides how often it is denied, so both ways are bounded: stderr says each thing once and at a rate, the
    file takes ``FILE_BYTES``.
    Neither ever waits or raises. ``remedy`` says what would allow an event.
    """

    def __init__(
        self,
        stderr: Stderr,
        *,
        fd: int = -1,
        colour: bool = False,
        quiet: bool = False,
        remedy: Callable[[Event, Decision], str] = remedy_of,
    ) -> None:
        self._stderr = stderr
        self._remedy = remedy
        self._fd = fd
        self._colour = colour
        self._quiet = quiet
        self._room = FILE_BYTES
        self._rest = b""  # of a line that the file took only in part
        self._second = -1
        self._shown = 0
        self._more = 0
        self._told: set[tuple[object, ...]] = set()

    def tell(self, event: Event, decision: Decision, effective: str, now: float, answer: Answer | None = None) -> None:
        """Tell of a denial (blocked, or would be) or a warning; pass over the rest. ``now`` is monotonic seconds,
        ``answer`` what a person said.
        """
        if effective not in (BLOCK, WARN) and decision.action != BLOCK:
            return
        if self._fd >= 0 and effective == BLOCK:
            self._record(event, decision, answer)
        if self._quiet:
            return
        what = (event.kind, event.path, event.path2, event.host, event.ip, event.port, event.argv)
        told = (*what, decision.rule, decision.where, effective)
        if told in self._told:
            return
        if int(now) != self._second:
            self.tick(now)
        if self._shown >= PER_SECOND or not self._stderr.write(self._line(event, decision, effective, answer)):
            self._more += 1
        else:
            if len(self._told) >= _TOLD:
                self._told.clear()
            self._told.add(told)
        self._shown += 1

    def _line(self, event: Event, decision: Decision, effective: str, answer: Answer | None) -> str:
        remedy = self._remedy(event, decision) if effective == BLOCK else ""
        if answer is not None and answer.by not in ("", UNASKED):
            decision = replace(decision, reason=f"{decision.reason}: {answer.by}")
            remedy = ""
        return line(event, decision, effective, remedy, self._colour)

    def tick(self, now: float) -> None:
        """Begin a new second if it is one, and say how many lines the last one left out. For the loop's timer."""
        if int(now) != self._second:
            self._second, self._shown = int(now), 0
            self._tell_more()

    def close(self) -> None:
        """Say what is still unsaid."""
        self._tell_more()

    def _tell_more(self) -> None:
        if self._more and self._stderr.write(paint(f"asl: … and {self._more} more\n", "dim", self._colour)):
            self._more = 0

    def _record(self, event: Event, decision: Decision, answer: Answer | None) -> None:
        data = self._rest
        if self._room > 0:
            fields = {
                "time": event.time,
                "kind": event.kind,
                "pid": event.pid,
                "object": object_of(event),
                "rule": decision.rule,
                "where": decision.where,
                "reason": decision.reason,
                "remedy": self._remedy(event, decision),
            }
            if answer is not None:
                fields["answer"] = answer.by
                if answer.message:
                    fields["message"] = answer.message
            data += dumps(fields).encode() + b"\n"
            self._room -= len(data)
            if self._room <= 0:
                data += b'{"omitted":"this file is full; further denials are in the trace only"}\n'
        if data:
            try:
                written = os.write(self._fd, data)
            except OSError:  # a full disk: what did not begin to be written is left out
                return
            self._rest = data[written:]


def line(event: Event, decision: Decision, effective: str, remedy: str = "", colour: bool = False) -> str:
    """The line for stderr, its newline included; names are escaped and cut."""
    verb, hue = (
        ("blocked", "red")
        if effective == BLOCK
        else ("would block", "yellow")
        if decision.action == BLOCK
        else ("warning", "yellow")
    )
    said = f"asl: {paint(verb, hue, colour)} {event.kind}"
    named = object_of(event)
    if not decision.reason or named not in decision.reason:
        said += f" {visible(named, _OBJECT)}"
    if decision.reason:
        said += f": {visible(decision.reason, _OBJECT)}"
    by = f"{decision.rule} {decision.where}".strip()
    if by:
        said += f" [{visible(by, _OBJECT)}]"
    if remedy:
        said += paint(f"; to allow: {visible(remedy, _OBJECT)}", "dim", colour)
    return said + "\n"
