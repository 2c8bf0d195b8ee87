"""Other names of kept files: a hard link, made before the run, to a file that the policy blocks or protects by name.

Looked for among the files that are named literally and those that lie in a folder so named, and only once a file with
several names is opened. What lies deeper, or is found by wildcards, is not.
"""

from __future__ import annotations

import os
import stat
from time import monotonic

from agent_safety_layer.policy.globs import has_meta
from asl_hooks.paths import several_named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.policy import Policy

_FRESH_S = 2.0


class Aliases:
    """The files with several names that *policy* keeps from the tree, by device and inode."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._names: dict[tuple[int, int], str] = {}
        self._until = 0.0

    def name_of(self, fd: int) -> str:
        """The kept name of the file that is held, empty when it has none that is known."""
        there = os.fstat(fd)
        if there.st_nlink < 2 or not stat.S_ISREG(there.st_mode):
            return ""
        now = monotonic()
        if now >= self._until:
            self._names = {(kept.st_dev, kept.st_ino): path for path, kept in several_named(self._literal())}
            self._until = now + _FRESH_S
        return self._names.get((there.st_dev, there.st_ino), "")

    def _literal(self) -> dict[str, None]:
        """The paths without wildcards that any layer blocks or protects."""
        files = [layer.files for layer in self._policy.layers if layer.files is not None]
        entries = (entry for part in files for entry in (*part.block, *part.protect))
        return dict.fromkeys(form for entry in entries for form in entry.forms if not has_meta(form))
