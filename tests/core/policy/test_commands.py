"""Command patterns."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_safety_layer.policy.commands import CommandIndex, join, parse, quote
from agent_safety_layer.policy.model import Entry
from agent_safety_layer.policy.paths import Paths

PATHS = Paths({"HOME": "/home/u", "WORKSPACE": "/home/u/w"})


def entry(pattern: str) -> Entry:
    is_path, made = parse(pattern)
    return Entry(pattern, "p:1", PATHS.forms(made) if is_path else made)


@pytest.mark.parametrize(
    ("pattern", "argv", "path", "expected"),
    [
        ("sudo", ["sudo", "ls"], "/usr/bin/sudo", True),
        ("sudo", ["/usr/bin/sudo"], "/usr/bin/sudo", True),
        ("sudo", ["harmless"], "/usr/bin/sudo", True),  # called by another name
        ("sudo", ["sudo"], "/tmp/copy", True),
        ("sudo", ["sudoedit"], "/usr/bin/sudoedit", False),
        ("sudo", ["echo", "sudo"], "/bin/echo", False),
        ("{su,doas}", ["doas"], "/x/doas", True),
        ("/opt/tools", ["t"], "/opt/tools/bin/t", True),
        ("/opt/tools", ["t"], "/opt/toolsbin/t", False),
        ("/opt/*/t", ["t"], "/opt/x/t", True),
        ("~/bin/t", ["t"], "/home/u/bin/t", True),
        ("git push*", ["git", "push", "origin"], "/usr/bin/git", True),
        ("git push*", ["/usr/lib/git-core/git", "push"], "/usr/lib/git-core/git", True),
        ("git push*", ["g", "push"], "/usr/bin/git", True),
        ("git push*", ["git", "pull"], "/usr/bin/git", False),
        ("git push", ["git", "push", "-f"], "/usr/bin/git", False),
        ("*--force*", ["git", "push", "--force"], "/usr/bin/git", True),
        ("git commit -m 'a b'", ["git", "commit", "-m", "a b"], "/usr/bin/git", True),
        ("rm -*[rR]* /", ["rm", "-rf", "/"], "/bin/rm", True),
        ("rm -*[rR]* /", ["rm", "-rf", "/tmp"], "/bin/rm", False),
        ("rm -rf [*]", ["rm", "-rf", "x"], "/bin/rm", False),
        ("git push*", [], "/usr/bin/git", False),
        ("sudo", [], "/usr/bin/sudo", True),
    ],
)
def test_patterns(pattern: str, argv: list[str], path: str, expected: bool) -> None:
    assert (CommandIndex([entry(pattern)]).find(argv, path) is not None) is expected


@pytest.mark.parametrize("pattern", [" ", "git [x", "git \\"])
def test_malformed_patterns_are_errors(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(pattern)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0"), max_size=8), min_size=1, max_size=5))
def test_a_joined_command_is_what_a_shell_reads_back(argv: list[str]) -> None:
    assert shlex.split(join(argv)) == argv


@settings(deadline=None)
@given(st.text(max_size=12))
def test_quoting_is_that_of_shlex_on_ascii(word: str) -> None:
    if word.isascii():
        assert quote(word) == shlex.quote(word)
