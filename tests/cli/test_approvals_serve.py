"""The page that answers: used by a person in a browser, and closed to everybody else."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from agent_safety_layer import ApprovalRequest, ApprovalStatus
from agent_safety_layer.approvals.question import Answered
from agent_safety_layer.approvals.sqlite import SqliteApprovalQueue
from tests.browser import Page
from tests.cli.test_approvals import ASL, MOST_S, Runs, end

KEY = b"0123456789abcdef0123456789abcdef"
HOSTILE = '<img src=x onerror="document.title=1"><script>alert(1)</script>\x1b[2J\u202e</h2>'


class Serving:
    """``asl approvals serve`` over a queue of the test's own."""

    def __init__(self, tmp: Path, *options: str) -> None:
        self.state = tmp / "state"
        self.state.mkdir(mode=0o700, exist_ok=True)
        self.queue = SqliteApprovalQueue(str(self.state / "approvals"))
        environment = {**os.environ, "ASL_STATE": str(self.state)}
        self.process = subprocess.Popen(
            [*ASL, "approvals", "serve", *options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:"), self.process.communicate()
        self.address = urlsplit(self.url)
        self._count = 0

    def ask(self, what: str = "/w/file", timeout: float = 60, **metadata: Any) -> ApprovalRequest:
        """A question in the queue."""
        self._count += 1
        said = {
            "who": {"pid": 7, "exe": "/usr/bin/cat", "argv": ["cat", what], "lineage": []},
            "why": {"rule": "files.ask", "where": "policy.yaml:3", "reason": "it is asked about"},
            "yes": "the file is opened",
            "no": "the call fails",
            "scopes": ["once", "run", "program", "always"],
            "always": {"line": f"- the line for {what}", "file": "/state/always.yaml"},
            **metadata,
        }
        request = ApprovalRequest(
            f"q{self._count}", "file.read", "it is asked about", {"object": what}, time.time(), timeout, metadata=said
        )
        self.queue.submit(request)
        return request

    def answered(self, request: ApprovalRequest) -> ApprovalRequest:
        """The request once it has an answer."""
        return self.queue.wait_for_response(request.id)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        """Status and text of a plain request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.address.port or 0, timeout=MOST_S)
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        found = response.status, response.read().decode()
        connection.close()
        return found

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=MOST_S)
        self.queue.close()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    serving = Serving(tmp_path)
    yield serving
    serving.close()


def cards(page: Page) -> int:
    found: int = page.value("document.querySelectorAll('.card').length")
    return found


def test_a_person_answers_with_the_mouse(serving: Serving, page: Page) -> None:
    first = serving.ask("/w/first")
    page.open(serving.url)
    page.wait("document.querySelectorAll('.card').length === 1 && calm()")
    shown = page.text(".card")
    for part in (
        "/w/first",
        "cat /w/first (pid 7)",
        "it is asked about [files.ask policy.yaml:3]",
        "the call fails",
        "left",
    ):
        assert part in shown, shown
    second = serving.ask("/w/second")
    page.wait("document.title === '(2) Approvals' && calm()")
    page.click(".card[data-id=q1] button[data-scope=run]")
    done = serving.answered(first)
    assert done.is_approved and done.metadata["scope"] == "run" and (done.responder or "").endswith("(page)")
    page.wait("document.querySelectorAll('.card').length === 1 && calm()")
    page.click(".card[data-id=q2] button.no")
    assert serving.answered(second).is_denied
    page.wait("document.title === 'Approvals'")
    assert cards(page) == 0 and "Nothing is asked." in page.text("main")
    page.wait("document.querySelectorAll('#history li').length === 2")
    assert "denied by" in page.text("#history li") and page.complaints() == []


def test_always_is_shown_first_and_a_message_goes_along(serving: Serving, page: Page) -> None:
    request = serving.ask()
    page.open(serving.url)
    page.wait("document.querySelectorAll('.card').length === 1 && calm()")
    page.click("button[data-scope=always]")
    page.wait("document.querySelector('#always').open")
    assert "- the line for /w/file" in page.text("#always") and "/state/always.yaml" in page.text("#always")
    page.click("#always button[value='']")
    page.wait("!document.querySelector('#always').open")
    assert request.id in [asked.id for asked in serving.queue.get_pending()]
    page.click("button[data-scope=always]")
    page.wait("document.querySelector('#always').open")
    page.click("#always button.yes")
    assert serving.answered(request).metadata["scope"] == "always"
    page.wait("document.querySelectorAll('.card').length === 0 && calm()")
    request = serving.ask()
    page.wait("document.querySelectorAll('.card').length === 1 && calm()")
    page.click(".card button.no:last-child")
    page.wait("document.querySelector('#why').open")
    page.click("#message")
    page.type("use <staging>")
    page.click("#why button.no")
    assert serving.answered(request).response_message == "use <staging>"


def test_a_person_answers_with_keys(serving: Serving, page: Page) -> None:
    asked = [serving.ask(f"/w/{i}") for i in range(3)]
    page.open(serving.url)
    page.wait("document.querySelectorAll('.card').length === 3 && calm()")
    page.press("j", "j")
    page.wait("document.querySelector('.chosen').dataset.id === 'q2'")
    page.press("y", "y")  # too early: nobody has read it
    page.wait("performance.now() - since > CALM_MS && calm()")
    assert cards(page) == 3
    page.press("p", "p")
    assert serving.answered(asked[1]).metadata["scope"] == "program"
    page.wait("document.querySelectorAll('.card').length === 2 && calm()")
    page.wait("performance.now() - since > CALM_MS && calm()")
    page.press("n", "n")
    assert serving.answered(asked[0]).is_denied
    page.wait("document.querySelector('.chosen').dataset.id === 'q3' && performance.now() - since > CALM_MS && calm()")
    page.press("Enter")
    page.press("m", "m")
    page.wait("document.querySelector('#why').open")
    page.click("#why button[value='']")
    page.wait("!document.querySelector('#why').open")
    assert [request.id for request in serving.queue.get_pending()] == ["q3"]


def test_another_answer_and_silence_are_seen(serving: Serving, page: Page) -> None:
    first = serving.ask("/w/first")
    page.open(serving.url)
    page.wait("document.querySelectorAll('.card').length === 1 && calm()")
    assert serving.queue.respond(Answered(first.id, True, "ann"))
    page.wait("document.querySelectorAll('.card').length === 0 && calm()")
    assert "approved once by ann" in page.text("#history")
    assert serving.request("POST", serving.address.path + "answer", {"id": first.id, "approved": False})[0] == 409
    serving.ask("/w/second", timeout=0.5)
    page.wait("document.querySelector('#history').innerText.includes('nobody answered in time')")


def test_hostile_text_stays_text(serving: Serving, page: Page) -> None:
    serving.ask(HOSTILE, always={"line": HOSTILE, "file": HOSTILE}, name=HOSTILE, before=[HOSTILE])
    page.open(serving.url)
    page.wait("document.querySelectorAll('.card').length === 1 && calm()")
    assert page.value("document.querySelectorAll('img, .card script').length") == 0
    shown = page.text(".card")
    assert "<img src=x onerror=" in shown and "\\x1b[2J" in shown and "\\u202e" in shown and "\u202e" not in shown
    page.click("button[data-scope=always]")
    page.wait("document.querySelector('#always').open")
    assert "<script>" in page.text("#always-line")
    assert page.value("document.title") == "(1) Approvals" and page.complaints() == []


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
def test_it_fits_the_screen(serving: Serving, page: Page, width: int, scheme: str, tmp_path: Path) -> None:
    serving.ask("/home/sam/a-very-long-path-" + "x" * 200)
    page.look(width, 740, scheme=scheme)
    page.open(serving.url)
    page.wait("document.querySelectorAll('.card').length === 1 && calm()")
    assert page.value("document.documentElement.scrollWidth <= window.innerWidth")
    heights = page.value("[...document.querySelectorAll('.card button')].map((one) => one.offsetHeight)")
    assert min(heights) >= (44 if width < 640 else 36)
    page.screenshot(tmp_path / f"{width}.png", whole=True)
    assert (tmp_path / f"{width}.png").stat().st_size > 5000


def test_sound_is_there_when_it_is_wanted(serving: Serving, page: Page) -> None:
    page.open(serving.url)
    page.value("rings = 0; const before = ring; ring = () => { rings += 1; before(); }; 0")
    serving.ask("/w/quiet")
    page.wait("document.querySelectorAll('.card').length === 1 && calm()")
    assert page.value("rings") == 0
    page.click("#sound")
    page.wait("document.querySelector('#sound').getAttribute('aria-pressed') === 'true'")
    serving.ask("/w/loud")
    page.wait("rings === 2")


def test_who_has_no_token_has_nothing(serving: Serving) -> None:
    request = serving.ask()
    path = serving.address.path
    answer = {"id": request.id, "approved": True}
    token = path.strip("/")
    for method, where, body in (
        ("GET", "/", None),
        ("GET", "/events", None),
        ("GET", f"/{token[:-1]}/", None),
        ("GET", f"/{token}x/", None),
        ("GET", "/../" + token, None),
        ("GET", "/page.js", None),
        ("POST", "/answer", answer),
        ("POST", "//answer", answer),
        ("POST", "/hook", answer),
    ):
        assert serving.request(method, where, body)[0] == 403, where
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"evil.example:{serving.address.port}"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
    ):
        assert serving.request("POST", f"{path}answer", answer, **headers)[0] == 403, headers
    for wrong in (
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"id": "q1"}',
        b'{"id": "q1", "approved": "yes"}',
        b'{"id": "x", "approved": true}',
    ):
        assert serving.request("POST", f"{path}answer", wrong)[0] == 400, wrong
    odd = {**answer, "scope": "for ever"}
    assert serving.request("POST", f"{path}answer", odd)[0] == 400
    assert [asked.id for asked in serving.queue.get_pending()] == [request.id]
    # The control.
    assert serving.request("POST", f"{path}answer", answer)[0] == 200
    assert serving.answered(request).status is ApprovalStatus.APPROVED


def test_a_page_elsewhere_can_neither_answer_nor_frame_it(serving: Serving, page: Page, tmp_path: Path) -> None:
    """Even one that knew the token, which it has no way to."""
    request = serving.ask()
    other = tmp_path / "other.html"
    other.write_text(f"<iframe src='{serving.url}'></iframe>")
    page.open(str(other))
    sent = page.value(
        f"fetch('{serving.url}answer', {{method: 'POST', mode: 'no-cors',"
        " body: JSON.stringify({id: 'q1', approved: true})})"
        ".then((found) => found.type, (error) => 'failed')"
    )
    assert sent in ("opaque", "failed")
    assert any("frame" in said or "X-Frame-Options" in said for said in page.complaints())
    assert [asked.id for asked in serving.queue.get_pending()] == [request.id]


def test_headers(serving: Serving) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", serving.address.port or 0, timeout=MOST_S)
    connection.request("GET", serving.address.path)
    response = connection.getresponse()
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert response.headers["Referrer-Policy"] == "no-referrer" and response.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in response.headers
    response.read()
    connection.close()


# -- webhooks ----------------------------------------------------------------------------------------------------------


class Chat(BaseHTTPRequestHandler):
    """A chat tool: keeps what it is told; fails the first time."""

    told: queue.Queue[tuple[bytes, str, str]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.told.put((body, self.headers["X-ASL-Timestamp"], self.headers["X-ASL-Signature"]))
        self.send_response(503 if self.told.qsize() == 1 and not getattr(type(self), "failed", False) else 200)
        type(self).failed = True  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


def signed(body: bytes, stamp: str, key: bytes = KEY) -> dict[str, str]:
    digest = hmac.new(key, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"X-ASL-Timestamp": stamp, "X-ASL-Signature": f"v1={digest}"}


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(KEY + b"\n")
    path.chmod(0o600)
    return path


def test_webhooks_tell_and_take_answers_that_are_signed(tmp_path: Path, key_file: Path) -> None:
    handler = type("Handler", (Chat,), {"told": queue.Queue()})
    chat = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=chat.serve_forever, daemon=True).start()
    serving = Serving(tmp_path, "--webhook", f"http://127.0.0.1:{chat.server_port}/x", "--webhook-key", str(key_file))
    request = serving.ask("/w/secret")
    for _ in range(2):  # it is tried again
        body, stamp, signature = handler.told.get(timeout=MOST_S)
        assert signed(body, stamp)["X-ASL-Signature"] == signature and abs(int(stamp) - time.time()) < 60
        told = json.loads(body)
        assert told["type"] == "asked" and told["request"]["id"] == request.id and "/w/secret" in told["text"]
    assert serving.address.path.strip("/") not in body.decode()
    answer = json.dumps({"id": request.id, "approved": True, "responder": "ann", "scope": "run"}).encode()
    now = str(int(time.time()))
    for headers in (
        {},
        signed(answer, now, b"x" * 32),
        signed(answer, str(int(now) - 4000)),
        signed(answer + b" ", now),
        {**signed(answer, now), "X-ASL-Timestamp": str(int(now) + 1)},
    ):
        assert serving.request("POST", "/hook", answer, **headers)[0] == 403, headers
    assert serving.queue.get_pending()
    assert serving.request("POST", "/hook", answer, **signed(answer, now))[0] == 200
    done = serving.answered(request)
    assert (done.responder, done.metadata["scope"]) == ("ann (webhook)", "run")
    assert serving.request("POST", "/hook", answer, **signed(answer, now))[0] == 403, "a signature is good for once"
    settled = json.loads(handler.told.get(timeout=MOST_S)[0])
    assert settled["type"] == "settled" and "approved for this run by ann" in settled["text"]
    serving.close()
    chat.shutdown()
    chat.server_close()


@pytest.mark.parametrize(
    ("mode", "key", "said"),
    [(0o644, KEY, "Others can read"), (0o600, b"short", "shorter than"), (0o600, None, "needs --webhook-key")],
)
def test_keys_that_are_none(tmp_path: Path, mode: int, key: bytes | None, said: str) -> None:
    options = ["--webhook", "https://chat.example/x"]
    if key is not None:
        path = tmp_path / "key"
        path.write_bytes(key)
        path.chmod(mode)
        options += ["--webhook-key", str(path)]
    environment = {**os.environ, "ASL_STATE": str(tmp_path / "state")}
    done = subprocess.run(
        [*ASL, "approvals", "serve", *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=MOST_S,
        check=False,
    )
    assert done.returncode == 125 and said in done.stderr, done.stderr


# -- the tree ----------------------------------------------------------------------------------------------------------

REACH = """
import http.client, os, socket, sys, urllib.request
port, asked = int(sys.argv[1]), sys.argv[2]
import threading
got = []
def reach():
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "::ffff:127.0.0.1"):
        try:
            connection = http.client.HTTPConnection(host, port, timeout=5)
            connection.request("GET", "/")
            got.append(connection.getresponse().status)
        except OSError as error: got.append(error.strerror or str(error))
thread = threading.Thread(target=reach); thread.start(); thread.join()
print(*got, sep="; ")
"""


@pytest.mark.parametrize("without", ["", "userns,netns"])
def test_the_tree_cannot_reach_it(runs: Runs, without: str) -> None:
    """Under a policy that allows any connection, with a network of its own and without."""
    serving = Serving(runs.tmp)
    port = str(serving.address.port)
    policy = runs.tmp / "open.yaml"
    policy.write_text(
        'version: 1\nname: open\nfiles: {read: ["/"], write: ["/"]}\n'
        'network: {allow: ["*", "localhost", "127.0.0.1", "0.0.0.0"], private_ips: true}\n'
    )
    entry = (
        "import os; from agent_safety_layer.cli.supervise import main; "
        "main(frozenset(os.environ.pop('ASL_WITHOUT', '').split(',')) - {''})"
    )
    done = subprocess.run(
        [ASL[0], "-c", entry, "-p", str(policy), "--", ASL[0], "-ISc", REACH, port, str(runs.asked)],
        cwd=runs.ws,
        env={**runs.environment, "ASL_WITHOUT": without},
        capture_output=True,
        text=True,
        timeout=MOST_S,
        check=False,
    )
    assert done.stdout.count(";") == 3 and "200" not in done.stdout and "403" not in done.stdout, (
        done.stdout,
        done.stderr,
    )
    free = subprocess.run(
        [ASL[0], "-ISc", REACH, port, "x"], capture_output=True, text=True, timeout=MOST_S, check=False
    )
    assert free.stdout.startswith("403; 403"), free.stdout
    serving.close()


def test_a_run_is_answered_on_the_page(runs: Runs, page: Page) -> None:
    serving = Serving(runs.tmp)
    page.open(serving.url)
    process = runs.python("import sys; print(open(sys.argv[1]).read())", str(runs.asked / "file"))
    page.wait("document.querySelectorAll('.card').length === 1 && calm()")
    assert str(runs.asked / "file") in page.text(".card")
    page.click("button[data-scope=once]")
    assert end(process)[0] == "content\n"
    serving.close()


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    runs = Runs(tmp_path)
    yield runs
    runs.close()
