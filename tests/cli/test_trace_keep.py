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


def test_a_run_goes_on_in_another_file(tmp_path):
    state = tmp_path / STATE
    script = "for i in $(seq 300); do : < /etc/passwd; : < /etc/group; done; : > t.part9.jsonl"
    (tmp_path / "policy.yaml").write_text("version: 1\nname: p\nfiles: {read: [/], write: ['${WORKSPACE}']}\n")
    words = ("-q", "-p", "policy.yaml", "-o", "t.jsonl", "--trace-split", "64k,1h", "--", "sh", "-c", script)
    run("supervise", *words, state=state, check=2)  # the shell's word for what it may not make
    files = sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".jsonl")
    assert files[:2] == ["t.jsonl", "t.part2.jsonl"]
    assert "t.part9.jsonl" not in files or len(files) > 8
    trace = tmp_path / "t.jsonl"
    assert f"in {len(files)} parts" in run("main", "trace", "verify", trace, state=state).stdout
    assert "300" in run("main", "trace", "query", trace, "--count", "by", "path", state=state).stdout
    assert "t.part9.jsonl" in run("main", "trace", "show", "--action", "block", trace, state=state).stdout
    assert "every event" in run("main", "replay", trace, state=state).stdout
    said = run("supervise", "--trace-split", "x", "true", state=state, check=125).stderr
    assert "neither a size nor a duration" in said
