"""Patterns for the same files where they are mounted a second time: a bind mount shows them under another path."""

from __future__ import annotations

from agent_safety_layer.policy.globs import Wildcard, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from asl_hooks.mounts import Mount

    Pair = tuple[str, str]

# File systems whose mounts are no second view of files.
_NO_FILES = frozenset(("proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "debugfs", "tracefs", "securityfs"))


def views(mounts: Iterable[Mount]) -> list[Pair]:
    """Pairs of paths below which the same files lie, each way round; none where everything is mounted once."""
    by_device: dict[str, list[Mount]] = {}
    for mount in mounts:
        if mount.kind not in _NO_FILES:
            by_device.setdefault(mount.device, []).append(mount)
    found: dict[Pair, None] = {}
    for same in by_device.values():
        for one in same if len(same) > 1 else ():
            for other in same:
                if _below(other.root, one.root):  # what the other shows is a part of what this one does
                    here, there = _join(one.at, other.root, one.root), other.at
                    if here != there:
                        found[here, there] = found[there, here] = None
    return list(found)


def elsewhere(form: str, pairs: Iterable[Pair]) -> list[str]:
    """The patterns that match, by their other paths, what *form* matches; none for one that is anchored nowhere."""
    names = form.split("/")[1:]
    if names[0] == "**":
        return []
    return [
        "/".join((escape(there).rstrip("/"), *rest)) or "/"
        for here, there in pairs
        for rest in sorted(_rest(names, [name for name in here.split("/") if name]))
    ]


def _rest(pattern: list[str], path: list[str]) -> set[tuple[str, ...]]:
    """What is left of the pattern below *path*; nothing left means all of it, an empty set none."""
    if not pattern:
        return {()}
    if not path:
        return {tuple(pattern)}
    first, more = pattern[0], pattern[1:]
    if first == "**":
        return _rest(pattern, path[1:]) | _rest(more, path) if more else {()}
    return _rest(more, path[1:]) if Wildcard(first).matches(path[0]) else set()


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _join(at: str, path: str, root: str) -> str:
    """Where a mount at *at* that shows *root* has what lies at *path* in the file system."""
    return at.rstrip("/") + path[len(root.rstrip("/")) :].rstrip("/") or "/"
