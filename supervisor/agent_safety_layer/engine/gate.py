"""Questions to a person, while the asking call waits and the loop goes on. No answer in time is a no.

Who is really asked lies in ``agent_safety_layer.approvals``; a run that asks nobody imports nothing of it.
"""

from __future__ import annotations

import os

from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from agent_safety_layer.approvals.overlay import Overlay
    from agent_safety_layer.events import Decision, Event

    Answered = Callable[["Answer"], None]
else:
    Protocol = object


UNASKED = "nobody was asked (--approve deny)"


@value
class Answer:
    """What came of a question: ``by`` is who answered, or why nobody did; ``message`` is for the agent."""

    allowed: bool
    by: str = ""
    message: str = ""


class Gate(Protocol):
    """Somebody who can be asked, in the loop's thread. ``answered`` is called once, there."""

    def ask(self, event: Event, decision: Decision, answered: Answered) -> None:
        """Put a question."""

    def withdraw(self, pid: int) -> None:
        """A process has gone: nobody waits for the answers to its questions."""

    def close(self) -> None:
        """Answer what is open with no."""


class Nobody:
    """A gate that says no at once, but to what a person has allowed for always in the file *overlay*."""

    def __init__(self, why: str = UNASKED, overlay: str = "") -> None:
        self._why = why
        self._path = overlay
        self._overlay: Overlay | None = None

    def ask(self, event: Event, decision: Decision, answered: Answered) -> None:
        """No, or what was always allowed."""
        if self._path and self._overlay is None and os.path.exists(self._path):
            from agent_safety_layer.approvals.overlay import Overlay

            self._overlay = Overlay(self._path)
        where = self._overlay.allows(event) if self._overlay is not None else ""
        answered(Answer(True, f"allowed for always ({where})") if where else Answer(False, self._why))

    def withdraw(self, pid: int) -> None:
        """Nothing is open."""

    def close(self) -> None:
        """Nothing is open."""
