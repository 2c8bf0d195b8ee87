"""The page that answers: loopback only, under a path that nobody can guess, with nothing on it that it did not bring.

    GET  /TOKEN/          the page              GET  /TOKEN/events   what is asked, as server-sent events
    GET  /TOKEN/page.js   page.css              POST /TOKEN/answer   {"id", "approved", "scope", "message"}
    POST /hook            a signed answer from elsewhere (``webhooks``)

Everything else is 403. There is no cookie and nothing else that a browser would send along by itself, so another site's
page can do nothing here; requests for another host name, or from another origin, are refused all the same.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import select
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from agent_safety_layer.approvals.bells import Bell
from agent_safety_layer.approvals.exchange import QueueError
from agent_safety_layer.approvals.question import ONCE, SCOPES, Answered, cut, lines, object_line, user, verdict
from agent_safety_layer.approvals.webhooks import Hooks, read_key, verified
from agent_safety_layer.errors import AslError
from agent_safety_layer.state import state_dir
from agent_safety_layer.terminal import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.approval import ApprovalRequest
    from agent_safety_layer.approvals.stored import StoredQueue

_HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page")
_TYPES = {"": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LONGEST = 64 * 1024
_SILENCE_S = 15.0
_LISTENERS = 32
_HISTORY = 50


class Board:
    """What is asked, kept up to date by a thread that the queue wakes. ``changed`` counts what it has seen change."""

    def __init__(self, queue: StoredQueue, told: Callable[[ApprovalRequest], None]) -> None:
        self.queue = queue
        self._told = told
        self._news = threading.Condition()
        self.changed = 0
        self.text = "{}"
        self._known: set[str] = set()
        self._soonest = _SILENCE_S  # until a question's time is over
        self._end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.closed = False
        self._thread = threading.Thread(target=self._work, name="asl-board", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._look()
        self._thread.start()

    def wait(self, seen: int, timeout_s: float) -> int:
        """The count once it is beyond *seen*, or after the time."""
        with self._news:
            self._news.wait_for(lambda: self.changed > seen or self.closed, timeout_s)
            return self.changed

    def close(self) -> None:
        """Stop looking."""
        with self._news:
            self.closed = True
            self._news.notify_all()
        os.eventfd_write(self._end, 1)
        self._thread.join(5)

    def _work(self) -> None:
        while not self.closed:
            poll = select.poll()
            poll.register(self._end, select.POLLIN)
            fd = self.queue.fileno()
            if fd >= 0:
                poll.register(fd, select.POLLIN)
            poll.poll(min(_SILENCE_S if fd >= 0 else 1.0, self._soonest) * 1000 + 10)
            if not self.closed:
                self._look()

    def _look(self) -> None:
        problem = ""
        pending: list[ApprovalRequest] = []
        settled: list[ApprovalRequest] = []
        try:
            self.queue.hush()
            pending = self.queue.get_pending()
            settled = self.queue.history(_HISTORY)
        except QueueError as error:
            problem = str(error)
        self._tell(pending, settled)
        self._soonest = min((request.time_remaining for request in pending), default=_SILENCE_S)
        shown = {
            "problem": problem,
            "pending": [_card(request) for request in pending],
            "history": [_line(request) for request in settled],
        }
        with self._news:
            text = json.dumps(shown)
            if text != self.text:
                self.text = text
                self.changed += 1
                self._news.notify_all()

    def _tell(self, pending: list[ApprovalRequest], settled: list[ApprovalRequest]) -> None:
        now = {request.id for request in pending}
        for request in pending:
            if request.id not in self._known:
                self._told(request)
        for request in settled:
            if request.id in self._known and request.id not in now:
                self._told(request)
        self._known = now


def _card(request: ApprovalRequest) -> dict[str, Any]:
    """A pending request as the page shows it; texts with what a screen would hide or act on made visible."""
    said = request.metadata
    return {
        "id": request.id,
        "kind": visible(request.operation, 100),
        "object": cut(object_line(request), 2000),
        "lines": lines(request, 2000)[1:],
        "until": request.requested_at + request.timeout,
        "scopes": [scope for scope in said.get("scopes", [ONCE]) if scope in SCOPES],
        "always": {key: visible(str(text), 2000) for key, text in said.get("always", {}).items()},
        "from": visible(" ".join(str(said[key]) for key in ("user", "host", "name") if said.get(key)), 200),
    }


def _line(request: ApprovalRequest) -> dict[str, Any]:
    return {
        "id": request.id,
        "time": request.responded_at or request.requested_at,
        "status": request.status.value,
        "object": visible(f"{request.operation} {object_line(request)}", 300),
        "verdict": visible(verdict(request), 300),
    }


class Server(ThreadingHTTPServer):
    """The server, bound and not yet serving. ``url`` is where a person looks."""

    daemon_threads = True

    def __init__(self, board: Board, port: int, key: bytes = b"") -> None:
        self.board = board
        self.key = key
        self.token = secrets.token_urlsafe(24)
        self.listeners = threading.BoundedSemaphore(_LISTENERS)
        self.spent: dict[str, tuple[float, object]] = {}  # signatures that were used
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError as error:
            raise AslError(f"Cannot listen on port {port}: {error.strerror}.", remedy="Choose another.") from error
        self.names = {f"127.0.0.1:{self.server_port}", f"localhost:{self.server_port}"}

    @property
    def url(self) -> str:
        """The page's address, with its token."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away is no news; anything else is."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "asl"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        """The page, its parts, its events."""
        name = self._allowed()
        if name is None:
            self._answer(403, "text/plain", b"Forbidden\n")
        elif name in _TYPES:
            with open(os.path.join(_HERE, name or "page.html"), "rb") as file:
                self._answer(200, _TYPES[name], file.read())
        elif name == "events":
            self._events()
        else:
            self._answer(404, "text/plain", b"Not found\n")

    def do_POST(self) -> None:
        """An answer."""
        try:
            body = self._body()
            if self.path == "/hook":
                self._hook(body)
            elif self._allowed() == "answer" and self._own_page():
                self._take(json.loads(body), f"{user()} (page)")
            else:
                self._answer(403, "text/plain", b"Forbidden\n")
        except (ValueError, KeyError, TypeError, AttributeError):
            self._answer(400, "text/plain", b"Bad request\n")
        except QueueError as error:
            self._answer(503, "text/plain", str(error).encode())

    def _allowed(self) -> str | None:
        """What is asked for below the token; None without the token, or for another host."""
        if self.headers.get("Host") not in self.server.names:
            return None
        token, _, name = self.path.removeprefix("/").partition("/")
        good = hmac.compare_digest(token.encode(), self.server.token.encode())
        return name if good else None

    def _own_page(self) -> bool:
        """Whether it comes from the page, as far as a browser tells."""
        origin, site = self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site")
        own = origin is None or origin.removeprefix("http://") in self.server.names
        kind = self.headers.get("Content-Type", "")
        return own and site in (None, "same-origin") and kind.partition(";")[0] == "application/json"

    def _body(self) -> bytes:
        length = int(self.headers.get("Content-Length", ""))
        if not 0 <= length <= _LONGEST:
            self.close_connection = True
            raise ValueError("too long")
        return self.rfile.read(length)

    def _hook(self, body: bytes) -> None:
        stamp, signature = (self.headers.get(f"X-ASL-{name}", "") for name in ("Timestamp", "Signature"))
        if not self.server.key or not verified(self.server.key, stamp, signature, body, self.server.spent):
            self._answer(403, "text/plain", b"Forbidden\n")
            return
        answer = json.loads(body)
        self._take(answer, f"{answer.get('responder') or 'somebody'} (webhook)")

    def _take(self, answer: dict[str, Any], responder: str) -> None:
        scope, message, approved = answer.get("scope", ONCE), answer.get("message"), answer["approved"]
        if not isinstance(approved, bool) or not (message is None or isinstance(message, str)):
            raise ValueError("not an answer")
        queue = self.server.board.queue
        request = queue.get_request(str(answer["id"]))
        if request is None or scope not in request.metadata.get("scopes", [ONCE]):
            raise ValueError("no such request, or it cannot be answered so")
        won = queue.respond(Answered(request.id, approved, responder[:200], (message or "")[:2000] or None, scope))
        now = queue.get_request(request.id)
        said = {"won": won, "verdict": visible(verdict(now), 300) if now is not None else ""}
        self._answer(200 if won else 409, "application/json", json.dumps(said).encode())

    def _events(self) -> None:
        if not self.server.listeners.acquire(blocking=False):
            self._answer(503, "text/plain", b"Too many pages look at this\n")
            return
        try:
            self.send_response(200)
            self._head("text/event-stream", -1)
            board, seen = self.server.board, -1
            while not board.closed:
                now = board.wait(seen, _SILENCE_S)
                self.wfile.write(f"data: {board.text}\n\n".encode() if now > seen else b": still here\n\n")
                self.wfile.flush()
                seen = now
        finally:
            self.server.listeners.release()

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self._head(kind, len(body))
        self.wfile.write(body)

    def _head(self, kind: str, length: int) -> None:
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        for name, text in _HEADERS.items():
            self.send_header(name, text)
        if length >= 0:
            self.send_header("Content-Length", str(length))
        else:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a path holds the token."""


def serving_folder(state: str) -> str:
    """Where the ports stand that pages are served on, for runs to keep their trees away."""
    return os.path.join(state, "approvals", "serving")


def run(queue: StoredQueue, port: int, hooks: tuple[str, ...], key_file: str | None) -> None:
    """Serve until Ctrl-C. The page's address is printed on stdout."""
    key = read_key(key_file) if key_file else b""
    sender = Hooks(hooks, key)
    board = Board(queue, sender.tell)
    server = Server(board, port, key)
    folder = serving_folder(state_dir())
    sign = Bell(folder, str(server.server_port))
    try:
        board.start()
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        pass
    finally:
        board.close()
        server.server_close()
        sender.close()
        sign.close()
        queue.close()
