"""Queues by name: ``queue`` is the user's own, a ``postgresql://`` URL one that is shared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_safety_layer.approvals.sqlite import SqliteApprovalQueue
from agent_safety_layer.errors import UsageError

if TYPE_CHECKING:
    from agent_safety_layer.approvals.stored import StoredQueue

OWN = "queue"


def open_queue(how: str = OWN, folder: str | None = None) -> StoredQueue:
    """The queue that *how* names; *folder* is where the user's own one is, if not in the state folder.

    Raises ``AslError`` when it cannot be used. A shared one need not be reachable yet.
    """
    if how == OWN:
        queue = SqliteApprovalQueue(folder)
        queue.get_pending()  # whether it can be used at all
        queue.close()
        return queue
    if how.startswith("postgresql://"):
        from agent_safety_layer.approvals.postgresql import PostgresApprovalQueue

        return PostgresApprovalQueue(how)
    raise UsageError(f"{how!r} names no queue.", remedy="It is `queue`, or a URL that begins with postgresql://.")
