"""Folding of paths: of all that was read or written, the few folders and files that a policy has to name.

A tier says up to which folder paths below a prefix may be folded, and how much it takes. The first tier whose prefix
fits and that folds decides; what no tier folds is named itself. No tier folds into a folder with a secret in it.

    /usr/lib/a.so  /usr/share/b   ->  /usr            programs and their data: nothing of a person's is there
    ~/.cache/x/1   ~/.cache/x/2   ->  ~/.cache/x      an application's own folder
    /srv/d/1 /srv/d/2 /srv/d/3    ->  /srv/d          three of a folder stand for the folder
    ~/.ssh/config                 ->  ~/.ssh/config   always itself
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# A path as its segments, the first of them the variable that it begins with, or empty: ("~", ".cache", "x").
Steps = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tier:
    """``depth``: the highest folder to fold to, counted from the prefix. ``need``: how many different paths it takes;
    0 when nothing is ever folded here.

    ``direct``: they must be in different children of the folder, and the highest such folder is taken; else they may be
    anywhere below it.
    """

    prefix: str
    depth: int
    need: int
    direct: bool = False


READS = (
    *(Tier(f"/{name}", 0, 1) for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt", "snap")),
    *(Tier(prefix, 0, 1) for prefix in ("/nix/store", "/gnu/store", "${WORKSPACE}", "${TMP}")),
    *(Tier(f"/etc/{name}", 0, 1) for name in ("ssl/certs", "ca-certificates", "pki/tls", "fonts", "alternatives")),
    *(Tier(prefix, 1, 2) for prefix in ("~/.cache", "~/.config", "~/.local/share", "~/.local/lib", "~/.local/state")),
    Tier("/etc", 1, 2),
    Tier("/sys", 3, 1),
    Tier("/dev", 0, 0),
    Tier("/proc", 0, 0),
    *(Tier(prefix, 0, 0) for prefix in ("~/.cache", "~/.config", "~/.local")),
    Tier("~/.", 0, 2),
    Tier("~", 1, 3, direct=True),
    Tier("", 2, 3, direct=True),
)
WRITES = (
    Tier("${TMP}", 0, 1),
    Tier("${WORKSPACE}", 0, 6, direct=True),
    Tier("${WORKSPACE}/.git", 0, 2),
    Tier("${WORKSPACE}", 1, 3, direct=True),
    *(Tier(prefix, 1, 2) for prefix in ("~/.cache", "~/.config", "~/.local/share", "~/.local/lib", "~/.local/state")),
    Tier("/dev", 0, 0),
    Tier("/proc", 0, 0),
    *(Tier(prefix, 0, 0) for prefix in ("~/.cache", "~/.config", "~/.local")),
    Tier("~/.", 0, 2),
    Tier("~", 1, 3, direct=True),
    Tier("", 2, 3, direct=True),
)
# Folders in the working directory that programs make and fill: each is one thing.
MADE = frozenset(
    ("__pycache__", "node_modules", ".venv", "venv", ".tox", ".mypy_cache", ".ruff_cache", ".pytest_cache", "target")
)
_STEM = 3


@dataclass(slots=True)
class Use:
    """What is known of one path: how often it was used, and what for.

    ``folder``: it is one. ``made``: it was made as one. ``gone``: it was made and did not stay.
    """

    count: int = 0
    folder: bool = False
    made: bool = False
    gone: bool = False
    born: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a list: the path as a pattern, how many uses and how many paths it stands for.

    ``alone``: only the folder itself is meant.
    """

    steps: Steps
    count: int
    paths: int
    alone: bool = False
    wild: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """The pattern."""
        said = "/".join(self.steps) + self.wild or "/"
        return f"{said.rstrip('/')}/." if self.alone else said

    def covers(self, other: Line) -> bool:
        """Whether the line stands for all that the other one does."""
        mine, its = self.steps, other.steps
        if self.alone:
            return other.alone and its == mine
        if self.wild:
            return (
                its[: len(mine) - 1] == mine[:-1] and len(its) >= len(mine) and its[len(mine) - 1].startswith(mine[-1])
            )
        return its[: len(mine)] == mine and (not other.wild or len(its) > len(mine))


def fold(uses: Mapping[Steps, Use], tiers: Iterable[Tier], secret: Callable[[Steps], str]) -> list[Line]:
    """The lines that stand for all of *uses*. ``secret(path)`` is ``within`` when the path is, or lies in, a place for
    secrets, ``around`` when such a place lies below it, else empty.

    Postcondition: every path is covered by a line, and no line but one for a single path covers a secret.
    """
    tiers = tuple(tiers)
    shape = _Shape(uses)
    lines: dict[tuple[Steps, bool, str], tuple[int, int]] = {}
    for steps, use in uses.items():
        place, wild = _folded(steps, use, tiers, shape, secret)
        alone = (
            place == steps
            and not wild
            and (use.folder or secret(steps) == "around")
            and not _whole(steps, use, shape, secret)
        )
        count, paths = lines.get((place, alone, wild), (0, 0))
        lines[place, alone, wild] = count + use.count, paths + 1
    made = [Line(place, count, paths, alone, wild) for (place, alone, wild), (count, paths) in lines.items()]
    return joined(made)


def joined(lines: Iterable[Line]) -> list[Line]:
    """The lines less those that others cover, which take over their counts; sorted."""
    kept: dict[tuple[Steps, bool, str], Line] = {}
    wild: list[tuple[Steps, bool, str]] = []
    for line in sorted(lines, key=lambda line: (len(line.steps), line.alone, bool(line.wild))):
        key = (line.steps, line.alone, line.wild)
        above = ((line.steps[:depth], False, "") for depth in range(1, len(line.steps) + 1))
        over = next((one for one in (*above, *wild) if one in kept and kept[one].covers(line)), key)
        found = kept.get(over)
        if found is None:
            kept[key] = line
            wild += [key] if line.wild else []
        else:
            kept[over] = replace(found, count=found.count + line.count, paths=found.paths + line.paths)
    return sorted(kept.values(), key=lambda line: (_rank(line.steps[0]), line.steps))


def _rank(first: str) -> int:
    return {"": 0, "${WORKSPACE}": 1, "${TMP}": 2}.get(first, 3)


class _Shape:
    """How many paths are below each folder, and how many different children lead to them."""

    def __init__(self, uses: Mapping[Steps, Use]) -> None:
        self.below: dict[Steps, int] = defaultdict(int)  # the folder itself included
        self.children: dict[Steps, set[str]] = defaultdict(set)
        self.made_below: set[Steps] = set()
        for steps, use in uses.items():
            self.below[steps] += 1
            for depth in range(1, len(steps)):
                self.below[steps[:depth]] += 1
                self.children[steps[:depth]].add(steps[depth])
                if use.made:
                    self.made_below.add(steps[:depth])


def _folded(
    steps: Steps, use: Use, tiers: tuple[Tier, ...], shape: _Shape, secret: Callable[[Steps], str]
) -> tuple[Steps, str]:
    """The folder (or the path itself) that stands for *steps*, and the wildcard to put behind it."""
    if steps[0] == "${WORKSPACE}":
        for depth, name in enumerate(steps[1:-1], 2):
            if name in MADE and not secret(steps[:depth]):
                return steps[:depth], ""
    for tier in tiers:
        prefix = tuple(tier.prefix.split("/")) if tier.prefix else ("",)
        if tier.prefix == "~/.":
            if steps[0] != "~" or len(steps) < 2 or not steps[1].startswith("."):
                continue
            prefix = steps[:2]
        if steps[: len(prefix)] != prefix:
            continue
        if not tier.need:
            break
        highest = len(prefix) + tier.depth
        for depth in range(highest, len(steps) + 1 if tier.direct else min(highest, len(steps)) + 1):
            folder = steps[:depth]
            enough = len(shape.children[folder]) if tier.direct else shape.below[folder]
            if enough >= tier.need and not secret(folder):
                return folder, ""
    if use.gone and not secret(steps[:-1]):
        return _temporary(steps, tiers)
    return steps, ""


def _temporary(steps: Steps, tiers: tuple[Tier, ...]) -> tuple[Steps, str]:
    """What stands for a file that is made under a new name each time: the beginning of its name, or its folder."""
    name = steps[-1]
    stem = ""
    for c in name:
        if not (c.isalpha() or c in "._-"):
            break
        stem += c
    if len(stem) >= _STEM and stem != name:
        return (*steps[:-1], stem), "*"
    if len(steps) > (3 if steps[0] == "" else 2):
        return steps[:-1], ""
    return steps, ""


def _whole(steps: Steps, use: Use, shape: _Shape, secret: Callable[[Steps], str]) -> bool:
    """Whether a folder stands for what is in it, too: it was made, and none below it was made after it."""
    return use.made and steps not in shape.made_below and not secret(steps)


__all__ = ["MADE", "READS", "WRITES", "Line", "Steps", "Tier", "Use", "fold", "joined"]
