"""Plans that this process has made before, for programs that run one policy again and again.

A plan is a function of the policy and of what it was told of the file system (``Tree``). So it still holds when the
policy is an equal one and the file system gives the same answers; to ask once more takes a fraction of the planning.
"""

from __future__ import annotations

import ctypes
import os
from time import time

from agent_safety_layer.policy.planner import Plan, System, plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent_safety_layer.policy.model import Policy

    Listing = list[tuple[str, str]] | None

_MOST = 8
_SETTLED_S = (
    2.0  # a folder whose time is older than that has another one after the next change, however coarse they are
)
# File systems whose folders tell of each change at once: ext, XFS, Btrfs, tmpfs, overlayfs, F2FS, ZFS (statfs(2)).
_TELLING = frozenset({0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0x794C7630, 0xF2F52010, 0x2FC12FC1})
_libc = ctypes.CDLL(None, use_errno=True)


class Plans:
    """The latest plans. May be used from several threads."""

    def __init__(self) -> None:
        self._known: list[tuple[Policy, tuple[object, ...], Plan, _Answers]] = []

    def plan(self, policy: Policy, *, record: str, asks: bool) -> tuple[Policy, Plan]:
        """The plan for the enforced part of *policy*, see ``planner.plan``; and *policy*, or an equal one that it was
        made for earlier, with all that has been compiled of it.
        """
        circumstances = (record, asks, os.geteuid(), os.getegid(), *os.getgroups())
        known = self._known
        for earlier, its, made, answers in known:
            if its == circumstances and earlier == policy and answers.hold():
                return earlier, made
        answers = _Answers()
        made = plan(policy.enforced, answers, record=record, asks=asks)
        others = [one for one in known if one[0] != policy]
        self._known = [*others[-_MOST + 1 :], (policy, circumstances, made, answers)]
        return policy, made


class _Answers:
    """The ``Tree`` of this machine, with a memory of what it said."""

    def __init__(self) -> None:
        self._system = System()
        self._exists: dict[str, bool] = {}
        self._sealed: dict[str, bool] = {}
        self._linked: list[tuple[tuple[str, ...], str]] = []
        self._children: dict[tuple[str, bool], int | tuple[int, int, int]] = {}
        self._tell: dict[int, bool] = {}  # of devices

    def children(self, path: str, programs: bool = True) -> Listing:
        """See ``Tree``."""
        before = None if programs else _state(path)
        listed = self._system.children(path, programs)
        # Permissions of what is in a folder are not seen in the folder's own time; its names and kinds are.
        if before is not None and self._tells(path, before[0]) and _state(path) == before:
            self._children[path, programs] = before
        else:
            self._children[path, programs] = _digest(listed)
        return listed

    def _tells(self, path: str, device: int) -> bool:
        if device not in self._tell:
            self._tell[device] = _tells(path)
        return self._tell[device]

    def exists(self, path: str) -> bool:
        """See ``Tree``."""
        found = self._exists[path] = self._system.exists(path)
        return found

    def linked(self, paths: Iterable[str]) -> str:
        """See ``Tree``."""
        asked = tuple(paths)
        found = self._system.linked(asked)
        self._linked.append((asked, found))
        return found

    def sealed(self, path: str) -> bool:
        """See ``Tree``."""
        found = self._sealed[path] = self._system.sealed(path)
        return found

    def hold(self) -> bool:
        """Whether they are the same now."""
        system = System()
        return (
            all(system.exists(path) == found for path, found in self._exists.items())
            and all(_is(system, *asked, found) for asked, found in self._children.items())
            and all(system.sealed(path) == found for path, found in self._sealed.items())
            and all(system.linked(asked) == found for asked, found in self._linked)
        )


def _is(system: System, path: str, programs: bool, found: int | tuple[int, int, int]) -> bool:
    if isinstance(found, tuple):
        return _state(path) == found
    return _digest(system.children(path, programs)) == found


def _digest(listed: Listing) -> int:
    return hash(None if listed is None else frozenset(listed))


def _state(path: str) -> tuple[int, int, int] | None:
    """What changes with the names in a folder; None when it may have changed just now."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    settled = found.st_ctime < time() - _SETTLED_S
    return (found.st_dev, found.st_ino, found.st_ctime_ns) if settled else None


def _tells(path: str) -> bool:
    found = ctypes.create_string_buffer(256)
    return not _libc.statfs(os.fsencode(path), found) and int.from_bytes(found.raw[:4], "little") in _TELLING


__all__ = ["Plans"]
