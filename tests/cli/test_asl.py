"""``asl`` as a user types it."""

import json
import os
import pty
import shutil
import subprocess
import sys

import pytest

from agent_safety_layer.events import Decision, Event
from agent_safety_layer.report import Ending, footer
from agent_safety_layer.tally import Tally
from agent_safety_layer.trace.encode import body
from agent_safety_layer.trace.header import header
from agent_safety_layer.trace.writer import TraceWriter
from asl_hooks.probe import PROBES

NAME = "20240131-120000.000-abcdef"


def asl(*words, check=0, **kw):
    """Run the command; its result, with the exit status checked."""
    command = [sys.executable, "-m", "agent_safety_layer.cli.main", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **kw)
    assert done.returncode == check, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ASL_STATE", str(tmp_path / "state"))
    return tmp_path / "state" / "traces"


@pytest.fixture
def trace(folder):
    """A recorded run: one file read, one refused, one connection refused, a name that attacks terminals."""
    path = folder / f"{NAME}.jsonl"
    about = header(
        run=NAME,
        time=1706702400.0,
        command=["agent", "a b", "\x1b[2J"],
        cwd="/w",
        policies=["workspace"],
        policy_hash="ab12",
        mode="enforce",
        backend="notify",
        enforced={},
        not_enforced=["limits.output"],
    )
    writer = TraceWriter(str(path), about)
    tally = Tally()
    for event, decision, result in (
        (Event("file.read", 10, exe="/usr/bin/cat", path="/etc/hosts", time=1706702400.5), Decision("allow"), "3"),
        (Event("file.read", 10, path="/home/u/.ssh/id"), Decision("block", "files.block", "p.yaml:3"), "EACCES"),
        (Event("net.connect", 11, ip="1.2.3.4", port=443), Decision("block", "network.allow", "p.yaml:9"), "EACCES"),
        (Event("file.write", 10, path="/tmp/\x1b]0;owned\x07\u202e"), Decision("allow"), "4"),
    ):
        effective = decision.action
        writer.add(body(event, decision, effective, result), event.time, 5)
        tally.add(event, decision, effective)
    writer.close(footer(tally, Ending("exited", 3, wall_s=1.5)))
    return path


def test_show_prints_every_event_readably(trace):
    for name in (trace, NAME, NAME[:8], "last"):
        lines = asl("trace", "show", name).stdout.splitlines()
        assert "agent 'a b'" in lines[0]
        assert "not enforced: limits.output" in lines[2]
        assert len(lines) == 9
        assert "/etc/hosts" in lines[4]
        assert "cat" in lines[4]
        assert "[files.block p.yaml:3]" in lines[5]
        assert "1.2.3.4:443" in lines[6]
        assert lines[8] == "ended: exited, exit status 3, 1.50 s, 4 events, 2 blocked"
        assert all(line.isprintable() for line in lines)


def test_show_filters(trace):
    def shown(*words):
        return [json.loads(line)["seq"] for line in asl("trace", "show", trace, "--json", *words).stdout.splitlines()]

    assert shown() == [1, 2, 3, 4]
    assert shown("--kind", "net") == [3]
    assert shown("--kind", "file.read", "--action", "block") == [2]
    assert shown("--pid", "11", "--pid", "12") == [3]
    assert "not a kind" in asl("trace", "show", trace, "--kind", "nets", check=2).stderr
    assert "not an action" in asl("trace", "show", trace, "--action", "deny", check=2).stderr


def test_show_of_a_trace_cut_short_says_so(trace):
    trace.write_bytes(trace.read_bytes()[:1200])
    done = asl("trace", "show", trace)
    assert "/etc/hosts" in done.stdout
    assert "truncated after line" in done.stderr


def test_show_survives_a_closed_pipe_and_an_ascii_terminal(trace):
    command = f"{sys.executable} -m agent_safety_layer.cli.main trace show {trace} | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
    asl("trace", "show", trace, env={**os.environ, "PYTHONIOENCODING": "ascii"})


def test_colour_only_on_terminals(trace):
    leader, follower = pty.openpty()
    try:
        environment = {**os.environ, "TERM": "xterm"}
        environment.pop("NO_COLOR", None)
        words = [sys.executable, "-m", "agent_safety_layer.cli.main", "trace", "show", str(trace), "--kind", "net"]
        subprocess.run(words, stdout=follower, env=environment, check=True)
        assert b"\x1b[31mblock" in os.read(leader, 65536)
    finally:
        os.close(leader)
        os.close(follower)
    assert "\x1b[31m" in asl("trace", "show", trace, "--color", "always").stdout
    assert "\x1b" not in asl("trace", "show", trace).stdout


def test_verify(trace):
    assert "intact: 6 lines, 4 events" in asl("trace", "verify", trace).stdout
    assert json.loads(asl("trace", "verify", trace, "--json").stdout)["state"] == "intact"
    whole = trace.read_bytes()
    trace.write_bytes(whole.replace(b"/etc/hosts", b"/etc/h0sts"))
    assert "changed at line 2" in asl("trace", "verify", trace, check=1).stdout
    trace.write_bytes(whole[:-50])
    assert "truncated after line 5" in asl("trace", "verify", trace, check=3).stdout


def test_list(folder, trace):
    unfinished = TraceWriter(str(folder / "20240201-000000.000-ffffff.jsonl"), {"run": "x", "command": ["sleep"]})
    lines = asl("trace", "list").stdout.splitlines()
    assert lines[0].split() == ["RUN", "OUTCOME", "EXIT", "SECONDS", "EVENTS", "BLOCKED", "COMMAND"]
    assert lines[1].startswith("20240201-000000.000-ffffff  no end")
    assert lines[2].split()[:6] == [NAME, "exited", "3", "1.50", "4", "2"]
    assert "agent 'a b'" in lines[2]
    listed = [json.loads(line) for line in asl("trace", "list", "--json").stdout.splitlines()]
    assert [run["run"] for run in listed][1] == NAME
    assert listed[1]["footer"]["blocked"] == 2
    unfinished.close({})


def test_list_without_runs(folder):
    done = asl("trace", "list")
    assert done.stdout == ""
    assert "No runs" in done.stderr


def test_stats(trace):
    said = asl("trace", "stats", trace).stdout
    assert "file.read" in said
    assert "2 operations blocked" in said
    assert "files.block (p.yaml:3)" in said
    counted = json.loads(asl("trace", "stats", trace, "--json").stdout)
    assert counted["counts"]["file.read"] == {"allow": 1, "block": 1}
    assert counted["blocked"] == 2


@pytest.mark.parametrize("command", ["show", "verify", "stats"])
def test_what_is_no_trace_is_said_with_status_125(folder, tmp_path, command):
    assert "No trace 'none'" in asl("trace", command, "none", check=125).stderr
    assert "Cannot read" in asl("trace", command, tmp_path / "none", check=125).stderr
    (tmp_path / "text").write_text("hello\n")
    if command != "verify":
        assert "Not a line of a trace" in asl("trace", command, tmp_path / "text", check=125).stderr


def test_doctor():
    done = asl("doctor")
    for name in PROBES:
        assert name in done.stdout
    assert "This machine can enforce" in done.stdout
    found = json.loads(asl("doctor", "--json").stdout)
    assert found["verdict"] in ("full", "fallback")
    assert [finding["name"] for finding in found["findings"]] == [*PROBES, "core"]


def test_doctor_fails_where_nothing_can_be_enforced():
    script = "from agent_safety_layer.cli.doctor import doctor; doctor.main(obj=frozenset({'notify', 'ptrace'}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "will not start" in done.stdout


def test_doctor_ignores_the_tests_switch():
    said = asl("doctor", "--json", env={**os.environ, "ASL_WITHOUT": "kernel"}).stdout
    assert json.loads(said)["findings"][0]["ok"]


def test_policy_check(tmp_path):
    assert "right" in asl("policy", "check", "workspace", "offline", "ci", "strict").stdout
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nname: bad\nflies:\n  read: ['/']\n")
    done = asl("policy", "check", bad, check=1)
    assert f"{bad}:3" in done.stderr
    assert "files" in done.stderr
    asl("policy", "check", tmp_path / "none.yaml", check=1)


def test_policy_show(tmp_path):
    said = asl("policy", "show").stdout
    for name in ("workspace", "offline", "ci", "strict"):
        assert f"{name} " in said
    assert "name: workspace" in asl("policy", "show", "--file", "workspace").stdout
    joined = asl("policy", "show", "workspace").stdout
    assert ".ssh" in joined
    assert "profiles/secrets.yaml:" in joined
    asl("policy", "show", tmp_path / "none.yaml", check=125)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell, tmp_path):
    script = asl("completion", shell).stdout
    assert "_ASL_COMPLETE" in script
    assert "asl-supervise" in script
    assert "allow-host" in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_bash_completes_options_until_the_command(tmp_path):
    (tmp_path / "script").write_text(asl("completion", "bash").stdout)

    def completed(*words):
        lines = f"source {tmp_path}/script\nCOMP_WORDS=(asl-supervise {' '.join(words)})\nCOMP_CWORD={len(words)}\n"
        lines += '_asl_supervise; printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", lines], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert "--allow-read" in completed("--allow")
    assert "--allow-host" in completed("-p", "x", "--allow-h")
    assert completed("echo", "--allow") == []
    assert "--allow-read" not in completed("--", "--allow")
    assert "echo" in completed("-p", "workspace", "ech")
    assert completed("--approve", "") == ["tty", "queue", "deny"]
    assert completed("-q", "--backend", "n") == ["notify"]
    assert completed("--report", "") == []  # the shell's own completion of files follows
    (tmp_path / "wanted.yaml").touch()
    assert completed("-p", "w") == ["workspace", "wanted.yaml"]


def test_help_names_every_command():
    said = asl("--help").stdout
    for name in ("completion", "doctor", "policy", "trace"):
        assert name in said
    assert "Usage" in asl("trace", "--help").stdout
    assert "No such command" in asl("nothing", check=2).stderr
