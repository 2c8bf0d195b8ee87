"""Layers in other processes: copied, pickled, forked, spawned."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import threading
from multiprocessing.connection import Connection
from typing import Any

import pytest

from agent_safety_layer import (
    ApprovalGate,
    ApprovalRequest,
    AsyncApprovalGate,
    BoundaryViolation,
    NetworkBoundary,
    PathBoundary,
    Policy,
    PolicyAction,
    PolicyResult,
    ResourceBoundary,
    SafetyCheckResult,
    SafetyLayer,
    SafetyViolation,
    SessionRecorder,
    TimeBoundary,
    Trace,
    Tracer,
)
from agent_safety_layer.tracing import new_id

SAFETY = SafetyLayer([Policy.block_pattern("rm", "no")], [PathBoundary(["/tmp"]), TimeBoundary(60)])


@SAFETY.guard
def run(cmd: str) -> str:
    return f"ran {cmd}"


def both(value: Any) -> list[Any]:
    return [pickle.loads(pickle.dumps(value)), copy.deepcopy(value)]


@pytest.mark.parametrize(
    "value",
    [
        PolicyResult(PolicyAction.BLOCK, "x", metadata={"a": 1}),
        BoundaryViolation("path", "p", "r", "/x"),
        SafetyCheckResult(False, [PolicyResult(PolicyAction.WARN, "x")]),
        ApprovalRequest("1", "o", "r", {}, 1.0, 2.0),
        Trace("1", "n", 1.0),
        SessionRecorder().finish(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_come_back_equal(value: object) -> None:
    assert both(value) == [value, value]


def test_violations_come_back_with_everything() -> None:
    with pytest.raises(SafetyViolation) as raised:
        run("rm")
    for back in both(raised.value):
        assert (str(back), back.message, back.policy_result, back.result) == (
            *("no", "no", raised.value.policy_result, raised.value.result),
        )
        assert back.is_policy_violation


def test_policies_and_boundaries_still_hold_in_a_copy() -> None:
    for policy in both(Policy.block_pattern("rm", "no")):
        assert policy.evaluate("rm", {}).is_blocked and policy.evaluate("ls", {}) is None
    for boundary in both(NetworkBoundary(["ok.com"])):
        assert boundary.check({"host": "evil.com"}) and not boundary.check({"host": "ok.com"})
    used = ResourceBoundary(max_operations=1)
    used.check({})
    for boundary in both(used):
        assert boundary.check({}) is not None


def test_a_copied_layer_is_a_layer_of_its_own() -> None:
    for layer in both(SAFETY):
        guarded = layer.guard(lambda cmd: cmd)
        assert guarded("ls") == "ls"
        with pytest.raises(SafetyViolation):
            guarded("rm")
        layer.add_policy(Policy.block_pattern("ls", "no"))
    assert run("ls") == "ran ls"


def test_running_operations_do_not_run_in_a_copy() -> None:
    tracer = Tracer()
    begun = tracer.start_operation("a")
    for back in both(tracer):
        back.end_operation(back.start_operation("b"))
        assert back.trace.entries[1].parent_id is None
        back.end_operation(begun)
        assert back.trace.entries[0].duration_ms is not None
    tracer.end_operation(begun)


def test_gates_are_shared_by_copies_and_refuse_to_be_pickled() -> None:
    for gate in (ApprovalGate(), AsyncApprovalGate()):
        assert copy.deepcopy(gate).queue is gate.queue
        with pytest.raises(TypeError, match="belongs to its process"):
            pickle.dumps(gate)


def answer(connection: Connection) -> None:
    with connection:
        try:
            run("rm")
        except SafetyViolation as violation:
            connection.send((run("ls"), violation))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_guards_hold_in_other_processes(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(theirs,))
    process.start()
    theirs.close()
    assert ours.poll(60), "no answer from the other process"
    ran, violation = ours.recv()
    process.join()
    assert (ran, str(violation), violation.is_policy_violation) == ("ran ls", "no", True)


def in_fork(work: Any) -> str:
    """What *work* returns in a forked child."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, str(work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


# From Python 3.12 on, forking while threads run warns; here that is the point, or another test's thread.
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@forks
def test_a_forked_child_makes_ids_of_its_own() -> None:
    new_id()  # some are ready to be taken
    assert in_fork(new_id) != new_id()


@forks
def test_locks_held_by_another_thread_do_not_stop_a_forked_child() -> None:
    from agent_safety_layer import approval, boundaries

    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with approval._lock, boundaries._counting:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()

    def work() -> str:
        gate = ApprovalGate(on_request=lambda request: gate.approve(request.id))
        boundary = ResourceBoundary(max_operations=1)
        return f"{gate.request_approval('op', 'why').status.value} {boundary.check({})}"

    try:
        assert in_fork(work) == "approved None"
    finally:
        done.set()
        thread.join()


def test_many_threads_lose_no_count() -> None:
    boundary = ResourceBoundary(max_operations=4000)
    safety = SafetyLayer(boundaries=[boundary, TimeBoundary(60, 60)])
    guarded = safety.guard(lambda: None)
    threads = [threading.Thread(target=lambda: [guarded() for _ in range(1000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(SafetyViolation, match="Operation count 4001"):
        guarded()
