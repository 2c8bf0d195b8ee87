"""How long past runs are kept: finished traces are compressed, and the oldest go when they are too old or too many."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from agent_safety_layer.errors import TraceError
from agent_safety_layer.trace.files import compress
from agent_safety_layer.trace.parts import SUFFIX, parts
from agent_safety_layer.trace.runs import footer_of, runs

IDLE_S = 86_400.0  # a trace without an end that nobody wrote to for a day has none to come


@dataclass(frozen=True, slots=True)
class Act:
    """What was, or would be, done to one trace: ``compressed``, ``removed`` or ``kept`` (and why)."""

    what: str
    path: str
    bytes_before: int
    bytes_after: int
    why: str = ""


def retain(
    *, now: float, compressed: bool, max_age_s: float | None, max_bytes: int | None, dry: bool = False
) -> Iterator[Act]:
    """Tidy the traces in the state folder, and tell what was done to each. ``dry`` only tells.

    Traces older than ``max_age_s`` go, then the oldest until no more than ``max_bytes`` are left; the rest is
    compressed when ``compressed`` says so. A run that goes on is left alone: it has no footer yet.
    """
    total = 0
    for run in runs():  # newest first
        files = parts(run.path)
        found = [os.stat(path) for path in files]
        size, age_s = sum(one.st_size for one in found), now - max(one.st_mtime for one in found)
        if footer_of(run.path) is None and age_s < IDLE_S:
            total += size
            yield Act("kept", run.path, size, size, "it has no end yet")
            continue
        too_old = max_age_s is not None and age_s > max_age_s
        if too_old or (max_bytes is not None and total + size > max_bytes):
            for path in () if dry else files:
                os.unlink(path)
            yield Act("removed", run.path, size, 0, "too old" if too_old else "too much")
            continue
        after = size
        if compressed and any(path.endswith(SUFFIX) for path in files):
            try:
                after = size if dry else sum(os.stat(_compressed(path)).st_size for path in files)
            except TraceError as error:
                yield Act("kept", run.path, size, size, error.message)
            else:
                yield Act("compressed", run.path, size, after)
        total += after


def _compressed(path: str) -> str:
    return compress(path) if path.endswith(SUFFIX) else path
