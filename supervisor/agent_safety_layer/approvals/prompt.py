"""One question on a terminal, answered with one key.

What is typed before the question stands, and for a moment after, is no answer to it. Nor is what comes in one piece: a
terminal answers some escape sequences as if they had been typed, text chosen by whoever printed them included, and a
paste comes so, too. A key comes alone. Every key but those offered means no, Enter among them.
"""

from __future__ import annotations

import os
import select
import termios
from time import monotonic
from typing import TYPE_CHECKING, Any

from agent_safety_layer.approvals.question import ALWAYS, ONCE, PROGRAM, RUN, SCOPE_WORDS, Answered, lines
from agent_safety_layer.terminal import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.approval import ApprovalRequest

_CALM_S = 0.4  # nobody reads a question and answers it faster
_TOGETHER_S = 0.03
_KEYS = {b"y": ONCE, b"r": RUN, b"p": PROGRAM, b"a": ALWAYS}
# Whatever was printed before: attributes, palette, character set, scrolling region, cursor, mouse and paste reports.
_SANE = (
    "\x18\x1b[!p\x1b[0m\x1b(B\x0f\x1b]104\x07\x1b]110\x07\x1b]111\x07\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1004l"
    "\x1b[?2004l\x1b[?25h"
)


class Hangup(Exception):
    """The terminal is gone."""


class Interrupt(Exception):
    """Ctrl-C instead of an answer."""


class Prompt:
    """Questions on the terminal *fd*. ``wake`` polls readable when the question may no longer be open, until ``hush``;
    ``undisturbed`` says whether nobody else can have written on the terminal since it was last asked, and sees to that
    from then on.
    """

    def __init__(
        self,
        fd: int,
        responder: str,
        *,
        wake: int,
        hush: Callable[[], object],
        undisturbed: Callable[[], bool] = lambda: True,
    ) -> None:
        self._fd = fd
        self._responder = responder
        self._undisturbed = undisturbed
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._wake = wake
        self._hush = hush
        self._poll.register(wake, select.POLLIN)

    def put(self, request: ApprovalRequest, is_open: Callable[[], bool]) -> Answered | None:
        """The answer; None when the question was settled elsewhere. The terminal's settings are as before then.

        Raises ``OSError`` and ``Hangup`` when the terminal cannot be asked, ``Interrupt`` for Ctrl-C, which is a no.
        """
        saved = termios.tcgetattr(self._fd)
        try:
            self._own(saved)
            answer = self._dialogue(request, is_open)
            self._write(f"\r\n{_outcome(answer)}\r\n")
        except Interrupt:
            self._write("\r\nasl: no\r\n")
            raise
        finally:
            try:
                termios.tcflush(self._fd, termios.TCIFLUSH)
                termios.tcsetattr(self._fd, termios.TCSANOW, saved)
            except termios.error:
                pass  # it is gone
        return answer

    def _own(self, saved: list[Any]) -> None:
        """One byte at a time, unechoed, no signals; what was typed so far is dropped."""
        mine = [*saved[:6], list(saved[6])]
        mine[0] = (mine[0] | termios.ICRNL) & ~termios.IXON
        mine[1] &= ~termios.OPOST
        mine[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
        mine[6][termios.VMIN], mine[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._fd, termios.TCSAFLUSH, mine)

    def _dialogue(self, request: ApprovalRequest, is_open: Callable[[], bool]) -> Answered | None:
        offered = request.metadata.get("scopes", [ONCE])
        while True:
            key = self._key(request, is_open, lambda: self._write(_shown(request)))
            if key is None:
                return None
            scope = _KEYS.get(key.lower(), "")
            if scope not in offered:
                message = self._line("why not (for the agent): ", request, is_open) if key in b"mM" else ""
                return Answered(request.id, False, self._responder, message or None)
            if scope != ALWAYS:
                return Answered(request.id, True, self._responder, None, scope)
            key = self._key(request, is_open, lambda: self._write(_always(request)))
            if key is None:
                return None
            if key in b"yY":
                return Answered(request.id, True, self._responder, None, ALWAYS)

    def _key(self, request: ApprovalRequest, is_open: Callable[[], bool], draw: Callable[[], None]) -> bytes | None:
        """The key that answers what *draw* shows; None when the question is settled."""
        self._undisturbed()
        draw()
        termios.tcflush(self._fd, termios.TCIFLUSH)
        calm = False
        while is_open():
            left = request.time_remaining
            for fd, what in self._poll.poll(min(left, 1.0 if calm else _CALM_S) * 1000 + 1):
                if fd == self._wake:
                    self._hush()
                elif what & select.POLLIN:
                    break
                else:
                    raise Hangup
            else:
                calm = True
                if not self._undisturbed():
                    draw()
                    calm = False
                continue
            typed = self._typed()
            if not self._undisturbed():
                draw()
                calm = False
            elif calm and len(typed) == 1:
                if typed == b"\x03":
                    raise Interrupt
                return typed
            else:
                calm = False
        return None

    def _typed(self) -> bytes:
        """What was typed, with all that follows at once."""
        typed = b""
        while True:
            data = os.read(self._fd, 4096)
            if not data:
                raise Hangup
            typed += data
            alone = select.poll()
            alone.register(self._fd, select.POLLIN)
            if not alone.poll(_TOGETHER_S * 1000):
                return typed

    def _line(self, label: str, request: ApprovalRequest, is_open: Callable[[], bool]) -> str:
        """A line of text; empty for Escape."""
        self._write(f"\r\n{label}")
        typed = b""
        until = monotonic() + request.time_remaining
        while is_open() and monotonic() < until:
            for fd, _ in self._poll.poll(1000):
                if fd == self._wake:
                    self._hush()
                    continue
                data = os.read(self._fd, 4096)
                if not data:
                    raise Hangup
                for byte in data:
                    if byte in b"\r\n":
                        return _text(typed)
                    if byte in b"\x1b\x03":
                        return ""
                    typed = _text(typed)[:-1].encode() if byte in b"\x7f\x08" else typed + bytes((byte,))
                self._write(f"\r\x1b[K{label}{_text(typed)}")
        return _text(typed)

    def _write(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(self._fd, data) :]


def _text(typed: bytes) -> str:
    return visible(typed.decode("utf-8", "ignore"), 500)


def _shown(request: ApprovalRequest) -> str:
    """The question as it stands on the terminal."""
    offered = request.metadata.get("scopes", [ONCE])
    keys = "  ".join(
        f"\x1b[1m{key.decode()}\x1b[0m {SCOPE_WORDS[scope]}" for key, scope in _KEYS.items() if scope in offered
    )
    text = "".join(f"  {label:<7}{said}\r\n" for label, said in lines(request))
    left = f"{request.time_remaining:.0f} s left"
    return (
        f"{_SANE}\r\n\x1b[1m\x1b[7m asl asks \x1b[0m {left}; the programs on this terminal wait meanwhile\r\n{text}"
        f"  allow: {keys}\r\n"
        "  deny:  \x1b[1mn\x1b[0m no  \x1b[1mm\x1b[0m no, with a message; any other key, and silence, is no > "
    )


def _always(request: ApprovalRequest) -> str:
    written = request.metadata.get("always", {})
    return (
        f"{_SANE}\r\n  This line would be added to {visible(str(written.get('file', '')))}:\r\n"
        f"    {visible(str(written.get('line', '')))}\r\n  Write it?  \x1b[1my\x1b[0m yes; any other key: back > "
    )


def _outcome(answer: Answered | None) -> str:
    if answer is None:
        return "asl: no longer asked"
    if not answer.approved:
        return "asl: no"
    return f"asl: yes, {SCOPE_WORDS[answer.scope]}"
