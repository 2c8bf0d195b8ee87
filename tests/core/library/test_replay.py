"""Replay: the same policies and boundaries say the same of a recording as they said of the session."""

from __future__ import annotations

from typing import Any

import pytest

from agent_safety_layer import (
    NetworkBoundary,
    PathBoundary,
    Policy,
    RecordedOperation,
    RecordedSession,
    ResourceBoundary,
    SafetyLayer,
    SafetyViolation,
    SessionRecorder,
    SessionReplayer,
    TimeBoundary,
)


def recording(*operations: RecordedOperation) -> RecordedSession:
    return RecordedSession("1", "n", 1.0, 2.0, list(operations))


def operation(name: str, took_ms: float = 1.0, **context: Any) -> RecordedOperation:
    return RecordedOperation(name, 1.0, name, "function", context, f"{name} out", None, took_ms)


def test_policies_and_boundaries_judge_a_recording_as_they_judged_the_session() -> None:
    policies: list[Policy] = [Policy.block_pattern("rm", "no rm"), Policy.warn_pattern("sudo", "careful")]
    boundaries = [PathBoundary(["/tmp"]), NetworkBoundary(["ok.com"]), ResourceBoundary(max_operations=6)]
    safety = SafetyLayer(policies, list(boundaries))
    blocked = []
    with safety.session(record=True) as session:
        for name, context in (
            *(("ls", {}), ("rm x", {}), ("sudo ls", {}), ("read", {"path": "/etc/x"}), ("read", {"path": "/tmp/x"})),
            *(("get", {"url": "https://evil.com"}), ("seventh", {})),
        ):
            try:
                session.execute(name, lambda: None, context)
            except SafetyViolation as violation:
                blocked.append((name, str(violation)))
    recorded = session.get_recording()
    assert recorded is not None
    for _ in range(2):  # nothing is used up by a replay
        result = safety.replay(recorded)
        assert [(d["operation"], d["blocked_by"][0]["reason"]) for d in result.blocked_details] == blocked
        assert (result.warnings, result.allowed_operations) == (1, 3)
    assert result.policies_applied == [
        "block_rm",
        "warn_sudo",
        "path_boundary",
        "network_boundary",
        "resource_boundary",
    ]


def test_time_is_that_of_the_recording() -> None:
    boundary = TimeBoundary(max_execution_time=1.0, max_total_time=1.5)
    replayer = SessionReplayer(boundaries=[boundary])
    result = replayer.replay(
        recording(operation("a", 900), operation("b", 1100), operation("c", 500), operation("d", 300))
    )
    assert [(d["operation"], d["blocked_by"]) for d in result.blocked_details] == [
        ("b", [{"policy": "time_boundary", "reason": "Execution time 1.10s exceeds limit 1.00s"}]),
        ("d", [{"policy": "time_boundary", "reason": "Total time 1.70s exceeds limit 1.50s"}]),
    ]
    assert boundary.remaining() == 1.0, "the boundary itself has counted nothing"


def test_this_process_is_not_measured_in_a_replay() -> None:
    replayer = SessionReplayer(boundaries=[ResourceBoundary(max_memory_mb=1, max_open_files=0)])
    assert replayer.replay(recording(operation("a"))).blocked_operations == 0


def test_contexts_are_what_policies_saw() -> None:
    seen: list[dict[str, Any]] = []
    replayer = SessionReplayer([Policy.custom("c", lambda name, context: seen.append(context))])
    one = RecordedOperation("1", 1.0, "op", "tt", {"input": 1, "k": "in"}, None, None, 5.0, {"ctx": 2, "k": "ctx"})
    replayer.replay(recording(one))
    assert seen == [{"operation_type": "tt", "ctx": 2, "input": 1, "k": "in"}]


def test_questions_are_marked_not_asked() -> None:
    result = SessionReplayer([Policy.require_approval("send")]).replay(recording(operation("send")))
    assert result.allowed_operations == 1
    assert result.trace.entries[0].metadata["policies"][0]["action"] == "require_approval"


def test_execution_only_of_what_is_let_pass_and_only_when_wanted() -> None:
    ran: list[str] = []

    def execute(recorded: RecordedOperation) -> str:
        ran.append(recorded.operation)
        if recorded.operation == "bad":
            raise ValueError("boom")
        return "again"

    session = recording(operation("good"), operation("rm"), operation("bad"))
    replayer = SessionReplayer([Policy.block_pattern("rm", "no")], execute)
    dry = replayer.replay(session)
    assert ran == [] and [entry.output_data for entry in dry.trace.entries] == ["good out", None, "bad out"]
    wet = replayer.replay(session, dry_run=False)
    assert ran == ["good", "bad"]
    assert [(e.status.value, e.output_data, e.error) for e in wet.trace.entries] == [
        *(("completed", "again", None), ("blocked", None, "no"), ("failed", None, "boom")),
    ]
    assert wet.trace.name == "replay_n" and wet.session_id == wet.trace.id and wet.original_session_id == "1"


def test_differences_between_results() -> None:
    session = recording(operation("a"), operation("b"), operation("c"), operation("c"))
    results = SessionReplayer().compare_policies(
        session, {"ab": [Policy.block_pattern("a|b", "no")], "bc": [Policy.block_pattern("b|c", "no")]}
    )
    assert SessionReplayer.diff_results(results["ab"], results["bc"]) == {
        "only_blocked_in_a": ["a"],
        "only_blocked_in_b": ["c"],
        "blocked_in_both": ["b"],
        "block_rate_diff": 25.0,
        "a": {"blocked": 2, "allowed": 2, "block_rate": 50.0},
        "b": {"blocked": 3, "allowed": 1, "block_rate": 75.0},
    }


def test_a_recorder_ends_what_it_began() -> None:
    recorder = SessionRecorder("n", {"m": 1})
    first = recorder.start_operation("a", "function", {"x": 1}, {"c": 1})
    recorder.end_operation("nonsense", 1)
    recorder.end_operation(first, "out")
    recorder.end_operation(first, "twice")
    recorder.record_operation("b", "t", {}, "o", error="e", duration_ms=5)
    recorder.start_operation("open", "t", {})
    session = recorder.finish()
    assert session.id == recorder.session_id and session.metadata == {"m": 1} and session.ended_at is not None
    assert [(o.operation, o.output_data, o.error, o.context) for o in session.operations] == [
        *(("a", "out", None, {"c": 1}), ("b", "o", "e", {}), ("open", None, None, {})),
    ]
    assert session.operations[1].duration_ms == 5
    assert RecordedSession.from_dict(session.to_dict()) == session


def test_an_empty_recording_is_not_blocked_at_all() -> None:
    assert SessionReplayer().replay(recording()).block_rate == 0


def test_what_is_missing_in_a_recording_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="operation_type"):
        RecordedOperation.from_dict({"id": "1", "timestamp": 1.0, "operation": "o"})
