"""One key on a terminal: typed for this question, by a person, or it is no answer."""

from __future__ import annotations

import os
import pty
import select
import termios
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from agent_safety_layer import ApprovalRequest
from agent_safety_layer.approvals.prompt import Hangup, Interrupt, Prompt
from agent_safety_layer.approvals.question import Answered
from tests.terminals import ALWAYS, QUESTION

EVERY = ["once", "run", "program", "always"]


class Desk:
    """A terminal with a question on it. ``type`` is the person's keyboard, or the terminal's own replies."""

    def __init__(self, **how: object) -> None:
        self.ours, self.theirs = pty.openpty()
        self.wake = os.eventfd(0, os.EFD_NONBLOCK)
        self.prompt = Prompt(self.theirs, "sam", wake=self.wake, hush=lambda: os.eventfd_read(self.wake), **how)  # type: ignore[arg-type]
        self.open = True
        self.seen = b""
        self.result: Answered | BaseException | None = None
        self._thread: threading.Thread | None = None

    def put(self, scopes: list[str] = EVERY, timeout: float = 60) -> None:
        said = {"scopes": scopes, "always": {"line": "- the line", "file": "/the/file"}}
        request = ApprovalRequest(
            "1", "file.read", "why", {"object": "/a\x1b[2Jb"}, time.time(), timeout, metadata=said
        )

        def work() -> None:
            try:
                self.result = self.prompt.put(request, lambda: self.open)
            except (OSError, Hangup, Interrupt) as error:
                self.result = error

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def read(self, wait_s: float) -> bool:
        if not select.select([self.ours], [], [], wait_s)[0]:
            return False
        self.seen += os.read(self.ours, 65536)
        return True

    def until(self, condition: Callable[[], bool]) -> None:
        limit = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < limit, self.seen
            self.read(0.05)

    def ends(self, *keys: bytes) -> Answered | BaseException | None:
        """Press the keys one after the other, each when the last was taken, and wait for the end."""
        assert self._thread is not None
        for key in keys:
            self.press(key)
        thread = self._thread
        self.until(lambda: not thread.is_alive())
        return self.result

    def press(self, key: bytes, until: bytes = b"") -> None:
        """Press a key, again after a while if nothing came of it."""
        self.until(lambda: self.seen.endswith((QUESTION, ALWAYS)))
        length = len(self.seen)
        while len(self.seen) == length:
            if not self.read(0.6):
                os.write(self.ours, key)
        self.until(lambda: until in self.seen)

    def close(self) -> None:
        self.open = False
        os.eventfd_write(self.wake, 1)
        if self._thread is not None:
            self._thread.join(10)
        for fd in (self.ours, self.theirs, self.wake):
            os.close(fd)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.close()


@pytest.mark.parametrize(("key", "scope"), [(b"y", "once"), (b"Y", "once"), (b"r", "run"), (b"p", "program")])
def test_one_key_allows(desk: Desk, key: bytes, scope: str) -> None:
    desk.put()
    answer = desk.ends(key)
    assert isinstance(answer, Answered) and (answer.approved, answer.scope, answer.responder) == (True, scope, "sam")


@pytest.mark.parametrize("key", [b"n", b"\r", b"\n", b" ", b"\x1b", b"x", b"\x04"])
def test_every_other_key_denies(desk: Desk, key: bytes) -> None:
    desk.put()
    answer = desk.ends(key)
    assert isinstance(answer, Answered) and not answer.approved


def test_a_scope_that_is_not_offered_is_no(desk: Desk) -> None:
    desk.put(scopes=["once"])
    answer = desk.ends(b"a")
    assert isinstance(answer, Answered) and not answer.approved


def test_always_shows_the_line_first(desk: Desk) -> None:
    desk.put()
    answer = desk.ends(b"a", b"x", b"a", b"y")
    assert isinstance(answer, Answered) and answer.scope == "always"
    assert desk.seen.count(b"- the line") == 2 and b"/the/file" in desk.seen


def test_a_reason_goes_with_a_no(desk: Desk) -> None:
    desk.put()
    desk.press(b"m", b"(for the agent): ")
    os.write(desk.ours, "use stagingg\x7f, Jürgen\r".encode())
    answer = desk.ends()
    assert isinstance(answer, Answered) and (answer.approved, answer.message) == (False, "use staging, Jürgen")


def test_what_was_typed_before_is_no_answer(desk: Desk) -> None:
    os.write(desk.ours, b"y\ny")
    desk.put()
    desk.until(lambda: QUESTION in desk.seen)
    os.write(desk.ours, b"y")  # nobody is so fast
    assert desk.result is None
    answer = desk.ends(b"n")
    assert isinstance(answer, Answered) and not answer.approved


@pytest.mark.parametrize("reply", [b"\x1b]ly\x1b\\", b"\x1b[?62;yc", b"yy", b"y\n", b"\x1b[200~y\x1b[201~"])
def test_what_a_terminal_types_by_itself_is_no_answer(desk: Desk, reply: bytes) -> None:
    desk.put()
    desk.until(lambda: QUESTION in desk.seen)
    for _ in range(3):
        desk.read(0.7)
        os.write(desk.ours, reply)
    answer = desk.ends(b"n")
    assert isinstance(answer, Answered) and not answer.approved


def test_somebody_else_on_the_terminal_has_it_drawn_again() -> None:
    calm = iter([True, True, False])
    desk = Desk(undisturbed=lambda: next(calm, True))
    desk.put()
    desk.until(lambda: desk.seen.count(QUESTION) == 2)
    answer = desk.ends(b"y")
    assert isinstance(answer, Answered) and answer.approved
    desk.close()


def test_hostile_names_are_shown_as_what_they_are(desk: Desk) -> None:
    desk.put()
    desk.ends(b"n")
    assert b"/a\\x1b[2Jb" in desk.seen and b"\x1b[2J" not in desk.seen


def test_the_terminal_is_as_it_was(desk: Desk) -> None:
    attributes = termios.tcgetattr(desk.theirs)
    desk.put()
    desk.until(lambda: QUESTION in desk.seen)
    assert termios.tcgetattr(desk.theirs) != attributes
    assert isinstance(desk.ends(b"\x03"), Interrupt)
    assert termios.tcgetattr(desk.theirs) == attributes


def test_a_question_that_was_settled_elsewhere_goes(desk: Desk) -> None:
    desk.put()
    desk.until(lambda: QUESTION in desk.seen)
    desk.open = False
    os.eventfd_write(desk.wake, 1)
    assert desk.ends() is None
    desk.until(lambda: b"no longer asked" in desk.seen)
