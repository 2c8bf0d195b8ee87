"""``asl trace export``: a trace in another program's format."""

from __future__ import annotations

import sys

import click

from agent_safety_layer.cli.options import opened, tell_truncated
from agent_safety_layer.cli.output import output_file
from agent_safety_layer.trace.exports import FORMATS

_LIST = "\n".join(f"  {name:<8} {said}" for name, said in FORMATS.items())


@click.command(
    help=f"""Write a trace in another program's format.

\b
{_LIST}
  otel     spans and logs to a collector over OTLP (needs the extra `otel`)
"""
)
@click.argument("kind", metavar="FORMAT", type=click.Choice([*FORMATS, "otel"]))
@click.argument("name", metavar="TRACE")
@click.option("-o", "--output", metavar="FILE", help="Write it there instead of to stdout.")
@click.option("--endpoint", metavar="URL", help="otel: the collector, instead of what OTEL_EXPORTER_OTLP_* says.")
def export(kind: str, name: str, output: str | None, endpoint: str | None) -> None:
    from importlib import import_module

    module = import_module(f"agent_safety_layer.trace.exports.{kind}")
    with opened(name) as reader:
        if kind == "otel":
            spans, logs = module.send(reader, endpoint or "")
            click.echo(f"{spans} spans and {logs} log records sent", err=True)
        elif output is None:
            module.export(reader, sys.stdout)
        else:
            with output_file(output) as out:
                module.export(reader, out)
        tell_truncated(reader)
