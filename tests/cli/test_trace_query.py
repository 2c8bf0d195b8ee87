"""``asl trace query``, ``tail`` and ``sql`` as a user types them."""

import csv
import io
import json
import signal
import subprocess
import sys

import pytest

from agent_safety_layer.events import Decision, Event
from agent_safety_layer.trace.encode import body
from agent_safety_layer.trace.writer import TraceWriter
from tests.core.replay.scenes import LOOSE, STATEFUL, judged, policy, write

COMMAND = [sys.executable, "-m", "agent_safety_layer.cli.main", "trace"]
HOSTILE = "/w/\x1b]0;owned\x07\n\u202e/.env"
EVENTS = [
    Event("file.read", 1, exe="/usr/bin/cat", syscall="openat", path="/etc/hosts"),
    Event("file.read", 1, path="/home/u/.ssh/id"),
    Event("file.read", 2, path=HOSTILE),
    Event("net.connect", 2, host="api.example.com", ip="8.8.8.8", port=443),
    Event("net.connect", 2, ip="10.0.0.1", port=80),
]


def asl(*words, check=0):
    done = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == check, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def traces(tmp_path):
    own = policy(STATEFUL)
    return [write(tmp_path / f"{name}.jsonl", own, judged(own, EVENTS)) for name in "ab"]


def found(*words):
    return [json.loads(line)["seq"] for line in asl("query", *words, "--json").stdout.splitlines()]


def test_each_filter(traces):
    trace = traces[0]
    assert found(trace) == [1, 2, 3, 4, 5]
    assert found(trace, "--kind", "net", "--kind", "file.write") == [4, 5]
    assert found(trace, "--action", "block") == [2, 5]
    assert found(trace, "--path", "**/.env") == found(trace, "--path", ".env") == [3]
    assert found(trace, "--path", "/etc", "--path", "/home/*/.ssh") == [1, 2]
    assert found(trace, "--host", "*.example.com:443") == [4]
    assert found(trace, "--host", "10.0.0.0/8") == [5]
    assert found(trace, "--pid", "2", "--kind", "file") == [3]
    assert found(trace, "--exe", "cat") == found(trace, "--exe", "/usr/bin") == [1]
    assert found(trace, "--syscall", "openat") == [1]
    assert found(trace, "--result", "EACCES") == [2, 5]
    assert found(trace, "--since", "+1ms", "--until", "+3ms") == [2, 3, 4]
    assert found(trace, "--limit", "2") == [1, 2]


def test_rows_for_people_are_safe(traces):
    lines = asl("query", *traces, "--path", ".env").stdout.splitlines()
    assert [line for line in lines if not line.isprintable()] == []
    assert [lines[0], lines[3]] == traces
    assert lines[1].startswith("TIME")
    assert r"/w/\x1b]0;owned\x07\n\u202e/.env" in lines[2]
    assert asl("query", *traces, "--limit", "3", "--kind", "net").stdout.count("net.connect") == 3


def test_events_of_several_runs_tell_their_run(traces):
    lines = asl("query", *traces, "--kind", "net", "--json").stdout.splitlines()
    assert [json.loads(line)["run"] for line in lines] == ["run"] * 4


def test_counts(traces):
    assert asl("query", *traces, "--count", "by", "kind").stdout.split() == ["6", "file.read", "4", "net.connect"]
    said = json.loads(asl("query", traces[0], "--count", "by", "host", "--json").stdout)
    assert said == {"field": "host", "counts": {"10.0.0.1": 1, "api.example.com": 1}}
    assert asl("query", traces[0], "--count", "by", "pid", "--limit", "1").stdout.split() == ["3", "2"]
    assert asl("query", traces[0], "--count", "by", "path", "--path", ".env").stdout.splitlines()[0].isprintable()


def test_mistakes(traces):
    for words in (
        ["--kind", "nets"],
        ["--host", "a b"],
        ["--since", "soon"],
        ["--count", "by", "x"],
        ["--count", "a", "b"],
    ):
        assert "Usage" in asl("query", traces[0], *words, check=2).stderr
    assert "No trace" in asl("query", "none", check=125).stderr


def test_tail(traces):
    lines = asl("tail", traces[0], "-n", "2", "--json").stdout.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [4, 5]
    lines = asl("tail", traces[0], "-f", "-n", "1", "--action", "block", "--json").stdout.splitlines()  # it has ended
    assert [json.loads(line)["seq"] for line in lines] == [5]


def test_a_running_trace_is_followed_until_it_ends(tmp_path):
    path = tmp_path / "t.jsonl"
    writer = TraceWriter(str(path), {"run": "r", "time": 1.0})

    def add(name, action="allow"):
        writer.add(body(Event("file.read", path=name), Decision(action), action), 1000.0)
        writer.flush()

    add("/first")
    with subprocess.Popen(
        [*COMMAND, "tail", "-f", str(path), "--json", "--path", "/*"], stdout=subprocess.PIPE, text=True
    ) as tail:
        assert tail.stdout is not None
        assert json.loads(tail.stdout.readline())["path"] == "/first"
        for name in ("/second", "/third"):
            add(name)
            assert json.loads(tail.stdout.readline())["path"] == name
        writer.close({"outcome": "exited"})
        assert tail.stdout.readline() == ""
        assert tail.wait() == 0


def test_following_ends_quietly_by_ctrl_c(tmp_path):
    writer = TraceWriter(str(tmp_path / "t"), {"run": "r", "time": 1.0})
    writer.add(body(Event("file.read", path="/a"), Decision("allow"), "allow"), 1000.0)
    writer.flush()
    command = [*COMMAND, "tail", "-f", str(tmp_path / "t"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        tail.stdout.readline()
        tail.send_signal(signal.SIGINT)
        assert (tail.wait(), tail.stderr and tail.stderr.read()) == (130, "")
    writer.close({})


def test_sql(traces):
    pytest.importorskip("duckdb")
    question = "select path, count(*) as n from events where grp = 'file' group by all order by path"
    lines = asl("sql", question, *traces).stdout.splitlines()
    assert lines[0].split() == ["path", "n"]
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)
    rows = [json.loads(line) for line in asl("sql", question, *traces, "--json").stdout.splitlines()]
    assert rows[2] == {"path": HOSTILE, "n": 2}
    table = list(csv.reader(io.StringIO(asl("sql", "select '=cmd()' as x, 1 as y", *traces, "--csv").stdout)))
    assert table == [["x", "y"], ["'=cmd()", "1"]]
    assert "not answered" in asl("sql", "select x", *traces, check=125).stderr


def test_sql_over_all_runs(tmp_path, monkeypatch):
    pytest.importorskip("duckdb")
    monkeypatch.setenv("ASL_STATE", str(tmp_path))
    (tmp_path / "traces").mkdir()
    own = policy(LOOSE)
    write(tmp_path / "traces" / "one.jsonl", own, judged(own, EVENTS))
    assert json.loads(asl("sql", "select events from runs", "--json").stdout) == {"events": 5}
