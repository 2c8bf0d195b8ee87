"""Policy files in this process: arguments become events, and the same function decides as for system calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent_safety_layer import (
    ApprovalGate,
    ApprovalRequest,
    PolicyError,
    ResourceBoundary,
    SafetyLayer,
    SafetyViolation,
    TimeBoundary,
    load_policy,
)
from agent_safety_layer.filepolicy import FilePolicy, events_of

POLICY = """
version: 1
name: agent
files:
  read: ["/usr", "${WORKSPACE}"]
  write: ["${WORKSPACE}/out"]
  block: ["${WORKSPACE}/**/.env"]
network:
  allow: ["api.ok.com:443"]
  ask: ["*.docs.org"]
exec:
  block: ["sudo", "rm -rf *"]
limits: {wall_time: 1h, memory: 1TiB, open_files: 100000}
rules:
  - {name: no-drop, on: op.call, match: 'DROP TABLE', action: block, reason: "No drops"}
  - {name: look, on: op.call, match: 'SELECT', action: warn, reason: "A query"}
  - name: no-exfiltration
    on: net
    after: {on: file.read, path: "**/customers/**"}
    action: block
    reason: "Customers were read"
approvals: {timeout: 2m, on_timeout: deny}
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "policy.yaml").write_text(POLICY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def layer(workspace: Path, **options: Any) -> SafetyLayer:
    return SafetyLayer.from_policy(workspace / "policy.yaml", **options)


def kinds(operation: str, **context: Any) -> list[tuple[str, str]]:
    return [
        (event.kind, event.path or event.host or " ".join(event.argv)) for event in events_of(operation, context)[1:]
    ]


@pytest.mark.parametrize(
    ("operation", "context", "events"),
    [
        ("read_file", {"path": "/a"}, [("file.read", "/a")]),
        ("listFiles", {"directory": "/a"}, [("file.list", "/a")]),
        ("delete_file", {"path": "/a"}, [("file.delete", "/a")]),
        ("process", {"path": "/a"}, [("file.write", "/a")]),
        ("process", {"path": "/a", "access": "read"}, [("file.read", "/a")]),
        ("open_it", {"path": "/a", "mode": "wb"}, [("file.write", "/a")]),
        ("transform", {"path": "/a", "mode": "r"}, [("file.read", "/a")]),
        ("copy", {"src": "/a", "dst": "/b"}, [("file.read", "/a"), ("file.write", "/b")]),
        ("rename", {"src": "/a", "dst": "/b"}, [("file.rename", "/a")]),
        ("get", {"url": "https://x.com/y"}, [("net.connect", "x.com")]),
        ("get", {"url": "file:///a"}, [("file.read", "/a")]),
        ("run", {"cmd": "A=1 sudo ls; cat /x"}, [("process.exec", "sudo ls"), ("process.exec", "cat /x")]),
        ("run", {"argv": ["git", "push"]}, [("process.exec", "git push")]),
        ("run", {"cmd": "ls $(id)"}, [("process.exec", run) for run in ("ls $", "id", "sh -c ls $(id)")]),
    ],
)
def test_what_calls_stand_for(operation: str, context: dict[str, Any], events: list[tuple[str, str]]) -> None:
    assert kinds(operation, **context) == events


def test_a_rename_has_both_ends_and_every_event_says_who() -> None:
    event = events_of("move_file", {"src": "/a", "dst": "/b"})[1]
    assert (event.path, event.path2, event.op) == ("/a", "/b", "move_file")
    assert event.pid and event.tid and event.time


def test_files(workspace: Path) -> None:
    safety = layer(workspace)

    @safety.guard
    def read_file(path: str) -> str:
        return path

    @safety.guard
    def write_file(path: str, content: str = "") -> str:
        return path

    assert read_file("/usr/bin/env") and read_file("notes.txt") and write_file("out/x")
    with pytest.raises(SafetyViolation, match="is not allowed") as raised:
        read_file("/etc/passwd")
    result = raised.value.policy_result
    assert result is not None
    assert (result.policy_name, result.metadata["rule"], result.metadata["kind"]) == (
        "agent",
        "files.read",
        "file.read",
    )
    assert result.metadata["where"].endswith("policy.yaml:5")
    assert raised.value.result is not None and raised.value.result.decision.rule == "files.read"
    for call, path in ((write_file, "notes.txt"), (read_file, "sub/.env"), (read_file, "out/../../x")):
        with pytest.raises(SafetyViolation):
            call(path)


def test_network_and_commands(workspace: Path) -> None:
    safety = layer(workspace)
    fetch = safety.guard(lambda url: url, operation="fetch")
    run = safety.guard(lambda cmd: cmd, operation="run")
    assert fetch("https://api.ok.com/v1") and run("git status")
    for url in ("http://api.ok.com/", "https://evil.com/", "https://127.0.0.1/", "nonsense url"):
        with pytest.raises(SafetyViolation):
            fetch(url)
    for command in ("ls && sudo ls", ["sudo", "ls"], "/usr/bin/sudo ls", "rm -rf build"):
        with pytest.raises(SafetyViolation):
            run(command)


def test_rules_see_the_text_of_calls(workspace: Path) -> None:
    safety = layer(workspace)
    query = safety.guard(lambda sql: sql, operation="query")
    assert query("SELECT 1")
    trace = safety.get_trace()
    assert trace is not None and trace.entries[0].metadata["policies"] == [
        {"policy": "agent", "action": "warn", "reason": "A query"}
    ]
    with pytest.raises(SafetyViolation, match="No drops"):
        query("DROP TABLE x")


def test_rules_look_back_and_a_replay_looks_back_on_its_own(workspace: Path) -> None:
    safety = layer(workspace)
    with safety.session(record=True) as session:
        session.execute("get", lambda: None, {"url": "https://api.ok.com/"})
        session.execute("read_file", lambda: None, {"path": "customers/list"})
        with pytest.raises(SafetyViolation, match="Customers were read"):
            session.execute("get", lambda: None, {"url": "https://api.ok.com/"})
    recording = session.get_recording()
    assert recording is not None
    result = safety.replay(recording)
    assert [detail["blocked_by"][0]["reason"] for detail in result.blocked_details] == ["Customers were read"]


def test_questions_have_the_policys_patience(workspace: Path) -> None:
    asked: list[ApprovalRequest] = []

    def answer(request: ApprovalRequest) -> None:
        asked.append(request)
        gate.approve(request.id)

    gate = ApprovalGate(on_request=answer)
    fetch = layer(workspace, approval_gate=gate).guard(lambda url: url, operation="fetch")
    assert fetch("https://a.docs.org/")
    assert [request.timeout for request in asked] == [120]
    with pytest.raises(SafetyViolation, match="no approval gate"):
        layer(workspace).guard(lambda url: url)("https://a.docs.org/")


def test_silence_can_mean_yes(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("version: 1\nexec: {ask: ['ls']}\napprovals: {timeout: 0s, on_timeout: allow}\n")
    try:
        safety = SafetyLayer.from_policy(tmp_path / "p.yaml", approval_gate=ApprovalGate())
    except PolicyError:
        (tmp_path / "p.yaml").write_text(
            "version: 1\nexec: {ask: ['ls']}\napprovals: {timeout: 1ms, on_timeout: allow}\n"
        )
        safety = SafetyLayer.from_policy(tmp_path / "p.yaml", approval_gate=ApprovalGate())
    assert safety.guard(lambda cmd: cmd)("ls") == "ls"


def test_limits_become_boundaries(workspace: Path) -> None:
    boundaries = {boundary.name: boundary for boundary in layer(workspace).boundary_set}
    wall, memory, files = (boundaries[f"limits.{name}"] for name in ("wall_time", "memory", "open_files"))
    assert isinstance(wall, TimeBoundary) and wall.max_total_time == 3600
    assert isinstance(memory, ResourceBoundary) and memory.max_memory_mb == 2**20
    assert isinstance(files, ResourceBoundary) and files.max_open_files == 100_000


def test_observed_layers_are_not_asked(workspace: Path) -> None:
    (workspace / "policy.yaml").write_text(POLICY.replace("name: agent", "name: agent\nmode: observe"))
    assert layer(workspace).guard(lambda cmd: cmd)("sudo ls") == "sudo ls"


def test_profiles_and_mistakes(workspace: Path) -> None:
    safety = SafetyLayer.from_policy("workspace")
    assert safety.check("write_file", {"path": str(workspace / "x")}).allowed
    assert not safety.check("write_file", {"path": "/usr/x"}).allowed
    assert not safety.check("read_file", {"path": "~/.ssh/id_rsa"}).allowed
    (workspace / "bad.yaml").write_text("version: 1\nfile: {}\n")
    with pytest.raises(PolicyError, match=r"bad\.yaml:2"):
        SafetyLayer.from_policy(workspace / "bad.yaml")
    assert isinstance(FilePolicy(load_policy("strict", workspace=workspace)), FilePolicy)


def test_the_administrators_policy_is_a_layer_that_nobody_loosens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "admin.yaml").write_text("version: 1\nname: admin\nfiles: {block: ['/srv/closed']}\n")
    (tmp_path / "mine.yaml").write_text("version: 1\nname: mine\nfiles: {read: ['/']}\n")
    monkeypatch.setattr("agent_safety_layer.filepolicy.ADMINISTRATOR", str(tmp_path / "nothing.yaml"))
    free = SafetyLayer.from_policy(tmp_path / "mine.yaml")
    monkeypatch.setattr("agent_safety_layer.filepolicy.ADMINISTRATOR", str(tmp_path / "admin.yaml"))
    bound = SafetyLayer.from_policy(tmp_path / "mine.yaml")
    assert load_policy(tmp_path / "mine.yaml").name == "mine+admin"
    assert load_policy().name == "workspace+admin"
    assert free.check("read_file", {"path": "/srv/closed"}).allowed
    assert not bound.check("read_file", {"path": "/srv/closed"}).allowed
    assert bound.check("read_file", {"path": "/srv/open"}).allowed
