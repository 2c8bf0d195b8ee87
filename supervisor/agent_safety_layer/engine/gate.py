"""Questions to a person, while the asking call waits and the loop goes on. No answer in time is a no."""

from __future__ import annotations

import _thread
import os
import select
from _collections import deque
from time import monotonic

from agent_safety_layer.terminal import visible
from agent_safety_layer.wording import object_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from agent_safety_layer.events import Decision, Event

    Answered = Callable[[bool, str], None]
else:
    Protocol = object


class Gate(Protocol):
    """Somebody who can be asked. ``answered(allowed, by)`` is called once, from the loop's thread."""

    def ask(self, event: Event, decision: Decision, answered: Answered) -> None:
        """Put a question."""

    def close(self) -> None:
        """Answer what is open with no."""


class Nobody:
    """A gate that says no at once (``--approve deny``)."""

    def __init__(self, why: str = "nobody was asked (--approve deny)") -> None:
        self._why = why

    def ask(self, event: Event, decision: Decision, answered: Answered) -> None:
        """No."""
        answered(False, self._why)

    def close(self) -> None:
        """Nothing is open."""


class Terminal:
    """A gate on the controlling terminal: one question at a time, ``y`` and Enter for yes, everything else is no.

    ``later`` runs a callable in the loop's thread. Raises ``OSError`` when there is no terminal.
    """

    def __init__(self, timeout_s: float, later: Callable[[Callable[[], None]], None]) -> None:
        self._tty = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
        self._timeout_s = timeout_s
        self._later = later
        self._questions: deque[tuple[Event, Decision, Answered, float]] = deque()
        self._lock = _thread.allocate_lock()
        self._asking = False

    def ask(self, event: Event, decision: Decision, answered: Answered) -> None:
        """Queue the question."""
        with self._lock:
            self._questions.append((event, decision, answered, monotonic() + self._timeout_s))
            if self._asking:
                return
            self._asking = True
        _thread.start_new_thread(self._work, ())

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._questions:
                    self._asking = False
                    return
                event, decision, answered, deadline = self._questions.popleft()
            try:
                allowed, by = self._put(event, decision, deadline)
            except OSError as error:
                allowed, by = False, f"the terminal could not be asked: {error.strerror}"
            self._later(lambda answered=answered, allowed=allowed, by=by: answered(allowed, by))  # type: ignore[misc]

    def _put(self, event: Event, decision: Decision, deadline: float) -> tuple[bool, str]:
        if os.tcgetpgrp(self._tty) != os.getpgrp():
            return False, "the run is in the background, so nobody could be asked"
        import termios

        termios.tcflush(self._tty, termios.TCIFLUSH)  # what was typed before the question is no answer to it
        left = deadline - monotonic()
        who = f"{visible(os.path.basename(event.exe), 60)} (pid {event.pid})"
        os.write(
            self._tty,
            f"\r\nasl: {who} asks for {event.kind} {visible(object_of(event), 300)}\r\n"
            f"     {visible(decision.reason, 200)} [{visible(decision.rule, 80)} {visible(decision.where, 120)}]\r\n"
            f"     allow it this once? y + Enter within {max(left, 0):.0f} s, anything else is no: ".encode(),
        )
        poll = select.poll()
        poll.register(self._tty, select.POLLIN)
        if left <= 0 or not poll.poll(left * 1000):
            os.write(self._tty, b"\r\nasl: no answer in time: no\r\n")
            return False, "nobody answered in time"
        answer = os.read(self._tty, 4096).strip().lower()
        yes = answer in (b"y", b"yes")
        return yes, "a person said yes" if yes else "a person said no"

    def close(self) -> None:
        """Answer what is open with no."""
        with self._lock:
            left, self._questions = self._questions, deque()
        for _, _, answered, _ in left:
            answered(False, "the run is ending")
