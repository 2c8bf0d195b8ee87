"""One line that says how the run is going, below what the command prints (``-v`` on a terminal).

    command ── pseudo-terminal ── ``Output`` ── terminal
                                     │ the line is taken away first, and comes back where a line of output has ended

It is drawn only where the cursor is known to stand at the beginning of a line: never after half a line, a prompt
included, never while the terminal's echo is off, in the background, or once the command has moved the cursor or
changed the terminal's modes, as programs do that use the whole screen.
"""

from __future__ import annotations

import _thread
import os
from termios import ECHO, ICANON, tcgetattr
from termios import error as termios_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.terminal import Stderr

EVERY_S = 0.5
_ERASE = "\r\x1b[K"
_HARMLESS = frozenset(b"0123456789;:")  # what colours are made of, up to an m


class LiveLine:
    """The line on the terminal *fd*, written by *stderr*, which never waits."""

    def __init__(self, stderr: Stderr, fd: int = 2) -> None:
        self._stderr = stderr
        self._fd = fd
        self._lock = _thread.allocate_lock()
        self._shown = False
        self._at_start = True
        self._whole_screen = False
        stderr.before_write = self.clear

    def draw(self, text: str) -> None:
        """Show *text*, cut to the terminal's width, if the line has a place now."""
        if not self._lock.acquire(False):
            return  # something is being printed
        try:
            if self._at_start and not self._whole_screen and self._is_calm():
                width = os.get_terminal_size(self._fd).columns
                self._shown = self._stderr.put(f"{_ERASE}\x1b[2m{text[: max(width - 1, 0)]}\x1b[0m") or self._shown
            elif self._shown:
                self._erase()
        except OSError:
            pass
        finally:
            self._lock.release()

    def clear(self) -> None:
        """Take the line away, if it is there."""
        if self._lock.acquire(False):
            try:
                self._erase()
            finally:
                self._lock.release()

    def begin(self, data: bytes) -> None:
        """*data* is about to be printed; until ``end`` nothing is drawn."""
        self._lock.acquire()
        self._erase()
        self._at_start = data.endswith(b"\n")
        self._whole_screen = self._whole_screen or _moves(data)

    def end(self) -> None:
        """It was."""
        self._lock.release()

    def give_up(self) -> None:
        """The command has taken over the terminal."""
        self._whole_screen = True

    def _erase(self) -> None:
        if self._shown and self._stderr.put(_ERASE):
            self._shown = False

    def _is_calm(self) -> bool:
        try:
            usual = ECHO | ICANON
            return os.tcgetpgrp(self._fd) == os.getpgrp() and tcgetattr(self._fd)[3] & usual == usual
        except (OSError, termios_error):
            return False


def _moves(data: bytes) -> bool:
    """Whether the output does more to a terminal than print lines in colours."""
    at = data.find(b"\x1b")
    while at >= 0:
        end = at + 2
        while end < len(data) and data[end] in _HARMLESS:
            end += 1
        if data[at + 1 : at + 2] != b"[" or data[end : end + 1] not in (b"m", b"K"):
            return True
        at = data.find(b"\x1b", end)
    return False


def said(elapsed_s: float, processes: int, memory_bytes: int, events: int, blocked: int) -> str:
    """What the line says."""
    minutes, seconds = divmod(int(elapsed_s), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    plural = "" if processes == 1 else "es"
    return (
        f"asl: {clock}, {processes} process{plural}, {memory_bytes / 2**20:.0f} MiB, {events} events, {blocked} blocked"
    )
