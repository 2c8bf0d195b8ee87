"""The counts of a whole trace, taken from its lines and not from what its footer says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_safety_layer.events import BLOCK
from agent_safety_layer.tally import Tally, counted
from agent_safety_layer.trace.reader import EVENT_BEGINS, parse

if TYPE_CHECKING:
    from agent_safety_layer.tally import Slot
    from agent_safety_layer.trace.reader import TraceReader

_DISTINCT = 1 << 16
_BLOCK = f'":"{BLOCK}"'.encode()


def tally_of(reader: TraceReader) -> Tally:
    """Every event of the trace, counted as its supervisor did.

    Events are counted by kind and decision, so lines with the same kind and the same end (the decision and what
    follows it) are counted alike, and one of them is parsed. Denials are told apart by what was attempted.
    """
    tally = Tally()
    known: dict[tuple[bytes, bytes], Slot] = {}
    for number, raw in reader.raw():
        if raw[:15] != EVENT_BEGINS:
            continue
        parts = raw.split(b",", 8)  # the first eight hold type, seq, time, us, kind, pid, tid, ppid
        end = raw[raw.rfind(b',"decision":{') :]
        key = (parts[4], parts[-1] if _BLOCK in end else end)
        slot = known.get(key)
        if slot is None:
            if len(known) >= _DISTINCT:
                known.clear()
            entry = parse(raw, number, reader.path).entry
            if entry is None:
                continue
            effective = entry.outcome.effective
            decision = counted(entry.decision, effective, entry.outcome.result)
            slot = known[key] = tally.slot(entry.event, decision, effective)
        slot.n += 1
    return tally
