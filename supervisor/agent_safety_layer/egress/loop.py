"""The egress process's event loop: descriptors, timers, and results from other threads, on one epoll.

Level-triggered: a callback that leaves something undone is called again. Callbacks must not block and must not raise.
"""

from __future__ import annotations

import heapq
import os
import select
import time
from collections.abc import Callable

IN, OUT = select.EPOLLIN, select.EPOLLOUT
Callback = Callable[[int], None]


class Room:
    """Places for so many of something; ``full`` when none is left."""

    __slots__ = ("_left",)

    def __init__(self, places: int) -> None:
        self._left = places

    @property
    def full(self) -> bool:
        return self._left <= 0

    def enter(self) -> None:
        self._left -= 1

    def leave(self) -> None:
        self._left += 1


class Timer:
    """A call that is due; ``cancel`` makes it never happen."""

    __slots__ = ("call", "due")

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None

    def __lt__(self, other: Timer) -> bool:
        return self.due < other.due


class Loop:
    """Calls back for descriptors that are ready and times that have come, until ``stop``."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._timers: list[Timer] = []
        self._handed: list[Callable[[], None]] = []
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._running = True
        self.watch(self._wake, IN, self._take_handed)

    def watch(self, fd: int, mask: int, callback: Callback) -> None:
        """From now on *callback* gets the events of *fd* that are in *mask* (errors and hang-ups always are)."""
        if fd in self._callbacks:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
        self._callbacks[fd] = callback

    def unwatch(self, fd: int) -> None:
        """No more calls for *fd*, of which the loop need not know. Call it before closing the descriptor."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """*call* happens once, after so many seconds."""
        timer = Timer(time.monotonic() + seconds, call)
        heapq.heappush(self._timers, timer)
        return timer

    def hand_over(self, call: Callable[[], None]) -> None:
        """*call* happens soon, in the loop's thread. The only method that other threads may use."""
        self._handed.append(call)
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        while self._running:
            self.run_once()

    def run_once(self) -> None:
        """One wait, until something is ready or due, and all calls that it gives."""
        for fd, events in self._epoll.poll(self._until_due()):
            callback = self._callbacks.get(fd)  # an earlier callback of this round may have dropped it
            if callback is not None:
                callback(events)
        now = time.monotonic()
        while self._timers and (self._timers[0].due <= now or self._timers[0].call is None):
            call = heapq.heappop(self._timers).call
            if call is not None:
                call()

    def _until_due(self) -> float | None:
        while self._timers and self._timers[0].call is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0].due - time.monotonic()) if self._timers else None

    def _take_handed(self, _events: int) -> None:
        os.eventfd_read(self._wake)
        handed, self._handed = self._handed, []
        for call in handed:
            call()
