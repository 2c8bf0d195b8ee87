"""The demo, as `scripts/demo` runs it once its environment is there: a real agent, supervised, judged from outside."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
NOT_IN_FORCE = 70


@pytest.fixture(autouse=True)
def _agent_installed() -> None:
    missing = [name for name in ("minisweagent",) if importlib.util.find_spec(name) is None]
    missing += [name for name in ("git", "asl-supervise") if shutil.which(name, path=PROGRAMS) is None]
    if missing:
        report = pytest.fail if "demo" in os.environ.get("ASL_MUST_WORK", "") else pytest.skip
        report(f"the demo needs {', '.join(missing)}; scripts/test installs what it can")


def run(argv: list[str], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, "PATH": PROGRAMS, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def agent_in(home: Path, *supervised_by: str) -> subprocess.CompletedProcess[str]:
    """Runs the demo's agent beside *home*, which has the canaries that it probes before it does anything else."""
    (home / "canary.d").mkdir(parents=True)
    (home / "canary.d/file").touch()
    (home / "canary").write_text("untouched")
    (workspace := home.parent / "work").mkdir()
    argv = [*supervised_by, sys.executable, str(SCRIPTS / "demo_agent.py"), "1", "1"]
    return run(argv, workspace, HOME=str(home), DEMO_TRACE=str(home / "trace"))


def test_the_demo_holds_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = run([sys.executable, str(SCRIPTS / "demo_scene.py")], tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [line for line in done.stdout.splitlines() if line.startswith("  FAIL ")]
    assert "Everything held." in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert not [line for line in done.stdout.splitlines() if len(line) > 80 and str(tmp_path) not in line]
    assert "\033" not in done.stdout, "no colour without a terminal"


def test_the_agent_does_nothing_without_a_supervisor(tmp_path: Path) -> None:
    done = agent_in(tmp_path / "home")
    assert done.returncode == NOT_IN_FORCE
    assert "no supervisor" in done.stderr
    assert (tmp_path / "home/canary").read_text() == "untouched"


def test_the_agent_does_nothing_where_nothing_is_enforced(tmp_path: Path) -> None:
    done = agent_in(tmp_path / "home", "asl-supervise", "--observe")
    assert done.returncode == NOT_IN_FORCE
    assert "home folder can be changed" in done.stderr
    assert not (tmp_path / "work/durations").exists(), "the script had not begun"
