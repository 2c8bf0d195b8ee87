"""The live line: where it has a place, and that it never waits."""

from __future__ import annotations

import os
import pty
from typing import Any

import pytest

from agent_safety_layer.live import LiveLine, _moves, said


class Screen:
    """Takes what is written; ``fits`` says whether it does."""

    def __init__(self) -> None:
        self.text = ""
        self.fits = True
        self.before_write: Any = None

    def put(self, text: str) -> bool:
        if self.fits:
            self.text += text
        return self.fits


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture
def line(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> LiveLine:
    monkeypatch.setattr(LiveLine, "_is_calm", lambda _: True)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((20, 5)))
    return LiveLine(screen, 2)  # type: ignore[arg-type]


def test_it_is_taken_away_before_output_and_has_no_place_after_half_a_line(screen: Screen, line: LiveLine) -> None:
    line.draw("one")
    assert screen.text == "\r\x1b[K\x1b[2mone\x1b[0m"
    screen.text = ""
    line.begin(b"half")
    assert screen.text == "\r\x1b[K"
    line.draw("while it is printed")
    line.end()
    line.draw("after half a line")
    assert screen.text == "\r\x1b[K"
    line.begin(b" and the rest\n")
    line.end()
    line.draw("x" * 50)
    assert screen.text.endswith("\x1b[2m" + "x" * 19 + "\x1b[0m")  # the last column stays free: no wrapping
    screen.before_write()
    assert screen.text.endswith("\r\x1b[K")


def test_what_could_not_be_taken_away_is_taken_away_later(screen: Screen, line: LiveLine) -> None:
    line.draw("one")
    screen.fits = False
    line.clear()
    screen.fits, screen.text = True, ""
    line.clear()
    line.clear()
    assert screen.text == "\r\x1b[K"


def test_a_program_that_uses_the_screen_keeps_it(screen: Screen, line: LiveLine) -> None:
    line.begin(b"\x1b[?1049h\n")
    line.end()
    line.draw("one")
    assert screen.text == ""


@pytest.mark.parametrize(
    ("data", "moves"),
    [
        (b"plain\n", False),
        (b"\x1b[31mred\x1b[0m \x1b[1;38:5:9mbold\x1b[m\x1b[K\n", False),
        (b"\x1b[2J", True),
        (b"\x1b[5A", True),
        (b"\x1b[?25l", True),
        (b"\x1b]0;title\x07", True),
        (b"\x1b7", True),
        (b"cut \x1b[3", True),
        (b"cut \x1b", True),
    ],
)
def test_what_moves_the_cursor(data: bytes, moves: bool) -> None:
    assert _moves(data) is moves


def test_a_terminal_that_is_not_ours_is_not_calm() -> None:
    master, slave = pty.openpty()
    try:
        assert not LiveLine(Screen(), slave)._is_calm()  # type: ignore[arg-type]
    finally:
        os.close(master)
        os.close(slave)


def test_what_it_says() -> None:
    assert said(3725, 1, 3 << 20, 10, 2) == "asl: 1:02:05, 1 process, 3 MiB, 10 events, 2 blocked"
    assert said(65, 4, 0, 0, 0) == "asl: 1:05, 4 processes, 0 MiB, 0 events, 0 blocked"
