"""The queue in the user's state folder: SQLite, open to that user alone, shared by all their processes.

A question survives whoever looks at it, and whoever looks at it sees when its asker has died: the asker's bell has
nobody to hear it then, and the question is taken back. Answers are one conditional UPDATE, so exactly one wins.
"""

from __future__ import annotations

import os
import select
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from time import monotonic
from typing import ParamSpec, TypeVar

from agent_safety_layer.approval import ApprovalRequest, ApprovalResponse, ApprovalStatus
from agent_safety_layer.approvals.bells import Bell, is_heard, ring
from agent_safety_layer.approvals.exchange import QueueError
from agent_safety_layer.approvals.question import scope_of
from agent_safety_layer.approvals.stored import COLUMNS, StoredQueue, request_of, row_of, take_over
from agent_safety_layer.state import make_private, state_dir

P = ParamSpec("P")
R = TypeVar("R")
KEPT_S = 90 * 86400.0  # how long settled requests are kept
_BUSY_MS = 5000
_SCHEMA = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS requests (
    id TEXT PRIMARY KEY, operation TEXT NOT NULL, reason TEXT NOT NULL, context TEXT NOT NULL, metadata TEXT NOT NULL,
    requested_at REAL NOT NULL, timeout REAL NOT NULL, status TEXT NOT NULL,
    responded_at REAL, responder TEXT, message TEXT, scope TEXT,
    asker TEXT NOT NULL, told INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS pending ON requests (requested_at) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS untold ON requests (asker) WHERE told = 0;
"""
_LIST = ", ".join(COLUMNS)


def _lost(method: Callable[P, R]) -> Callable[P, R]:
    @wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except sqlite3.Error as error:
            remedy = "Move the folder away if it cannot be repaired; open questions are denied."
            raise QueueError(f"The approval queue cannot be used: {error}.", remedy=remedy) from error

    return wrapper


class SqliteApprovalQueue(StoredQueue):
    """The queue of the state folder (``folder`` for another), as ``asl approvals`` and ``--approve queue`` use it.

    Any thread may use it. A copy in a forked child opens its own connection. Raises ``QueueError`` when it cannot be
    used, ``AslError`` when there is no place for it.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = state_dir("approvals") if folder is None else folder
        make_private(self.folder)
        self.path = os.path.join(self.folder, "queue.db")
        self.bells = os.path.join(self.folder, "bells")
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._bell: Bell | None = None
        self._pid = 0
        self._mine: dict[str, ApprovalRequest] = {}  # what pends here, as its asker holds it

    # -- the connection --------------------------------------------------------------------------------------------

    def _connected(self) -> sqlite3.Connection:
        if self._db is None or self._pid != os.getpid():
            self._db, self._bell, self._pid = None, None, os.getpid()
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            db = sqlite3.connect(self.path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")  # safe against crashes of ours; a question dies with the machine
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > _SCHEMA:
                db.close()
                raise QueueError(f"{self.path} was made by a newer release.", remedy="Use that release.")
            if version < _SCHEMA:
                db.executescript(f"BEGIN IMMEDIATE; {_TABLE} PRAGMA user_version = {_SCHEMA}; COMMIT;")
            self._db = db
        return self._db

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; the bells are rung when it is done."""
        with self._lock:
            db = self._connected()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
        ring(self.bells)

    def _asker(self) -> Bell:
        if self._bell is None:
            self._bell = Bell(self.bells)
        return self._bell

    # -- the queue -------------------------------------------------------------------------------------------------

    def submit(self, request: ApprovalRequest) -> None:
        """Add a request. It is taken back when this process ends before it is answered."""
        self.submit_all((request,))

    @_lost
    def submit_all(self, requests: Sequence[ApprovalRequest]) -> None:
        """Add requests, in one transaction."""
        rows = [row_of(request) for request in requests]
        with self._changing() as db:
            db.execute("DELETE FROM requests WHERE status <> 'pending' AND requested_at < ?", (time.time() - KEPT_S,))
            asker = self._asker().name
            marks = ", ".join("?" * (len(COLUMNS) + 1))
            db.executemany(
                f"INSERT OR IGNORE INTO requests ({_LIST}, asker) VALUES ({marks})", [(*row, asker) for row in rows]
            )
            self._mine.update((request.id, request) for request in requests)

    @_lost
    def respond(self, response: ApprovalResponse) -> bool:
        """Answer a request; False when it is not known, no longer pends, or its asker is gone."""
        self._tidy()
        status = ApprovalStatus.APPROVED if response.approved else ApprovalStatus.DENIED
        with self._changing() as db:
            done = db.execute(
                "UPDATE requests SET status = ?, responded_at = ?, responder = ?, message = ?, scope = ?"
                " WHERE id = ? AND status = 'pending'",
                (
                    *(status.value, response.timestamp, response.responder, response.message, scope_of(response)),
                    response.request_id,
                ),
            )
            return done.rowcount == 1

    @_lost
    def get_pending(self) -> list[ApprovalRequest]:
        """The requests that can still be answered, oldest first."""
        self._tidy()
        return self._select("status = 'pending' ORDER BY requested_at, rowid")

    @_lost
    def history(self, most: int = 50) -> list[ApprovalRequest]:
        """Requests that no longer pend, the latest first."""
        return self._select("status <> 'pending' ORDER BY coalesce(responded_at, requested_at) DESC LIMIT ?", most)

    @_lost
    def get_request(self, request_id: str) -> ApprovalRequest | None:
        """The request of that id, or None."""
        found = self._select("id = ?", request_id)
        return found[0] if found else None

    @_lost
    def cancel(self, request_id: str) -> bool:
        """Take a question back; False when it no longer pends."""
        return self._end(request_id, ApprovalStatus.CANCELLED)

    def wait_for_response(self, request_id: str, poll_interval: float = 0.5) -> ApprovalRequest:
        """The request once it no longer pends; nothing is polled. ``ValueError`` for an unknown id."""
        bell = Bell(self.bells)
        poll = select.poll()
        poll.register(bell, select.POLLIN)
        try:
            request = self.get_request(request_id)
            if request is None:
                raise ValueError(f"Unknown request ID: {request_id}")
            until = monotonic() + request.time_remaining
            while request is not None and request.is_pending:
                left = until - monotonic()
                if left <= 0:
                    request = self.finish(request_id, ApprovalStatus.TIMEOUT)
                    break
                poll.poll(left * 1000 + 1)
                bell.hush()
                request = self.get_request(request_id)
        finally:
            bell.close()
        if request is None:
            raise QueueError("The approval queue has lost a request.")
        mine = self._mine.pop(request_id, None)
        return take_over(mine, request) if mine is not None else request

    def _select(self, where: str, *values: object) -> list[ApprovalRequest]:
        with self._lock:
            found = self._connected().execute(f"SELECT {_LIST} FROM requests WHERE {where}", values).fetchall()
        return [request_of(row) for row in found]

    def _end(self, request_id: str, status: ApprovalStatus) -> bool:
        with self._changing() as db:
            done = db.execute(
                "UPDATE requests SET status = ?, responded_at = ? WHERE id = ? AND status = 'pending'",
                (status.value, time.time(), request_id),
            )
            return done.rowcount == 1

    def _tidy(self) -> None:
        """Give those that expired their status, and take back those whose asker is gone."""
        now = time.time()
        with self._lock:
            rows = self._connected().execute(
                "SELECT id, asker, requested_at + timeout < ? AS late FROM requests WHERE status = 'pending'", (now,)
            )
            pending = rows.fetchall()
        heard = {asker: is_heard(self.bells, asker) for asker in {row["asker"] for row in pending}}
        for row in pending:
            if not heard[row["asker"]]:
                self._end(row["id"], ApprovalStatus.CANCELLED)
            elif row["late"]:
                self._end(row["id"], ApprovalStatus.TIMEOUT)

    # -- as an exchange --------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Polls readable when something in the queue has changed."""
        with self._lock:
            self._connected()
            return self._asker().fileno()

    def hush(self) -> None:
        """Take note of the changes so far."""
        with self._lock:
            self._asker().hush()

    @_lost
    def settled(self) -> list[ApprovalRequest]:
        """What was submitted here and no longer pends, each told once."""
        self.hush()
        with self._lock:
            asker = self._asker().name
            where = "asker = ? AND told = 0 AND status <> 'pending'"
            found = self._select(where, asker)
            if found:
                marks = ", ".join("?" * len(found))
                names = [request.id for request in found]
                self._connected().execute(f"UPDATE requests SET told = 1 WHERE id IN ({marks})", names)
                for name in names:
                    self._mine.pop(name, None)
        return found

    @_lost
    def finish(self, request_id: str, status: ApprovalStatus) -> ApprovalRequest | None:
        """The request, with this status unless it was answered before that."""
        self._end(request_id, status)
        return self.get_request(request_id)

    def close(self) -> None:
        """Let go of it."""
        with self._lock:
            if self._pid == os.getpid():
                if self._bell is not None:
                    self._bell.close()
                if self._db is not None:
                    self._db.close()
            self._db = self._bell = None
