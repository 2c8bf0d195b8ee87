"""Removing a folder that a tree had to itself, whatever it left there."""

from __future__ import annotations

import os


def remove(path: str) -> None:
    """Establishes: nothing is left of *path*, as far as it is ours to remove. Links are removed, not followed.

    For when nobody writes there any more: folders that nobody may enter are opened up first.
    """
    from shutil import rmtree

    for folder, folders, _ in os.walk(path):
        for name in folders:
            below = os.path.join(folder, name)
            if not os.path.islink(below):
                try:
                    os.chmod(below, 0o700)
                except OSError:
                    continue  # another user's, made by a root tree; rmtree says the same and goes on
    rmtree(path, ignore_errors=True)
