"""What is mounted, as this process sees it (``/proc/self/mountinfo``, proc(5))."""

from __future__ import annotations

from asl_hooks.value import value

_ESCAPED = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\"))


@value
class Mount:
    """A mount point: the folder ``root`` of the file system on ``device`` (``8:1``) is shown ``at`` this path."""

    at: str
    root: str
    device: str
    kind: str


def mounts() -> list[Mount]:
    """All mounts, in the order in which they were made; none when they cannot be read."""
    found = []
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                words = line.split(" ")
                kind = words[words.index("-", 6) + 1]
                found.append(Mount(_plain(words[4]), _plain(words[3]), words[2], kind))
    except OSError:
        pass
    return found


def _plain(path: str) -> str:
    if "\\" in path:
        for escaped, character in _ESCAPED:
            path = path.replace(escaped, character)
    return path
