"""What queues in a database have in common: a request as a row, and how to wait for an answer."""

from __future__ import annotations

import json
from abc import abstractmethod
from time import monotonic
from typing import TYPE_CHECKING, Any

from agent_safety_layer.approval import ApprovalQueue, ApprovalRequest, ApprovalStatus
from agent_safety_layer.approvals.question import asked_in_process
from agent_safety_layer.trace import redact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLUMNS = (
    *("id", "operation", "reason", "context", "metadata", "requested_at", "timeout", "status"),
    *("responded_at", "responder", "message", "scope"),
)


class StoredQueue(ApprovalQueue):
    """A queue that other processes can see. Also an ``Exchange`` (see there)."""

    @abstractmethod
    def fileno(self) -> int:
        """Polls readable when something in the queue has changed; -1 while there is nothing to wait for."""

    @abstractmethod
    def hush(self) -> None:
        """Take note of the changes so far: ``fileno`` polls readable at the next."""

    @abstractmethod
    def submit_all(self, requests: Sequence[ApprovalRequest]) -> None:
        """Add requests."""

    @abstractmethod
    def settled(self) -> list[ApprovalRequest]:
        """What was submitted here and no longer pends, each told once."""

    @abstractmethod
    def finish(self, request_id: str, status: ApprovalStatus) -> ApprovalRequest | None:
        """The request, with this status unless it was answered before that."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""

    @abstractmethod
    def history(self, most: int = 50) -> list[ApprovalRequest]:
        """Requests that no longer pend, the latest first."""

    @abstractmethod
    def cancel(self, request_id: str) -> bool:
        """Take a question back; False when it no longer pends."""

    def find(self, beginning: str) -> list[ApprovalRequest]:
        """The pending requests whose ids begin so; else the settled ones."""
        for requests in (self.get_pending(), self.history(1000)):
            found = [request for request in requests if request.id.startswith(beginning)]
            if found:
                return found
        return []


def row_of(request: ApprovalRequest) -> tuple[Any, ...]:
    """The values of ``COLUMNS``; a function's request is completed with what others need to judge it."""
    if "who" not in request.metadata:
        asked_in_process(request)
    return (
        request.id,
        request.operation,
        request.reason,
        json.dumps(_plain(request.context)),
        json.dumps(_plain(request.metadata)),
        request.requested_at,
        request.timeout,
        request.status.value,
        request.responded_at,
        request.responder,
        request.response_message,
        None,
    )


def request_of(row: Mapping[str, Any] | Any) -> ApprovalRequest:
    """The request of a row."""
    metadata = json.loads(row["metadata"])
    if row["scope"]:
        metadata["scope"] = row["scope"]
    return ApprovalRequest(
        row["id"],
        row["operation"],
        row["reason"],
        json.loads(row["context"]),
        row["requested_at"],
        row["timeout"],
        ApprovalStatus(row["status"]),
        row["responded_at"],
        row["responder"],
        row["message"],
        metadata,
    )


def take_over(mine: ApprovalRequest, theirs: ApprovalRequest) -> ApprovalRequest:
    """The asker's own request with what has become of it."""
    mine.status, mine.responded_at, mine.responder = theirs.status, theirs.responded_at, theirs.responder
    mine.response_message = theirs.response_message
    if "scope" in theirs.metadata:
        mine.metadata["scope"] = theirs.metadata["scope"]
    return mine


def seconds_left(deadline: float | None) -> float:
    """Seconds until a monotonic deadline, not less than nothing."""
    return 0.0 if deadline is None else max(0.0, deadline - monotonic())


def _plain(found: Any, depth: int = 0) -> Any:
    """The value as JSON can hold it: texts redacted, everything else that JSON does not know by its ``repr``."""
    if isinstance(found, str):
        return redact.text(found, asked=True).encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    if found is None or isinstance(found, bool | int | float):
        return found
    if depth < 8:
        if isinstance(found, dict):
            return {str(key): _plain(each, depth + 1) for key, each in found.items()}
        if isinstance(found, list | tuple):
            return [_plain(each, depth + 1) for each in found]
    return _plain(repr(found))
