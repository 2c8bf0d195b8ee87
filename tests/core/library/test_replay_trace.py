"""A supervisor's trace in the library's replay: the same policies say the same of it as ``asl replay`` does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_safety_layer import (
    NetworkBoundary,
    PathBoundary,
    Policy,
    RecordedSession,
    SafetyLayer,
    SessionReplayer,
    load_policy,
)
from agent_safety_layer.errors import TraceError
from agent_safety_layer.events import ALLOW, BLOCK, Event
from agent_safety_layer.filepolicy import FilePolicy
from agent_safety_layer.trace.files import compress
from agent_safety_layer.trace.replay import replay
from tests.core.replay.scenes import LOOSE, STATEFUL, judged, policy, write
from tests.core.replay.test_replay import EVENTS

OWN, OTHER = policy(STATEFUL), policy(LOOSE)
SHELL = {"pid": 2, "tid": 2, "ppid": 1, "exe": "/usr/bin/bash"}
EVENTS_OF_A_RUN = [
    Event("process.exec", path="/usr/bin/rm", argv=("rm", "-rf", "/w/a b"), **SHELL),
    Event("file.read", path="/w/notes.txt", **SHELL),
    Event("file.read", path="/home/u/.ssh/id", **SHELL),
    Event("net.connect", host="evil.com", ip="6.6.6.6", port=443, **SHELL),
    Event("process.exit", **SHELL),
]


@pytest.fixture
def trace(tmp_path: Path) -> str:
    return write(tmp_path / "t.jsonl", OWN, judged(OWN, EVENTS_OF_A_RUN), wall_s=2.0)


def test_a_run_is_a_session(trace: str) -> None:
    session = RecordedSession.load(trace)
    assert [operation.operation for operation in session.operations] == [
        "rm -rf '/w/a b'",
        "file.read /w/notes.txt",
        "file.read /home/u/.ssh/id",
        "net.connect evil.com:443 (6.6.6.6)",
    ]
    assert [operation.operation_type for operation in session.operations[:2]] == ["process.exec", "file.read"]
    assert session.operations[3].input_data == {"host": "evil.com", "port": 443}
    assert session.operations[2].error == "EACCES"
    assert session.duration_ms == 2000
    assert session.metadata["footer"]["outcome"] == "exited"
    session.save(f"{trace}.json")
    assert RecordedSession.load(f"{trace}.json").operations[0].operation == "rm -rf '/w/a b'"


def test_patterns_and_boundaries_judge_it(trace: str) -> None:
    replayer = SessionReplayer(
        [Policy.block_pattern(r"^rm\s+-rf", "no rm"), Policy.warn_pattern(r"notes", "look")],
        boundaries=[PathBoundary(blocked_paths=["/home/u/.ssh"]), NetworkBoundary(["good.com"])],
    )
    result = replayer.replay(RecordedSession.load(trace))
    assert [(d["operation_type"], d["blocked_by"][0]["policy"]) for d in result.blocked_details] == [
        ("process.exec", r"block_^rm\s+-rf"),
        ("file.read", "path_boundary"),
        ("net.connect", "network_boundary"),
    ]
    assert (result.total_operations, result.warnings, result.block_rate) == (4, 1, 75.0)


def test_a_policy_file_judges_the_events_themselves(trace: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("version: 1\nname: p\nfiles: {read: [/w], write: [/w]}\nexec: {block: [rm]}\n")
    safety = SafetyLayer.from_policy(tmp_path / "p.yaml")
    result = safety.replay(RecordedSession.load(trace))
    assert [d["operation"].split()[0] for d in result.blocked_details] == ["rm", "file.read"]
    compared = SessionReplayer().compare_policies(
        RecordedSession.load(trace), {"own": [FilePolicy(OWN)], "p": [FilePolicy(load_policy(tmp_path / "p.yaml"))]}
    )
    assert compared["p"].blocked_operations == 2
    assert [d["operation"] for d in compared["own"].blocked_details] == ["file.read /home/u/.ssh/id"]


def test_a_compressed_trace_and_one_that_is_none(trace: str, tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    before = RecordedSession.load(trace)
    after = RecordedSession.load(compress(trace))
    assert after.operations == before.operations
    (tmp_path / "bad").write_bytes(b'{"type":"header"}\n')
    with pytest.raises(TraceError):
        RecordedSession.load(tmp_path / "bad")


@given(st.lists(EVENTS, max_size=60), st.sampled_from([OWN, OTHER]), st.sampled_from([OWN, OTHER]))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_says_what_asl_replay_says(tmp_path_factory, events, recorded, other):  # type: ignore[no-untyped-def]
    path = write(tmp_path_factory.mktemp("t") / "t.jsonl", recorded, judged(recorded, events))
    (verdicts,) = replay(path, [("other", other)]).verdicts
    result = SessionReplayer([FilePolicy(other)]).replay(RecordedSession.load(path))
    blocked = Counter(detail["operation_type"] for detail in result.blocked_details)
    wanted = {kind: of.get(BLOCK, 0) for kind, of in verdicts.counts.items() if of.get(BLOCK)}
    assert blocked == wanted
    assert result.total_operations == verdicts.events() - verdicts.counts.get("process.exit", {}).get(ALLOW, 0)
