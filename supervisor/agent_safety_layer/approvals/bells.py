"""Bells: how processes of one user wake each other when their shared queue has changed.

Whoever waits has a FIFO in a folder that only this user can enter, and holds it open. Whoever changes the queue writes
a byte into each. A FIFO without a reader is left over from a process that died: that is also how one is found out.
"""

from __future__ import annotations

import errno
import os

from agent_safety_layer.state import make_private

_MAKING = "."


class Bell:
    """One FIFO, held open. ``fileno`` polls readable once it was rung."""

    def __init__(self, folder: str, name: str = "") -> None:
        make_private(folder)
        self.name = name or os.urandom(8).hex()
        self._path = os.path.join(folder, self.name)
        # Whoever rings removes a bell that nobody holds, so it gets its name when we do.
        making = os.path.join(folder, f"{_MAKING}{os.urandom(8).hex()}")
        os.mkfifo(making, 0o600)
        # For both directions, so that the end of one who rings is not the end of the FIFO.
        self._fd = os.open(making, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        os.rename(making, self._path)

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def hush(self) -> None:
        """Take note of all that was rung so far."""
        try:
            while len(os.read(self._fd, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Take the bell away."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass


def is_heard(folder: str, name: str) -> bool:
    """Whether the bell of this name has somebody who would hear it."""
    try:
        os.close(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW))
    except OSError as error:
        return error.errno not in (errno.ENXIO, errno.ENOENT)
    return True


def ring(folder: str) -> None:
    """Ring every bell in the folder; those that nobody hears any more are removed."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        if name.startswith(_MAKING):
            continue
        path = os.path.join(folder, name)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.ENXIO:
                _remove(path)
            continue
        try:
            os.write(fd, b"!")
        except (BlockingIOError, BrokenPipeError):
            pass  # it rings already, or has just gone
        finally:
            os.close(fd)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
