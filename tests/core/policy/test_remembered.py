"""Plans that were made before: used again, unless something of what they hang on has changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_safety_layer.policy import Policy, System, load_text, plan, remembered
from agent_safety_layer.policy.remembered import Plans


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work/deep/er").mkdir(parents=True)
    (tmp_path / "home/.ssh").mkdir(parents=True)
    (tmp_path / "home/.ssh/key").write_text("k")
    (tmp_path / "home/open").mkdir()
    (tmp_path / "work/script").write_text("#!/bin/sh\n")
    return tmp_path


def policy(work: Path, more: str = "") -> Policy:
    text = f'version: 1\nfiles:\n  read: ["/usr", "{work}"]\n  write: ["{work}/work"{more}]\n'
    text += f'  block: ["{work}/home/.ssh", "{work}/work/**/.env"]\n'
    return load_text(text, name="p", variables={"WORKSPACE": str(work / "work"), "HOME": str(work / "home")})


def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """All folders count as unchanged for long."""
    monkeypatch.setattr(remembered, "time", lambda: 1e12)


def changed_for_sure(folder: Path, change: Callable[[], None], back: Callable[[], None]) -> None:
    """Make the change so that the folder's time is another one, however coarse the file system's times are."""
    before = os.lstat(folder).st_ctime_ns
    change()
    while os.lstat(folder).st_ctime_ns == before:
        back()
        change()


def test_an_equal_policy_has_the_same_plan_and_the_first_policy_stands_for_both(work: Path) -> None:
    plans = Plans()
    first, second = policy(work), policy(work)
    assert first is not second
    kept, made = plans.plan(first, record="all", asks=False)
    again, same = plans.plan(second, record="all", asks=False)
    assert (again, same) == (kept, made)
    assert again is first and same is made
    assert made == plan(second.enforced, System(), record="all")
    assert plans.plan(second, record="all", asks=True)[0] is second, "it was made where nobody is asked"
    assert plans.plan(policy(work, ', "/opt"'), record="all", asks=False)[1] is not made


@pytest.mark.parametrize("long_unchanged", [False, True], ids=["times are not trusted", "times tell"])
def test_what_comes_to_be_is_noticed(work: Path, monkeypatch: pytest.MonkeyPatch, long_unchanged: bool) -> None:
    if long_unchanged:
        settled(monkeypatch)
    plans = Plans()
    _, before = plans.plan(policy(work), record="all", asks=False)
    assert before.wave_reads
    secret = work / "work/deep/er/.env"
    changed_for_sure(secret.parent, lambda: secret.write_text("x") and None, secret.unlink)
    _, after = plans.plan(policy(work), record="all", asks=False)
    assert not after.wave_reads
    secret.unlink()
    assert plans.plan(policy(work), record="all", asks=False)[1] == before


def _hard_link(work: Path) -> None:
    (work / "elsewhere").hardlink_to(work / "home/.ssh/key")


def _new_folder(work: Path) -> None:
    (work / "home/new").mkdir()


def _link_in_place(work: Path) -> None:
    (work / "home/open").rmdir()
    (work / "home/open").symlink_to("/etc")


def _program(work: Path) -> None:
    tool = work / "home/tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)


@pytest.mark.parametrize("change", [_hard_link, _new_folder, _link_in_place, _program])
def test_other_changes_are_noticed(work: Path, change: Callable[[Path], None]) -> None:
    plans = Plans()
    _, before = plans.plan(policy(work), record="all", asks=False)
    assert plans.plan(policy(work), record="all", asks=False)[1] is before
    change(work)
    _, after = plans.plan(policy(work), record="all", asks=False)
    assert after == plan(policy(work).enforced, System(), record="all")
    assert after != before


def test_that_a_file_became_a_program_is_noticed(work: Path) -> None:
    (work / "home/file").write_text("#!/bin/sh\n")
    plans = Plans()
    _, before = plans.plan(policy(work), record="all", asks=False)
    assert str(work / "home/file") not in before.read
    (work / "home/file").chmod(0o755)
    assert str(work / "home/file") in plans.plan(policy(work), record="all", asks=False)[1].read


def test_only_the_latest_are_kept(work: Path) -> None:
    plans = Plans()
    first = policy(work)
    plans.plan(first, record="all", asks=False)
    for number in range(20):
        plans.plan(policy(work, f', "/opt/{number}"'), record="all", asks=False)
    assert plans.plan(policy(work), record="all", asks=False)[0] is not first
