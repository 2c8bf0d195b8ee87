"""Queries: what they let through is what they say, whatever is skipped to find it."""

import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_safety_layer.events import ACTIONS, Decision, Event
from agent_safety_layer.trace import query as querying
from agent_safety_layer.trace import reader as reading
from agent_safety_layer.trace.encode import body
from agent_safety_layer.trace.query import FIELDS, Count, moment, query, select
from agent_safety_layer.trace.reader import TraceReader
from agent_safety_layer.trace.stats import tally_of
from agent_safety_layer.trace.writer import TraceWriter

PATHS = ["", "/w/a", "/w/src/.env", "/w/src/.env.local", "/home/u/.ssh/id", 'a,"kind":"net.x"', "/é\\x80\n\x1b", "/w,x"]
EVENTS = st.builds(
    Event,
    st.sampled_from(["file.read", "file.rename", "net.connect", "process.exec", "process.exit"]),
    st.integers(1, 3),
    exe=st.sampled_from(["", "/usr/bin/python3", "/usr/bin/cat"]),
    syscall=st.sampled_from(["", "openat", "open"]),
    path=st.sampled_from(PATHS),
    path2=st.sampled_from(PATHS),
    host=st.sampled_from(["", "API.x.com", "x.com"]),
    ip=st.sampled_from(["", "10.1.2.3"]),
    port=st.sampled_from([0, 443]),
)
ENTRIES = st.lists(st.tuples(EVENTS, st.sampled_from(ACTIONS), st.sampled_from(["", "EACCES", "3"])), max_size=30)
QUERIES = st.fixed_dictionaries(
    {},
    optional={
        "kinds": st.lists(st.sampled_from(["file", "net", "file.read", "process.exec"]), max_size=2),
        "actions": st.lists(st.sampled_from(ACTIONS), max_size=2),
        "pids": st.lists(st.integers(1, 3), max_size=2),
        "syscalls": st.lists(st.sampled_from(["openat", "open"]), max_size=2),
        "results": st.lists(st.sampled_from(["EACCES", "3", ""]), max_size=2),
        "paths": st.lists(
            st.sampled_from(["**/.env", "/w", "*.local", "src/**", "/w/{a,b}", "/w/[a-c]", "*"]), max_size=2
        ),
        "hosts": st.lists(st.sampled_from(["*.x.com", "x.com:443", "10.0.0.0/8", "*:443"]), max_size=2),
        "exes": st.lists(st.sampled_from(["cat", "python*", "/usr/bin"]), max_size=2),
        "since": st.sampled_from([None, 1010.0]),
        "until": st.sampled_from([None, 1020.0]),
    },
)
ONE_FOLDER = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path, entries):
    writer = TraceWriter(str(path), {"run": "r", "time": 1000.0})
    for number, (event, action, result) in enumerate(entries):
        writer.add(body(event, Decision(action, "rule"), action, result), 1000.0 + number)
    writer.close({"outcome": "exited"})


@given(ENTRIES, QUERIES, st.sampled_from([1, 50, 1 << 20]))
@ONE_FOLDER
def test_skipping_leaves_nothing_out(tmp_path_factory, entries, wanted, chunk):
    path = tmp_path_factory.mktemp("q") / "t.jsonl"
    write(path, entries)
    made = query(**wanted)
    whole, reading._CHUNK = reading._CHUNK, chunk
    try:
        with TraceReader(path) as reader:
            found = [(line.number, line.entry.seq) for line in select(reader, made)]
            assert (reader.truncated_after, reader.footer["outcome"]) == (None, "exited")
    finally:
        reading._CHUNK = whole
    with TraceReader(path) as reader:
        expected = [(line.number, line.entry.seq) for line in reader.lines() if line.entry and made.passes(line.entry)]
    assert found == expected


@given(ENTRIES, QUERIES, st.sampled_from(sorted(FIELDS)), st.integers(1, 5))
@ONE_FOLDER
def test_counting_counts_what_is_selected(tmp_path_factory, entries, wanted, field, room):
    path = tmp_path_factory.mktemp("q") / "t.jsonl"
    write(path, entries)
    made, count = query(**wanted), Count(field)
    whole, querying._DISTINCT = querying._DISTINCT, room
    try:
        for _ in range(2):
            with TraceReader(path) as reader:
                count.add(reader, made)
    finally:
        querying._DISTINCT = whole
    expected: dict[str, int] = {}
    with TraceReader(path) as reader:
        for line in select(reader, made):
            value = FIELDS[field](line.entry)
            expected[value] = expected.get(value, 0) + 2
    expected.pop("", None)
    assert dict(count.values) == expected
    assert [n for _, n in count.values] == sorted(expected.values(), reverse=True)


@given(ENTRIES)
@ONE_FOLDER
def test_stats_are_those_of_the_lines(tmp_path_factory, entries):
    path = tmp_path_factory.mktemp("q") / "t.jsonl"
    write(path, entries)
    with TraceReader(path) as reader:
        tally = tally_of(reader)
    expected: dict[str, dict[str, int]] = {}
    for event, action, result in entries:
        of_kind = expected.setdefault(event.kind, {})
        as_what = "allow" if result and not result.isdigit() and action == "require_approval" else action  # it failed
        of_kind[as_what] = of_kind.get(as_what, 0) + 1
    assert tally.counts() == expected
    assert tally.effective() == {
        kind: dict(Counter(action for event, action, _ in entries if event.kind == kind)) for kind in expected
    }
    blocked = [event for event, action, _ in entries if action == "block"]
    assert tally.blocked == len(blocked)
    assert sum(denial.n for denial in tally.denials) == len(blocked)


def test_more_values_than_are_kept_are_counted_together(tmp_path, monkeypatch):
    monkeypatch.setattr(querying, "_VALUES", 2)
    write(tmp_path / "t", [(Event("file.read", path=f"/{n}"), "allow", "") for n in (1, 1, 2, 3, 4)])
    count = Count("path")
    with TraceReader(tmp_path / "t") as reader:
        count.add(reader, query())
    assert count.values == [("(others)", 2), ("/1", 2), ("/2", 1)]


def test_a_cut_line_is_not_found_and_is_told(tmp_path):
    path = tmp_path / "t"
    write(path, [(Event("file.read", path="/needle"), "allow", "")] * 3)
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b',"decision"')])
    with TraceReader(path) as reader:
        assert len(list(select(reader, query(paths=["/needle"])))) == 2
        assert (reader.truncated_after, reader.footer) == (3, None)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"kinds": ["files"]}, "not a kind"),
        ({"actions": ["deny"]}, "not an action"),
        ({"hosts": ["http://x.com"]}, "not a host"),
    ],
)
def test_what_means_nothing_is_an_error(wanted, message):
    with pytest.raises(ValueError, match=message):
        query(**wanted)


def test_times_as_people_write_them():
    began = time.mktime((2026, 11, 23, 14, 0, 0, 0, 0, -1))
    now = began + 7200

    def after(text):
        return moment(text, began, now) - began

    assert after("+90s") == 90
    assert after("10m") == 6600
    assert after("14:05") == 300
    assert after("14:05:30.5") == 330.5
    assert after("2026-11-23T14:01") == 60
    assert moment("2026-11-23T14:01:00Z", began, now) == 1795442460
    for text in ("", "soon", "25:00", "-5m"):
        with pytest.raises(ValueError, match="is not a time"):
            moment(text, began, now)
