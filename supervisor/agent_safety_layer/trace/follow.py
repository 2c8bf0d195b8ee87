"""A trace that is still being written, as it grows."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from agent_safety_layer.errors import TraceError
from agent_safety_layer.trace.reader import FOOTER, FOOTER_BEGINS, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from agent_safety_layer.trace.reader import Line

POLL_S = 0.1  # a supervisor writes every 0.2 s
_BLOCK = 1 << 16


def last(path: str, count: int, passes: Callable[[Line], bool]) -> tuple[list[Line], int, bool]:
    """The last *count* lines that pass, oldest first; the byte to go on from; whether the trace is at its end.

    It is read from the end. A line's number is 0: nobody counted those before it.
    """
    found: list[Line] = []
    end, over = 0, False
    for raw, behind in _backwards(path):
        if not end:
            end, over = behind, raw.startswith(FOOTER_BEGINS) and b'"continued":' not in raw
        if len(found) >= count:
            break
        line = parse(raw, 0, path)
        if passes(line):
            found.append(line)
    return found[::-1], end, over


def _backwards(path: str) -> Iterator[tuple[bytes, int]]:
    """Each whole line, the last one first, and the byte behind it."""
    with open(path, "rb") as file:
        at = end = file.seek(0, os.SEEK_END)
        rest, whole = b"", False  # whether what is left of a line that is being written is out of the way
        while at:
            start = max(0, at - _BLOCK)
            file.seek(start)
            rest, at = file.read(at - start) + rest, start
            if not whole:
                newline = rest.rfind(b"\n")
                if newline < 0:
                    continue
                end -= len(rest) - newline - 1
                rest, whole = rest[:newline], True
            *_, first = lines = rest.split(b"\n")[::-1]
            for raw in lines[: None if at == 0 else -1]:
                yield raw + b"\n", end
                end -= len(raw) + 1
            rest = first


def follow(path: str, start: int, wait: Callable[[float], None] = time.sleep) -> Iterator[Line]:
    """Every whole line from the byte *start* on, as they are written, through the run's footer, from part to part.

    Raises ``TraceError`` when the file becomes shorter: that is not the trace that was begun with.
    """
    following: str | None = path
    while following is not None:
        following = yield from _follow(following, start, wait)
        start = 0


def _follow(path: str, start: int, wait: Callable[[float], None]) -> Generator[Line, None, str | None]:
    """The lines of one file; the path of the next part, or None at the end."""
    with open(path, "rb") as file:
        file.seek(start)
        rest = b""
        while True:
            chunk = file.read(_BLOCK)
            if not chunk:
                if os.fstat(file.fileno()).st_size < file.tell():
                    raise TraceError("The trace was cut while it was followed.", file=path)
                wait(POLL_S)
                continue
            *lines, rest = (rest + chunk).split(b"\n")
            for raw in lines:
                line = parse(raw + b"\n", 0, path)
                yield line
                if line.type == FOOTER:
                    name = (line.fields or {}).get("continued")
                    return os.path.join(os.path.dirname(path), os.path.basename(name)) if name else None
