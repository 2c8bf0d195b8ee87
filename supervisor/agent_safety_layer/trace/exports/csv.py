"""Events as a table. Names cannot become formulas: what a spreadsheet would compute is quoted as text."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

from agent_safety_layer.terminal import visible
from agent_safety_layer.wording import object_of, shell_joined

if TYPE_CHECKING:
    from agent_safety_layer.trace.reader import TraceReader

_EVENT = ("kind", "pid", "tid", "ppid", "exe", "syscall", "path", "path2", "flags", "host", "ip", "port", "proto")
COLUMNS = (
    "seq",
    "time",
    *_EVENT,
    "command",
    "action",
    "effective",
    "rule",
    "where",
    "reason",
    "result",
    "us",
    "object",
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export(reader: TraceReader, out: TextIO) -> None:
    """Write a row for each event, under a row of names. Times are seconds since the epoch."""
    write_rows(out, COLUMNS, _rows(reader))


def _rows(reader: TraceReader) -> Iterable[Sequence[object]]:
    for entry in reader:
        event, decision, outcome = entry.event, entry.decision, entry.outcome
        yield (
            *(entry.seq, f"{event.time:.6f}"),
            *(getattr(event, name) for name in _EVENT),
            *(shell_joined(event.argv), decision.action, outcome.effective, decision.rule, decision.where),
            *(decision.reason, outcome.result, outcome.us, object_of(event)),
        )


def write_rows(out: TextIO, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write the rows as CSV (RFC 4180) with each cell safe to open in a spreadsheet and in a terminal."""
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([_safe(name) for name in columns])
    for row in rows:
        writer.writerow(
            [_safe(cell) if isinstance(cell, str) else "" if cell is None else _plain(cell) for cell in row]
        )


def _plain(cell: object) -> object:
    if isinstance(cell, list | tuple):
        return _safe(" ".join(map(str, cell)))
    return cell if isinstance(cell, int | float) else _safe(str(cell))


def _safe(text: str) -> str:
    """The text with what cannot be seen escaped, and an apostrophe before what would begin a formula."""
    shown = visible(text)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown
