"""Commands by their shape: the patterns that stand for what was run, without its particulars.

    ls -la /srv                  ->  ls                        a program, whatever its arguments
    git commit -m "fix"          ->  git commit{, *}           a program of many commands: that one of them
    python3 tests/run.py --fast  ->  python3 tests/run.py{, *} an interpreter: that script
    python3 -c '...'             ->  python3 -c{, *}
    ${WORKSPACE}/build/tool x    ->  ${WORKSPACE}/build/tool   a program of the project: that file

Every command that an interpreter or shell starts is an operation of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_safety_layer.policy.commands import basename, quote
from agent_safety_layer.policy.globs import escape
from agent_safety_layer.trace.redact import REDACTED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent_safety_layer.policy.tiers import Steps

COMMANDS = frozenset(
    (
        *("git", "docker", "podman", "kubectl", "helm", "gh", "glab", "aws", "gcloud", "az", "terraform", "tofu"),
        *("npm", "npx", "pnpm", "yarn", "bun", "pip", "pip3", "pipx", "uv", "poetry", "pdm", "conda", "cargo"),
        *("rustup", "go", "dotnet", "mvn", "gradle", "bundle", "gem", "composer", "apt", "apt-get", "dnf", "brew"),
        "systemctl",
    )
)
INTERPRETERS = (
    *("python", "pypy", "node", "ruby", "perl", "php", "lua", "deno", "Rscript", "java", "tclsh"),
    *("sh", "bash", "dash", "zsh", "ksh", "fish", "busybox", "env", "nohup", "timeout", "xargs", "nice", "setsid"),
)
MANY = 6  # shapes of one program, above which it is named as a whole


def shape(argv: Sequence[str], program: str, place: Steps | None) -> tuple[str, str]:
    """The program's name (for ``gathered``) and the pattern for this command.

    *program* is the name that it was called by; *place* its path, when it is one of the project's or user's own.
    """
    if place is not None:
        return "", "/".join(place)
    name = escape(program)
    words = list(argv[1:])
    if program in COMMANDS:
        return program, _command(name, words)
    if words and program.rstrip("0123456789.") in INTERPRETERS:
        kept = [_word(words[0])]
        if words[0] == "-m" and len(words) > 1:
            kept.append(_word(words[1]))
        return program, f"{name} {' '.join(kept)}{{, *}}"
    return program, name


def _command(name: str, words: Sequence[str]) -> str:
    """The program and its command, with the options before it: ``git -C * status{, *}``."""
    kept: list[str] = []
    for word in words[:5]:
        if word.startswith("-"):
            kept.append(_word(word.partition("=")[0] + "=*" if "=" in word else word, star="=" in word))
        elif word.replace("-", "").replace("_", "").isalnum() and word[0].isalpha():
            return f"{name} {' '.join([*kept, _word(word)])}{{, *}}"
        else:
            kept.append("*")
    return f"{name} {' '.join(kept)}{{, *}}" if kept else name


def _word(word: str, *, star: bool = False) -> str:
    """The word as a pattern. An absolute path stands for the file of that name: it lies elsewhere elsewhere."""
    if REDACTED in word:
        return "*"
    if star:
        return escape(word[:-1]) + "*"
    if word.startswith("/") and basename(word):
        return f"*/{escape(quote(basename(word)))}"
    return escape(quote(word))


def gathered(shapes: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """The patterns with their counts; a program with many shapes is named as a whole."""
    of_program: dict[str, dict[str, int]] = {}
    for (program, pattern), count in shapes.items():
        of_program.setdefault(program, {})[pattern] = count
    lines: dict[str, int] = {}
    for program, patterns in of_program.items():
        bare = escape(program)
        if program and (len(patterns) > MANY or bare in patterns):
            lines[bare] = lines.get(bare, 0) + sum(patterns.values())
        else:
            lines.update(patterns)
    return dict(sorted(lines.items()))


__all__ = ["COMMANDS", "INTERPRETERS", "MANY", "gathered", "shape"]
