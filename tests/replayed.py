"""A look at every trace that a test made: replayed under its own policy nothing changes, and its counts are right."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from agent_safety_layer.errors import TraceError
from agent_safety_layer.trace.parts import part_number
from agent_safety_layer.trace.reader import TraceReader
from agent_safety_layer.trace.replay import recorded_policy, replay
from agent_safety_layer.trace.stats import tally_of
from agent_safety_layer.trace.verify import CHANGED, verify


def traces(folder: Path) -> Iterator[Path]:
    """The traces below *folder* that a supervisor wrote with their policy, and that nobody has changed since."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if (
                name.endswith((".jsonl", ".jsonl.zst"))
                and part_number(name) == 1
                and path.is_file()
                and _is_whole(path)
            ):
                yield path


def _is_whole(path: Path) -> bool:
    try:
        with TraceReader(path) as reader:
            recorded = "layers" in (reader.header.get("policy") or {})
        return recorded and verify(str(path)).state != CHANGED
    except TraceError:
        return False


def check(path: Path) -> None:
    """Fails when the recorded policy says anything else of the trace's events now than it did then."""
    with TraceReader(path) as reader:
        own = recorded_policy(reader.header)
        tally = tally_of(reader)
        footer = reader.footer
    (verdicts,) = replay(str(path), [("own", own)]).verdicts
    changes = [(c.kind, c.object, c.before, c.after, c.seq, c.count) for c in verdicts.changes]
    assert (changes, verdicts.moves, verdicts.reruled) == ([], {}, 0), f"replaying {path} under its own policy"
    if footer is not None and "counts" in footer:
        found = {"counts": tally.counts(), "effective": tally.effective(), "blocked": tally.blocked}
        assert found == {name: footer[name] for name in found}, f"counting {path}"
