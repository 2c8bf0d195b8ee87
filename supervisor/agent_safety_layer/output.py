"""Counting what the tree prints: standard output and error pass through here when the policy limits them, and those
that are terminals when a live line stands below them.

    tree ── pipe, or pseudo-terminal where ours is a terminal ── counted by a thread ── our own stdout and stderr

What arrives beyond the limit is dropped. A reader that is slow slows the tree down, as it would without this; a reader
that has gone gives the tree SIGPIPE. The pseudo-terminal passes bytes unchanged: the real terminal does the rest, and
it gets the modes (no echo, no lines) that the tree sets on the other.
"""

from __future__ import annotations

import _thread
import os
import select
import stat
from errno import EIO
from termios import OPOST, TCSANOW, TIOCGWINSZ, TIOCSWINSZ, tcgetattr, tcsetattr
from termios import error as termios_error
from time import sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent_safety_layer.live import LiveLine

_CHUNK = 1 << 16
_MUTED_S = 0.05  # until it is looked again whether a question still stands


class Output:
    """Replacements for descriptors 1 and 2 that count. ``count`` is what has come so far, in bytes.

    ``given`` pairs the descriptors that the tree gets with their places, except those in ``closed``. Without a limit
    only terminals are replaced. A ``line`` is taken away before something is printed. Nothing is while ``muted``: a
    question stands on the terminal.
    """

    def __init__(
        self,
        limit_bytes: int | None,
        closed: tuple[int, ...] = (),
        line: LiveLine | None = None,
        muted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.count = 0
        self._muted = muted
        self._line = line
        self.given: list[tuple[int, int]] = []
        self._limit = 1 << 62 if limit_bytes is None else limit_bytes
        self._modes: dict[int, list[Any]] = {}  # of our ends of pseudo-terminals, as last seen
        self._targets: dict[int, int] = {}  # our end: where it goes on to
        self._terminals: list[tuple[int, int]] = []  # our end of a pseudo-terminal, and the terminal it stands for
        self._done = _thread.allocate_lock()
        self._reached: Callable[[], None] = lambda: None
        places = [place for place in (1, 2) if place not in closed and (limit_bytes is not None or os.isatty(place))]
        if len(places) == 2 and _same(1, 2):
            self._replace((1, 2))
        else:
            for place in places:
                self._replace((place,))

    def _replace(self, places: tuple[int, ...]) -> None:
        if os.isatty(places[0]):
            ours, theirs = os.openpty()
            self._terminals.append((ours, places[0]))
            _make_transparent(theirs, places[0])
            self._modes[ours] = tcgetattr(ours)
        else:
            ours, theirs = os.pipe2(os.O_CLOEXEC)
        self._targets[ours] = places[0]
        self.given += [(theirs, place) for place in places]

    def start(self, reached: Callable[[], None]) -> None:
        """Begin to pass on. The tree has its ends by now; our copies of them are closed. *reached* is called from a
        thread, once.
        """
        self._reached = reached
        for theirs in {fd for fd, _ in self.given}:
            os.close(theirs)
        self.given = []
        self.resize()
        self._done.acquire()
        _thread.start_new_thread(self._run, ())

    def resize(self) -> bool:
        """Give the pseudo-terminals the size of the terminals that they stand for. True if one of them changed."""
        from fcntl import ioctl

        changed = False
        for ours, real in self._terminals:
            try:
                size, before = ioctl(real, TIOCGWINSZ, bytes(8)), ioctl(ours, TIOCGWINSZ, bytes(8))
                if size != before:
                    ioctl(ours, TIOCSWINSZ, size)
                    changed = True
            except OSError:
                continue
        return changed

    def drain(self, timeout_s: float = -1) -> None:
        """Wait until all that was printed has been passed on; at most *timeout_s* if that is not negative."""
        if self._done.acquire(timeout=timeout_s):
            self._done.release()

    def _run(self) -> None:
        poll = select.poll()
        for ours in self._targets:
            poll.register(ours, select.POLLIN)
        left = set(self._targets)
        try:
            while left:
                for fd, _ in poll.poll():
                    if not self._pass_on(fd):
                        poll.unregister(fd)
                        os.close(fd)
                        left.discard(fd)
        finally:
            self._done.release()

    def _pass_on(self, fd: int) -> bool:
        """Pass on what is there; False when no more will come, or nobody takes it."""
        try:
            data = os.read(fd, _CHUNK)
        except OSError as error:
            if error.errno == EIO:  # a pseudo-terminal that nobody has open any more
                return False
            raise
        if not data:
            return False
        before = self.count
        self.count += len(data)
        if self.count >= self._limit > before:
            self._reached()
        data = data[: max(self._limit - before, 0)]
        if self._line is None:
            return self._print(fd, data)
        self._line.begin(data)
        try:
            return self._print(fd, data)
        finally:
            self._line.end()

    def _print(self, fd: int, data: bytes) -> bool:
        while self._muted():
            sleep(_MUTED_S)
        self._pass_modes(fd)
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._targets[fd], view) :]
            except BlockingIOError:  # somebody has made it non-blocking
                waiting = select.poll()
                waiting.register(self._targets[fd], select.POLLOUT)
                waiting.poll()
            except OSError:
                return False
        return True

    def _pass_modes(self, fd: int) -> None:
        """Set on the terminal what the tree has set on the pseudo-terminal since the last look."""
        before = self._modes.get(fd)
        if before is None:
            return
        try:
            now = tcgetattr(fd)
            if now != before:
                self._modes[fd] = now
                real = tcgetattr(self._targets[fd])
                real[0], real[3], real[6] = now[0], now[3], now[6]
                tcsetattr(self._targets[fd], TCSANOW, real)
                if self._line is not None:
                    self._line.give_up()
        except (OSError, termios_error):
            pass  # it has gone


def _same(first: int, second: int) -> bool:
    one, other = os.fstat(first), os.fstat(second)
    same = (one.st_dev, one.st_ino, one.st_rdev) == (other.st_dev, other.st_ino, other.st_rdev)
    return same and not stat.S_ISREG(one.st_mode)  # two files opened apart have their own offsets


def _make_transparent(fd: int, real: int) -> None:
    """The modes of the real terminal, except that output passes unchanged."""
    attributes = tcgetattr(real)
    attributes[1] &= ~OPOST
    tcsetattr(fd, TCSANOW, attributes)
