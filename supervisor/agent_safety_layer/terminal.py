"""Text for terminals: hostile names made visible, colours, and writes that never block the supervisor."""

from __future__ import annotations

import os
import select
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

COLOURS = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "dim": "2", "bold": "1"}


def visible(text: str, limit: int = 0) -> str:
    r"""The text with each character that a terminal would act on or hide shown as an escape, cut to *limit* if given.

    Control characters, escape sequences, bidirectional overrides, zero-width and unassigned characters appear as
    ``\x1b``, ``\u202e``, ``\U000e0001``. A text cut short has ``…`` in its middle.
    """
    if limit and len(text) > limit:
        head = (limit - 1) // 2
        text = f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(ord(c)) for c in text)


def _escape(code: int) -> str:
    short = {9: r"\t", 10: r"\n", 13: r"\r"}.get(code)
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def colour_wanted(when: str, fd: int) -> bool:
    """Whether to colour what goes to *fd*: ``when`` is ``always never auto``: terminals, unless ``NO_COLOR`` is set."""
    if when != "auto":
        return when == "always"
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and os.isatty(fd)


def paint(text: str, colour: str, on: bool) -> str:
    """The text in a colour of ``COLOURS`` when *on*."""
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if on else text


class Stderr:
    """Standard error, shared with the tracees, written without ever waiting.

    A tree that fills the pipe, or a terminal that is stopped, must not stop the supervisor's loop. O_NONBLOCK on the
    inherited descriptor would be seen by the children, so pipes and terminals are opened again through ``/proc``; what
    cannot be (a socket) is polled before each write, with messages small enough to fit.
    """

    def __init__(self, fd: int = 2) -> None:
        self._given = fd
        self._fd = -1
        self.muted = False  # while a question stands on the terminal: nothing is written
        self.before_write: Callable[[], None] = lambda: None
        self._poll: select.poll | None = None

    def write(self, text: str) -> bool:
        """Whether the text was written whole. What does not fit is lost, and nothing is raised."""
        self.before_write()
        return self.put(text)

    def put(self, text: str) -> bool:
        """Like ``write``, without calling ``before_write`` first."""
        if self.muted:
            return False
        if self._fd < 0:
            self._open()
        data = text.encode("utf-8", "backslashreplace")
        try:
            if self._poll is not None and not any(event & select.POLLOUT for _, event in self._poll.poll(0)):
                return False
            return os.write(self._fd, data) == len(data)
        except OSError:
            return False

    def close(self) -> None:
        """Release the descriptor made for this; the one given stays open."""
        if self._fd not in (-1, self._given):
            os.close(self._fd)
        self._fd, self._poll = -1, None

    def _open(self) -> None:
        self._fd = self._given
        try:
            mode = os.fstat(self._given).st_mode
            if stat.S_ISFIFO(mode) or os.isatty(self._given):
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._fd = os.open(f"/proc/self/fd/{self._given}", flags)
                return
            if stat.S_ISREG(mode):  # never blocks
                return
        except OSError:
            pass
        self._poll = select.poll()
        self._poll.register(self._given, select.POLLOUT)
