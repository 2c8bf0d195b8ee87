"""Approval by a person: operations wait at a gate for an answer, and no answer is a no.

    ApprovalRequest, ApprovalResponse   what is asked, what is answered
    ApprovalQueue                       where requests wait; InMemoryApprovalQueue holds them in this process
    ApprovalGate, AsyncApprovalGate     what operations wait at, for threads and for asyncio

Whoever answers may do so from any thread, or from any event loop.
"""

from __future__ import annotations

import inspect
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn

from agent_safety_layer.tracing import iso, new_id

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Event

_log = logging.getLogger("agent_safety_layer")


class ApprovalStatus(Enum):
    """Where a request stands."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


@dataclass
class ApprovalRequest:
    """A question to a person. ``requested_at`` is seconds since the epoch, ``timeout`` how long it stands."""

    id: str
    operation: str
    reason: str
    context: dict[str, Any]
    requested_at: float
    timeout: float
    status: ApprovalStatus = ApprovalStatus.PENDING
    responded_at: float | None = None
    responder: str | None = None
    response_message: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def is_pending(self) -> bool:
        """Whether nobody has answered yet."""
        return self.status is ApprovalStatus.PENDING

    @property
    def is_approved(self) -> bool:
        """Whether the answer was yes."""
        return self.status is ApprovalStatus.APPROVED

    @property
    def is_denied(self) -> bool:
        """Whether the answer was no."""
        return self.status is ApprovalStatus.DENIED

    @property
    def is_expired(self) -> bool:
        """Whether it still pends although its time is over."""
        return self.is_pending and time.time() - self.requested_at > self.timeout

    @property
    def time_remaining(self) -> float:
        """Seconds before it expires; 0 when it has, or has been answered."""
        return max(0, self.requested_at + self.timeout - time.time()) if self.is_pending else 0

    def to_dict(self) -> dict[str, Any]:
        """The request as plain values, with times for readers."""
        return {
            "id": self.id,
            "operation": self.operation,
            "reason": self.reason,
            "context": self.context,
            "requested_at": self.requested_at,
            "requested_at_iso": iso(self.requested_at),
            "timeout": self.timeout,
            "status": self.status.value,
            "responded_at": self.responded_at,
            "responded_at_iso": None if self.responded_at is None else iso(self.responded_at),
            "responder": self.responder,
            "response_message": self.response_message,
            "metadata": self.metadata,
        }


@dataclass
class ApprovalResponse:
    """An answer to the request of that id, by ``responder``, at ``timestamp`` (seconds since the epoch)."""

    request_id: str
    approved: bool
    responder: str | None = None
    message: str | None = None
    timestamp: float = field(default_factory=time.time)


class ApprovalQueue(ABC):
    """Where requests wait for answers. Derive from it to keep them elsewhere: a database, a chat."""

    @abstractmethod
    def submit(self, request: ApprovalRequest) -> None:
        """Put a request where whoever answers finds it."""

    @abstractmethod
    def respond(self, response: ApprovalResponse) -> bool:
        """Answer a request; False when it is not known or no longer pends."""

    @abstractmethod
    def get_pending(self) -> list[ApprovalRequest]:
        """The requests that can still be answered."""

    @abstractmethod
    def get_request(self, request_id: str) -> ApprovalRequest | None:
        """The request of that id, whatever its status, or None."""

    @abstractmethod
    def wait_for_response(self, request_id: str, poll_interval: float = 0.5) -> ApprovalRequest:
        """The request once it is answered or expired. ``poll_interval`` is seconds between looks, where one looks."""


# One lock for all queues: they are rarely touched, and a fork has only one lock to renew. ``_wakers`` of a request are
# called, without the lock, when it is no longer pending.
_lock = threading.Lock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)  # another thread may have held it while this one forked


class InMemoryApprovalQueue(ApprovalQueue):
    """Requests of one process. Those that expire get the status ``TIMEOUT``; an answer after that is refused.

    >>> queue = InMemoryApprovalQueue()
    >>> queue.submit(ApprovalRequest("1", "send", "why", {}, time.time(), timeout=60))
    >>> queue.respond(ApprovalResponse("1", approved=True, responder="me"))
    True
    >>> queue.get_request("1").status
    <ApprovalStatus.APPROVED: 'approved'>
    """

    def __init__(self) -> None:
        self._requests: dict[str, ApprovalRequest] = {}
        self._deadlines: dict[str, float] = {}  # monotonic; only of those that pend
        self._wakers: dict[str, list[Callable[[], object]]] = {}

    def submit(self, request: ApprovalRequest) -> None:
        """Add a request. Its time runs from ``requested_at``."""
        with _lock:
            self._requests[request.id] = request
            if request.is_pending:
                self._deadlines[request.id] = time.monotonic() + request.time_remaining

    def respond(self, response: ApprovalResponse) -> bool:
        """Answer a request; False when it is not known, answered, cancelled or expired."""
        self.expire()
        with _lock:
            request = self._requests.get(response.request_id)
            if request is None or not request.is_pending:
                return False
            request.status = ApprovalStatus.APPROVED if response.approved else ApprovalStatus.DENIED
            request.responded_at = response.timestamp
            request.responder = response.responder
            request.response_message = response.message
            if scope := getattr(response, "scope", None):
                request.metadata["scope"] = scope
            wakers = self._settled(request)
        _wake(wakers)
        return True

    def cancel(self, request_id: str) -> bool:
        """Take a question back; False when it no longer pends."""
        with _lock:
            request = self._requests.get(request_id)
            if request is None or not request.is_pending:
                return False
            request.status = ApprovalStatus.CANCELLED
            wakers = self._settled(request)
        _wake(wakers)
        return True

    def get_pending(self) -> list[ApprovalRequest]:
        """The requests that can still be answered, oldest first."""
        self.expire()
        with _lock:
            return [self._requests[request_id] for request_id in self._deadlines]

    def get_request(self, request_id: str) -> ApprovalRequest | None:
        """The request of that id, or None."""
        self.expire()
        return self._requests.get(request_id)

    def wait_for_response(self, request_id: str, poll_interval: float = 0.5) -> ApprovalRequest:
        """The request once it no longer pends; nothing is polled. ``ValueError`` for an unknown id."""
        answered = threading.Event()
        request, left = self.watch(request_id, answered.set)
        while left is not None:
            answered.wait(left)
            self.expire()
            left = self.seconds_left(request_id)
        return request

    def watch(self, request_id: str, waker: Callable[[], object]) -> tuple[ApprovalRequest, float | None]:
        """Have *waker* called, in whichever thread, once the request no longer pends.

        Returns the request, and in how many seconds it expires: None when it does not pend even now.
        """
        self.expire()
        with _lock:
            request = self._requests.get(request_id)
            if request is None:
                raise ValueError(f"Unknown request ID: {request_id}")
            if request_id in self._deadlines:
                self._wakers.setdefault(request_id, []).append(waker)
        return request, self.seconds_left(request_id)

    def seconds_left(self, request_id: str) -> float | None:
        """Seconds before the request expires; None when it no longer pends."""
        deadline = self._deadlines.get(request_id)
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def expire(self) -> None:
        """Give the requests whose time is over their status; every other method does so first."""
        now = time.monotonic()
        wakers: list[Callable[[], object]] = []
        with _lock:
            for request_id in [key for key, deadline in self._deadlines.items() if deadline <= now]:
                request = self._requests[request_id]
                request.status = ApprovalStatus.TIMEOUT
                wakers += self._settled(request)
        _wake(wakers)

    def _settled(self, request: ApprovalRequest) -> list[Callable[[], object]]:
        self._deadlines.pop(request.id, None)
        return self._wakers.pop(request.id, [])

    def __deepcopy__(self, memo: dict[int, Any]) -> InMemoryApprovalQueue:
        return self  # a copy's questions would be answered by nobody

    def __copy__(self) -> InMemoryApprovalQueue:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "An InMemoryApprovalQueue belongs to its process and cannot be pickled; use a queue of your own."
        )


def _wake(wakers: list[Callable[[], object]]) -> None:
    for waker in wakers:
        waker()


def _request(
    operation: str, reason: str, context: dict[str, Any] | None, timeout: float, metadata: dict[str, Any] | None
) -> ApprovalRequest:
    return ApprovalRequest(
        new_id(), operation, reason, context or {}, time.time(), timeout, metadata=metadata if metadata else {}
    )


class ApprovalGate:
    """What operations wait at, in threads. ``on_request`` is told of each new request, before the wait.

    A failing ``on_request`` is logged; the request pends all the same, for somebody else may answer it.

    >>> gate = ApprovalGate(on_request=lambda request: gate.approve(request.id, responder="admin"))
    >>> gate.request_approval("send_email", "It goes to a customer").is_approved
    True
    """

    def __init__(
        self,
        queue: ApprovalQueue | None = None,
        default_timeout: float = 300,
        on_request: Callable[[ApprovalRequest], object] | None = None,
    ) -> None:
        self.queue = queue if queue is not None else InMemoryApprovalQueue()
        self.default_timeout = default_timeout
        self.on_request = on_request

    def request_approval(
        self,
        operation: str,
        reason: str,
        context: dict[str, Any] | None = None,
        timeout: float | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> ApprovalRequest:
        """The request once it is answered, or expired after ``timeout`` seconds (``default_timeout`` when None)."""
        limit = self.default_timeout if timeout is None else timeout
        request = _request(operation, reason, context, limit, metadata)
        self.queue.submit(request)
        try:
            if self.on_request is not None:
                try:
                    self.on_request(request)
                except Exception:
                    _log.exception("on_request failed for approval request %s", request.id)
            return self.queue.wait_for_response(request.id)
        except BaseException:
            _withdraw(self.queue, request)
            raise

    async def request_approval_async(
        self,
        operation: str,
        reason: str,
        context: dict[str, Any] | None = None,
        timeout: float | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> ApprovalRequest:
        """Like ``request_approval``, while the running event loop goes on."""
        limit = self.default_timeout if timeout is None else timeout
        return await _ask(self.queue, _request(operation, reason, context, limit, metadata), self.on_request)

    def approve(self, request_id: str, responder: str | None = None, message: str | None = None) -> bool:
        """Say yes; False when the request is not known or no longer pends."""
        return self.queue.respond(ApprovalResponse(request_id, True, responder, message))

    def deny(self, request_id: str, responder: str | None = None, message: str | None = None) -> bool:
        """Say no; False when the request is not known or no longer pends."""
        return self.queue.respond(ApprovalResponse(request_id, False, responder, message))

    def get_pending(self) -> list[ApprovalRequest]:
        """The requests that can still be answered."""
        return self.queue.get_pending()

    def get_request(self, request_id: str) -> ApprovalRequest | None:
        """The request of that id, or None."""
        return self.queue.get_request(request_id)


class AsyncApprovalGate:
    """What async operations wait at: the event loop goes on meanwhile. ``on_request`` may be async, too.

    A wait that is cancelled takes its question back.

    >>> import asyncio
    >>> async def demo():
    ...     gate = AsyncApprovalGate(on_request=lambda request: gate.deny(request.id, message="no"))
    ...     return await gate.request_approval("send_email", "It goes to a customer")
    >>> asyncio.run(demo()).response_message
    'no'
    """

    def __init__(
        self,
        default_timeout: float = 300,
        on_request: Callable[[ApprovalRequest], object] | None = None,
    ) -> None:
        self.default_timeout = default_timeout
        self.on_request = on_request
        self.queue = InMemoryApprovalQueue()

    async def request_approval(
        self,
        operation: str,
        reason: str,
        context: dict[str, Any] | None = None,
        timeout: float | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> ApprovalRequest:
        """The request once it is answered, or expired after ``timeout`` seconds (``default_timeout`` when None)."""
        limit = self.default_timeout if timeout is None else timeout
        return await _ask(self.queue, _request(operation, reason, context, limit, metadata), self.on_request)

    async def approve(self, request_id: str, responder: str | None = None, message: str | None = None) -> bool:
        """Say yes; False when the request is not known or no longer pends."""
        return self.queue.respond(ApprovalResponse(request_id, True, responder, message))

    async def deny(self, request_id: str, responder: str | None = None, message: str | None = None) -> bool:
        """Say no; False when the request is not known or no longer pends."""
        return self.queue.respond(ApprovalResponse(request_id, False, responder, message))

    def get_pending(self) -> list[ApprovalRequest]:
        """The requests that can still be answered."""
        return self.queue.get_pending()

    def get_request(self, request_id: str) -> ApprovalRequest | None:
        """The request of that id, or None."""
        return self.queue.get_request(request_id)


async def _ask(
    queue: ApprovalQueue, request: ApprovalRequest, on_request: Callable[[ApprovalRequest], object] | None
) -> ApprovalRequest:
    import asyncio

    queue.submit(request)
    try:
        if on_request is not None:
            try:
                told = on_request(request)
                if inspect.isawaitable(told):
                    await told
            except Exception:
                _log.exception("on_request failed for approval request %s", request.id)
        if not isinstance(queue, InMemoryApprovalQueue):
            return await asyncio.to_thread(queue.wait_for_response, request.id)
        loop, answered = asyncio.get_running_loop(), asyncio.Event()
        _, left = queue.watch(request.id, lambda: _tell(loop, answered))
        while left is not None:
            try:
                await asyncio.wait_for(answered.wait(), left)
            except TimeoutError:
                queue.expire()
            left = queue.seconds_left(request.id)
        return request
    except BaseException:
        _withdraw(queue, request)
        raise


def _tell(loop: AbstractEventLoop, answered: Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(answered.set)


def _withdraw(queue: ApprovalQueue, request: ApprovalRequest) -> None:
    """Nobody waits any more, so nobody needs to be asked."""
    if isinstance(queue, InMemoryApprovalQueue):
        queue.cancel(request.id)


__all__ = [
    "ApprovalGate",
    "ApprovalQueue",
    "ApprovalRequest",
    "ApprovalResponse",
    "ApprovalStatus",
    "AsyncApprovalGate",
    "InMemoryApprovalQueue",
]
