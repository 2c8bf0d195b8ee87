"""``asl top``: what runs under supervision now."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from agent_safety_layer.cli.options import AS_JSON
from agent_safety_layer.terminal import visible

if TYPE_CHECKING:
    from agent_safety_layer.running import Running

_CLEAR, _HOME_AND_CLEAR = "\x1b[2J\x1b[H", "\x1b[H\x1b[J"


@click.command()
@click.option("--once", is_flag=True, help="Print the list once, as when the output is no terminal.")
@click.option("--interval", metavar="SECONDS", type=click.FloatRange(0.1), default=2.0, help="How often to look.")
@AS_JSON
def top(once: bool, interval: float, as_json: bool) -> None:
    """List the supervised trees of this user that run now: time, processes, memory, CPU, events, what was blocked.

    On a terminal the list is kept up to date; Ctrl-C ends it.
    """
    from agent_safety_layer.running import Watcher

    watcher = Watcher()
    if as_json or once or not sys.stdout.isatty():
        found = watcher.look()
        if as_json:
            import json
            from dataclasses import asdict

            for one in found:
                click.echo(json.dumps(asdict(one)))
        else:
            click.echo("\n".join(_lines(found, time.time(), 120)))
        return
    try:
        sys.stdout.write(_CLEAR)
        while True:
            size = _size()
            lines = _lines(watcher.look(), time.time(), size[0])
            sys.stdout.write(_HOME_AND_CLEAR + "\n".join(lines[: size[1] - 1]))
            sys.stdout.flush()
            time.sleep(interval)
    except KeyboardInterrupt:
        sys.stdout.write("\n")


def _size() -> tuple[int, int]:
    import shutil

    size = shutil.get_terminal_size()
    return size.columns, size.lines


def _lines(found: list[Running], now: float, width: int) -> list[str]:
    from agent_safety_layer.wording import shell_joined

    if not found:
        return ["Nothing of this user runs under supervision."]
    lines = [
        f"{'RUN':<27} {'PID':>7} {'TIME':>8} {'PROCS':>5} {'MEMORY':>9} {'CPU':>8} {'EVENTS':>8} {'BLOCKED':>7} COMMAND"
    ]
    for one in found:
        said = visible(one.name or shell_joined(one.command), max(20, width - 89))
        lines.append(
            f"{visible(one.run):<27} {one.supervisor:>7} {_elapsed(now - one.began):>8} {one.processes:>5} "
            f"{one.memory_bytes / 2**20:>5.0f} MiB {one.cpu_seconds:>6.1f} s {one.events:>8} {one.blocked:>7} {said}"
        )
    return lines


def _elapsed(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
