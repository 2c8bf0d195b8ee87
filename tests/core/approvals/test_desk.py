"""The run's side: asked once, remembered as far as the answer goes, and no in every doubt."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent_safety_layer import ApprovalQueue, ApprovalRequest, ApprovalResponse, ApprovalStatus, InMemoryApprovalQueue
from agent_safety_layer.approvals.desk import Desk, Run, lineage_of
from agent_safety_layer.approvals.exchange import Exchange, Local, QueueError
from agent_safety_layer.approvals.question import Answered
from agent_safety_layer.engine.gate import Answer, Nobody
from agent_safety_layer.events import ASK, Decision, Event
from asl_hooks.value import replace

READ = Event("file.read", pid=7, exe="/usr/bin/cat", path="/asked/a")
WHY = Decision(ASK, "files.ask", "policy.yaml:3", "reading /asked/a needs approval because of '/asked'")


class Recorder:
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.entries: list[Event] = []

    def record(self, event: Event, *_: object) -> None:
        self.entries.append(event)

    def flush(self) -> None:
        return

    def told(self) -> list[tuple[str, str]]:
        return [(event.kind, event.detail.partition(": ")[2]) for event in self.entries]


class Unreachable:
    """A queue that is not to be had."""

    def fileno(self) -> int:
        return -1

    def submit_all(self, requests: Sequence[ApprovalRequest]) -> None:
        raise QueueError("No route to it.")

    def settled(self) -> list[ApprovalRequest]:
        raise QueueError("No route to it.")

    def finish(self, request_id: str, status: ApprovalStatus) -> ApprovalRequest | None:
        raise QueueError("No route to it.")

    def close(self) -> None:
        return


class Scene:
    """A desk, and the loop that it reports to."""

    def __init__(self, tmp: Path, exchange: Exchange, timeout_s: float = 60.0, *, silence_allows: bool = False) -> None:
        self.recorder = Recorder()
        self.answers: list[Answer] = []
        self.said: list[str] = []
        self._later: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.overlay = str(tmp / "always.yaml")
        run = Run(
            about={"run": "r"},
            timeout_s=timeout_s,
            silence_allows=silence_allows,
            kills=False,
            trace=str(tmp / "none"),
            overlay=self.overlay,
            lineage=lambda pid: [{"pid": pid, "exe": "/usr/bin/cat", "argv": ["cat", "a"]}],
            tell=self.said.append,
        )
        self.desk = Desk(exchange, run, self.recorder, self._later.put)  # type: ignore[arg-type]

    def ask(self, event: Event = READ, decision: Decision = WHY) -> None:
        self.desk.ask(event, decision, self.answers.append)

    def turn(self) -> None:
        """Whatever the loop is asked to do next."""
        self._later.get(timeout=30)()


class Asked:
    """A scene over a queue in memory, with somebody to answer."""

    def __init__(self, tmp: Path, **how: Any) -> None:
        self.queue = InMemoryApprovalQueue()
        self.scene = Scene(tmp, Local(self.queue), **how)

    def pending(self, count: int = 1) -> list[ApprovalRequest]:
        until = time.monotonic() + 30
        while len(found := self.queue.get_pending()) != count:
            assert time.monotonic() < until, found
            threading.Event().wait(0.005)
        return found

    def answer(self, allowed: bool, scope: str = "once", message: str | None = None) -> None:
        (request,) = self.pending()
        assert self.queue.respond(Answered(request.id, allowed, "sam", message, scope))
        self.scene.turn()


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    asked = Asked(tmp_path)
    yield asked
    asked.scene.desk.close()


def test_a_request_says_all_that_matters(asked: Asked) -> None:
    asked.scene.ask()
    (request,) = asked.pending()
    said = request.metadata
    assert (request.operation, request.context["path"], request.reason) == ("file.read", "/asked/a", WHY.reason)
    assert said["who"] == {"pid": 7, "exe": "/usr/bin/cat", "argv": ["cat", "a"], "lineage": []}
    assert said["why"] == {"rule": WHY.rule, "where": WHY.where, "reason": WHY.reason}
    assert said["scopes"] == ["once", "run", "program", "always"] and "/asked/a" in said["always"]["line"]
    assert said["yes"] and "Permission denied" in said["no"] and said["run"] == "r" and 0 < request.time_remaining <= 60


def test_identical_questions_are_asked_once(asked: Asked) -> None:
    for pid in range(5):
        asked.scene.ask(replace(READ, pid=pid))
    asked.scene.ask(replace(READ, path="/asked/b"))
    first, second = asked.pending(2)
    assert asked.queue.respond(ApprovalResponse(first.id, True, "sam"))
    asked.scene.turn()
    assert [answer.allowed for answer in asked.scene.answers] == [True] * 5
    assert ("approval.answered", "approved once by sam, for 5 calls") in asked.scene.recorder.told()
    assert asked.pending() == [second]
    asked.scene.ask()
    assert len(asked.pending(2)) == 2, "once is once"


def test_an_answer_goes_as_far_as_it_says(asked: Asked) -> None:
    other = replace(READ, exe="/usr/bin/other")
    asked.scene.ask()
    asked.answer(True, "program")
    asked.scene.ask()
    assert len(asked.scene.answers) == 2
    asked.scene.ask(other)
    asked.answer(True, "run")
    for event in (READ, other, replace(other, pid=9)):
        asked.scene.ask(event)
    assert [answer.allowed for answer in asked.scene.answers] == [True] * 6
    asked.scene.ask(replace(READ, kind="file.write"))
    asked.answer(False, "run", "leave it alone")
    asked.scene.ask(replace(READ, kind="file.write"))
    assert [(answer.allowed, answer.message) for answer in asked.scene.answers[6:]] == [(False, "leave it alone")] * 2
    assert asked.queue.get_pending() == []


def test_the_same_process_is_not_asked_about_twice_at_once(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that is refused one folder's program goes on with the next folder of PATH, which may be the same."""
    asked.scene.ask()
    asked.answer(False, message="no need")
    asked.scene.ask()
    assert [(answer.allowed, answer.message) for answer in asked.scene.answers] == [(False, "no need")] * 2
    assert asked.queue.get_pending() == []
    asked.scene.ask(replace(READ, pid=8))
    (other,) = asked.pending()
    assert asked.queue.respond(ApprovalResponse(other.id, True, "sam"))
    asked.scene.turn()
    monkeypatch.setattr("agent_safety_layer.approvals.desk.AGAIN_S", -1.0)
    asked.scene.ask()  # hears no once more, and that was the last time
    assert [answer.allowed for answer in asked.scene.answers[2:]] == [True, False]
    asked.scene.ask()
    assert len(asked.pending()) == 1


def test_always_is_written_down_and_holds_in_the_next_run(asked: Asked, tmp_path: Path) -> None:
    asked.scene.ask()
    line = asked.pending()[0].metadata["always"]["line"]
    asked.answer(True, "always")
    assert line in Path(asked.scene.overlay).read_text()
    later = Asked(tmp_path)
    later.scene.ask()
    assert later.scene.answers[0].allowed and later.queue.get_pending() == []
    later.scene.ask(replace(READ, kind="file.write"))
    assert len(later.pending()) == 1
    later.scene.desk.close()
    nobody: list[Answer] = []
    for event in (READ, replace(READ, kind="file.write")):
        Nobody(overlay=asked.scene.overlay).ask(event, WHY, nobody.append)
    assert [answer.allowed for answer in nobody] == [True, False]


def test_always_that_cannot_be_written_is_said(asked: Asked, tmp_path: Path) -> None:
    asked.scene.ask()
    (tmp_path / "always.yaml").mkdir()
    asked.answer(True, "always")
    assert asked.scene.answers[0].allowed and "was not changed" in asked.scene.said[0]


def test_answers_are_events(asked: Asked) -> None:
    asked.scene.ask()
    asked.answer(False, message="not today")
    asked_event, answered = asked.scene.recorder.entries
    assert (asked_event.kind, asked_event.op, asked_event.path) == ("approval.asked", "file.read", "/asked/a")
    assert answered.kind == "approval.answered" and answered.detail.endswith(": denied by sam: not today")
    assert answered.time >= asked_event.time > 0
    assert answered.detail.partition(":")[0] == asked_event.detail.partition(":")[0]


@pytest.mark.parametrize("allows", [False, True])
def test_silence(tmp_path: Path, allows: bool) -> None:
    asked = Asked(tmp_path, timeout_s=0.05, silence_allows=allows)
    asked.scene.ask()
    asked.scene.turn()
    assert (asked.scene.answers[0].allowed, asked.scene.answers[0].by) == (allows, "nobody answered in time")
    asked.scene.desk.close()


@pytest.mark.parametrize("allows", [False, True])
def test_a_queue_that_is_lost_denies_at_the_deadline(tmp_path: Path, allows: bool) -> None:
    scene = Scene(tmp_path, Unreachable(), timeout_s=0.2, silence_allows=allows)
    scene.ask()
    scene.turn()
    assert not scene.answers[0].allowed and "No route to it." in scene.answers[0].by
    scene.desk.close()


def test_who_has_gone_is_not_asked_for(asked: Asked) -> None:
    asked.scene.ask()
    asked.scene.ask(replace(READ, pid=8))
    (request,) = asked.pending()
    asked.scene.desk.withdraw(7)
    assert len(asked.scene.answers) == 1 and asked.pending() == [request], "another waits for the same"
    asked.scene.desk.withdraw(8)
    asked.pending(0)
    assert request.status is ApprovalStatus.CANCELLED
    assert asked.scene.recorder.told()[-1] == ("approval.answered", "cancelled: whoever asked is gone")


def test_the_end_of_the_run_takes_everything_back(asked: Asked) -> None:
    asked.scene.ask()
    (request,) = asked.pending()
    asked.scene.desk.close()
    assert not asked.scene.answers[0].allowed and request.status is ApprovalStatus.CANCELLED


def test_a_thousand_questions_wait_at_once(asked: Asked) -> None:
    for i in range(1000):
        asked.scene.ask(replace(READ, path=f"/asked/{i}"))
    pending = asked.pending(1000)
    threads = threading.active_count()
    assert threads < 20, "they cost no thread each"
    for request in pending:
        assert asked.queue.respond(ApprovalResponse(request.id, True, "sam"))
    while len(asked.scene.answers) < 1000:
        asked.scene.turn()
    assert all(answer.allowed for answer in asked.scene.answers)


class Custom(ApprovalQueue):
    """A queue of somebody's own, which knows no waking."""

    def __init__(self) -> None:
        self._memory = InMemoryApprovalQueue()

    def submit(self, request: ApprovalRequest) -> None:
        self._memory.submit(request)
        self._memory.respond(ApprovalResponse(request.id, request.context["path"] == "/asked/a", "a program"))

    def respond(self, response: ApprovalResponse) -> bool:
        return self._memory.respond(response)

    def get_pending(self) -> list[ApprovalRequest]:
        return self._memory.get_pending()

    def get_request(self, request_id: str) -> ApprovalRequest | None:
        return self._memory.get_request(request_id)

    def wait_for_response(self, request_id: str, poll_interval: float = 0.5) -> ApprovalRequest:
        return self._memory.wait_for_response(request_id, poll_interval)


def test_a_queue_of_ones_own(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Local(Custom()))
    scene.ask()
    scene.turn()
    scene.ask(replace(READ, path="/asked/b"))
    scene.turn()
    assert [(answer.allowed, answer.by) for answer in scene.answers] == [
        (True, "approved once by a program"),
        (False, "denied by a program"),
    ]
    scene.desk.close()


def test_lineage() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with child:
        chain = lineage_of(child.pid, warden=os.getppid())
        assert [each["pid"] for each in chain] == [child.pid, os.getpid()]
        assert chain[0]["argv"] and lineage_of(child.pid, warden=child.pid) == []
        child.communicate(b"\n")
