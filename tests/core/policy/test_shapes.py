"""Commands by their shape, and that the pattern means the command it was made of."""

from __future__ import annotations

import pytest

from agent_safety_layer.policy.commands import CommandIndex, parse
from agent_safety_layer.policy.model import Entry
from agent_safety_layer.policy.shapes import gathered, shape


@pytest.mark.parametrize(
    ("argv", "pattern", "other"),
    [
        (("ls", "-la", "/srv"), "ls", ("cat", "x")),
        (("git", "commit", "-m", "a b"), "git commit{, *}", ("git", "push")),
        (("git", "commit"), "git commit{, *}", ("git", "commit-tree")),
        (("git", "-C", "/x", "status"), "git -C * status{, *}", ("git", "-C", "/x", "push")),
        (("git", "--git-dir=/x", "log"), "git --git-dir=* log{, *}", ("git", "log")),
        (("python3", "run.py", "--fast"), "python3 run.py{, *}", ("python3", "other.py")),
        (("python3", "/w/run.py"), "python3 */run.py{, *}", ("python3", "/w/other.py")),
        (("python3", "-c", "print(1)"), "python3 -c{, *}", ("python3", "-m", "x")),
        (("python3", "-m", "pytest", "x"), "python3 -m pytest{, *}", ("python3", "-m", "pip")),
        (("sh", "a b*.sh"), "sh 'a b\\*.sh'{, *}", ("sh", "a bc.sh")),
        (("my tool", "x"), "my tool", ("my", "x")),
    ],
)
def test_a_shape_means_its_command(argv: tuple[str, ...], pattern: str, other: tuple[str, ...]) -> None:
    program, found = shape(argv, argv[0], None)
    assert (program, found) == (argv[0], pattern)
    if " " not in argv[0]:
        index = CommandIndex((Entry(found, "", parse(found)[1]),))
        assert index.find(argv, f"/usr/bin/{argv[0]}")
        assert not index.find(other, f"/usr/bin/{other[0]}")


def test_what_was_redacted_is_not_part_of_the_shape() -> None:
    assert shape(("git", "[redacted]", "x"), "git", None)[1] == "git * x{, *}"


def test_a_program_of_the_project_is_its_file() -> None:
    assert shape(("./tool", "x"), "tool", ("${WORKSPACE}", "build", "tool")) == ("", "${WORKSPACE}/build/tool")


def test_many_shapes_are_the_program() -> None:
    few = {("git", f"git {word}{{, *}}"): 1 for word in ("a", "b")}
    many = {("npm", f"npm {number}{{, *}}"): 2 for number in range(9)}
    assert gathered({**few, **many}) == {"git a{, *}": 1, "git b{, *}": 1, "npm": 18}
    assert gathered({("sh", "sh"): 1, ("sh", "sh -c{, *}"): 2}) == {"sh": 3}
