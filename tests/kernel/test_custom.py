"""Python policies under a ``Supervisor``: they see what happens, what they say holds, and nobody waits for another."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_safety_layer import ApprovalGate, ApprovalRequest, Policy, PolicyAction, PolicyResult, Supervisor, helper
from agent_safety_layer.events import Event
from agent_safety_layer.trace.reader import TraceReader
from agent_safety_layer.trace.replay import recorded_policy, replay
from tests.kernel.supervised import OPEN

pytestmark = pytest.mark.requires("notify", "landlock", "ptrace")
PATIENCE_S = 60.0
Check = Callable[[Event], str]  # what a policy says to an event: an action, or nothing


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    (tmp_path / "open.yaml").write_text(OPEN)
    monkeypatch.chdir(made)
    return made


@pytest.fixture(scope="module", autouse=True)
def _no_helper_is_left() -> Iterator[None]:
    yield
    helper.close()


def under(folder: Path, check: Check, **how: Any) -> Supervisor:
    """A supervisor where everything is allowed but for what *check* says."""

    def answer(operation: str, context: dict[str, Any]) -> PolicyResult | None:
        said = check(context["event"])
        return PolicyResult(PolicyAction(said), "mine", f"no {operation}") if said else None

    return Supervisor([folder.parent / "open.yaml", Policy.custom("mine", answer)], **how)


def test_it_sees_every_operation_and_what_it_says_holds(folder: Path) -> None:
    seen: list[Event] = []

    def check(event: Event) -> str:
        seen.append(event)
        return "block" if event.kind in ("file.write", "file.create") and event.path.endswith("/secret") else ""

    (folder / "open").write_text("x")
    script = "cat open; echo y > fine; echo z > secret; mkdir made; rm open"
    done = under(folder, check).run(["sh", "-c", script], capture_output=True, text=True)
    assert done.stdout == "x"
    assert (folder / "fine").read_text() == "y\n"
    assert not (folder / "secret").exists() and (folder / "made").is_dir() and not (folder / "open").exists()
    kinds = {(event.kind, Path(event.path).name) for event in seen}
    assert kinds >= {("file.read", "open"), ("file.create", "made"), ("file.delete", "open")}
    assert any(event.argv == ("cat", "open") for event in seen)
    (denied,) = done.denials
    assert (denied.object, denied.rule, denied.where) == (str(folder / "secret"), "mine", "Python")
    assert denied.reason == f"no file.create {folder}/secret"


def test_a_replay_keeps_what_a_python_policy_said(folder: Path) -> None:
    supervisor = under(folder, lambda event: "block" if event.path.endswith("/secret") else "")
    done = supervisor.run(["sh", "-c", "echo z > secret"], capture_output=True)
    assert len(done.denials) == 1
    with TraceReader(done.report.trace) as reader:
        own = recorded_policy(reader.header)
    (verdicts,) = replay(done.report.trace, [("own", own)]).verdicts
    assert verdicts.changes == []


def test_what_raises_blocks_and_is_reported(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    def check(event: Event) -> str:
        if event.path.endswith("/broken"):
            raise LookupError("no such customer")
        return ""

    with caplog.at_level(logging.ERROR):
        done = under(folder, check).run(["sh", "-c", "echo x > broken; echo y > whole"], capture_output=True)
    assert not (folder / "broken").exists()
    assert (folder / "whole").exists()
    assert [denied.reason for denied in done.denials] == ["the policy 'mine' raised LookupError: no such customer"]
    assert "no such customer" in caplog.text


def test_what_waits_for_a_policy_keeps_nobody_else_waiting(folder: Path) -> None:
    others_are_done = threading.Event()

    def check(event: Event) -> str:
        if event.kind == "file.create" and event.path.endswith("/slow"):
            assert others_are_done.wait(PATIENCE_S)
        if event.path.endswith("/last"):
            others_are_done.set()
        return ""

    script = "(echo x > slow) & for i in 1 2 3 4 5 6 7 8; do echo y > $i; done; echo z > last; wait"
    done = under(folder, check).run(["sh", "-c", script], capture_output=True)
    assert done.returncode == 0
    assert others_are_done.is_set() and (folder / "slow").read_text() == "x\n"


def test_what_waits_for_a_policy_can_be_killed(folder: Path) -> None:
    asked, over = threading.Event(), threading.Event()

    def check(event: Event) -> str:
        if event.path.endswith("/never"):
            asked.set()
            over.wait(PATIENCE_S)
        return ""

    with under(folder, check).popen(["sh", "-c", "echo x > never"]) as run:
        assert asked.wait(PATIENCE_S)
        run.kill()
        assert run.wait(PATIENCE_S).returncode != 0
    over.set()
    assert not (folder / "never").exists()


def test_scripts_and_what_runs_them_are_asked_about(folder: Path) -> None:
    script = folder / "script"
    script.write_text("#!/usr/bin/env sh\necho ran\n")
    script.chmod(0o755)
    assert under(folder, lambda _: "").run(["./script"], capture_output=True).stdout == b"ran\n"
    done = under(folder, lambda event: "block" if event.path.endswith("/env") and event.argv else "").run(
        ["sh", "-c", "./script"], capture_output=True
    )
    assert done.stdout == b""
    assert done.returncode == 126


def test_connections_are_asked_about(folder: Path) -> None:
    code = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1]))); print('connected')"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = ["python3", "-ISc", code, str(port)]
        free = under(folder, lambda _: "").run(command, capture_output=True)
        kept = under(folder, lambda event: "block" if event.port == port else "").run(command, capture_output=True)
    assert free.stdout == b"connected\n"
    assert kept.stdout == b""
    assert {denied.kind for denied in kept.denials} == {"net.connect"}


def test_what_asks_a_person_is_refused_where_nobody_is_asked(folder: Path) -> None:
    done = under(folder, lambda event: "require_approval" if event.path.endswith("/x") else "").run(
        ["sh", "-c", "echo x > x; echo y > y"], capture_output=True
    )
    assert not (folder / "x").exists() and (folder / "y").exists()
    assert [denied.rule for denied in done.denials] == ["mine"]


def test_what_asks_a_person_goes_to_the_programs_gate(folder: Path) -> None:
    asked: list[ApprovalRequest] = []

    def answer(request: ApprovalRequest) -> None:
        asked.append(request)
        gate.approve(request.id)

    gate = ApprovalGate(on_request=answer)
    supervisor = under(
        folder, lambda event: "require_approval" if event.path.endswith("/x") else "", approval_gate=gate
    )
    supervisor.run(["sh", "-c", "echo x > x"], capture_output=True)
    assert (folder / "x").read_text() == "x\n"
    assert len(asked) == 1


def test_observed_it_is_recorded_and_nothing_is_blocked(folder: Path) -> None:
    done = under(folder, lambda event: "block" if event.path.endswith("/x") else "", observe=True).run(
        ["sh", "-c", "echo x > x"], capture_output=True
    )
    assert (folder / "x").exists()
    (entry,) = [entry for entry in done.events() if entry.decision.rule == "mine"]
    assert (entry.decision.action, entry.outcome.effective) == ("block", "audit")


def test_a_policy_that_another_thread_deceives_is_asked_about_what_is_opened(folder: Path) -> None:
    """The name changes between what the policy is asked about and what would be opened: that is the object judged."""
    (folder / "secret").write_text("secret")
    (folder / "plain").write_text("plain")
    (folder / "link").symlink_to("plain")

    def check(event: Event) -> str:
        if event.path == str(folder / "plain"):
            (folder / "link").unlink()
            (folder / "link").symlink_to("secret")
        return "block" if event.path == str(folder / "secret") else ""

    done = under(folder, check).run(["cat", "link"], capture_output=True)
    assert done.stdout == b"plain"
    assert under(folder, check).run(["cat", "link"], capture_output=True).stdout == b""
