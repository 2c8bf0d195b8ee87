"""The queue that several machines and approvers share: a table of a PostgreSQL database, with LISTEN and NOTIFY.

Deadlines are by the database's clock, and an answer is one conditional UPDATE, so exactly one wins, and none after the
deadline. A connection that is lost is made anew at the next use; meanwhile every use is a ``QueueError``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import wraps
from time import monotonic
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from agent_safety_layer.approval import ApprovalRequest, ApprovalResponse, ApprovalStatus
from agent_safety_layer.approvals.exchange import QueueError
from agent_safety_layer.approvals.question import scope_of
from agent_safety_layer.approvals.stored import COLUMNS, StoredQueue, request_of, row_of, take_over
from agent_safety_layer.errors import UsageError

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.rows import dict_row
except ImportError as error:
    raise UsageError(
        f"A postgresql:// queue needs psycopg ({error}).", remedy="pip install 'agent-safety-layer[postgresql]'"
    ) from error

if TYPE_CHECKING:
    P = ParamSpec("P")
    R = TypeVar("R")

KEPT_S = 90 * 86400.0
CHANNEL = "asl_approvals"
_LIST = ", ".join(COLUMNS)
_NOW = "extract(epoch FROM clock_timestamp())"
_OPEN = f"status = 'pending' AND requested_at + timeout > {_NOW}"
_LOCK = 0x61736C  # of the advisory lock under which the table is made
_TABLE = """
CREATE TABLE IF NOT EXISTS asl_approvals (
    id text PRIMARY KEY, operation text NOT NULL, reason text NOT NULL, context text NOT NULL, metadata text NOT NULL,
    requested_at double precision NOT NULL, timeout double precision NOT NULL, status text NOT NULL,
    responded_at double precision, responder text, message text, scope text,
    asker text NOT NULL, told boolean NOT NULL DEFAULT false
);
CREATE INDEX IF NOT EXISTS asl_approvals_pending ON asl_approvals (requested_at) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS asl_approvals_untold ON asl_approvals (asker) WHERE NOT told;
"""
_PATIENCE = {
    "connect_timeout": 3,
    "tcp_user_timeout": 3000,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
}


def _lost(method: Callable[P, R]) -> Callable[P, R]:
    @wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except psycopg.Error as error:
            said = " ".join(str(error).split())
            raise QueueError(
                f"The shared approval queue cannot be used: {said}.", remedy="Open questions are denied in time."
            ) from error

    return wrapper


class PostgresApprovalQueue(StoredQueue):
    """The queue in the database that *url* names. Any thread may use it. Connects when it is first used."""

    def __init__(self, url: str) -> None:
        if urlsplit(url).password:
            raise UsageError(
                "A password in the queue's URL can be seen by every program of this machine.",
                remedy="Put it into ~/.pgpass or PGPASSWORD.",
            )
        try:
            self.target: dict[str, Any] = dict(conninfo_to_dict(url))
        except psycopg.Error as error:
            raise UsageError(f"{url!r} is no database's URL: {error}.") from error
        self._url = url
        self._lock = threading.RLock()
        self._db: psycopg.Connection[dict[str, Any]] | None = None
        self._ear: psycopg.Connection[Any] | None = None
        self._asker = os.urandom(8).hex()
        self._mine: dict[str, ApprovalRequest] = {}

    # -- connections -----------------------------------------------------------------------------------------------

    def _connect(self) -> psycopg.Connection[dict[str, Any]]:
        db = psycopg.connect(
            self._url,
            autocommit=True,
            application_name="asl approvals",
            row_factory=dict_row,
            options="-c statement_timeout=5s -c lock_timeout=5s",
            **_PATIENCE,  # type: ignore[arg-type]
        )
        db.prepare_threshold = None
        return db

    def _connected(self) -> psycopg.Connection[dict[str, Any]]:
        if self._db is None or self._db.closed:
            self._db = None
            db = self._connect()
            if db.execute("SELECT to_regclass('asl_approvals') AS there").fetchone() == {"there": None}:
                with db.transaction():
                    db.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                    db.execute(_TABLE)
            self._db = db
        return self._db

    def _run(self, statement: str, *values: object, notify: bool = False) -> list[dict[str, Any]]:
        """The rows of one statement, in a transaction of its own; with ``notify``, whoever listens is told of it."""
        with self._lock:
            db = self._connected()
            with db.transaction():
                found = db.execute(statement, values)
                rows: list[dict[str, Any]] = found.fetchall() if found.description else []
                if notify:
                    db.execute(f"NOTIFY {CHANNEL}")
            return rows

    # -- the queue -------------------------------------------------------------------------------------------------

    def submit(self, request: ApprovalRequest) -> None:
        """Add a request."""
        self.submit_all((request,))

    @_lost
    def submit_all(self, requests: Sequence[ApprovalRequest]) -> None:
        """Add requests, in one transaction. Their time runs from now, by the database's clock."""
        marks = ", ".join(_NOW if name == "requested_at" else "%s" for name in COLUMNS)
        place = COLUMNS.index("requested_at")
        rows = [(*row[:place], *row[place + 1 :], self._asker) for row in map(row_of, requests)]
        with self._lock:
            db = self._connected()
            with db.transaction(), db.cursor() as cursor:
                cursor.execute(
                    f"DELETE FROM asl_approvals WHERE requested_at < {_NOW} - %s",
                    (KEPT_S,),
                )
                cursor.executemany(
                    f"INSERT INTO asl_approvals ({_LIST}, asker) VALUES ({marks}, %s) ON CONFLICT DO NOTHING",
                    rows,
                )
                cursor.execute(f"NOTIFY {CHANNEL}")
            self._mine.update((request.id, request) for request in requests)

    @_lost
    def respond(self, response: ApprovalResponse) -> bool:
        """Answer a request; False when it is not known, no longer pends, or its time is over."""
        status = ApprovalStatus.APPROVED if response.approved else ApprovalStatus.DENIED
        return bool(
            self._run(
                f"UPDATE asl_approvals SET status = %s, responded_at = {_NOW}, responder = %s, message = %s, scope = %s"
                f" WHERE id = %s AND {_OPEN} RETURNING id",
                *(status.value, response.responder, response.message, scope_of(response), response.request_id),
                notify=True,
            )
        )

    @_lost
    def get_pending(self) -> list[ApprovalRequest]:
        """The requests that can still be answered, oldest first."""
        rows = self._run(f"SELECT {_LIST} FROM asl_approvals WHERE {_OPEN} ORDER BY requested_at, id")
        return [request_of(row) for row in rows]

    @_lost
    def history(self, most: int = 50) -> list[ApprovalRequest]:
        """Requests that no longer pend, the latest first."""
        rows = self._run(
            f"SELECT {_LIST} FROM asl_approvals WHERE NOT ({_OPEN})"
            " ORDER BY coalesce(responded_at, requested_at) DESC LIMIT %s",
            most,
        )
        found = [request_of(row) for row in rows]
        for request in found:
            if request.is_pending:  # its asker died, or is about to say so
                request.status = ApprovalStatus.TIMEOUT
        return found

    @_lost
    def get_request(self, request_id: str) -> ApprovalRequest | None:
        """The request of that id, or None."""
        rows = self._run(f"SELECT {_LIST} FROM asl_approvals WHERE id = %s", request_id)
        return request_of(rows[0]) if rows else None

    @_lost
    def cancel(self, request_id: str) -> bool:
        """Take a question back; False when it no longer pends."""
        return self._end(request_id, ApprovalStatus.CANCELLED)

    def _end(self, request_id: str, status: ApprovalStatus) -> bool:
        return bool(
            self._run(
                f"UPDATE asl_approvals SET status = %s, responded_at = {_NOW}"
                " WHERE id = %s AND status = 'pending' RETURNING id",
                *(status.value, request_id),
                notify=True,
            )
        )

    @_lost
    def wait_for_response(self, request_id: str, poll_interval: float = 0.5) -> ApprovalRequest:
        """The request once it no longer pends; nothing is polled. ``ValueError`` for an unknown id."""
        with self._connect() as ear:
            ear.execute(f"LISTEN {CHANNEL}")
            request = self.get_request(request_id)
            if request is None:
                raise ValueError(f"Unknown request ID: {request_id}")
            until = monotonic() + request.timeout
            while request is not None and request.is_pending:
                if (left := until - monotonic()) <= 0:
                    request = self.finish(request_id, ApprovalStatus.TIMEOUT)
                    break
                for _ in ear.notifies(timeout=left, stop_after=1):
                    pass
                request = self.get_request(request_id)
        if request is None:
            raise QueueError("The approval queue has lost a request.")
        mine = self._mine.pop(request_id, None)
        return take_over(mine, request) if mine is not None else request

    # -- as an exchange --------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Polls readable when something in the queue has changed; -1 while the database cannot be reached."""
        with self._lock:
            try:
                if self._ear is None or self._ear.closed:
                    self._ear = None
                    ear = self._connect()
                    ear.execute(f"LISTEN {CHANNEL}")
                    self._ear = ear
                return self._ear.fileno()
            except psycopg.Error:
                return -1

    @_lost
    def hush(self) -> None:
        """Take note of the changes so far."""
        with self._lock:
            if self._ear is not None:
                try:
                    for _ in self._ear.notifies(timeout=0):
                        pass
                except psycopg.Error:
                    self._ear.close()
                    raise

    @_lost
    def settled(self) -> list[ApprovalRequest]:
        """What was submitted here and no longer pends, each told once."""
        self.hush()
        rows = self._run(
            "UPDATE asl_approvals SET told = true WHERE asker = %s AND NOT told AND status <> 'pending'"
            f" RETURNING {_LIST}",
            self._asker,
        )
        for row in rows:
            self._mine.pop(row["id"], None)
        return [request_of(row) for row in rows]

    @_lost
    def finish(self, request_id: str, status: ApprovalStatus) -> ApprovalRequest | None:
        """The request, with this status unless it was answered before that."""
        self._end(request_id, status)
        return self.get_request(request_id)

    def close(self) -> None:
        """Let go of it."""
        with self._lock:
            for connection in (self._db, self._ear):
                if connection is not None:
                    connection.close()
            self._db = self._ear = None


def places(queue: PostgresApprovalQueue) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What leads to the queue, for keeping trees away: paths, and hosts with ports."""
    from socket import getaddrinfo

    said = queue.target
    ports = str(said.get("port") or os.environ.get("PGPORT") or "5432").split(",")
    hosts = str(said.get("host") or os.environ.get("PGHOST") or ",".join((*_FOLDERS, "localhost"))).split(",")
    home = os.path.expanduser("~")
    secret = [os.environ.get("PGPASSFILE", ""), str(said.get("passfile") or ""), str(said.get("sslkey") or "")]
    paths = [os.path.realpath(path) for path in (*secret, f"{home}/.pgpass", f"{home}/.postgresql") if path]
    found: list[str] = []
    for host in filter(None, (*hosts, *str(said.get("hostaddr") or "").split(","))):
        names = {host}
        folders = {host} if host.startswith(("/", "@")) else set()
        if not folders:
            try:
                names.update(str(each[4][0]) for each in getaddrinfo(host, None))
            except OSError:
                pass  # it may be there later, by its name
        if folders or not names.isdisjoint(_LOOPBACK) or any(name.startswith("127.") for name in names):
            # A server of this machine has more doors than the one that is named.
            names = names - folders | _LOOPBACK
            folders.update(_FOLDERS)
        for port in ports:
            paths += (os.path.join(os.path.realpath(folder), f".s.PGSQL.{port}") for folder in sorted(folders))
            found += (f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name in sorted(names))
    return tuple(dict.fromkeys(paths)), tuple(dict.fromkeys(found))


_LOOPBACK = frozenset(("localhost", "127.0.0.0/8", "::1"))
_FOLDERS = ("/var/run/postgresql", "/tmp")  # where servers have their sockets, unless they are told otherwise
VARIABLES = ("PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE", "PGSSLKEY", "PGSSLPASSWORD")
