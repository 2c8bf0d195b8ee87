"""The queue in the state folder: private, shared by processes, one answer each, and nobody waits for the dead."""

from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_safety_layer import ApprovalGate, ApprovalRequest, ApprovalResponse, ApprovalStatus
from agent_safety_layer.approvals.exchange import QueueError
from agent_safety_layer.approvals.question import Answered
from agent_safety_layer.approvals.sqlite import SqliteApprovalQueue

ASKER = """
import sys, time
from agent_safety_layer import ApprovalRequest
from agent_safety_layer.approvals.sqlite import SqliteApprovalQueue
queue = SqliteApprovalQueue(sys.argv[1])
for name in sys.argv[2:]:
    queue.submit(ApprovalRequest(name, "op", "why", {"function": "f"}, time.time(), 60))
print("asked", flush=True)
print(queue.wait_for_response(sys.argv[-1]).status.value, flush=True)
"""
ANSWERER = """
import sys
from agent_safety_layer import ApprovalResponse
from agent_safety_layer.approvals.sqlite import SqliteApprovalQueue
queue = SqliteApprovalQueue(sys.argv[1])
queue.get_pending()
print("ready", flush=True)
sys.stdin.readline()
print(sum(queue.respond(ApprovalResponse(str(i), True, sys.argv[2])) for i in range(50)))
"""


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[SqliteApprovalQueue]:
    queue = SqliteApprovalQueue(str(tmp_path / "approvals"))
    yield queue
    queue.close()


def request(name: str, timeout: float = 60, age: float = 0) -> ApprovalRequest:
    return ApprovalRequest(name, "op", "why", {"function": "f"}, time.time() - age, timeout)


def test_an_answer_reaches_whoever_asked(queue: SqliteApprovalQueue, tmp_path: Path) -> None:
    other = SqliteApprovalQueue(queue.folder)
    gate = ApprovalGate(queue, on_request=lambda asked: other.respond(Answered(asked.id, True, "sam", "ok", "run")))
    answered = gate.request_approval("send", "It goes to a customer", {"to": "a@b.c"})
    assert (answered.status, answered.responder, answered.response_message) == (ApprovalStatus.APPROVED, "sam", "ok")
    assert answered.metadata["scope"] == "run"
    (told,) = other.history()
    assert (told.context, told.metadata["who"]["pid"]) == ({"to": "a@b.c"}, os.getpid())
    assert not other.respond(ApprovalResponse(answered.id, False)), "one answer is all there is"
    other.close()


def test_only_the_user_can_enter(queue: SqliteApprovalQueue) -> None:
    queue.submit(request("1"))
    for folder, _, files in os.walk(queue.folder):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        assert all(stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) == 0o600 for name in files)


def test_two_approvers_race_and_one_wins(queue: SqliteApprovalQueue) -> None:
    for i in range(50):
        queue.submit(request(str(i)))
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", ANSWERER, queue.folder, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("ann", "bob")
    ]
    for each in racing:
        assert each.stdout is not None and each.stdout.readline() == "ready\n"
    for each in racing:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    won = [int(each.communicate(timeout=60)[0]) for each in racing]
    assert sum(won) == 50
    responders = [asked.responder for asked in queue.history()]
    assert (responders.count("ann"), responders.count("bob")) == tuple(won)


def test_a_question_of_the_dead_is_taken_back(queue: SqliteApprovalQueue) -> None:
    asker = subprocess.Popen([sys.executable, "-c", ASKER, queue.folder, "1"], stdout=subprocess.PIPE, text=True)
    assert asker.stdout is not None and asker.stdout.readline() == "asked\n"
    assert [asked.id for asked in queue.get_pending()] == ["1"]
    asker.send_signal(signal.SIGKILL)
    asker.wait()
    asker.stdout.close()
    assert queue.get_pending() == [] and not queue.respond(ApprovalResponse("1", True))
    (settled,) = queue.history()
    assert settled.status is ApprovalStatus.CANCELLED


def test_an_approver_can_die_and_another_answers(queue: SqliteApprovalQueue) -> None:
    queue.submit(request("0"))
    dying = subprocess.Popen(
        [sys.executable, "-c", ANSWERER, queue.folder, "x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert dying.stdout is not None and dying.stdin is not None and dying.stdout.readline() == "ready\n"
    dying.kill()
    dying.wait()
    dying.stdout.close()
    dying.stdin.close()
    assert queue.respond(ApprovalResponse("0", True, "somebody else"))


def test_silence_is_an_answer_in_time(queue: SqliteApprovalQueue) -> None:
    queue.submit(request("1", timeout=0.05))
    assert queue.wait_for_response("1").status is ApprovalStatus.TIMEOUT
    queue.submit(request("2", timeout=5, age=10))
    assert queue.get_pending() == [] and not queue.respond(ApprovalResponse("2", True))


def test_those_who_wait_are_woken(queue: SqliteApprovalQueue) -> None:
    """Without looking every now and then: one change, one wake-up."""
    watcher = SqliteApprovalQueue(queue.folder)
    poll = select.poll()
    poll.register(watcher.fileno(), select.POLLIN)
    assert not poll.poll(0)
    queue.submit(request("1"))
    assert poll.poll(10_000)
    watcher.hush()
    assert not poll.poll(0)
    assert watcher.respond(ApprovalResponse("1", False, message="no"))
    assert poll.poll(10_000)
    assert [asked.response_message for asked in queue.settled()] == ["no"] and queue.settled() == []
    watcher.close()


def test_many_threads_wait_at_once(queue: SqliteApprovalQueue) -> None:
    found: list[str] = []
    for i in range(20):
        queue.submit(request(str(i)))
    threads = [
        threading.Thread(target=lambda name=str(i): found.append(queue.wait_for_response(name).id)) for i in range(20)
    ]
    for thread in threads:
        thread.start()
    other = SqliteApprovalQueue(queue.folder)
    assert all(other.respond(ApprovalResponse(str(i), True)) for i in range(20))
    for thread in threads:
        thread.join(30)
    assert sorted(found, key=int) == [str(i) for i in range(20)]
    other.close()


def test_what_is_no_database_is_said_so(queue: SqliteApprovalQueue) -> None:
    Path(queue.path).write_bytes(b"not a database, but long enough to look like one " * 100)
    with pytest.raises(QueueError, match="cannot be used"):
        queue.get_pending()


def test_secrets_and_odd_values_of_a_function(queue: SqliteApprovalQueue) -> None:
    asked = ApprovalRequest("1", "op", "why", {"object": object(), "key": "api_key=abcdefghijklmnop", 1: b"\xff"}, 0, 1)
    queue.submit(asked)
    found = queue.get_request("1")
    assert found is not None and "abcdefghijklmnop" not in repr(found.context)
    assert found.context["1"] == "b'\\xff'"
