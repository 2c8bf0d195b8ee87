"""Replay: nothing changes under the recorded policy, and under another what ``decide`` itself says."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_safety_layer.errors import TraceError
from agent_safety_layer.events import BLOCK, Decision, Event
from agent_safety_layer.policy import State, advance, decide
from agent_safety_layer.trace import replay as replaying
from agent_safety_layer.trace.reader import TraceReader
from agent_safety_layer.trace.replay import recorded_policy, recorded_variables, replay
from asl_hooks.value import replace
from tests.core.replay.scenes import ALLOWED, LOOSE, STATEFUL, judged, policy, write

OWN, OTHER = policy(STATEFUL), policy(LOOSE)
STRICT = policy("version: 1\nname: s\nfiles: {read: [/w], write: [/w]}\nnetwork: {block: ['*']}\n")
PLAIN = policy(STATEFUL.partition("rules:")[0])

PIDS = st.integers(1, 5)
PATHS = st.sampled_from(
    ["/w/a", "/w/customers/x", "/home/u/.ssh/id", "/tmp/tool", "/usr/bin/tool", "/é\\x80\n", 'a "decision":{ b', ""]
)
PROCESS = {"pid": PIDS, "tid": PIDS, "ppid": st.integers(0, 5), "exe": st.sampled_from(["", "/usr/bin/python3"])}
EVENTS = st.one_of(
    st.builds(Event, st.sampled_from(["file.read", "file.write", "file.list", "file.delete"]), path=PATHS, **PROCESS),
    st.builds(Event, st.just("file.rename"), path=PATHS, path2=PATHS, **PROCESS),
    st.builds(
        Event,
        st.sampled_from(["net.connect", "net.dns", "net.send"]),
        host=st.sampled_from(["", "x.com", "api.example.com"]),
        ip=st.sampled_from(["", "8.8.8.8", "10.0.0.1", "::1"]),
        port=st.sampled_from([0, 80, 443]),
        **PROCESS,
    ),
    st.builds(
        Event,
        st.just("process.exec"),
        path=PATHS,
        argv=st.sampled_from([("ls",), ("sudo", "x"), ("rm", "-rf", "/"), ("curl", "--password", "hunter2")]),
        **PROCESS,
    ),
    st.builds(Event, st.just("process.exit"), **PROCESS),
)
KEPT_ACROSS_EXAMPLES = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def counts_of(lines):
    return Counter((event.kind, decision.action) for event, decision, _ in lines)


def counted(verdicts):
    return Counter({(kind, action): n for kind, of in verdicts.counts.items() for action, n in of.items()})


@given(st.lists(EVENTS, max_size=60), st.sampled_from([OWN, PLAIN, OTHER, STRICT]))
@KEPT_ACROSS_EXAMPLES
def test_under_the_recorded_policy_nothing_changes(tmp_path_factory, events, own):
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    lines = judged(own, events)
    write(path, own, lines)
    with TraceReader(path) as reader:
        again = recorded_policy(reader.header)
    replayed = replay(str(path), [("own", again)])
    (verdicts,) = replayed.verdicts
    assert (verdicts.moves, verdicts.reruled, verdicts.changes) == ({}, 0, [])
    assert counted(verdicts) == counted(replayed.recorded) == counts_of(lines)


@given(st.lists(EVENTS, max_size=60), st.randoms(use_true_random=False))
@KEPT_ACROSS_EXAMPLES
def test_calls_that_waited_are_judged_in_their_place(tmp_path_factory, events, random):
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    waited = judged(OWN, events)
    for _ in range(len(waited) // 4):  # recorded when they were over, long after they were judged
        waited.append(waited.pop(random.randrange(len(waited))))
    write(path, OWN, waited)
    (verdicts,) = replay(str(path), [("own", OWN)]).verdicts
    assert (verdicts.moves, verdicts.reruled) == ({}, 0)


@given(st.lists(EVENTS, max_size=60), st.sampled_from([OWN, PLAIN, OTHER, STRICT]), st.integers(1, 4))
@KEPT_ACROSS_EXAMPLES
def test_another_policy_says_what_decide_says(tmp_path_factory, events, other, room):
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    lines = judged(OTHER, events)
    write(path, OTHER, lines)
    state, expected, moves = State(), Counter(), Counter()
    with TraceReader(path) as reader:
        for line in reader.lines():
            if line.entry is None:
                continue
            event, before = line.entry.event, line.entry.decision
            after = before if line.redacted or event.kind == "process.exit" else decide(other, state, event)
            state = advance(other, state, event, after)
            expected[event.kind, after.action] += 1
            if before.action != after.action:
                moves[before.action, after.action] += 1
    whole, replaying._DISTINCT = replaying._DISTINCT, room  # so that what is remembered is forgotten on the way
    try:
        replayed = replay(str(path), [("other", other), ("again", other)])
    finally:
        replaying._DISTINCT = whole
    for verdicts in replayed.verdicts:
        assert counted(verdicts) == expected
        assert verdicts.moves == moves
        assert sum(change.count for change in verdicts.changes) == moves.total()


def changes_of(path, other):
    (verdicts,) = replay(path, [("other", other)]).verdicts
    return [(c.count, c.before.action, c.after.action, c.kind, c.object, c.after.rule) for c in verdicts.changes]


def test_each_change_is_told_with_the_rule_that_makes_it(tmp_path):
    events = [Event("file.read", 1, path="/etc/hosts")] * 3 + [
        Event("net.connect", 1, ip="8.8.8.8", port=443),
        Event("file.write", 1, path="/etc/x"),
        Event("file.read", 1, path="/w/a"),
    ]
    path = write(tmp_path / "t.jsonl", OTHER, judged(OTHER, events))
    assert changes_of(path, STRICT) == [
        (3, "allow", "block", "file.read", "/etc/hosts", "files.read"),
        (1, "allow", "block", "net.connect", "8.8.8.8:443", "network.block"),
        (1, "allow", "block", "file.write", "/etc/x", "files.write"),
    ]
    path = write(tmp_path / "back.jsonl", STRICT, judged(STRICT, events))
    assert [change[:3] for change in changes_of(path, OTHER)] == [
        (3, "block", "allow"),
        (1, "block", "allow"),
        (1, "block", "allow"),
    ]


def test_a_stateful_rule_applies_to_who_came_after(tmp_path):
    reach = Event("net.connect", 2, ppid=1, ip="8.8.8.8", port=443)
    events = [reach, Event("file.read", 1, path="/customers/x"), reach, replace(reach, pid=9, ppid=8)]
    path = write(tmp_path / "t.jsonl", OTHER, judged(OTHER, events))
    (verdicts,) = replay(path, [("own", OWN)]).verdicts
    assert verdicts.counts["net.connect"] == {"block": 1, "require_approval": 2}
    assert [c.seq for c in verdicts.changes if c.after.rule == "no-exfiltration"] == [1]


def test_redacted_events_keep_their_decision(tmp_path):
    secret = Event("process.exec", 1, path="/usr/bin/curl", argv=("curl", "--password", "hunter2"))
    shown = Event("process.exec", 1, path="/usr/bin/curl", argv=("curl", "x"))
    path = write(tmp_path / "t.jsonl", OTHER, judged(OTHER, [secret, shown]))
    (verdicts,) = replay(path, [("none", policy("version: 1\nname: n\nexec: {block: [curl]}\n"))]).verdicts
    assert verdicts.counts["process.exec"] == {"allow": 1, "block": 1}
    assert (verdicts.kept, verdicts.redacted) == (1, 1)


@pytest.mark.parametrize(
    ("event", "decision"),
    [
        (Event("process.deny", 1, syscall="ptrace"), Decision(BLOCK, "system calls", "built-in", "x")),
        (Event("process.signal", 1, signal=9, target=1), Decision(BLOCK, "tree", "", "x")),
        (Event("process.exec", 1, path="/x", argv=("x",)), Decision(BLOCK, "exec", "", "it could not be verified")),
        (Event("limit.hit", 1, detail="80 % of 10 s"), Decision("warn", "limits.wall_time", "", "x")),
        (Event("process.exit", 1), ALLOWED),
    ],
)
def test_what_no_policy_decided_stays_as_it_was(tmp_path, event, decision):
    path = write(tmp_path / "t.jsonl", OTHER, [(replace(event, time=1000.0), decision, decision.action)])
    for other in (OTHER, STRICT, OWN):
        (verdicts,) = replay(path, [("other", other)]).verdicts
        assert (verdicts.moves, verdicts.reruled, verdicts.kept) == ({}, 0, 1)


def test_a_gap_is_passed_over(tmp_path):
    path = write(tmp_path / "t.jsonl", OTHER, judged(OTHER, [Event("file.read", 1, path="/w/a")]))
    lines = Path(path).read_bytes().splitlines(keepends=True)
    gap = (
        b'{"type":"event","seq":2,"time":1.0,"us":0,"kind":"session.gap","detail":"9 events lost: x","lost":9,"from":2,'
    )
    Path(path).write_bytes(b"".join([*lines[:2], gap + b'"decision":{"action":"allow"}}\n', *lines[1:]]))
    for other in (OWN, OTHER):
        (verdicts,) = replay(path, [("other", other)]).verdicts
        assert verdicts.counts == {"file.read": {"allow": 2}, "session.gap": {"allow": 1}}


def test_a_trace_cut_short_is_replayed_as_far_as_it_goes(tmp_path):
    path = write(tmp_path / "t.jsonl", OTHER, judged(OTHER, [Event("file.read", 1, path="/w/a")] * 4))
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: data.index(b'"seq":3')])
    replayed = replay(path, [("own", OTHER)])
    assert (replayed.recorded.events(), replayed.truncated_after) == (2, 3)


def test_limits_are_held_against_what_the_run_used(tmp_path):
    path = write(tmp_path / "t.jsonl", OTHER, judged(OTHER, [Event("file.read", 1, path="/a")] * 9), wall_s=12.0)
    short = policy("version: 1\nname: short\nlimits: {wall_time: 10s, cpu_time: 1m}\n")
    replayed = replay(path, [("short", short), ("none", OTHER)])
    found = {use.name: (use.hit, use.was_hit) for use in replayed.limits(replayed.verdicts[0])}
    assert found == {"wall_time": (True, False), "cpu_time": (False, False)}
    assert replayed.limits(replayed.verdicts[1]) == []


def test_a_header_without_its_policy_says_so():
    with pytest.raises(TraceError, match="does not hold its policy"):
        recorded_policy({"policy": {"names": ["workspace"]}})
    with pytest.raises(TraceError, match="cannot be used"):
        recorded_policy({"policy": {"layers": [{"nonsense": 1}]}})
    assert recorded_variables({"cwd": "/w"}) == {"WORKSPACE": "/w", "HOME": "/w", "CWD": "/w"}


def test_the_header_says_how_the_policy_was_filled_in(tmp_path):
    path = write(tmp_path / "t.jsonl", OWN, [])
    header = json.loads(Path(path).read_bytes().splitlines()[0])
    assert recorded_policy(header) == OWN
    assert recorded_variables(header)["HOME"] == "/home/u"
