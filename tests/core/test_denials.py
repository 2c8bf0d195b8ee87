import json
import os

import pytest

from agent_safety_layer import denials as module
from agent_safety_layer.denials import PER_SECOND, Denials
from agent_safety_layer.denials import line as line_of
from agent_safety_layer.events import Decision, Event
from agent_safety_layer.wording import remedy_of

DENIED = Event("file.read", pid=7, path="/home/u/.ssh/id_rsa", time=1700000000.5)
RULE = Decision("block", "files.block", "p.yaml:3", "secrets stay")


def line(event, decision, effective, colour=False):
    remedy = remedy_of(event, decision) if effective == "block" else ""
    return line_of(event, decision, effective, remedy, colour)


class Screen:
    def __init__(self):
        self.said = []
        self.full = False

    def write(self, text):
        if not self.full:
            self.said.append(text)
        return not self.full


@pytest.fixture
def screen():
    return Screen()


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "denials.jsonl"
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND)
    yield fd, path
    os.close(fd)


def test_a_line_names_act_object_rule_place_reason_and_remedy():
    said = line(DENIED, RULE, "block")
    for part in (
        "blocked file.read",
        "/home/u/.ssh/id_rsa",
        "files.block",
        "p.yaml:3",
        "secrets stay",
        "change p.yaml:3",
    ):
        assert part in said
    assert said.count("\n") == 1
    assert "would block" in line(DENIED, RULE, "audit")
    assert "to allow" not in line(DENIED, RULE, "audit")
    assert "warning" in line(DENIED, Decision("warn", "mine"), "warn")
    assert "\x1b[31mblocked" in line(DENIED, RULE, "block", colour=True)


@pytest.mark.parametrize(
    ("event", "decision", "remedy"),
    [
        (Event("file.read", path="/opt/a b"), Decision("block", "files.read"), "--allow-read '/opt/a b'"),
        (Event("file.delete", path="/opt/x"), Decision("block", "files.write"), "--allow-write /opt/x"),
        (
            Event("net.connect", host="h.org", ip="1.2.3.4", port=443),
            Decision("block", "network.allow"),
            "--allow-host h.org:443",
        ),
        (Event("net.connect", ip="::1", port=80), Decision("block", "network.allow"), "--allow-host '[::1]:80'"),
        (Event("file.read", path="/s"), Decision("block", "files.block", "p.yaml:9"), "change p.yaml:9"),
        (Event("process.exec", argv=("sudo",)), Decision("block", "mine", "p.yaml:9"), "change p.yaml:9"),
        (
            Event("net.connect", host="h", port=1),
            Decision("require_approval", "network.ask", "p.yaml:4"),
            "--approve tty",
        ),
    ],
)
def test_the_remedy_is_the_flag_or_the_line(event, decision, remedy):
    assert remedy in line(event, decision, "block")


def test_hostile_names_cannot_reach_the_terminal():
    event = Event("file.read", path="/tmp/\x1b]0;owned\x07\u202e\nasl: blocked nothing")
    said = line(event, Decision("block", "files.read", "p\x1b.yaml:1", "\x1b[2J"), "block")
    assert said.endswith("\n")
    assert said[:-1].isprintable()
    assert len(line(Event("file.read", path="/a" * 5000), RULE, "block")) < 2000


def test_secrets_of_a_command_line_are_not_shown():
    event = Event("process.exec", argv=("mysql", "--password=hunter2"))
    assert "hunter2" not in line(event, RULE, "block")


def test_a_few_per_second_then_a_count(screen):
    denials = Denials(screen)
    for number in range(PER_SECOND + 20):
        denials.tell(Event("file.read", path=f"/{number}"), RULE, "block", 10.1)
    assert len(screen.said) == PER_SECOND
    denials.tick(10.9)
    assert len(screen.said) == PER_SECOND
    denials.tick(11.0)
    assert screen.said[PER_SECOND:] == ["asl: … and 20 more\n"]
    denials.tell(DENIED, RULE, "block", 11.5)
    assert screen.said[-1].startswith("asl: blocked")
    denials.close()
    assert len(screen.said) == PER_SECOND + 2


def test_each_is_told_once(screen, record):
    fd, path = record
    denials = Denials(screen, fd=fd)
    for second in range(20):
        denials.tell(DENIED, RULE, "block", float(second))
    denials.tell(Event("file.write", path=DENIED.path), RULE, "block", 20.0)
    denials.close()
    assert [said.split()[2] for said in screen.said] == ["file.read", "file.write"]
    assert len(path.read_text().splitlines()) == 21


def test_what_a_full_stderr_swallowed_is_counted(screen):
    denials = Denials(screen)
    screen.full = True
    denials.tell(DENIED, RULE, "block", 1.0)
    denials.tick(2.0)
    screen.full = False
    denials.close()
    assert screen.said == ["asl: … and 1 more\n"]


def test_quiet_says_nothing_but_still_records(screen, record):
    fd, path = record
    denials = Denials(screen, fd=fd, quiet=True)
    denials.tell(DENIED, RULE, "block", 1.0)
    denials.close()
    assert screen.said == []
    assert json.loads(path.read_text())["object"] == "/home/u/.ssh/id_rsa"


def test_the_agent_reads_every_denial_as_json(screen, record):
    fd, path = record
    denials = Denials(screen, fd=fd)
    for _ in range(50):
        denials.tell(DENIED, RULE, "block", 1.0)
    denials.tell(DENIED, Decision("allow"), "allow", 1.0)
    denials.tell(DENIED, Decision("warn"), "warn", 1.0)
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    assert len(lines) == 50
    assert lines[0] == {
        "time": 1700000000.5,
        "kind": "file.read",
        "pid": 7,
        "object": "/home/u/.ssh/id_rsa",
        "rule": "files.block",
        "where": "p.yaml:3",
        "reason": "secrets stay",
        "remedy": "change p.yaml:3",
    }


def test_the_file_is_bounded(screen, record, monkeypatch):
    fd, path = record
    monkeypatch.setattr(module, "FILE_BYTES", 2000)
    denials = Denials(screen, fd=fd)
    for _ in range(500):
        denials.tell(DENIED, RULE, "block", 1.0)
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    assert path.stat().st_size < 2500
    assert "omitted" in lines[-1]
    assert sum("omitted" in entry for entry in lines) == 1


def test_a_full_disk_is_survived(screen):
    fd = os.open("/dev/full", os.O_WRONLY)
    denials = Denials(screen, fd=fd)
    for number in range(3):
        denials.tell(Event("file.read", path=f"/{number}"), RULE, "block", 1.0)
    os.close(fd)
    assert len(screen.said) == 3


def test_the_remedy_can_be_the_policys_own(screen, record):
    fd, path = record
    denials = Denials(screen, fd=fd, remedy=lambda event, decision: f"ask {decision.rule} for {event.path}")
    denials.tell(DENIED, RULE, "block", 1.0)
    assert "to allow: ask files.block for /home/u/.ssh/id_rsa" in screen.said[0]
    assert json.loads(path.read_text())["remedy"] == "ask files.block for /home/u/.ssh/id_rsa"
