"""Lines that are written by the compiled core are those that are written without it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_safety_layer.trace.lines import Lines
from tests.requirements import requires_core

TIMES = st.one_of(
    st.floats(1.6e9, 2.0e9),
    st.floats(0, 100),
    st.integers(0, 10**9).map(lambda n: n / 1000),
    st.sampled_from([0.0, -1.0, 9.9999994, 9.9999995, 9.9999996, 1_700_000_009.9999998, 1_700_000_010.0]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=40), TIMES, st.integers(-5, 10**7)), max_size=8))
def test_the_same_lines(events: list[tuple[bytes, float, int]]) -> None:
    pure, compiled = Lines(), requires_core().Lines()
    for body, time, us in events:
        assert pure.add(body, time, us) == compiled.add(body, time, us)
        assert pure.size == compiled.size
    pure.seq += 3
    compiled.seq += 3
    assert pure.seq == compiled.seq == len(events) + 3
    assert pure.take() == compiled.take()
    assert pure.size == compiled.size == 0
    assert pure.take() == compiled.take() == []


def test_what_a_line_says() -> None:
    for lines in (Lines(), requires_core().Lines()):
        lines.add(b'"kind":"file.read"}\n', 1_700_000_000.25, 7)
        assert lines.take() == [b'{"type":"event","seq":1,"time":1700000000.250000,"us":7,"kind":"file.read"}\n']


def test_what_is_no_line_is_refused() -> None:
    lines = requires_core().Lines()
    for wrong in (("text", 1.0), (b"", "now"), (b"",), (b"", 1.0, 2, 3)):
        with pytest.raises(TypeError):
            lines.add(*wrong)
    assert lines.seq == 0
