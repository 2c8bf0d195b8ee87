"""A command on a pseudo-terminal, as a person at it would see it and type."""

from __future__ import annotations

import os
import pty
import select
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

QUESTION, ALWAYS = b"and silence, is no > ", b"any other key: back > "
OUTCOME = b"\r\nasl: "
_PATIENCE_S = 60.0


class Typist:
    """One command on a terminal of its own. ``seen`` is all that came so far."""

    def __init__(self, argv: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(cwd)
                os.execve(argv[0], list(argv), dict(environment))
            finally:
                os._exit(99)
        self.seen = b""
        self._at = 0
        self.status: int | None = None

    def read(self, wait_s: float) -> bool:
        """Whether something more came within the time."""
        if not select.select([self.fd], [], [], wait_s)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            data = b""
        self.seen += data
        return bool(data)

    def expect(self, text: bytes) -> bytes:
        """Wait until *text* comes after what was expected last; what came up to its end."""
        until = time.monotonic() + _PATIENCE_S
        while text not in self.seen[self._at :]:
            assert time.monotonic() < until, (text, self.seen[self._at :])
            if not self.read(1.0) and self.gone():
                raise AssertionError((text, self.seen[self._at :]))
        end = self.seen.index(text, self._at) + len(text)
        before, self._at = self.seen[self._at : end], end
        return before

    def type(self, text: bytes) -> None:
        """Type at once."""
        os.write(self.fd, text)

    def press(self, key: bytes, until: bytes = OUTCOME) -> None:
        """Press a key, again after a while if nothing came of it, until *until* is shown: keys that come too early are
        no answers.
        """
        limit = time.monotonic() + _PATIENCE_S
        while until not in self.seen[self._at :]:
            assert time.monotonic() < limit, (until, self.seen[self._at :])
            if not self.read(0.8):
                os.write(self.fd, key)
        self.expect(until)

    def answer(self, key: bytes) -> bytes:
        """Wait for a question and answer it; what was shown up to there."""
        shown = self.expect(QUESTION)
        self.press(key)
        return shown

    def gone(self) -> bool:
        """Whether the command has ended."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def finish(self) -> int:
        """Wait for the command's end; its exit status."""
        until = time.monotonic() + _PATIENCE_S
        while not self.gone():
            assert time.monotonic() < until, self.seen[-2000:]
            self.read(0.2)
        while self.read(0.0):
            pass
        assert self.status is not None
        return self.status

    def close(self) -> None:
        """End what is left."""
        if not self.gone():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)
