"""Past runs: the traces in the state folder, and how each ended."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_safety_layer.errors import TraceError
from agent_safety_layer.state import state_path
from agent_safety_layer.trace.files import last_line
from agent_safety_layer.trace.parts import COMPRESSED, SUFFIX, part_number
from agent_safety_layer.trace.reader import FOOTER, TraceReader, parse

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Run:
    """One run by its trace. ``footer`` is None while it goes on, and for ever when its supervisor was killed."""

    name: str
    path: str
    header: dict[str, Any]
    footer: dict[str, Any] | None


def traces_path() -> str:
    """The folder of traces; it need not exist."""
    return os.path.join(state_path(), "traces")


def run_of(name: str) -> str:
    """The run whose trace has this file name."""
    return name.removesuffix(".zst").removesuffix(SUFFIX)


def _is_trace(name: str) -> bool:
    return name.endswith((SUFFIX, COMPRESSED)) and part_number(name) == 1


def runs() -> Iterator[Run]:
    """Every run in the state folder whose header can be read, newest first."""
    try:
        names = sorted(filter(_is_trace, os.listdir(traces_path())), reverse=True)
    except FileNotFoundError:
        return
    for name in names:
        path = os.path.join(traces_path(), name)
        try:
            with TraceReader(path) as reader:
                yield Run(run_of(name), path, reader.header, footer_of(path))
        except TraceError:
            continue


def footer_of(path: str) -> dict[str, Any] | None:
    """The footer's fields without reading the whole trace; None when there is none yet."""
    last = last_line(path)
    try:
        line = parse(last, 0)
    except TraceError:
        return None
    if line.type != FOOTER or line.fields is None or "continued" in line.fields:
        return None
    return line.fields if last.endswith(b"\n") else None


def find(name: str) -> str:
    """The path of the trace that *name* means: a file, a run's name or its beginning, or ``last``."""
    if os.path.exists(name) or "/" in name:
        return name
    folder = traces_path()
    known = sorted(filter(_is_trace, os.listdir(folder))) if os.path.isdir(folder) else []
    if name == "last" and known:
        return os.path.join(folder, known[-1])
    matching = [entry for entry in known if run_of(entry) == name] or [e for e in known if e.startswith(name)]
    if len(matching) == 1:
        return os.path.join(folder, matching[0])
    if matching:
        raise TraceError(
            f"{len(matching)} runs begin with {name!r}.", remedy="Give more of the name; see asl trace list."
        )
    raise TraceError(f"No trace {name!r}.", remedy="Give a file or a run's name; asl trace list shows the runs.")
