"""Nothing outlives a run, however it ends and whatever the tree does against it."""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kernel import runs

pytestmark = pytest.mark.requires("notify")
WAYS = ("daemon", "deaf", "stopped", "vforked", "churn")


@pytest.fixture
def mark(request: pytest.FixtureRequest) -> str:
    return f"mark-{os.getpid()}-{abs(hash(request.node.nodeid)) % 10**9}-"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\nname: test\nlimits: {processes: 150, grace: 200ms}\n")
    return path


def begin(state: Path, policy: Path, mark: str, *ways: str, **options: object) -> subprocess.Popen[str]:
    """A hostile run whose tree has come to be."""
    run = runs.supervise(state, "-q", "-p", policy, sys.executable, runs.HOSTILE, mark, *ways, **options)
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    assert runs.marked(mark, ours=False)
    return run


def groups(run_id: str) -> list[Path]:
    """The cgroups of a run."""
    return [found for depth in ("*", "*/*", "*/*/*") for found in Path("/sys/fs/cgroup").glob(f"{depth}/asl-{run_id}")]


def closed(run: subprocess.Popen[str]) -> int:
    """The status of a run that ends in time, which on a busy machine a fork bomb can take from it for a while."""
    status = run.wait(60)
    for stream in (run.stdout, run.stderr):
        if stream is not None:
            stream.close()
    return status


def test_outside_of_a_run_the_tree_does_live_on(mark: str) -> None:
    """The positive control: the same tree survives the death of a parent that is no supervisor."""
    ways = [way for way in WAYS if way != "churn"]  # nobody here could end that
    run = subprocess.Popen([sys.executable, str(runs.HOSTILE), mark, *ways], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    run.stdout.close()
    run.kill()
    run.wait()
    left = runs.gone(mark, within_s=0.3)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(left) >= 4
    assert runs.gone(mark) == []


@pytest.mark.parametrize("ways", [(way,) for way in (*WAYS, "bomb")] + [WAYS])
def test_when_the_supervisor_is_killed(tmp_path: Path, policy: Path, mark: str, ways: tuple[str, ...]) -> None:
    run = begin(tmp_path, policy, mark, *ways)
    (run_id,) = (path.stem for path in (tmp_path / "traces").iterdir())
    run.kill()
    assert runs.gone(mark) == []
    closed(run)
    assert groups(run_id) == [], "its cgroups are left behind"


@pytest.mark.parametrize("ways", [WAYS, ("bomb",)])
def test_when_the_warden_is_killed(tmp_path: Path, policy: Path, mark: str, ways: tuple[str, ...]) -> None:
    run = begin(tmp_path, policy, mark, *ways)
    (warden,) = runs.children(run.pid)
    os.kill(warden, signal.SIGKILL)
    assert runs.gone(mark) == []
    assert closed(run) == 125


def test_whoever_began_the_run_is_not_hung_up(tmp_path: Path, policy: Path, mark: str) -> None:
    """A script of CI is in a process group that no shell controls; the kernel hangs such a group up when it loses its
    last tie to its session while one of it is stopped.
    """
    line = runs.command("-q", "-p", policy, sys.executable, runs.HOSTILE, mark, *WAYS)
    script = subprocess.Popen(
        ["sh", "-c", f"{shlex.join(line)}; echo $?"],
        stdout=subprocess.PIPE,
        text=True,
        env=runs.environment(tmp_path),
        start_new_session=True,
    )
    assert script.stdout is not None
    assert script.stdout.readline() == "ready\n"
    (supervisor,) = runs.children(script.pid)
    (warden,) = runs.children(supervisor)
    os.kill(warden, signal.SIGKILL)
    assert script.stdout.read() == "125\n"
    assert script.wait() == 0
    script.stdout.close()
    assert runs.gone(mark) == []


def test_when_the_whole_process_group_is_killed(tmp_path: Path, policy: Path, mark: str) -> None:
    """As ``timeout -s KILL`` and CI runners end what they started."""
    run = begin(tmp_path, policy, mark, "daemon", "deaf", start_new_session=True)
    os.killpg(run.pid, signal.SIGKILL)
    assert runs.gone(mark) == []
    closed(run)


def test_when_the_supervisor_is_killed_while_it_is_stopped(tmp_path: Path, policy: Path, mark: str) -> None:
    run = begin(tmp_path, policy, mark, "daemon", "deaf", start_new_session=True)
    os.killpg(run.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, run.pid, os.WSTOPPED | os.WNOWAIT)
    os.kill(run.pid, signal.SIGKILL)
    assert runs.gone(mark) == []
    closed(run)


@pytest.mark.parametrize("ways", [WAYS, ("bomb",)])
def test_when_the_command_has_ended(tmp_path: Path, policy: Path, mark: str, ways: tuple[str, ...]) -> None:
    script = (
        f"import subprocess, sys; p = subprocess.Popen([sys.executable, {str(runs.HOSTILE)!r}, *{[mark, *ways]!r}], "
    )
    script += "stdout=subprocess.PIPE); p.stdout.readline(); sys.exit(3)"
    run = runs.supervise(tmp_path, "-q", "-p", policy, sys.executable, "-c", script)
    assert closed(run) == 3
    assert runs.marked(mark) == []


def test_when_time_is_up_and_nobody_listens(tmp_path: Path, mark: str) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nname: test\nlimits: {wall_time: 1500ms, grace: 200ms}\n")
    run = begin(tmp_path, policy, mark, *WAYS)
    assert closed(run) == 124
    assert runs.marked(mark) == []


def test_a_supervisor_killed_at_any_moment_leaves_nothing(tmp_path: Path, policy: Path, mark: str) -> None:
    """A short one; ``scripts/soak`` does hundreds."""
    dice = random.Random(4)
    for number in range(12):
        one = f"{mark}{number}"
        words = ("-q", "-p", policy, sys.executable, runs.HOSTILE, one, "daemon", "churn")
        run = runs.supervise(tmp_path, *words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.4 * dice.random())  # the moment is what is tested
        run.kill()
        assert runs.gone(one) == []
        run.wait()


def test_a_child_that_waits_for_its_first_exec_dies_with_the_supervisor(tmp_path: Path, mark: str) -> None:
    """Between launch and "go" nothing watches but the kernel: the pipe's end, and PDEATHSIG."""
    script = (
        "import os, sys\n"
        "from asl_hooks import bpf, filters, syscalls\n"
        "from asl_hooks.launch import LaunchSpec, launch\n"
        "program = bpf.assemble(filters.build(syscalls.native_arch(), {'exec', 'fork'}))\n"
        "launched = launch(LaunchSpec(('/bin/sleep', '60'), (), program))\n"
        "print(launched.pid, launched.warden, flush=True)\n"
        "sys.stdin.read()\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=runs.environment(tmp_path),
    )
    assert run.stdout is not None and run.stdin is not None
    child, warden = map(int, run.stdout.readline().split())
    assert {child, warden} <= set(runs.marked(mark))
    run.kill()
    assert runs.gone(mark) == []
    run.wait()
    run.stdin.close()
    run.stdout.close()
