"""The thread between a desk and a queue: it writes questions down, hears of answers, and minds the deadlines.

    loop    desk.ask ─► submit ─┐                                    ┌─► later(settled) ─► the call goes on
    clerk              poll: inbox · queue's descriptor · next deadline ┘

A queue that cannot be reached is tried again every second until a question's deadline; then nobody has answered.
"""

from __future__ import annotations

import heapq
import os
import select
import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from agent_safety_layer.approval import ApprovalStatus
from agent_safety_layer.approvals.exchange import QueueError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.approval import ApprovalRequest
    from agent_safety_layer.approvals.exchange import Exchange

_RETRY_S = 1.0


class Clerk:
    """One thread. ``settled(id, request, why)`` is called there, once for each question that was submitted and not
    withdrawn: the request, or None and why nobody could be asked.
    """

    def __init__(self, queue: Exchange, settled: Callable[[str, ApprovalRequest | None, str], None]) -> None:
        self._queue = queue
        self._settled = settled
        self._inbox: deque[tuple[str, Callable[[], ApprovalRequest] | None, float]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._deadlines: list[tuple[float, str]] = []
        self._open: dict[str, float] = {}
        self._unsent: dict[str, ApprovalRequest] = {}
        self._closing = False
        self._lost = ""  # why the queue could not be reached when it was last tried
        self._thread = threading.Thread(target=self._work, name="asl-approvals", daemon=True)
        self._thread.start()

    def submit(self, request_id: str, make: Callable[[], ApprovalRequest], timeout_s: float) -> None:
        """Have a question put; *make* is called in the thread."""
        self._inbox.append((request_id, make, monotonic() + timeout_s))
        os.eventfd_write(self._wake, 1)

    def withdraw(self, request_id: str) -> None:
        """Nobody waits for this answer any more."""
        self._inbox.append((request_id, None, 0.0))
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Take back what is open, as far as that is possible at once, and end the thread."""
        self._closing = True
        os.eventfd_write(self._wake, 1)
        self._thread.join(2.0)  # a queue far away may hang; this run is over

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closing:
            self._wait()
            try:
                os.eventfd_read(self._wake)
            except BlockingIOError:
                pass
            self._take_in()
            self._send()
            self._hear()
            self._time_out()
        for request_id in tuple(self._open):
            self._end(request_id, ApprovalStatus.CANCELLED)
        self._queue.close()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        fd = self._queue.fileno()
        if fd >= 0:
            poll.register(fd, select.POLLIN)
        until = self._deadlines[0][0] - monotonic() if self._deadlines else None
        if self._unsent or (self._open and (fd < 0 or self._lost)):
            until = _RETRY_S if until is None else min(until, _RETRY_S)
        poll.poll(None if until is None else max(until, 0) * 1000 + 1)

    def _take_in(self) -> None:
        while self._inbox:
            request_id, make, deadline = self._inbox.popleft()
            if make is not None:
                self._open[request_id] = deadline
                heapq.heappush(self._deadlines, (deadline, request_id))
                self._unsent[request_id] = make()
            elif self._open.pop(request_id, None) is not None and self._unsent.pop(request_id, None) is None:
                self._end(request_id, ApprovalStatus.CANCELLED)

    def _send(self) -> None:
        if self._unsent:
            try:
                self._queue.submit_all(tuple(self._unsent.values()))
            except QueueError as error:
                self._lost = str(error)
            else:
                self._lost = ""
                self._unsent.clear()

    def _hear(self) -> None:
        if not self._open:
            return
        try:
            settled = self._queue.settled()
        except QueueError as error:
            self._lost = str(error)
            return
        if not self._unsent:
            self._lost = ""
        for request in settled:
            if self._open.pop(request.id, None) is not None:
                self._settled(request.id, request, "")

    def _time_out(self) -> None:
        now = monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, request_id = heapq.heappop(self._deadlines)
            if self._open.pop(request_id, None) is None:
                continue
            if self._unsent.pop(request_id, None) is not None:
                self._settled(request_id, None, f"the queue could not be reached: {self._lost}")
            else:
                request = self._end(request_id, ApprovalStatus.TIMEOUT)
                self._settled(request_id, request, f"the queue was lost: {self._lost}" if request is None else "")

    def _end(self, request_id: str, status: ApprovalStatus) -> ApprovalRequest | None:
        try:
            return self._queue.finish(request_id, status)
        except QueueError as error:
            self._lost = str(error)
            return None
