"""Path patterns filled in; what links do to them stands in test_loading."""

from __future__ import annotations

import os

import pytest

from agent_safety_layer.policy.paths import Paths, parse, tidy

HERE = {"HOME": "/home/u", "WORKSPACE": "/home/u/w", "TMP": "/tmp/run", "USER": "u", "STATE": "/state"}


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("/", ("/",)),
        ("/a//b/./c/", ("/a/b/c",)),
        ("~", ("/home/u",)),
        ("~/x", ("/home/u/x",)),
        ("${WORKSPACE}/**/.env", ("/home/u/w/**/.env",)),
        ("${TMP}", ("/tmp/run",)),
        ("/srv/${USER}/x", ("/srv/u/x",)),
        ("/srv/*/${USER}", ("/srv/*/u",)),
        ("${STATE}/{a,b}", ("/state/a", "/state/b")),
        ("{~,/x}/y", ("/home/u/y", "/x/y")),
        ("**/x", ("/**/x",)),
        ("**", ("/**",)),
        ("/a/\\*b", ("/a/\\*b",)),
        ("/a/[x]", ("/a/[x]",)),
    ],
)
def test_forms(text: str, forms: tuple[str, ...]) -> None:
    assert Paths(HERE).forms(parse(text)) == forms


@pytest.mark.parametrize(
    "text", ["", "a", "*.key", "~v/x", "${NONE}", "${HOME", "/a/../b", "/a\0b", "/a[", "/proc/self/environ"]
)
def test_what_cannot_be_used(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_relative_patterns_start_where_they_are_told() -> None:
    assert Paths({**HERE, "CWD": "/c"}).forms(parse("a/*.key", relative_to="CWD")) == ("/c/a/*.key",)
    assert Paths(HERE).forms(parse("{a,/b}", relative_to="CWD")) == ("/home/u/w/a", "/b")


def test_the_root_folder_as_a_value() -> None:
    paths = Paths({"HOME": "/", "WORKSPACE": "/"})
    assert paths.forms(parse("~")) == ("/",)
    assert paths.forms(parse("${WORKSPACE}/x")) == ("/x",)
    assert paths.forms(parse("${WORKSPACE}/**/x")) == ("/**/x",)


def test_other_homes_matter_to_root_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listdir", lambda _: ["u", "v"])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert Paths(HERE).forms(parse("${OTHERS}/x")) == ("/root/x", "/home/v/x")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert Paths(HERE).forms(parse("${OTHERS}/x")) == ()


def test_tidy() -> None:
    assert [tidy(path) for path in ("/", "//", "/a/", "/a//b", "/./a")] == ["/", "/", "/a", "/a/b", "/a"]
