"""What the commands that read traces share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agent_safety_layer.terminal import visible

if TYPE_CHECKING:
    from agent_safety_layer.trace.reader import TraceReader

COLOUR = click.option(
    "--color", "when", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colours."
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def opened(name: str) -> TraceReader:
    """The trace that *name* means: a file, a run's name or its beginning, or ``last``."""
    from agent_safety_layer.trace.reader import TraceReader
    from agent_safety_layer.trace.runs import find

    return TraceReader(find(name))


def tell_truncated(reader: TraceReader) -> None:
    """Say on stderr where a trace ends before its end; once it was read."""
    if reader.truncated_after is not None:
        click.echo(f"asl: {visible(reader.path)}: truncated after line {reader.truncated_after}", err=True)
