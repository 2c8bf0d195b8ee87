"""Questions of a run go to the gate of the program that started it."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_safety_layer import (
    ApprovalGate,
    ApprovalRequest,
    AsyncApprovalGate,
    SafetyLayer,
    SafetyViolation,
    Supervisor,
    helper,
    load_policy,
)
from tests.kernel.supervised import OPEN

pytestmark = pytest.mark.requires("notify", "landlock")
PATIENCE_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def _no_helper_is_left() -> Iterator[None]:
    yield
    helper.close()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "plans").write_text("the plans")
    (tmp_path / "other").write_text("other")
    made = tmp_path / "policy.yaml"
    made.write_text(OPEN + f'  ask: ["{tmp_path}/plans"]\n')
    return made


def eventually(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def answering(approve: bool, seen: list[ApprovalRequest]) -> ApprovalGate:
    def answer(request: ApprovalRequest) -> None:
        seen.append(request)
        (gate.approve if approve else gate.deny)(request.id, responder="kim", message="because")

    gate = ApprovalGate(on_request=answer)
    return gate


@pytest.mark.parametrize("approve", [True, False])
def test_the_answer_decides(policy: Path, tmp_path: Path, *, approve: bool) -> None:
    seen: list[ApprovalRequest] = []
    supervisor = Supervisor(policy, approval_gate=answering(approve, seen))
    done = supervisor.run(["cat", tmp_path / "other", tmp_path / "plans"], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == ("otherthe plans" if approve else "other")
    (request,) = seen
    assert request.operation == "file.read" and str(tmp_path / "plans") in str(request.context)
    asked = [entry.event.detail for entry in done.events() if entry.event.kind == "approval.answered"]
    assert len(asked) == 1 and "kim" in asked[0]


def test_without_a_gate_it_is_refused(policy: Path, tmp_path: Path) -> None:
    done = Supervisor(policy).run(["cat", tmp_path / "plans"], capture_output=True, cwd=tmp_path)
    assert (done.stdout, len(done.denials)) == (b"", 1)


def test_an_async_gate_and_one_that_fails(policy: Path, tmp_path: Path) -> None:
    async def yes(request: ApprovalRequest) -> None:
        await gate.approve(request.id)

    gate = AsyncApprovalGate(on_request=yes)
    command = ["cat", str(tmp_path / "plans")]
    assert Supervisor(policy, approval_gate=gate).run(command, capture_output=True, cwd=tmp_path).stdout == b"the plans"

    class Failing:
        def request_approval(self, **_: Any) -> ApprovalRequest:
            raise RuntimeError("no chat")

    failing: Any = Failing()
    done = Supervisor(policy, approval_gate=failing).run(command, capture_output=True, cwd=tmp_path)
    assert done.stdout == b"" and done.report.blocked == 1


def test_the_run_goes_on_while_a_question_is_open_and_takes_it_back_at_its_end(policy: Path, tmp_path: Path) -> None:
    gate = ApprovalGate()
    code = f"(cat {tmp_path}/plans & echo $! > pid; wait) & echo on > went-on; read line; kill $(cat pid)"
    with Supervisor(policy, approval_gate=gate).popen(["sh", "-c", code], cwd=tmp_path, stdin=-1) as run:
        eventually(gate.get_pending)
        eventually((tmp_path / "went-on").exists)
        assert run.stdin
        run.stdin.write(b"now\n")
        run.stdin.close()
    eventually(lambda: not gate.get_pending())


def test_a_question_that_nobody_answers_in_time_is_refused(policy: Path, tmp_path: Path) -> None:
    policy.write_text(policy.read_text() + "approvals: {timeout: 200ms}\n")
    gate = ApprovalGate()
    done = Supervisor(policy, approval_gate=gate).run(["cat", tmp_path / "plans"], capture_output=True, cwd=tmp_path)
    assert done.stdout == b""
    eventually(lambda: not gate.get_pending())


def test_a_sandboxed_call_asks_its_layers_gate(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_policy(policy, workspace=tmp_path)
    seen: list[ApprovalRequest] = []
    safety = SafetyLayer.from_policy(loaded, approval_gate=answering(True, seen))
    read = safety.guard((tmp_path / "plans").read_text, sandbox=True)
    assert read() == "the plans" and len(seen) == 1
    safety.approval_gate = answering(False, seen)
    with pytest.raises(SafetyViolation, match=r"file\.read"):
        read()
    assert len(seen) == 2
    threads = [threading.Thread(target=pytest.raises, args=(SafetyViolation, read)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 5


DIAL = r"""
import socket, sys
try:
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10) as s: print(s.recv(9).decode())
except OSError as error: print(type(error).__name__)
"""


@pytest.mark.parametrize("approve", [True, False])
def test_a_connection_to_this_machine_that_was_allowed_arrives(tmp_path: Path, *, approve: bool) -> None:
    """The egress process asks about it again, by the name that stands for this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        made = tmp_path / "policy.yaml"
        made.write_text(OPEN + f'network:\n  ask: ["localhost:{port}", "127.0.0.1:{port}"]\n')

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.send(b"host")

        serving = threading.Thread(target=serve)
        serving.start()
        seen: list[ApprovalRequest] = []
        supervisor = Supervisor(made, approval_gate=answering(approve, seen))
        done = supervisor.run([sys.executable, "-c", DIAL, str(port)], capture_output=True, text=True, cwd=tmp_path)
        if not approve:
            assert done.stdout in ("ConnectionRefusedError\n", "PermissionError\n")
            with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as here:  # it still waits
                assert here.recv(9) == b"host"
        serving.join(PATIENCE_S)
    assert not approve or done.stdout == "host\n", done.stderr
    assert {request.operation for request in seen} == {"net.connect"}
