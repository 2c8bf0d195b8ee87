"""SQL over traces: the tables say what the lines say."""

import builtins
import json

import pytest

from agent_safety_layer.errors import TraceError, UnsupportedError
from agent_safety_layer.events import Decision, Event
from agent_safety_layer.trace.encode import body
from agent_safety_layer.trace.sql import ask, plain
from agent_safety_layer.trace.writer import TraceWriter

BLOCKED = Decision("block", "files.block", "p.yaml:3", "no")


def write(path, run, lines, footer):
    writer = TraceWriter(
        str(path), {"run": run, "time": 1700000000.0, "command": ["a", "b"], "policy": {"names": ["p"]}}
    )
    for event, decision, effective in lines:
        writer.add(body(event, decision, effective, "EACCES" if effective == "block" else ""), 1700000000.25)
    writer.close(footer)
    return str(path)


@pytest.fixture
def traces(tmp_path):
    pytest.importorskip("duckdb")
    hostile = "/w/'; drop table runs; --\x1b\n\"\\"
    first = [
        (Event("file.read", 5, exe="/usr/bin/cat", path="/etc/hosts"), Decision("allow"), "allow"),
        (Event("file.read", 5, exe="/usr/bin/cat", path=hostile), BLOCKED, "block"),
        (Event("net.connect", 6, host="x.com", ip="1.2.3.4", port=443), Decision("audit", "r", "p.yaml:4"), "audit"),
    ]
    second = [(Event("process.exec", 7, argv=("git", "status")), BLOCKED, "audit")]
    ended = {"outcome": "exited", "exit_code": 3, "wall_seconds": 1.5, "blocked": 1}
    return [write(tmp_path / "it's.jsonl", "r1", first, ended), write(tmp_path / "b.jsonl", "r2", second, {})], hostile


def test_the_tables(traces):
    paths, hostile = traces
    assert ask("select run, outcome, exit_code, policies, events from runs order by run", paths) == (
        ["run", "outcome", "exit_code", "policies", "events"],
        [("r1", "exited", 3, ["p"], 3), ("r2", None, None, ["p"], 1)],
    )
    _, rows = ask("select run, seq, grp, program, path, action, effective, place from events order by run, seq", paths)
    assert rows == [
        ("r1", 1, "file", "cat", "/etc/hosts", "allow", "allow", None),
        ("r1", 2, "file", "cat", hostile, "block", "block", "p.yaml:3"),
        ("r1", 3, "net", None, None, "audit", "audit", "p.yaml:4"),
        ("r2", 1, "process", None, None, "block", "audit", "p.yaml:3"),
    ]
    _, rows = ask("select run, object, events from denials order by run", paths)
    assert rows == [("r1", hostile, 1), ("r2", "git status", 1)]


def test_rows_as_json(traces):
    columns, rows = ask("select time, argv, path from events order by run desc, seq limit 1", traces[0])
    assert json.loads(plain(dict(zip(columns, rows[0], strict=True)))) == {
        "time": "2023-11-14T22:13:20.250000Z",
        "argv": ["git", "status"],
        "path": None,
    }


def test_a_trace_that_was_cut_is_read_as_far_as_it_goes(traces):
    path = traces[0][0]
    with open(path, "r+b") as file:
        file.truncate(file.read().index(b'"seq":3') + 40)
    assert ask("select count(*) from events", [path])[1] == [(2,)]
    assert ask("select outcome from runs", [path])[1] == [(None,)]


def test_mistakes_are_told(traces, monkeypatch):
    with pytest.raises(TraceError, match="not answered"):
        ask("select nothing from nowhere", traces[0])
    with pytest.raises(TraceError, match="no traces"):
        ask("select 1", [])
    whole = builtins.__import__

    def without(name, *rest):
        if name == "duckdb":
            raise ImportError(name)
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnsupportedError, match="needs DuckDB") as caught:
        ask("select 1", traces[0])
    assert "[sql]" in caught.value.remedy
