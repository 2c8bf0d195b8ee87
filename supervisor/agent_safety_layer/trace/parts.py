"""The files of a trace that was split: ``run.jsonl``, ``run.part2.jsonl``, ``run.part3.jsonl`` …

Each is a trace of its own: header, events, checkpoints, footer. A footer that is not the run's end says in which file
it is ``continued``; that one's header says which ``part`` it is, the first seq in it, and the ``previous`` part's
digest, so that none can be taken away or exchanged.
"""

from __future__ import annotations

import os

SUFFIX, COMPRESSED = ".jsonl", ".jsonl.zst"
_PART = ".part"


def part_path(first: str, number: int) -> str:
    """The path of part *number* of the trace that begins at *first*."""
    if number == 1:
        return first
    root, suffix = _split(first)
    return f"{root}{_PART}{number}{suffix.removesuffix('.zst')}"


def part_number(path: str) -> int:
    """Which part of a trace has this name: 1, unless it says otherwise."""
    root = _split(path)[0]
    number = root[root.rfind(_PART) + len(_PART) :] if _PART in root else ""
    return int(number) if number.isdigit() and number.isascii() and int(number) > 1 else 1


def first_of(path: str) -> str:
    """The path of the first part of the trace that *path* is a part of, not compressed."""
    root, suffix = _split(path)
    return root[: root.rfind(_PART)] + suffix.removesuffix(".zst") if part_number(path) > 1 else path


def parts(path: str) -> list[str]:
    """The files of the trace that begins at *path*, in order, compressed or not. A later part stands for itself."""
    found = [path]
    if part_number(path) == 1:
        while (following := _there(part_path(path, len(found) + 1))) is not None:
            found.append(following)
    return found


def _there(path: str) -> str | None:
    compressed = path if path.endswith(".zst") else f"{path}.zst"
    return path if os.path.exists(path) else compressed if os.path.exists(compressed) else None


def _split(path: str) -> tuple[str, str]:
    for suffix in (COMPRESSED, SUFFIX):
        if path.endswith(suffix):
            return path.removesuffix(suffix), suffix
    return path, ""
