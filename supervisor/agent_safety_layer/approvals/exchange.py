"""What the run's side needs of a queue: to put questions there in one go, and to hear of answers without waiting."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol

from agent_safety_layer.approval import ApprovalStatus, InMemoryApprovalQueue
from agent_safety_layer.errors import AslError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_safety_layer.approval import ApprovalQueue, ApprovalRequest


class QueueError(AslError):
    """The queue cannot be reached, or cannot be used."""


class Exchange(Protocol):
    """A queue as its asking side sees it. Every method but ``fileno`` may raise ``QueueError``; all but ``close`` are
    called from one thread."""

    def fileno(self) -> int:
        """Polls readable when ``settled`` may have something; -1 while there is nothing to wait for."""

    def submit_all(self, requests: Sequence[ApprovalRequest]) -> None:
        """Put requests where whoever answers finds them."""

    def settled(self) -> list[ApprovalRequest]:
        """Those of the submitted requests that no longer pend, each told once."""

    def finish(self, request_id: str, status: ApprovalStatus) -> ApprovalRequest | None:
        """The request, with this status unless it was answered before that; None when it is not known."""

    def close(self) -> None:
        """Let go of it."""


class Local:
    """Any queue of the library as an exchange. One that is not an ``InMemoryApprovalQueue`` costs a thread for each
    request that pends: that is how such a queue is waited for.
    """

    def __init__(self, queue: ApprovalQueue) -> None:
        self.queue = queue
        self._done: deque[str] = deque()
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """See ``Exchange``."""
        return self._fd

    def submit_all(self, requests: Sequence[ApprovalRequest]) -> None:
        """See ``Exchange``."""
        for request in requests:
            self.queue.submit(request)
            if isinstance(self.queue, InMemoryApprovalQueue):
                _, left = self.queue.watch(request.id, lambda name=request.id: self._tell(name))  # type: ignore[misc]
                if left is None:
                    self._tell(request.id)
            else:
                threading.Thread(target=self._wait, args=(request.id,), daemon=True).start()

    def _wait(self, request_id: str) -> None:
        self.queue.wait_for_response(request_id)
        self._tell(request_id)

    def _tell(self, request_id: str) -> None:
        with self._lock:
            if self._fd >= 0:
                self._done.append(request_id)
                os.eventfd_write(self._fd, 1)

    def settled(self) -> list[ApprovalRequest]:
        """See ``Exchange``."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass
        names = [self._done.popleft() for _ in range(len(self._done))]
        found = (self.queue.get_request(name) for name in names)
        return [request for request in found if request is not None]

    def finish(self, request_id: str, status: ApprovalStatus) -> ApprovalRequest | None:
        """See ``Exchange``."""
        request = self.queue.get_request(request_id)
        if request is not None and request.is_pending:
            if isinstance(self.queue, InMemoryApprovalQueue):
                self.queue.cancel(request_id)
                request = self.queue.get_request(request_id)
            if request is not None and not request.is_approved:
                request.status = status
        return request

    def close(self) -> None:
        """See ``Exchange``."""
        with self._lock:
            os.close(self._fd)
            self._fd = -1
