"""Counting what the tree prints: standard output and error pass through here when the policy limits them.

    tree ── pipe, or pseudo-terminal where ours is a terminal ── counted by a thread ── our own stdout and stderr

What arrives beyond the limit is dropped. A reader that is slow slows the tree down, as it would without this; a reader
that has gone gives the tree SIGPIPE. The pseudo-terminal passes bytes unchanged: the real terminal does the rest.
"""

from __future__ import annotations

import _thread
import os
import select
import stat
from errno import EIO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 1 << 16


class Output:
    """Replacements for descriptors 1 and 2 that count. ``count`` is what has come so far, in bytes.

    ``given`` pairs the descriptors that the tree gets with their places, except those in ``closed``.
    """

    def __init__(self, limit_bytes: int, closed: tuple[int, ...] = ()) -> None:
        self.count = 0
        self.given: list[tuple[int, int]] = []
        self._limit = limit_bytes
        self._targets: dict[int, int] = {}  # our end: where it goes on to
        self._terminals: list[tuple[int, int]] = []  # our end of a pseudo-terminal, and the terminal it stands for
        self._done = _thread.allocate_lock()
        self._reached: Callable[[], None] = lambda: None
        places = [place for place in (1, 2) if place not in closed]
        if len(places) == 2 and _same(1, 2):
            self._replace((1, 2))
        else:
            for place in places:
                self._replace((place,))

    def _replace(self, places: tuple[int, ...]) -> None:
        if os.isatty(places[0]):
            ours, theirs = os.openpty()
            self._terminals.append((ours, places[0]))
            _make_transparent(theirs)
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
        from termios import TIOCGWINSZ, TIOCSWINSZ

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


def _same(first: int, second: int) -> bool:
    one, other = os.fstat(first), os.fstat(second)
    same = (one.st_dev, one.st_ino, one.st_rdev) == (other.st_dev, other.st_ino, other.st_rdev)
    return same and not stat.S_ISREG(one.st_mode)  # two files opened apart have their own offsets


def _make_transparent(fd: int) -> None:
    from termios import OPOST, TCSANOW, tcgetattr, tcsetattr

    attributes = tcgetattr(fd)
    attributes[1] &= ~OPOST
    tcsetattr(fd, TCSANOW, attributes)
