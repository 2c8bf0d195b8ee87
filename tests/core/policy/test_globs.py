"""Wildcards, braces, and the path index: by table, and against wcmatch where the meanings coincide."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wcmatch import glob

from agent_safety_layer.policy.globs import PathIndex, Wildcard, escape, expand_braces


def covers(pattern: str, path: str) -> bool:
    return any(PathIndex([(form, True)]).find(path) for form in expand_braces(pattern))


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/", "/", True),
        ("/", "/a/b", True),
        ("/a", "/a", True),
        ("/a", "/a/b/c", True),
        ("/a", "/ab", False),
        ("/a", "/A", False),
        ("/a/*", "/a", False),
        ("/a/*", "/a/b", True),
        ("/a/*", "/a/b/c", True),  # a pattern means what it matches and everything below
        ("/a/*/c", "/a/b/c", True),
        ("/a/*/c", "/a/b/x/c", False),  # a star stays within its segment
        ("/a/*", "/a/.hidden", True),
        ("/a/**", "/a", False),
        ("/a/**", "/a/b", True),
        ("/a/**/z", "/a/z", True),
        ("/a/**/z", "/a/b/c/z/y", True),
        ("/a/**/z", "/a/b/zz", False),
        ("/a/**/**/z", "/a/z", True),
        ("**/.env", "/.env", True),
        ("**/.env", "/x/y/.env", True),
        ("**/.env", "/x/y/.env.example", False),
        ("**/a/b", "/a/a/b", True),
        ("**/a/**/b", "/x/a/y/a/z/b", True),
        ("/x/*.pem", "/x/.pem", True),
        ("/x/*.pem", "/x/a.pem.txt", False),
        ("/x/id_*", "/x/id_rsa", True),
        ("/x/a*b*c", "/x/a-b-b-c", True),
        ("/x/a*b*c", "/x/a-c-b", False),
        ("/x/a?c", "/x/abc", True),
        ("/x/a?c", "/x/ac", False),
        ("/x/[a-c]1", "/x/b1", True),
        ("/x/[!a-c]1", "/x/b1", False),
        ("/x/[^a-c]1", "/x/d1", True),
        ("/x/[]]1", "/x/]1", True),
        ("/x/[a-]1", "/x/-1", True),
        ("/x/\\*", "/x/*", True),
        ("/x/\\*", "/x/y", False),
        ("/x/{a,b}", "/x/b", True),
        ("/x/{a,b{1,2}}", "/x/b2", True),
        ("/x/{a}", "/x/{a}", True),
        ("/x/{a,}z", "/x/z", True),
        ("/x/\\{a,b}", "/x/{a,b}", True),
    ],
)
def test_patterns(pattern: str, path: str, expected: bool) -> None:
    assert covers(pattern, path) is expected


@pytest.mark.parametrize("text", ["/x/[a", "/x/[[:alpha:]]", "/x/[z-a]", "/x/\\"])
def test_malformed_wildcards_say_so(text: str) -> None:
    with pytest.raises(ValueError, match=r"closed|supported|backwards|backslash"):
        Wildcard(text)


def test_braces_are_bounded_and_leave_variables_alone() -> None:
    assert expand_braces("${HOME}/{a,b}") == ["${HOME}/a", "${HOME}/b"]
    with pytest.raises(ValueError, match="more than"):
        expand_braces("{a,b}" * 12)


def test_a_wildcard_made_to_hang_does_not() -> None:
    begin = time.monotonic()
    assert not Wildcard("*a" * 50 + "b").matches("a" * 20_000)
    assert not covers("/**/a" * 30 + "/b", "/a" * 2_000)
    assert time.monotonic() - begin < 5


NAME = st.text("ab.*?[]{}\\-", min_size=1, max_size=5).filter(lambda name: name not in (".", ".."))
PATH = st.lists(NAME, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))


@settings(deadline=None)
@given(PATH)
def test_an_escaped_path_matches_itself_alone(path: str) -> None:
    assert [bool(PathIndex([(escape(path), True)]).find(path))] == [True]
    assert not PathIndex([(escape(path), True)]).find(path + "x")
    assert expand_braces(escape(path)) == [escape(path)]


PIECE = st.sampled_from(["a", "b", "ab", ".a", "*", "a*", "*b", "?", "[ab]", "[!a]", "**", "*a*", "{a,b*}", "a{b,}"])
PATTERN = st.lists(PIECE, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
PLAIN = st.lists(st.sampled_from(["a", "b", "ab", ".a", "ba", "abb", "c"]), min_size=1, max_size=5)
FLAGS = glob.GLOBSTAR | glob.DOTGLOB | glob.BRACE | glob.CASE | glob.NODOTDIR | glob.NEGATE & 0


@settings(max_examples=400, deadline=None)
@given(PATTERN, PLAIN)
def test_agrees_with_wcmatch(pattern: str, names: list[str]) -> None:
    """wcmatch matches whole paths; here a match of any folder on the way counts, too. A trailing ``**`` is left out:
    wcmatch lets it stand for nothing at all, here it stands for what is inside.
    """
    if pattern.endswith("**"):
        pattern += "/a"
    path = "/" + "/".join(names)
    ways = ["/" + "/".join(names[: i + 1]) for i in range(len(names))]
    assert covers(pattern, path) is any(glob.globmatch(way, pattern, flags=FLAGS) for way in ways)


@settings(deadline=None)
@given(st.lists(PATTERN, max_size=6), PLAIN)
def test_many_patterns_in_one_index_are_each_alone(patterns: list[str], names: list[str]) -> None:
    path = "/" + "/".join(names)
    index = PathIndex((form, pattern) for pattern in patterns for form in expand_braces(pattern))
    assert set(index.find(path)) == {pattern for pattern in patterns if covers(pattern, path)}


@settings(deadline=None)
@given(PATTERN, PLAIN, PLAIN)
def test_no_node_is_alive_where_nothing_more_can_match(pattern: str, names: list[str], more: list[str]) -> None:
    path = "/" + "/".join(names)
    index = PathIndex((form, True) for form in expand_braces(pattern))
    found, active = index.walk(path)
    if not found and not active:
        assert not index.find(path + "/" + "/".join(more))
