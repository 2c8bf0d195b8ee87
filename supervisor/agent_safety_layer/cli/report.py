"""``asl report``: a run as one HTML page."""

from __future__ import annotations

import os

import click

from agent_safety_layer.cli.options import opened, tell_truncated
from agent_safety_layer.cli.output import output_file
from agent_safety_layer.terminal import visible


@click.command()
@click.argument("name", metavar="[TRACE]", default="last")
@click.option("-o", "--output", metavar="FILE", default="report.html", show_default=True, help="Where to write it.")
@click.option(
    "--events", "most", type=click.IntRange(0), default=100_000, show_default=True, help="Events in its table."
)
@click.option("--key", metavar="FILE", help="Have the trace's signatures checked with this key.")
def report(name: str, output: str, most: int, key: str | None) -> None:
    """Make one self-contained HTML page of a run: the verdict, processes, files, hosts, limits, events.

    It loads nothing from anywhere, so it can be mailed, archived and opened offline. Where a run has more events than
    the table holds, all that were not simply allowed come first. TRACE is `last` when not given.
    """
    from agent_safety_layer.trace.page.digest import digest
    from agent_safety_layer.trace.page.html import page
    from agent_safety_layer.trace.verify import CHANGED, verify

    checker = None
    if key is not None:
        from agent_safety_layer.trace.signing import Checker

        checker = Checker(key)
    with opened(name) as reader:
        found = digest(reader, most)
        tell_truncated(reader)
        verdict = verify(reader.path, checker)
    text = page(found, verdict.message, verdict.state != CHANGED and found.truncated_after is None)
    with output_file(output) as out:
        out.write(text)
    click.echo(f"{visible(os.path.abspath(output))}: {len(text.encode()) // 1024:,} KiB", err=True)
