"""``asl trace keygen``, ``verify --key`` and ``retain`` as a user types them, and a signed run."""

import json
import os
import subprocess
import sys

import pytest

STATE = "state"


def run(module, *words, state, check=0, **variables):
    command = [sys.executable, "-m", f"agent_safety_layer.cli.{module}", *map(str, words)]
    environment = {**os.environ, "ASL_STATE": str(state), **variables}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=state.parent)
    assert done.returncode == check, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def state(tmp_path):
    return tmp_path / STATE


def test_a_key_signs_the_runs_after_it(state):
    pytest.importorskip("cryptography")
    pytest.importorskip("zstandard")
    said = run("main", "trace", "keygen", state=state).stdout
    name = said.split()[-1]
    run("supervise", "-q", "--", "true", state=state)
    public = state / "trace.key.pub"
    assert f"signed with the key {name}" in run("main", "trace", "verify", "last", "--key", public, state=state).stdout
    trace = next((state / "traces").iterdir())
    assert json.loads(trace.read_bytes().splitlines()[0])["signed_by"] == name
    acts = [
        json.loads(line)
        for line in run("main", "trace", "retain", "--compress", "--json", state=state).stdout.splitlines()
    ]
    assert [act["what"] for act in acts] == ["compressed"]
    assert name in run("main", "trace", "verify", "last", "--key", public, state=state).stdout
    assert "exited" in run("main", "trace", "list", state=state).stdout
    assert "process.exit" in run("main", "trace", "tail", "last", "-n", "1", state=state).stdout
    assert "every event" in run("main", "replay", "last", state=state).stdout
    assert "removed" in run("main", "trace", "retain", "--max-size", "1", state=state).stdout
    assert list((state / "traces").iterdir()) == []
    assert "begin with a number" in run("main", "trace", "retain", "--max-age", "x", state=state, check=2).stderr


def test_an_unsigned_run_fails_a_check_with_a_key(state):
    pytest.importorskip("cryptography")
    run("supervise", "-q", "--", "true", state=state)
    run("main", "trace", "keygen", state.parent / "other", state=state)
    said = run("main", "trace", "verify", "last", "--key", state.parent / "other", state=state, check=1).stdout
    assert "is not signed" in said
    run("main", "trace", "verify", "last", state=state)


def test_a_key_that_cannot_be_used_starts_nothing(state):
    pytest.importorskip("cryptography")
    done = run("supervise", "--", "touch", "made", state=state, check=125, ASL_TRACE_KEY="/none")
    assert "key cannot be read" in done.stderr
    assert not (state.parent / "made").exists()
    run("supervise", "-q", "--", "touch", "made", state=state)
    assert (state.parent / "made").exists()
