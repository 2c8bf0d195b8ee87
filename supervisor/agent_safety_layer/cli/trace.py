"""``asl trace``: what to do with the record of a run. TRACE is a file, a run's name or its beginning, or ``last``."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from agent_safety_layer.cli.options import AS_JSON, COLOUR, opened, tell_truncated
from agent_safety_layer.cli.query import query, sql, tail
from agent_safety_layer.terminal import colour_wanted, paint, visible

TRACE = click.argument("name", metavar="TRACE")


@click.group()
def trace() -> None:
    """List, show, query, follow, count and verify traces.

    TRACE is a file, the name of a run or its beginning, or `last`.
    """


@trace.command()
@TRACE
@click.option("--kind", "kinds", multiple=True, help="Only events of this kind (file.read) or group (net). Repeatable.")
@click.option("--action", "actions", multiple=True, help="Only events with this decision, or so answered. Repeatable.")
@click.option("--pid", "pids", type=int, multiple=True, help="Only events of this process. Repeatable.")
@AS_JSON
@COLOUR
def show(
    name: str, kinds: tuple[str, ...], actions: tuple[str, ...], pids: tuple[int, ...], as_json: bool, when: str
) -> None:
    """Print a trace's events, one a line."""
    from agent_safety_layer.trace.query import query as made
    from agent_safety_layer.trace.query import select
    from agent_safety_layer.trace.show import heading, row

    try:
        wanted = made(kinds=kinds, actions=actions, pids=pids)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    colour = not as_json and colour_wanted(when, sys.stdout.fileno())
    with opened(name) as reader:
        if not as_json:
            click.echo(_title(reader.header))
            click.echo(paint(heading(), "dim", colour), color=True)
        for line in select(reader, wanted):
            if line.entry is not None:
                sys.stdout.write(line.raw.decode() if as_json else row(line.entry, colour) + "\n")
        if not as_json and reader.footer is not None:
            click.echo(_ending(reader.footer))
        tell_truncated(reader)


@trace.command()
@TRACE
@AS_JSON
def verify(name: str, as_json: bool) -> None:
    """Say whether a trace is intact, truncated or changed, and at which line.

    Exit status 0 when it is intact, 1 when it was changed, 3 when it is truncated (the supervisor was killed, the disk
    was full, or the run goes on).
    """
    from agent_safety_layer.trace.runs import find
    from agent_safety_layer.trace.verify import CHANGED, INTACT
    from agent_safety_layer.trace.verify import verify as verdict_on

    path = find(name)
    verdict = verdict_on(path)
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps({"trace": path, **asdict(verdict)}))
    else:
        click.echo(f"{visible(path)}: {verdict.message}")
    raise SystemExit({INTACT: 0, CHANGED: 1}.get(verdict.state, 3))


@trace.command("list")
@AS_JSON
def list_runs(as_json: bool) -> None:
    """List the runs in the state folder, newest first: outcome, duration, events, what was blocked, command."""
    from agent_safety_layer.trace.runs import runs, traces_path

    count = 0
    for count, run in enumerate(runs(), 1):
        footer = run.footer or {}
        if as_json:
            import json

            click.echo(json.dumps({"run": run.name, "trace": run.path, "header": run.header, "footer": run.footer}))
            continue
        if count == 1:
            click.echo(f"{'RUN':<27} {'OUTCOME':<10} {'EXIT':>4} {'SECONDS':>8} {'EVENTS':>8} {'BLOCKED':>8} COMMAND")
        outcome = footer.get("outcome", "no end")
        numbers = (
            f"{footer.get('exit_code', ''):>4} {footer.get('wall_seconds', 0):>8.2f} {footer.get('events', ''):>8}"
        )
        command = _command(run.header, 60)
        click.echo(f"{visible(run.name):<27} {visible(outcome):<10} {numbers} {footer.get('blocked', ''):>8} {command}")
    if not count and not as_json:
        click.echo(f"No runs in {visible(traces_path())}.", err=True)


@trace.command()
@TRACE
@AS_JSON
@COLOUR
def stats(name: str, as_json: bool, when: str) -> None:
    """Count a trace's events by kind and decision, and list what was denied."""
    from agent_safety_layer.report import Ending, report
    from agent_safety_layer.summary import denied
    from agent_safety_layer.trace.stats import tally_of

    with opened(name) as reader:
        tally = tally_of(reader)
        if as_json:
            import json

            counted = report(tally, {}, Ending("", 0), reader.path)
            names = ("events", "counts", "effective", "blocked", "would_block", "denials", "denials_unlisted", "trace")
            click.echo(json.dumps({key: counted[key] for key in names}, indent=2))
        else:
            click.echo(_title(reader.header))
            if reader.footer is not None:
                click.echo(_ending(reader.footer))
            _print_counts(tally.counts())
            for said in denied(tally, colour_wanted(when, sys.stdout.fileno())):
                click.echo(said, color=True)
        tell_truncated(reader)


def _title(header: dict[str, Any]) -> str:
    began = header.get("time")
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began)) if isinstance(began, int | float) else "?"
    policy = header.get("policy") or {}
    names = " + ".join(map(str, policy.get("names", ())))
    lines = [f"run {visible(str(header.get('run', '?')))}, {when}: {_command(header, 200)}"]
    lines.append(f"policy {visible(names) or '?'}, {visible(str(policy.get('mode', '?')))}")
    missing = header.get("not_enforced") or ()
    if missing:
        lines.append(f"not enforced: {visible(', '.join(map(str, missing)))}")
    return "\n".join(lines)


def _ending(footer: dict[str, Any]) -> str:
    blocked = footer.get("blocked", 0)
    outcome = f"{visible(str(footer.get('outcome', '?')))}, exit status {footer.get('exit_code', '?')}"
    return (
        f"ended: {outcome}, {footer.get('wall_seconds', 0):.2f} s, {footer.get('events', 0)} events, {blocked} blocked"
    )


def _command(header: dict[str, Any], limit: int) -> str:
    from agent_safety_layer.wording import shell_joined

    return visible(shell_joined(map(str, header.get("command") or ())), limit)


def _print_counts(counts: dict[str, dict[str, int]]) -> None:
    from agent_safety_layer.events import ACTIONS

    actions = [action for action in ACTIONS if any(action in of_kind for of_kind in counts.values())]
    click.echo("".join([f"{'KIND':<18}", *(f"{action:>18}" for action in actions)]))
    for kind, of_kind in counts.items():
        click.echo("".join([f"{kind:<18}", *(f"{of_kind.get(action, 0):>18}" for action in actions)]))


for command in (query, tail, sql):
    trace.add_command(command)
