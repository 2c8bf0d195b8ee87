"""``asl top`` as a user types it."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent_safety_layer.events import Decision, Event
from agent_safety_layer.running import Counts
from agent_safety_layer.trace.encode import body
from agent_safety_layer.trace.writer import TraceWriter
from tests.kernel import runs

COMMAND = (sys.executable, "-m", "agent_safety_layer.cli.main", "top")


def top(*words: str) -> str:
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return done.stdout


def listed(trace: Path) -> list[dict[str, Any]]:
    """What is said of the run with this trace; other runs of this user may go on meanwhile."""
    return [one for one in map(json.loads, top("--json").splitlines()) if one["trace"] == str(trace)]


@pytest.mark.requires("notify")
def test_a_run_is_listed_while_it_runs(tmp_path: Path) -> None:
    policy, trace = tmp_path / "policy.yaml", tmp_path / "trace.jsonl"
    policy.write_text("version: 1\nname: t\nfiles: {read: [/], block: [/etc/hostname]}\n")
    script = "cat /etc/hostname; echo ready; read line; exit 0"
    words = ("-q", "-p", policy, "-o", trace, "--name", "my \x1b[2J run", "sh", "-c", script)
    with runs.supervise(tmp_path, *words, stdin=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdin is not None
        assert run.stdout.readline() == "ready\n"
        until = time.monotonic() + 30
        while not (found := listed(trace)) or not found[0]["blocked"]:  # the trace is written every 0.2 s
            assert time.monotonic() < until
        (one,) = found
        assert (one["supervisor"], one["processes"], one["blocked"]) == (run.pid, 1, 1)
        assert one["events"] > 3
        assert one["memory_bytes"] > 1 << 16
        assert one["command"][:2] == ["sh", "-c"]
        said = top("--once")
        assert "\x1b" not in said
        assert r"my \x1b[2J run" in said
        run.stdin.write("\n")
    assert run.returncode == 0
    assert listed(trace) == []


def test_on_a_terminal_it_is_kept_up_to_date_until_ctrl_c() -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "--interval", "0.1"], stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    os.close(slave)
    seen = b""
    until = time.monotonic() + 60
    while seen.count(b"\x1b[H") < 3:
        assert select.select([master], [], [], max(0, until - time.monotonic()))[0], seen
        seen += os.read(master, 4096)
    process.send_signal(2)
    assert process.wait(60) == 0
    os.close(master)


def test_a_growing_trace_is_counted_on(tmp_path: Path) -> None:
    path = str(tmp_path / "t.jsonl")
    writer = TraceWriter(path, {"run": "r", "time": 1.0})
    counts = Counts(path)
    lines = (
        (Event("file.read", path='/a","effective":"block'), Decision("allow"), "allow"),
        (Event("file.read", path="/b"), Decision("block", "r", "w", 'why,"effective":"allow"'), "block"),
        (Event("file.read", path="/c"), Decision("block"), "audit"),
        (Event("file.read", path="/d"), Decision("require_approval"), "block"),
    )
    for number in range(1, 9):
        for event, decision, effective in lines:
            writer.add(body(event, decision, effective), 2.0)
        writer.flush()
        counts.read()
        assert (counts.events, counts.blocked) == (4 * number, 2 * number)
    writer.close({})
    counts.read()
    assert counts.events == 32
