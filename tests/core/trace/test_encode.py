import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import agent_safety_layer
import asl_hooks
from agent_safety_layer.errors import TraceError
from agent_safety_layer.events import ACTIONS, KINDS, Decision, Event, Outcome, TraceEntry, text_of
from agent_safety_layer.trace import redact
from agent_safety_layer.trace.encode import body, dumps, encoded
from agent_safety_layer.trace.reader import TraceReader, _Event, decode
from agent_safety_layer.trace.writer import TraceWriter

small = st.integers(0, 2**31)
times = st.integers(0, 4_000_000_000_000_000).map(lambda us: us / 1e6)
text = st.text(max_size=30)
events = st.builds(
    Event,
    st.sampled_from(KINDS),
    *(small, small, small, text, text, text, text, text, text, text, st.integers(-1, 0o7777), st.integers(-1, 1 << 20)),
    *(text, text, st.integers(0, 65535), text, st.lists(text, max_size=4).map(tuple), text),
    *(st.integers(0, 64), small, text, text, times),
)
actions = st.sampled_from(ACTIONS)
decisions = st.builds(Decision, actions, text, text, text)
outcomes = st.builds(Outcome, actions, text, small)


def line_of(entry):
    _, event, decision, outcome = entry
    rest = body(event, decision, outcome.effective, outcome.result)
    return b'{"type":"event","seq":%d,"time":%r,"us":%d,' % (entry.seq, event.time, outcome.us) + rest


def unredacted(event):
    return redact.arguments(event.argv) == event.argv and redact.text(event.detail) == event.detail


@given(small, events, decisions, outcomes)
def test_decode_undoes_encode(seq, event, decision, outcome):
    assume(unredacted(event))
    entry = TraceEntry(seq, event, decision, outcome)
    line = line_of(entry)
    assert decode(line) == entry
    assert line.isascii()
    assert line.count(b"\n") == 1


@given(st.lists(st.tuples(events, decisions, outcomes), max_size=5))
def test_a_trace_reads_as_it_was_written(tmp_path_factory, written):
    assume(all(unredacted(event) for event, _, _ in written))
    path = str(tmp_path_factory.mktemp("trace") / "t.jsonl")
    writer = TraceWriter(path, {"run": "r"})
    for event, decision, outcome in written:
        writer.add(body(event, decision, outcome.effective, outcome.result), event.time, outcome.us)
    writer.close({"outcome": "exited"})
    with TraceReader(path) as reader:
        assert list(reader) == [TraceEntry(seq, *parts) for seq, parts in enumerate(written, 1)]
        assert reader.truncated_after is None
        assert reader.footer["outcome"] == "exited"


def test_the_reader_knows_every_field_of_an_event():
    known = {
        name: _Event.__struct_defaults__[i]
        for i, name in enumerate(_Event.__struct_fields__[-len(_Event.__struct_defaults__) :])
    }
    event = Event("file.read")
    for name in Event._fields:
        assert name in _Event.__struct_fields__
        if name not in ("kind", "time"):
            assert known[name] == getattr(event, name)


def test_defaults_are_left_out():
    fields = json.loads(b"{" + body(Event("file.read", 1, 2, 3), Decision("allow"), "allow", ""))
    assert fields == {"kind": "file.read", "pid": 1, "tid": 2, "ppid": 3, "decision": {"action": "allow"}}


def test_effective_is_there_when_it_differs():
    fields = json.loads(b"{" + body(Event("file.read"), Decision("block", "r"), "audit", "EACCES"))
    assert fields["effective"] == "audit"
    assert fields["decision"] == {"action": "block", "rule": "r"}
    assert fields["result"] == "EACCES"


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a\udcff/b", r"a\xff/b"),
        ("\udc80\udc81", r"\x80\x81"),
        ("\\\udcff", r"\\xff"),
        ("\\ud800", r"\ud800"),
        ("\ud800", r"\ud800"),
        ("😀\udcff😀", r"😀\xff😀"),
        ("\ud83d x", r"\ud83d x"),
    ],
)
def test_lone_surrogates_never_make_an_unreadable_line(name, read):
    event = Event("file.read", path=name)
    entry = decode(line_of(TraceEntry(1, event, Decision("allow", reason=name), Outcome("allow"))))
    assert (entry.event.path, entry.decision.reason) == (read, read)
    assert json.loads(dumps({"name": name})) == {"name": read}


def test_bytes_that_are_not_text_round_trip_as_they_are_decided_on():
    event = Event("file.read", path=text_of(b"/tmp/\xff\x1b[31m\n"))
    assert decode(line_of(TraceEntry(1, event, Decision("allow"), Outcome("allow")))).event == event


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(json_values)
def test_dumps_writes_what_json_reads(item):
    assert json.loads(dumps(item)) == item
    assert dumps(item).isascii()
    assert encoded(item) == dumps(item)
    assert dumps({"in it": encoded(item)}) == dumps({"in it": item})


@pytest.mark.parametrize("item", [float("nan"), float("inf")])
def test_dumps_refuses_what_json_has_not(item):
    with pytest.raises(ValueError, match="JSON"):
        dumps([item])
    with pytest.raises(TypeError):
        dumps({"a": {1, 2}})
    with pytest.raises((TypeError, ValueError)):
        encoded(item)


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b'{"type":"event"}', b'{"type":"event","seq":"1"}\n', b"\xff"])
def test_what_is_no_event_line_is_an_error(line):
    with pytest.raises(TraceError):
        decode(line)


def test_the_recording_side_imports_next_to_nothing():
    script = (
        "import sys, os, errno, stat, fcntl, select, struct, ctypes, time, posixpath; before = set(sys.modules)\n"
        "from agent_safety_layer.trace import writer, encode, header, redact\n"
        "from agent_safety_layer import tally, denials, summary, report, state, terminal, wording\n"
        "print(*sorted(m for m in set(sys.modules) - before if not m.startswith(('agent_safety_layer', 'asl_hooks'))))"
    )
    roots = os.pathsep.join(str(Path(package.__file__).parents[1]) for package in (agent_safety_layer, asl_hooks))
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": roots},
    )
    assert set(done.stdout.split()) <= {"__future__", "_json", "binascii", "_collections"}


def test_hot_bodies_are_stable():
    """The engine caches bodies: the same event gives the same bytes."""
    event = Event("process.exec", argv=("git", "commit"), path="/usr/bin/git")
    bodies = [body(event, Decision("allow", "exec"), "allow", "0") for _ in range(3)]
    assert all(a == b for a, b in pairwise(bodies))
