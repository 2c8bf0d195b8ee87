"""The standard streams of a child that somebody else starts: files, pipes, and pipes that we feed and read."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Sequence
from typing import IO, Any

Stream = int | IO[Any] | None
_CHUNK = 1 << 16


class Streams:
    """What becomes of the child's 0, 1 and 2: ``theirs`` are the descriptors it gets, ``ours`` our ends of pipes."""

    def __init__(self, wanted: Sequence[Stream]) -> None:
        self.theirs: dict[int, int] = {}
        self.ours: dict[int, int] = {}
        self._made: list[int] = []
        try:
            for place, each in enumerate(wanted):
                self._place(place, each)
        except BaseException:
            self.close()
            raise

    def _place(self, place: int, wanted: Stream) -> None:
        if wanted == subprocess.PIPE:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            self.theirs[place], self.ours[place] = (writer, reader) if place else (reader, writer)
            self._made.append(self.theirs[place])
        elif wanted == subprocess.DEVNULL:
            self.theirs[place] = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            self._made.append(self.theirs[place])
        elif wanted == subprocess.STDOUT and place == 2:
            if 1 in self.theirs:
                self.theirs[2] = self.theirs[1]
        elif wanted is None:
            try:
                os.fstat(place)
            except OSError:
                return  # closed here, closed there
            self.theirs[place] = place
        else:
            self.theirs[place] = wanted if isinstance(wanted, int) else wanted.fileno()

    def close(self) -> None:
        """Give up what the child has got by now, and what nobody has taken."""
        for fd in (*self._made, *self.ours.values()):
            os.close(fd)
        self._made, self.ours = [], {}


class Pipes:
    """Our ends of the pipes that are fed and read for the user: *data* goes into ``stdin``, the rest is kept."""

    def __init__(self, ours: dict[int, int], data: bytes) -> None:
        self.captured: dict[int, bytearray] = {place: bytearray() for place in ours if place}
        self.open = {fd: place for place, fd in ours.items()}
        self._left = memoryview(data)
        for fd in self.open:
            os.set_blocking(fd, False)

    def register(self, poll: select.poll) -> None:
        """Have *poll* wait for them."""
        for fd, place in self.open.items():
            poll.register(fd, select.POLLIN if place else select.POLLOUT)

    def move(self, fd: int, poll: select.poll) -> None:
        """Read or write what can be; close what has come to its end."""
        place = self.open[fd]
        try:
            if place:
                data = os.read(fd, _CHUNK)
                self.captured[place] += data
                more = bool(data)
            else:
                self._left = self._left[os.write(fd, self._left[:_CHUNK]) :]
                more = bool(self._left)
        except BlockingIOError:
            return
        except BrokenPipeError:
            more = False
        if not more:
            poll.unregister(fd)
            del self.open[fd]
            os.close(fd)

    def close(self) -> None:
        """Give them up."""
        for fd in self.open:
            os.close(fd)
        self.open.clear()


__all__ = ["Pipes", "Stream", "Streams"]
