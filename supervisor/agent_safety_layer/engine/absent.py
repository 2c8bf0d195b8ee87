"""What is not there. Programs look for the same missing files each time they start: locales, translations, libraries.

The search for a missing file ends at the last folder on its way that is there. As long as nothing is added to that
folder or renamed in it, which its times tell, the file is still missing: one stat(2) says so. Not every file system
keeps such times, so what was found holds for moments only.
"""

from __future__ import annotations

import os
from time import monotonic, time

_MOST = 4096
_LASTS_S = 2.0
_SETTLED_S = 2.0  # a folder that changed just now may change again within the same tick of its clock


class Absent:
    """Files that were missing: the last folder that was there, what that was like, and until when that counts."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[bytes, tuple[int, ...], float]] = {}

    def still(self, path: bytes) -> bool:
        """Whether *path* is known to be missing still."""
        known = self._known.get(path)
        return known is not None and monotonic() < known[2] and _look(known[0]) == known[1]

    def note(self, path: bytes) -> None:
        """Remember that the absolute, canonical *path* is missing, if that can be told again."""
        folder = path
        while folder:
            folder, _, name = folder.rpartition(b"/")
            look = _look(folder or b"/")
            if look:
                # Looked at once more: what came to be there in between changed the folder before or after its look.
                if look[-1] < (time() - _SETTLED_S) * 1e9 and not os.path.lexists(folder + b"/" + name):
                    if len(self._known) >= _MOST:
                        self._known.clear()
                    self._known[path] = folder or b"/", look, monotonic() + _LASTS_S
                return


def _look(folder: bytes) -> tuple[int, ...]:
    """What a folder is, and when something in it changed; nothing where there is none."""
    try:
        at = os.stat(folder)
    except OSError:
        return ()
    return at.st_dev, at.st_ino, at.st_mtime_ns, at.st_ctime_ns
