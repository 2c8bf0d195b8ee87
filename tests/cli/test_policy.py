"""``asl policy`` as a user types it, and the two steps from a first run to an enforced one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

AGENT = """
import os, pathlib, subprocess, sys
pathlib.Path("notes.txt").read_text()
pathlib.Path("out").mkdir(exist_ok=True)
pathlib.Path("out/report.txt").write_text("done")
subprocess.run(["ls", "-la"], stdout=subprocess.DEVNULL, check=True)
for path in sys.argv[1:]:
    try:
        open(path, "a").close()
        print("wrote", os.path.basename(path))
    except OSError as error:
        print(error.strerror)
"""


def run(folder: Path, module: str, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"agent_safety_layer.cli.{module}", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def policy(folder: Path, *words: str, status: int = 0) -> str:
    return run(folder, "main", "policy", *words, status=status).stdout


OWN = """extends: [workspace]
files: {read: [/srv, /srv/a]}
exec: {ask: ['git push*']}
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASL_STATE", str(tmp_path / "state"))
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "notes.txt").write_text("x")
    (folder / "agent.py").write_text(AGENT)
    (folder / "own.yaml").write_text(
        "extends: [workspace]\nfiles: {read: [/srv, /srv/a]}\nexec: {ask: ['git push*']}\n"
    )
    return folder


@pytest.mark.requires("notify")
@pytest.mark.requires("landlock")
def test_observed_then_learned_then_enforced(work: Path) -> None:
    agent = (sys.executable, "agent.py")
    observed = run(work, "supervise", "--observe", *agent, str(work.parent / "elsewhere"))
    assert "wrote elsewhere" in observed.stdout
    assert "would block file.create" in observed.stderr
    (work.parent / "elsewhere").unlink()

    learned = run(work, "main", "policy", "learn", "last", "-o", "learned.yaml")
    assert "still refused: 0" not in learned.stderr
    text = (work / "learned.yaml").read_text()
    assert '- "${WORKSPACE}/out"' in text
    assert policy(work, "check", "learned.yaml").startswith("learned.yaml: right")

    (work / "out" / "report.txt").unlink()
    enforced = run(
        work, "supervise", "-p", "learned.yaml", *agent, "other", "out/other", str(work.parent / "elsewhere")
    )
    assert (work / "out" / "report.txt").read_text() == "done"
    # What the observed run wrote may be written, and what is new in its folder; nothing beside.
    assert enforced.stdout.splitlines() == ["Permission denied", "wrote other", "wrote elsewhere"]
    assert not (work / "other").exists()

    merged = policy(work, "learn", "last", "--merge", "own.yaml")
    assert "extends: [workspace]" in merged
    assert f'- "{work.parent}/elsewhere"' in merged


@pytest.mark.requires("notify")
def test_a_recorded_operation_is_explained(work: Path) -> None:
    run(work, "supervise", "-p", "own.yaml", "cat", "notes.txt")
    shown = run(work, "main", "trace", "show", "last", "--json").stdout.splitlines()
    seq = next(json.loads(line)["seq"] for line in shown if "notes.txt" in line and "file.read" in line)
    said = policy(work, "explain", f"last:{seq}")
    assert said.startswith(f"allow  file.read {work}/notes.txt")
    assert "files.read: /" in said
    assert "Recorded: allow" in said


def test_check_tells_every_mistake_and_what_never_matters(work: Path) -> None:
    assert "own.yaml:2: files.read: /srv can never matter" in policy(work, "check", "own.yaml")
    (work / "bad.yaml").write_text("file: {read: [/]}\nmode: enforced\nexec: {blok: [sudo]}\n")
    done = run(work, "main", "policy", "check", "bad.yaml", status=1)
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == [
        *("bad.yaml:1", "bad.yaml:2", "bad.yaml:3", "bad.yaml")
    ]
    assert "files" in done.stderr.splitlines()[0]


def test_show_writes_out_all_that_holds(work: Path) -> None:
    assert [line.split()[0] for line in policy(work, "show").splitlines()] == [
        *("workspace", "offline", "ci", "strict", "secrets")
    ]
    shown = policy(work, "show", "own.yaml")
    assert any('"/srv/a"' in line and "own.yaml:2" in line for line in shown.splitlines())
    assert any('"${HOMES}/.ssh"' in line and "profiles/secrets.yaml" in line for line in shown.splitlines())
    (work / "shown.yaml").write_text(shown)
    assert "right" in policy(work, "check", "shown.yaml")


def test_explain_names_the_rule_and_what_would_change_it(work: Path) -> None:
    said = policy(work, "explain", "-p", "own.yaml", "git push origin")
    assert said.startswith("require_approval  process.exec git push origin")
    assert "exec.ask: git push*" in said
    assert "remove the entry 'git push*' from exec.ask (own.yaml:3)" in said


def test_a_policys_tests_fail_where_it_says_otherwise(work: Path) -> None:
    (work / "tests.yaml").write_text(
        "policy: [own.yaml]\ntests:\n  - git push: ask\n  - file.read ~/.ssh/id: block\n  - git status: allow\n"
    )
    assert policy(work, "test", "tests.yaml") == "all 3 as expected\n"
    (work / "tests.yaml").write_text("policy: [own.yaml]\ntests:\n  - git push: block\n")
    assert "expected  block" in policy(work, "test", "tests.yaml", status=1)


def test_diff_fails_on_what_is_looser(work: Path) -> None:
    assert "- process.exec git push" in policy(work, "diff", "workspace", "own.yaml", "--fail-on", "looser")
    assert "+ process.exec git push" in policy(work, "diff", "own.yaml", "workspace", "--fail-on", "looser", status=1)
