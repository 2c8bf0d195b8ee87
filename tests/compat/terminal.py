"""A terminal with a program on it: keys go in when the screen shows what they answer."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_CONTROL = re.compile(
    rb"\x1b(\[[0-9;?>=! ]*[a-zA-Z@`]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][A-Z0-9]|[=>78cDEHMNOZ])|[\x07\x0e\x0f\x00]"
)


class Terminal:
    """*argv* on a terminal of its own, 80 by 24. Use as a context manager: the program ends with it."""

    def __init__(self, argv: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> None:
        self.seen = b""
        self.status: int | None = None
        self._looked = 0
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(cwd)
                os.execvpe(argv[0], list(argv), {**environment, "TERM": "xterm"})
            finally:
                os._exit(127)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    @property
    def text(self) -> str:
        """What was shown, without control sequences and carriage returns."""
        return _CONTROL.sub(b"", self.seen).replace(b"\r", b"").decode("utf-8", "backslashreplace")

    def wait(self, pattern: str, timeout_s: float = 20) -> str:
        """Read until *pattern* (a regular expression) is shown after what an earlier wait found; the match."""
        until = time.monotonic() + timeout_s
        while True:
            found = re.compile(pattern, re.MULTILINE).search(self.text, self._looked)
            if found:
                self._looked = found.end()
                return found.group()
            left = until - time.monotonic()
            if left <= 0 or not self._read(left):
                raise AssertionError(f"never shown: {pattern!r}; instead:\n{self.text[self._looked :]}")

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self.fd], [], [], timeout_s)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            return False
        self.seen += data
        return bool(data)

    def type(self, keys: str) -> None:
        """Press the keys."""
        os.write(self.fd, keys.encode())

    def resize(self, rows: int, columns: int) -> None:
        """Another size, as when a window is dragged."""
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def end(self, timeout_s: float = 20) -> int:
        """Wait for the program's end; its status as ``subprocess`` tells it."""
        until = time.monotonic() + timeout_s
        while self._read(max(until - time.monotonic(), 0)):
            pass
        pid, status = os.waitpid(self.pid, 0)
        assert pid == self.pid
        self.status = os.waitstatus_to_exitcode(status)
        return self.status
