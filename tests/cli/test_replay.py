"""``asl replay`` as a user types it."""

import json
import subprocess
import sys

import pytest

from agent_safety_layer.events import Event
from tests.core.replay.scenes import LOOSE, STATEFUL, judged, policy, write

EVENTS = [
    Event("file.read", 1, path="/etc/hosts"),
    Event("file.read", 1, path="/home/u/.ssh/id"),
    Event("file.read", 1, path="/w/\x1b]0;owned\x07\n\u202e"),
    Event("net.connect", 1, ip="8.8.8.8", port=443),
    Event("file.read", 1, path="/w/customers/x"),
    Event("net.connect", 2, ppid=1, host="api.example.com", port=443),
]


def asl(*words, check=0):
    command = [sys.executable, "-m", "agent_safety_layer.cli.main", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == check, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def trace(tmp_path):
    own = policy(LOOSE)
    return write(tmp_path / "t.jsonl", own, judged(own, EVENTS), wall_s=12.0)


@pytest.fixture
def other(tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text(STATEFUL + "limits: {wall_time: 10s}\n")
    return path


def test_without_a_policy_nothing_changes(trace):
    said = asl("replay", trace, "--fail-on", "any").stdout
    assert "loose: every event is decided as it was" in said


def test_what_another_policy_changes_is_told_with_its_rule(trace, other):
    lines = asl("replay", trace, "-p", other).stdout.splitlines()
    assert lines[1].split() == ["recorded", "6", "0", "0.00", "%", "0"]
    assert lines[2].split()[1:] == ["6", "2", "33.33", "%", "1", "2", "1", "0", "3"]
    changes = [line.strip() for line in lines[5:]]
    assert f"1x allow -> block  file.read /home/u/.ssh/id  [files.block {other}:7]" in changes
    assert f"1x allow -> block  net.connect api.example.com:443  [no-exfiltration {other}:14]" in changes
    assert "limits.wall_time 10 would have ended the run: the run used 12" in changes
    assert all(line.isprintable() for line in lines)


def test_layers_and_comparisons(trace, other, tmp_path):
    second = tmp_path / "second.yaml"
    second.write_text("version: 1\nname: second\nfiles: {read: [/w]}\n")
    layered = json.loads(asl("replay", trace, "-p", other, "-p", second, "--json").stdout)["policies"]
    assert [(p["name"], p["blocked"]) for p in layered] == [(f"{other} + {second}", 3)]
    apart = json.loads(asl("replay", trace, "-p", other, "-p", second, "--compare", "--json").stdout)["policies"]
    assert [(p["name"], p["blocked"], p["new_blocks"]) for p in apart] == [(str(other), 2, 2), (str(second), 2, 2)]
    assert apart[0]["limits"] == [{"name": "wall_time", "limit": 10.0, "used": 12.0, "hit": True, "was_hit": False}]
    change = apart[1]["changes"][0]
    assert (change["before"]["action"], change["after"]["rule"], change["first_seq"]) == ("allow", "files.read", 1)


@pytest.mark.parametrize(
    ("text", "condition", "status"),
    [
        ("files: {read: ['/']}", "new-block", 0),
        ("files: {read: ['/etc']}", "new-block", 1),
        ("files: {read: ['/etc']}", "new-ask", 0),
        ("network: {ask: ['*']}", "new-ask", 1),
        ("network: {ask: ['*']}", "new-block", 0),
        ("limits: {wall_time: 10s}", "new-block", 1),
        ("limits: {wall_time: 20s}", "any", 0),
        ("files: {read: ['/etc']}", "looser", 0),
        ("files: {read: ['/etc']}", "any", 1),
    ],
)
def test_fail_on(trace, tmp_path, text, condition, status):
    path = tmp_path / "p.yaml"
    path.write_text(f"version: 1\nname: p\n{text}\n")
    asl("replay", trace, "-p", path, "--fail-on", condition, check=status)


def test_looser_fails_when_told_to(tmp_path):
    own = policy(STATEFUL)
    path = write(tmp_path / "t.jsonl", own, judged(own, EVENTS))
    loose = tmp_path / "loose.yaml"
    loose.write_text(LOOSE)
    said = asl("replay", path, "-p", loose, "--fail-on", "looser", check=1).stdout
    assert "block -> allow" in said
    asl("replay", path, "-p", loose, "--fail-on", "new-block")


def test_mistakes_are_told(trace, tmp_path):
    assert "No trace" in asl("replay", "none", check=125).stderr
    assert "cannot be read" in asl("replay", trace, "-p", tmp_path / "none.yaml", check=125).stderr
    asl("replay", trace, "--fail-on", "something", check=2)
    (tmp_path / "bad").write_text('{"type":"header","schema":1}\n{"type":"event"}\n')
    assert "not as a supervisor writes it" in asl("replay", tmp_path / "bad", "-p", "strict", check=125).stderr
