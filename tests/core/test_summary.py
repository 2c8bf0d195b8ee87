from agent_safety_layer.events import Decision, Event
from agent_safety_layer.report import Ending
from agent_safety_layer.summary import summary
from agent_safety_layer.tally import Tally

DONE = Ending("exited", 0, wall_s=1.5, cpu_user_s=0.25, cpu_system_s=0.25, peak_memory_bytes=3 * 2**20)


def some_tally():
    tally = Tally()
    for name in ("a", "b", "c", "d", "d"):
        tally.add(Event("file.read", path=f"/s/{name}"), Decision("block", "files.block", "p.yaml:3"), "block")
    tally.add(Event("net.connect", ip="1.2.3.4", port=443), Decision("block", "network.allow", "p.yaml:9"), "block")
    tally.add(Event("file.read", path="/etc/hosts"), Decision("allow"), "allow")
    return tally


def test_denials_by_rule_with_place_count_remedy_and_trace():
    lines = summary(some_tally(), DONE, "/state/t.jsonl").splitlines()
    assert lines == [
        "asl: 6 operations blocked",
        "  5x files.block (p.yaml:3): /s/a, /s/b, /s/c and 1 more",
        "     to allow: change p.yaml:3",
        "  1x network.allow (p.yaml:9): 1.2.3.4:443",
        "     to allow: --allow-host 1.2.3.4:443",
        "asl: trace: /state/t.jsonl",
    ]


def test_nothing_denied_says_nothing_unless_verbose():
    tally = Tally()
    tally.add(Event("file.read", path="/a"), Decision("allow"), "allow")
    assert summary(tally, DONE, "/t") == ""
    said = summary(tally, DONE, "/t", verbosity=1)
    assert "1 events: file.read 1" in said
    assert "1.50 s, CPU 0.50 s, peak memory 3 MiB" in said
    assert "trace: /t" in said


def test_quiet_says_nothing():
    assert summary(some_tally(), Ending("wall_time", 124), "/t", verbosity=-1) == ""


def test_why_a_run_was_ended_comes_first():
    assert summary(Tally(), Ending("wall_time", 124), "").splitlines() == ["asl: run ended: its time limit passed"]


def test_observed_denials_are_called_so():
    tally = Tally()
    tally.add(Event("file.read", path="/s"), Decision("block", "files.block", "p.yaml:3"), "audit")
    assert "1 operation would have been blocked" in summary(tally, DONE, "/t")


def test_many_rules_are_cut_and_counted():
    tally = Tally(distinct=20)
    for number in range(30):
        tally.add(Event("file.read", path=f"/{number}"), Decision("block", f"rule{number}"), "block")
    lines = summary(tally, DONE, "/t").splitlines()
    assert len(lines) < 25
    assert "  22x more, in the trace" in lines


def test_hostile_names_cannot_reach_the_terminal():
    tally = Tally()
    tally.add(Event("file.read", path="/\x1b[2J\n\u202e"), Decision("block", "r\x1b", "w\x1b"), "block")
    assert all(line.isprintable() for line in summary(tally, DONE, "/t\x1b").split("\n"))
    assert "\x1b[31m" in summary(tally, DONE, "/t", colour=True)
