"""Questions of a run to the gate of the program that started it.

run: desk ─► clerk ─► ``Linked`` ── request ──► program: a thread for each ─► gate.request_approval
     calls go on  ◄── settled ◄────── settled ◄──────────────────────────────────┘
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from agent_safety_layer.approval import (
    ApprovalGate,
    ApprovalRequest,
    ApprovalStatus,
    AsyncApprovalGate,
    InMemoryApprovalQueue,
)
from agent_safety_layer.approvals.approver import Any_
from agent_safety_layer.approvals.exchange import QueueError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent_safety_layer.approvals.approver import Later
    from agent_safety_layer.engine.gate import Gate
    from agent_safety_layer.engine.recorder import Recorder
    from agent_safety_layer.link import Link, Message
    from agent_safety_layer.policy import Policy
    from agent_safety_layer.terminal import Stderr

PROGRAM = "program"  # as ``Settings.approve``
_log = logging.getLogger(__name__)
_ID = "run_request"


class Linked:
    """The run's end: an ``Exchange`` over a link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._open: dict[str, ApprovalRequest] = {}
        self._done: deque[ApprovalRequest] = deque()
        self._fd = -1  # made when it is asked for: by then the run is in its own process
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """See ``Exchange``."""
        if self._fd < 0:
            self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return self._fd

    def submit_all(self, requests: Sequence[ApprovalRequest]) -> None:
        """See ``Exchange``."""
        for request in requests:
            self._open[request.id] = request
            self._send({"request": request.to_dict()})

    def answered(self, told: Message) -> None:
        """Take in an answer; from the loop's thread."""
        with self._lock:
            request = self._open.pop(told["id"], None)
            if request is None or self._fd < 0:
                return
            request.status = ApprovalStatus(told["status"])
            request.responder, request.response_message = told["responder"], told["message"]
            request.metadata["scope"] = told["scope"]
            self._done.append(request)
            os.eventfd_write(self._fd, 1)

    def settled(self) -> list[ApprovalRequest]:
        """See ``Exchange``."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass
        return [self._done.popleft() for _ in range(len(self._done))]

    def finish(self, request_id: str, status: ApprovalStatus) -> ApprovalRequest | None:
        """See ``Exchange``."""
        with self._lock:
            request = self._open.pop(request_id, None)
        if request is not None:
            request.status = status
            self._send({"withdrawn": request_id})
        return request

    def close(self) -> None:
        """See ``Exchange``."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1

    def _send(self, message: Message) -> None:
        try:
            self._link.send(message)
        except OSError as error:
            raise QueueError("The program that could be asked is gone.") from error


class ByProgram(Any_):
    """The program's gate, as an ``Approver``."""

    def __init__(self, queue: Linked, state_dir: str, stderr: Stderr) -> None:
        super().__init__(state_dir, stderr)
        self._queue = queue

    def gate(
        self, policy: Policy, later: Later, recorder: Recorder, warden: int, about: dict[str, Any], trace: str
    ) -> Gate:
        """See ``Approver``."""
        return self._desk(self._queue, policy, later, recorder, warden, about, trace)


class Answering:
    """The program's end: puts each request to *gate*, in a thread of its own. ``tell`` sends a message to the run."""

    def __init__(self, gate: Any, tell: Callable[[Message], None]) -> None:
        self._gate = gate
        self._tell = tell

    def heard(self, message: Message) -> bool:
        """Take a message in; whether it was one about approvals."""
        if "request" in message:
            threading.Thread(target=self._ask, args=(message["request"],), name="asl-approval", daemon=True).start()
        elif "withdrawn" in message:
            self._withdraw(message["withdrawn"])
        else:
            return False
        return True

    def _ask(self, told: Message) -> None:
        given = {"operation": told["operation"], "reason": told["reason"], "context": told["context"]}
        status, responder, said, scope = ApprovalStatus.DENIED.value, None, None, "once"
        try:
            if isinstance(self._gate, ApprovalGate | AsyncApprovalGate):
                given["metadata"] = {**told["metadata"], _ID: told["id"]}
            answer = self._gate.request_approval(**given, timeout=told["timeout"])
            if inspect.isawaitable(answer):
                answer = asyncio.run(_awaited(answer))
            status, responder, said = answer.status.value, answer.responder, answer.response_message
            scope = answer.metadata.get("scope", "once")
        except Exception as error:
            _log.exception("The approval gate failed, so '%s' was refused", told["operation"])
            said = f"the gate raised {type(error).__name__}: {error}"
        self._tell(
            {"settled": {"id": told["id"], "status": status, "responder": responder, "message": said, "scope": scope}}
        )

    def _withdraw(self, request_id: str) -> None:
        """Nobody waits for it any more."""
        queue = getattr(self._gate, "queue", None)
        if isinstance(queue, InMemoryApprovalQueue):
            for request in queue.get_pending():
                if request.metadata.get(_ID) == request_id:
                    queue.cancel(request.id)


async def _awaited(answer: Any) -> Any:
    return await answer


__all__ = ["PROGRAM", "Answering", "ByProgram", "Linked"]
