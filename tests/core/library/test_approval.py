"""Approvals: no answer is no, late answers do not count, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from agent_safety_layer import (
    ApprovalGate,
    ApprovalQueue,
    ApprovalRequest,
    ApprovalResponse,
    ApprovalStatus,
    AsyncApprovalGate,
    InMemoryApprovalQueue,
    Policy,
    PolicyAction,
    PolicyResult,
    SafetyCheckResult,
    SafetyLayer,
    SafetyViolation,
)


def request(name: str, timeout: float = 60, age: float = 0) -> ApprovalRequest:
    return ApprovalRequest(name, "op", "why", {}, time.time() - age, timeout)


@pytest.mark.parametrize("raises", [True, False])
def test_without_a_gate_what_needs_approval_is_blocked(raises: bool) -> None:
    told: list[SafetyCheckResult] = []
    ran: list[str] = []
    safety = SafetyLayer([Policy.require_approval("send")], raise_on_violation=raises, on_violation=told.append)
    guarded = safety.guard(lambda: ran.append("sent"), operation="send")
    result = safety.check("send")
    assert (result.allowed, result.requires_approval, result.approval_request) == (False, True, None)
    assert result.blocked_reason == "Operation blocked: approval is required and there is no approval gate"
    if raises:
        with pytest.raises(SafetyViolation, match="no approval gate"):
            guarded()
        with safety.session() as session, pytest.raises(SafetyViolation, match="no approval gate"):
            session.execute("x", lambda: ran.append("sent"), operation_type="send")
    else:
        assert guarded() is None
        with safety.session() as session:
            assert session.execute("send", lambda: ran.append("sent")) is None
    assert ran == [] and len(told) == 3


def test_a_request_has_one_status_at_a_time() -> None:
    expected = {
        "pending": (1, 0, 0),
        "approved": (0, 1, 0),
        "denied": (0, 0, 1),
        "timeout": (0, 0, 0),
        "cancelled": (0, 0, 0),
    }
    for status in ApprovalStatus:
        made = request("a")
        made.status = status
        assert (made.is_pending, made.is_approved, made.is_denied) == expected[status.value]
        assert (made.time_remaining > 50) == (status is ApprovalStatus.PENDING)
    old = request("a", timeout=10, age=20)
    assert old.is_expired and old.is_pending and old.time_remaining == 0


def test_the_queue() -> None:
    queue = InMemoryApprovalQueue()
    first, second, late = request("1"), request("2"), request("3", timeout=10, age=20)
    for each in (first, second, late):
        queue.submit(each)
    assert queue.get_pending() == [first, second] and late.status is ApprovalStatus.TIMEOUT
    assert queue.respond(ApprovalResponse("1", True, "me", "ok", 123.0))
    assert (first.status, first.responded_at, first.responder, first.response_message) == (
        *(ApprovalStatus.APPROVED, 123.0, "me", "ok"),
    )
    for name in ("1", "3", "nonsense"):
        assert not queue.respond(ApprovalResponse(name, False)), name
    assert late.status is ApprovalStatus.TIMEOUT and first.is_approved
    assert queue.get_request("2") is second and queue.get_request("nonsense") is None
    assert queue.wait_for_response("1") is first
    assert queue.cancel("2") and not queue.cancel("2") and second.status is ApprovalStatus.CANCELLED
    with pytest.raises(ValueError, match="Unknown request ID: nonsense"):
        queue.wait_for_response("nonsense")


def test_a_late_answer_does_not_count_even_if_nobody_looked_before() -> None:
    queue = InMemoryApprovalQueue()
    late = request("1", timeout=10, age=20)
    queue.submit(late)
    assert not queue.respond(ApprovalResponse("1", True)) and late.status is ApprovalStatus.TIMEOUT


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_no_answer_is_no(timeout: float) -> None:
    gate = ApprovalGate(default_timeout=300)
    made = gate.request_approval("op", "why", timeout=timeout)
    assert made.status is ApprovalStatus.TIMEOUT and not gate.approve(made.id)
    safety = SafetyLayer([Policy.require_approval("send", timeout=0)], approval_gate=gate)
    with pytest.raises(SafetyViolation, match="approval timed out"):
        safety.guard(lambda: None, operation="send")()


def test_the_async_gate_expires() -> None:
    async def main() -> None:
        gate = AsyncApprovalGate(default_timeout=0.01)
        made = await gate.request_approval("op", "why")
        assert made.status is ApprovalStatus.TIMEOUT
        assert gate.get_pending() == [] and not await gate.approve(made.id)
        assert gate.get_request(made.id) is made

    asyncio.run(main())


def test_the_async_gate_is_answered_from_another_thread() -> None:
    def answer(made: ApprovalRequest) -> None:
        thread = threading.Thread(target=lambda: asyncio.run(gate.deny(made.id, "bob", "no")))
        thread.start()
        thread.join()

    gate = AsyncApprovalGate(on_request=answer)
    made = asyncio.run(gate.request_approval("op", "why", {"a": 1}, metadata={"m": 1}))
    assert (made.is_denied, made.responder, made.context, made.metadata) == (True, "bob", {"a": 1}, {"m": 1})


def test_one_of_many_waiting_threads_is_woken() -> None:
    submitted = threading.Semaphore(0)
    gate = ApprovalGate(on_request=lambda made: submitted.release())
    answers: dict[str, str] = {}

    def ask(name: str) -> None:
        answers[name] = gate.request_approval(name, "why").status.value

    threads = {name: threading.Thread(target=ask, args=(name,)) for name in "abc"}
    for thread in threads.values():
        thread.start()
    for _ in threads:
        submitted.acquire()
    pending = {made.operation: made.id for made in gate.get_pending()}
    gate.approve(pending["b"])
    threads["b"].join()
    assert answers == {"b": "approved"}
    gate.deny(pending["a"])
    gate.deny(pending["c"])
    for thread in threads.values():
        thread.join()
    assert answers == {"a": "denied", "b": "approved", "c": "denied"}


def test_a_failing_notifier_is_logged_and_the_question_stands(caplog: pytest.LogCaptureFixture) -> None:
    def broken(made: ApprovalRequest) -> None:
        raise RuntimeError("no mail today")

    assert ApprovalGate(default_timeout=0, on_request=broken).request_approval("op", "why").status.value == "timeout"
    gate = AsyncApprovalGate(default_timeout=0, on_request=broken)
    assert asyncio.run(gate.request_approval("op", "why")).status.value == "timeout"
    assert [str(record.exc_info and record.exc_info[1]) for record in caplog.records] == ["no mail today"] * 2


def test_a_queue_of_ones_own() -> None:
    class Yes(ApprovalQueue):
        def submit(self, request: ApprovalRequest) -> None:
            self.request = request

        def respond(self, response: ApprovalResponse) -> bool:
            return False

        def get_pending(self) -> list[ApprovalRequest]:
            return []

        def get_request(self, request_id: str) -> ApprovalRequest | None:
            return self.request

        def wait_for_response(self, request_id: str, poll_interval: float = 0.5) -> ApprovalRequest:
            self.request.status = ApprovalStatus.APPROVED
            return self.request

    safety = SafetyLayer([Policy.require_approval("send")], approval_gate=ApprovalGate(Yes()))
    assert safety.guard(lambda: "sent", operation="send")() == "sent"

    async def send() -> str:
        return "sent"

    assert asyncio.run(safety.guard(send)()) == "sent"


def test_what_is_blocked_anyway_is_not_asked_about() -> None:
    asked: list[ApprovalRequest] = []
    gate = ApprovalGate(on_request=asked.append)
    safety = SafetyLayer([Policy.require_approval("send"), Policy.block_pattern("send", "no")], approval_gate=gate)
    assert safety.check("send").blocked_reason == "no" and asked == []


def test_several_policies_ask_once_with_the_shortest_patience() -> None:
    asked: list[ApprovalRequest] = []

    def answer(made: ApprovalRequest) -> None:
        asked.append(made)
        gate.approve(made.id)

    gate = ApprovalGate(on_request=answer)
    unsure = Policy.custom("z", lambda operation, context: PolicyResult(PolicyAction.REQUIRE_APPROVAL, "z"))
    policies: list[Policy] = [unsure, Policy.require_approval("a", timeout=5), Policy.require_approval("a", timeout=3)]
    result = SafetyLayer(policies, approval_gate=gate).check("a", {"k": 1})
    assert result.allowed and result.approval_request is asked[0] and len(asked) == 1
    assert (asked[0].timeout, asked[0].reason, asked[0].context) == (3, "Operation 'a' requires approval", {"k": 1})
    SafetyLayer([unsure], approval_gate=gate).check("b")
    assert (asked[1].timeout, asked[1].reason) == (300, "Approval required")
