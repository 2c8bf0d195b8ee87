"""Limits as figures: what crosses, when to look again, what holds them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_safety_layer.limits import Crossing, Figures, Watch, holders, shown, wanted_controllers
from agent_safety_layer.policy import Limits


def test_a_limit_warns_once_at_80_percent_and_is_hit_once() -> None:
    watch = Watch(Limits(wall_time_s=10))
    seen = [watch.crossings(Figures(wall_s=second)) for second in (1, 7.9, 8, 9, 10, 11)]
    warning, hit = Crossing("wall_time", 8, 10, False), Crossing("wall_time", 10, 10, True)
    assert seen == [[], [], [warning], [], [hit], []]


def test_a_limit_that_is_passed_in_one_leap_is_hit_without_a_warning() -> None:
    watch = Watch(Limits(memory_bytes=100))
    assert watch.crossings(Figures(memory_bytes=500)) == [Crossing("memory", 500, 100, True)]
    assert watch.crossings(Figures(memory_bytes=85)) == []


def test_without_limits_nothing_is_looked_at() -> None:
    watch = Watch(Limits())
    assert not watch
    assert watch.next_look_s(Figures(), 2) == float("inf")
    assert watch.crossings(Figures(*[1e12] * 7)) == []


@pytest.mark.parametrize(
    ("limits", "figures", "cpus", "wait_s"),
    [
        (Limits(wall_time_s=10), Figures(wall_s=1), 2, 7.0),  # the warning comes first
        (Limits(wall_time_s=10), Figures(wall_s=12), 2, 0.0),
        (Limits(cpu_time_s=100), Figures(), 2, 0.5),
        (Limits(cpu_time_s=1), Figures(cpu_s=0.6), 2, 0.1),  # two processors use 0.2 s in that time
        (Limits(cpu_time_s=1), Figures(cpu_s=0.6), 8, 0.025),
        (Limits(memory_bytes=1 << 30), Figures(memory_bytes=800 << 20), 2, 0.02),
        (Limits(operations=5), Figures(), 2, float("inf")),  # counted as they come
    ],
)
def test_the_next_look_is_before_a_limit_can_be_passed_by_far(
    limits: Limits, figures: Figures, cpus: int, wait_s: float
) -> None:
    assert Watch(limits).next_look_s(figures, cpus) == pytest.approx(wait_s)


@given(limit=st.integers(1, 1 << 40), steps=st.lists(st.integers(0, 1 << 38), max_size=30))
def test_however_figures_grow_a_limit_is_hit_exactly_when_it_is_reached(limit: int, steps: list[int]) -> None:
    watch = Watch(Limits(written_bytes=limit))
    total, hits = 0, 0
    for step in steps:
        total += step
        hits += sum(crossing.hit for crossing in watch.crossings(Figures(written_bytes=total)))
        assert hits == (total >= limit)


def test_figures_are_shown_with_their_units() -> None:
    assert shown("wall_time", 90) == "90.0 s"
    assert shown("operations", 1000) == "1000"
    assert [shown("memory", size) for size in (900, 2048, 3 << 20, 5 << 30)] == [
        "900 B",
        "2.0 KiB",
        "3.0 MiB",
        "5.0 GiB",
    ]


def test_each_limit_that_is_set_says_what_holds_it() -> None:
    limits = Limits(memory_bytes=1, processes=2, cpu_percent=50, wall_time_s=1, open_files=10)
    assert wanted_controllers(limits) == ("memory", "pids", "cpu")
    alone, grouped = dict(holders(limits, frozenset())), dict(holders(limits, frozenset(("memory", "pids", "cpu"))))
    assert set(alone) == {f"limits.{name}" for name in ("memory", "processes", "cpu", "wall_time", "open_files")}
    assert [name for name in grouped if "cgroup" in grouped[name]] == [
        "limits.memory",
        "limits.processes",
        "limits.cpu",
    ]
    assert not any("cgroup" in text for text in alone.values())
    assert holders(Limits(), frozenset()) == ()
