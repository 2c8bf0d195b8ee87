"""Users of release 0.1.0 change nothing: signatures, fields, formats and JSON are those recorded from it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import threading
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

import agent_safety_layer
from agent_safety_layer import (
    ApprovalGate,
    ApprovalRequest,
    AsyncApprovalGate,
    BoundarySet,
    BoundaryViolation,
    NetworkBoundary,
    PathBoundary,
    Policy,
    PolicyAction,
    PolicyResult,
    PolicySet,
    RecordedOperation,
    RecordedSession,
    ResourceBoundary,
    SafetyLayer,
    SafetySession,
    SafetyViolation,
    SessionRecorder,
    SessionReplayer,
    TimeBoundary,
    Trace,
    TraceEntry,
    TraceExporter,
    Tracer,
    TraceStatus,
    create_safety_layer,
)

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "release_0_1.json").read_text())


def found(name: str) -> Any:
    module, *path = name.split(".")
    here: Any = importlib.import_module(f"agent_safety_layer.{module}")
    for part in path:
        here = inspect.getattr_static(here, part) if inspect.isclass(here) else getattr(here, part)
    return here


def parameters(function: Any) -> Iterator[list[str | None]]:
    for parameter in inspect.signature(function).parameters.values():
        default: Any = parameter.default
        if default is inspect.Parameter.empty:
            shown = None
        elif isinstance(default, Enum):
            shown = f"{type(default).__name__}.{default.name}"
        else:
            shown = repr(default)
        yield [parameter.name, parameter.kind.name, shown]


@pytest.mark.parametrize("name", RECORDED["signatures"])
def test_signatures_begin_as_they_were(name: str) -> None:
    """What was added comes after, and has a default."""
    recorded = RECORDED["signatures"][name]
    here = found(name)
    if recorded == "property":
        assert isinstance(here, property)
        return
    if isinstance(recorded[:1], list) and recorded and isinstance(recorded[0], str):
        assert type(here).__name__ == recorded[0]
        recorded = recorded[1:]
        here = getattr(here, "__func__", here)
    ours = list(parameters(here))
    assert ours[: len(recorded)] == recorded
    assert all(default is not None for _, _, default in ours[len(recorded) :])


@pytest.mark.parametrize("name", RECORDED["enums"])
def test_enums(name: str) -> None:
    assert [[member.name, member.value] for member in found(name)] == RECORDED["enums"][name]


@pytest.mark.parametrize("name", RECORDED["fields"])
def test_fields_of_dataclasses(name: str) -> None:
    assert [field.name for field in dataclasses.fields(found(name))] == RECORDED["fields"][name]


def test_exports() -> None:
    assert set(RECORDED["exports"]) <= set(agent_safety_layer.__all__)


def test_attributes_of_instances() -> None:
    made = {
        "policies.PatternPolicy": Policy.block_pattern("a", "b"),
        "policies.ApprovalPolicy": Policy.require_approval("a"),
        "policies.CustomPolicy": Policy.custom("a", lambda operation, context: None),
        "policies.PolicySet": PolicySet(),
        "boundaries.PathBoundary": PathBoundary(),
        "boundaries.NetworkBoundary": NetworkBoundary(),
        "boundaries.TimeBoundary": TimeBoundary(),
        "boundaries.ResourceBoundary": ResourceBoundary(),
        "boundaries.BoundarySet": BoundarySet(),
        "tracing.Tracer": Tracer(),
        "replay.SessionRecorder": SessionRecorder(),
        "replay.SessionReplayer": SessionReplayer(),
        "approval.ApprovalGate": ApprovalGate(),
        "approval.AsyncApprovalGate": AsyncApprovalGate(),
        "core.SafetyLayer": SafetyLayer(),
        "core.SafetyViolation": SafetyViolation("m"),
        "core.SafetySession": SafetySession(SafetyLayer()),
    }
    assert set(made) == set(RECORDED["attributes"])
    for name, instance in made.items():
        assert set(RECORDED["attributes"][name]) <= set(vars(instance)), name


def test_keys_of_json() -> None:
    entry = TraceEntry("1", 1.0, "o", TraceStatus.COMPLETED)
    operation = RecordedOperation("1", 1.0, "o", "t", {}, None, None, 1.0)
    session = RecordedSession("1", "n", 1.0, 2.0, [operation])
    result = SessionReplayer([Policy.block_pattern("o", "x")]).replay(session)
    keys = {
        "Trace": Trace("1", "n", 1.0, 2.0, [entry]).to_dict(),
        "TraceEntry": entry.to_dict(),
        "RecordedSession": session.to_dict(),
        "RecordedOperation": operation.to_dict(),
        "ReplayResult": result.to_dict(),
        "blocked_details": result.blocked_details[0],
        "diff_results": SessionReplayer.diff_results(result, result),
        "ApprovalRequest": ApprovalRequest("1", "o", "r", {}, 1.0, 1.0).to_dict(),
    }
    assert {name: list(value) for name, value in keys.items()} == RECORDED["keys"]


# -- values as 0.1.0 gives them --------------------------------------------------------------------------------------


def test_names_descriptions_and_results_of_policies() -> None:
    long = Policy.audit_pattern("SELECT.*FROM some very long pattern", "why")
    assert (long.name, long.description) == ("audit_SELECT.*FROM some ve", "why")
    approval = Policy.require_approval("send_email", timeout=60)
    assert (approval.name, approval.reason) == ("approve_send_email", "Operation 'send_email' requires approval")
    assert Policy.custom("c", lambda operation, context: None).description == "c"
    block = Policy.block_pattern(r"rm\s+-rf", "No")
    assert block.evaluate("foo RM -rf /", {}) == PolicyResult(
        PolicyAction.BLOCK, "block_rm\\s+-rf", "No", {"pattern": r"rm\s+-rf", "matched": "foo RM -rf /"}
    )
    by_type = approval.evaluate("x", {"operation_type": "send_email"})
    assert by_type is not None and by_type.metadata == {"timeout": 60, "operation_type": "send_email"}
    assert approval.evaluate("send_email x", {}) is None


def test_violations_of_boundaries() -> None:
    paths = PathBoundary(["/usr", "/tmp"], ["/tmp/blocked"], ["*.txt"], ["*.exe"])
    outside = BoundaryViolation(
        "path", "path_boundary", "Path not in allowed list", "/nowhere/x", [Path("/tmp"), Path("/usr"), "*.txt"]
    )
    assert paths.check({"path": "/tmp/../nowhere/x"}) == outside
    blocked = paths.check({"path": "/tmp/blocked/a.txt"})
    assert blocked is not None and blocked.reason == "Path is under blocked directory: /tmp/blocked"
    assert blocked.allowed_values == [Path("/tmp"), Path("/usr")]
    pattern = paths.check({"file_path": "/tmp/x.exe"})
    assert pattern is not None and (pattern.reason, pattern.allowed_values) == (
        "Path matches blocked pattern",
        ["*.txt"],
    )
    assert paths.check({"path": "/nowhere/a.txt"}) is None

    both = PathBoundary(["/tmp"], ["/etc"], None, ["/etc/p*"]).check({"path": "/etc/passwd"})
    assert both is not None and (both.reason, both.allowed_values) == ("Path matches blocked pattern", [Path("/tmp")])

    local = NetworkBoundary(blocked_hosts=["localhost", "127.0.0.1"])
    assert local.check({"host": "localhost"}) == BoundaryViolation(
        "network", "network_boundary", "Host is blocked: localhost", "localhost", []
    )
    network = NetworkBoundary(["ok.com"], ["bad.com"], [443], [22])
    assert network.check({"url": "http://no.com:443/"}) == BoundaryViolation(
        "network", "network_boundary", "Host not in allowed list", "no.com", ["ok.com"]
    )
    assert network.check({"url": "http://bad.com:22/"}) == BoundaryViolation(
        "network", "network_boundary", "Host is blocked: bad.com", "bad.com", ["ok.com"]
    )
    assert network.check({"url": "http://ok.com:80/"}) == BoundaryViolation(
        "network", "network_boundary", "Port not in allowed list", 80, [443]
    )
    assert network.check({"url": "http://x.com:22/"}) == BoundaryViolation(
        "network", "network_boundary", "Port 22 is blocked", 22, [443]
    )
    assert network.check({"host": "10.0.0.1"}) == BoundaryViolation(
        *("network", "network_boundary", "Private IP addresses are not allowed", "10.0.0.1"),
        metadata={"is_private_ip": True},
    )

    seconds = TimeBoundary(1.0, 3.0)
    assert seconds.check({"execution_time": 1.5}) == BoundaryViolation(
        "time", "time_boundary", "Execution time 1.50s exceeds limit 1.00s", 1.5, 1.0
    )
    reasons = [seconds.check({"execution_time": 0.9}) for _ in range(4)]
    assert [found and found.reason for found in reasons] == [None, None, None, "Total time 3.60s exceeds limit 3.00s"]

    resources = ResourceBoundary(10, 20, 3, 4)
    for measured, reason in (
        ({"memory_mb": 11}, "Memory usage 11.00MB exceeds limit 10.00MB"),
        ({"memory_mb": 1, "cpu_percent": 21}, "CPU usage 21.0% exceeds limit 20.0%"),
        ({"memory_mb": 1, "cpu_percent": 1, "open_files": 4}, "Open files 4 exceeds limit 3"),
    ):
        crossed = resources.check(measured)
        assert crossed is not None and crossed.reason == reason
    fine = {"memory_mb": 1, "cpu_percent": 1, "open_files": 1}
    assert resources.check(fine) is None
    fifth = resources.check(fine)
    assert fifth is not None and fifth.reason == "Operation count 5 exceeds limit 4"


def test_the_summary() -> None:
    signs = {"pending": "○", "running": "→", "completed": "✓", "failed": "✗", "blocked": "⊘", "skipped": "⊖"}
    for status, sign in signs.items():
        entry = TraceEntry("i", 1.0, "op", TraceStatus(status), duration_ms=12.345, error="e")
        lines = TraceExporter.to_summary(Trace("1", "n", 1.0, 2.0, [entry])).splitlines()
        assert lines[0] == "Trace: n (1)"
        assert [line.partition(":")[0] for line in lines[1:3]] == ["Started", "Ended"]
        counts = [f"Errors: {int(status == 'failed')}", f"Blocked: {int(status == 'blocked')}"]
        assert lines[3:] == [
            "Duration: 1000.00ms",
            "Entries: 1",
            *counts,
            "",
            "Operations:",
            f"  {sign} op (12.3ms)",
            "    Error: e",
        ]
    open_trace = TraceExporter.to_summary(Trace("1", "n", 1.0, None, [TraceEntry("i", 1.0, "op", TraceStatus.RUNNING)]))
    assert "Ended" not in open_trace and open_trace.endswith("\n  → op")


def test_json_is_what_it_was() -> None:
    exported = TraceExporter.to_json(Trace("1", "né", 1.0), pretty=False)
    assert re.sub(r'"started_at_iso": "[^"]+"', '"started_at_iso": ""', exported) == (
        '{"id": "1", "name": "n\\u00e9", "started_at": 1.0, "started_at_iso": "", "ended_at": null,'
        ' "ended_at_iso": null, "duration_ms": null, "entry_count": 0, "error_count": 0, "blocked_count": 0,'
        ' "entries": [], "metadata": {}}'
    )
    assert TraceExporter.from_json(exported) == Trace("1", "né", 1.0)


def test_entries_and_recordings_of_a_session() -> None:
    with SafetyLayer(policies=[Policy.block_pattern("blk", "x")]).session("nm", record=True) as session:
        session.execute("a", lambda: {"k": 1}, {"path": "/x"}, "tt")
        with pytest.raises(SafetyViolation) as raised:
            session.execute("blk", lambda: 1)
        with pytest.raises(ZeroDivisionError):
            session.execute("err", lambda: 1 / 0)
        session.log("hello")
    assert (str(raised.value), raised.value.args) == ("x", ("x",))
    assert raised.value.is_policy_violation and not raised.value.is_boundary_violation
    trace = session.finish()
    assert [
        (e.operation, e.status.value, e.level.value, e.input_data, e.output_data, e.error) for e in trace.entries
    ] == [
        ("a", "completed", "info", {"path": "/x", "operation_type": "tt"}, {"k": 1}, None),
        ("blk", "blocked", "info", {"operation_type": "function"}, None, "x"),
        ("err", "failed", "info", {"operation_type": "function"}, None, "division by zero"),
        ("hello", "completed", "info", None, None, None),
    ]
    assert trace.entries[3].duration_ms == 0
    recording = session.get_recording()
    assert recording is not None
    assert [
        (o.operation, o.operation_type, o.input_data, o.output_data, o.error, o.context) for o in recording.operations
    ] == [
        ("a", "tt", {"path": "/x", "operation_type": "tt"}, {"k": 1}, None, {}),
        ("blk", "function", {"operation_type": "function"}, None, "x", {}),
        ("err", "function", {"operation_type": "function"}, None, "division by zero", {}),
    ]


def test_entries_of_guarded_calls() -> None:
    safety = SafetyLayer()
    assert safety.get_trace() is safety.get_trace()

    @safety.guard(operation="op", context={"z": 1})
    def work(x: int, *, k: int = 1) -> int:
        return x + k

    assert work(1, k=2) == 3
    trace = safety.get_trace()
    assert trace is not None and trace.name == "safety_layer"
    entry = trace.entries[0]
    assert entry.input_data == {"z": 1, "function": "work", "args": (1,), "kwargs": {"k": 2}}
    assert (entry.operation, entry.output_data, entry.metadata, entry.parent_id) == ("op", 3, {}, None)


def test_the_lists_given_are_the_lists_used() -> None:
    policies: list[Policy] = []
    safety = SafetyLayer(policies=policies)
    safety.add_policy(Policy.block_pattern("a", "b", name="twice"))
    safety.add_policy(Policy.block_pattern("a", "b", name="twice"))
    assert safety.policy_set.policies is policies
    assert safety.remove_policy("twice") and len(policies) == 1
    assert safety.remove_policy("twice") and not safety.remove_policy("twice")


def test_approvals_ask_with_the_policys_reason_and_timeout() -> None:
    asked: list[ApprovalRequest] = []

    def answer(request: ApprovalRequest) -> None:
        asked.append(request)
        gate.deny(request.id, "bob", "nope")

    gate = ApprovalGate(on_request=answer)
    safety = SafetyLayer(policies=[Policy.require_approval("send", timeout=5)], approval_gate=gate)
    with safety.session() as session, pytest.raises(SafetyViolation, match=r"^Operation blocked") as raised:
        session.execute("x", lambda: "sent", operation_type="send")
    assert raised.value.policy_result is None and raised.value.boundary_violation is None
    request = asked[0]
    assert (request.operation, request.reason, request.timeout) == ("x", "Operation 'send' requires approval", 5)
    assert request.context == {"operation_type": "send"}
    assert (request.responder, request.response_message, request.is_denied) == ("bob", "nope", True)


def test_the_convenience_function() -> None:
    layer = create_safety_layer(
        allowed_paths=["/tmp"], allowed_hosts=["a.com"], enable_tracing=False, enable_approval=True
    )
    assert [policy.name for policy in layer.policy_set] == [
        *("block_rm_root", "block_drop_table", "block_truncate", "block_raw_device", "block_disk_format"),
        "block_prod_db",
    ]
    assert [boundary.name for boundary in layer.boundary_set] == ["path_allowlist", "network_allowlist"]
    assert layer.trace is False and layer.approval_gate is not None
    assert not create_safety_layer(block_dangerous_commands=False, block_production_access=False).policy_set.policies


@pytest.mark.parametrize(
    "command", ["rm -rf /", "rm -r -f ~", "sudo rm -rfv $HOME", "rm --recursive --force /", 'rm -rf "/"']
)
def test_recursive_deletes_in_all_spellings(command: str) -> None:
    layer = create_safety_layer()
    assert layer.check(command).blocked_reason == "Blocking recursive delete from root or home"
    assert layer.check("rm -rf build").allowed


# -- the examples of its documentation -------------------------------------------------------------------------------


def quick_start(tmp_path: Path) -> SafetyLayer:
    return SafetyLayer(
        policies=[
            Policy.block_pattern(r"rm\s+-rf\s+/", "No recursive delete from root"),
            Policy.block_pattern(r"DROP\s+TABLE", "No DROP TABLE in production"),
            Policy.require_approval("send_email", timeout=300),
        ],
        boundaries=[
            PathBoundary(allowed_paths=["/tmp", str(tmp_path)]),
            NetworkBoundary(allowed_hosts=["api.openai.com", "api.anthropic.com"]),
        ],
    )


def test_quick_start(tmp_path: Path) -> None:
    ran: list[str] = []
    safety = quick_start(tmp_path)

    @safety.guard
    def execute_command(cmd: str) -> str:
        ran.append(cmd)
        return "done"

    assert execute_command("ls -la /tmp") == "done"
    with pytest.raises(SafetyViolation, match="No recursive delete from root"):
        execute_command("rm -rf /")
    with pytest.raises(SafetyViolation, match="No DROP TABLE"):
        execute_command(cmd="psql -c 'drop table users'")
    assert ran == ["ls -la /tmp"]


def test_custom_policies_see_arguments() -> None:
    def check_cost(operation: str, context: dict[str, Any]) -> PolicyResult | None:
        if context.get("estimated_cost", 0) > 100:
            return PolicyResult(PolicyAction.BLOCK, "cost_limit", "Operation exceeds cost limit")
        return None

    safety = SafetyLayer(policies=[Policy.custom("cost_check", check_cost)])

    @safety.guard
    def train(model: str, estimated_cost: int) -> str:
        return model

    assert train("small", 5) == "small"
    with pytest.raises(SafetyViolation, match="exceeds cost limit"):
        train("large", 500)
    assert not safety.check("train", {"estimated_cost": 101}).allowed


def test_execution_tracing(tmp_path: Path) -> None:
    with SafetyLayer(trace=True).session(name="my_session") as session:
        session.execute("read_file", lambda: "x")
        session.execute("process_data", lambda: "y")
        session.log("Processing complete")
    trace = session.finish()
    lines = TraceExporter.to_summary(trace).splitlines()
    assert lines[0] == f"Trace: my_session ({trace.id})"
    assert lines[4:9] == ["Entries: 3", "Errors: 0", "Blocked: 0", "", "Operations:"]
    assert [re.sub(r"\([\d.]+ms\)", "()", line) for line in lines[9:]] == [
        *("  ✓ read_file ()", "  ✓ process_data ()", "  ✓ Processing complete ()"),
    ]
    TraceExporter.to_file(trace, tmp_path / "below" / "trace.json")
    assert TraceExporter.from_file(tmp_path / "below" / "trace.json") == trace


def test_session_replay(tmp_path: Path) -> None:
    with SafetyLayer().session(record=True) as session:
        for operation in ("op1", "op2", "rm -rf /tmp/test"):
            session.execute(operation, lambda: None)
    recording = session.get_recording()
    assert recording is not None
    recording.save(tmp_path / "below" / "session.json")
    recording = RecordedSession.load(tmp_path / "below" / "session.json")
    replayer = SessionReplayer(policies=[Policy.block_pattern(r"rm\s+-rf", "No rm -rf allowed")])
    result = replayer.replay(recording)
    assert (result.blocked_operations, result.total_operations) == (1, 3)
    assert result.blocked_details == [
        {
            "operation": "rm -rf /tmp/test",
            "operation_type": "function",
            "input": {"operation_type": "function"},
            "blocked_by": [{"policy": r"block_rm\s+-rf", "reason": "No rm -rf allowed"}],
        }
    ]
    results = replayer.compare_policies(
        recording,
        {
            "permissive": [],
            "moderate": [Policy.warn_pattern(r"rm", "Warning on rm")],
            "strict": [Policy.block_pattern(r"rm", "Block all rm")],
        },
    )
    rates = {name: (round(result.block_rate, 1), result.warnings) for name, result in results.items()}
    assert rates == {"permissive": (0, 0), "moderate": (0, 1), "strict": (33.3, 0)}


def test_human_in_the_loop() -> None:
    told = threading.Semaphore(0)
    gate = ApprovalGate(default_timeout=300, on_request=lambda request: told.release())
    safety = SafetyLayer(
        policies=[
            Policy.require_approval("send_email", timeout=60),
            Policy.require_approval("delete_user", timeout=300),
        ],
        approval_gate=gate,
    )

    def approval_handler() -> None:
        for _ in range(2):
            told.acquire()
            for request in gate.get_pending():
                if request.operation == "send_email":
                    gate.approve(request.id, responder="admin")
                else:
                    gate.deny(request.id, responder="admin", message="Not allowed")

    handler = threading.Thread(target=approval_handler)
    handler.start()
    with safety.session() as session:
        sent = session.execute("send_email", lambda: "sent", context={"operation_type": "send_email"})
        with pytest.raises(SafetyViolation, match="denied by admin: Not allowed"):
            session.execute("remove bob", lambda: "gone", context={"operation_type": "delete_user"})
    handler.join()
    assert sent == "sent"
