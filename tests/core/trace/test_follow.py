"""The end of a trace, and what is written to it while one looks."""

import pytest

from agent_safety_layer.errors import TraceError
from agent_safety_layer.events import Decision, Event
from agent_safety_layer.trace import follow as following
from agent_safety_layer.trace.encode import body
from agent_safety_layer.trace.follow import follow, last
from agent_safety_layer.trace.writer import TraceWriter


def event(number):
    return body(Event("file.read", path=f"/{number}"), Decision("allow"), "allow")


def is_event(line):
    return line.entry is not None


def paths(lines):
    return [line.entry.event.path for line in lines if line.entry is not None]


@pytest.mark.parametrize("block", [1, 7, 100, 1 << 16])
def test_the_last_events_are_read_from_the_end(tmp_path, monkeypatch, block):
    monkeypatch.setattr(following, "_BLOCK", block)
    path = tmp_path / "t"
    writer = TraceWriter(str(path), {})
    for number in range(9):
        writer.add(event(number), 1.0)
    writer.flush()
    whole = path.read_bytes()
    for count in (0, 1, 3, 9, 20):
        lines, end, over = last(str(path), count, is_event)
        assert (paths(lines), end, over) == ([f"/{n}" for n in range(9)][9 - min(count, 9) :], len(whole), False)
    path.write_bytes(whole + b'{"type":"event","se')
    lines, end, over = last(str(path), 2, is_event)
    assert (paths(lines), end, over) == (["/7", "/8"], len(whole), False)


def test_the_end_of_a_run_is_seen(tmp_path):
    writer = TraceWriter(str(tmp_path / "t"), {})
    writer.add(event(1), 1.0)
    writer.close({"outcome": "exited"})
    lines, end, over = last(str(tmp_path / "t"), 5, is_event)
    assert (paths(lines), end, over) == (["/1"], (tmp_path / "t").stat().st_size, True)


def test_a_growing_trace_is_followed_to_its_footer(tmp_path):
    path = tmp_path / "t"
    writer = TraceWriter(str(path), {})
    writer.add(event(0), 1.0)
    writer.flush()
    steps = iter(range(1, 4))

    def write_more(_):
        number = next(steps, None)
        if number is None:
            writer.close({"outcome": "exited"})
        else:
            writer.add(event(number), 1.0)
            writer.flush()

    _, end, _ = last(str(path), 0, is_event)
    lines = list(follow(str(path), end, write_more))
    assert paths(lines) == ["/1", "/2", "/3"]
    assert lines[-1].type == "footer"


def test_half_a_line_is_waited_for(tmp_path):
    path = tmp_path / "t"
    writer = TraceWriter(str(path), {})
    writer.add(event(0), 1.0)
    writer.close({})
    whole = path.read_bytes()
    path.write_bytes(whole[:5])
    grown = 5

    def grow(_):
        nonlocal grown
        grown += 50
        path.write_bytes(whole[:grown])

    assert [line.type for line in follow(str(path), 0, grow)] == ["header", "event", "footer"]


def test_a_trace_that_shrinks_is_an_error(tmp_path):
    path = tmp_path / "t"
    TraceWriter(str(path), {}).flush()
    with pytest.raises(TraceError, match="was cut"):
        list(follow(str(path), 0, lambda _: path.write_bytes(b"")))
