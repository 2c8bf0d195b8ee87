"""Second paths of files that are mounted twice: what matches by the one, matches by the other."""

from __future__ import annotations

import pytest

from agent_safety_layer.policy.mounted import elsewhere, views
from asl_hooks.mounts import Mount

ROOT = Mount("/", "/", "8:1", "ext4")
HOME = Mount("/mnt/home", "/home", "8:1", "ext4")


@pytest.mark.parametrize(
    ("second", "pairs"),
    [
        (HOME, {("/home", "/mnt/home"), ("/mnt/home", "/home")}),
        (Mount("/mnt", "/", "8:1", "ext4"), {("/", "/mnt"), ("/mnt", "/")}),
        (Mount("/run/x", "/run/x", "8:1", "ext4"), set()),
        (Mount("/home", "/", "8:2", "ext4"), set()),
        (Mount("/p", "/", "8:1", "proc"), set()),
    ],
)
def test_views(second: Mount, pairs: set[tuple[str, str]]) -> None:
    assert set(views([ROOT, second])) == pairs
    assert set(views([second, ROOT])) == pairs


def test_two_parts_of_what_is_mounted_nowhere_as_a_whole() -> None:
    one, part, other = Mount("/w", "/a/b", "8:1", "ext4"), Mount("/m", "/a/b/c", "8:1", "ext4"), HOME
    assert set(views([one, part, other])) == {("/w/c", "/m"), ("/m", "/w/c")}
    whole = Mount("/data", "/a", "8:1", "ext4")
    assert ("/data/b/c", "/m") in views([one, part, whole])


@pytest.mark.parametrize(
    ("form", "second"),
    [
        ("/home/u/.ssh", ["/mnt/home/u/.ssh"]),
        ("/home", ["/mnt/home"]),
        ("/home/*/x", ["/mnt/home/*/x"]),
        ("/*/u/x", ["/mnt/home/u/x"]),
        ("/*", ["/mnt/home"]),
        ("/etc", []),
        ("/**", []),
        ("/**/.env", []),
        ("/[gh]ome/**/.env", ["/mnt/home/**/.env"]),
        ("/homes/x", []),
    ],
)
def test_elsewhere(form: str, second: list[str]) -> None:
    assert elsewhere(form, [("/home", "/mnt/home")]) == second


def test_a_wildcard_that_reaches_into_the_second_view() -> None:
    pairs = [("/w/sub/deep", "/m *")]
    assert elsewhere("/w/**/.env", pairs) == ["/m \\*/**/.env"]
    assert elsewhere("/w/**", pairs) == ["/m \\*"]
    assert set(elsewhere("/w/**/deep/key", pairs)) == {"/m \\*/**/deep/key", "/m \\*/key"}
    assert elsewhere("/w/sub/other", pairs) == []
    assert elsewhere("/x", [("/x", "/")]) == ["/"]
