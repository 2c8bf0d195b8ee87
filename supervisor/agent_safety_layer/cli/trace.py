"""``asl trace``: what to do with the record of a run. TRACE is a file, a run's name or its beginning, or ``last``."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import click

from agent_safety_layer.cli.export import export
from agent_safety_layer.cli.options import AS_JSON, COLOUR, opened, tell_truncated
from agent_safety_layer.cli.query import query, sql, tail
from agent_safety_layer.terminal import colour_wanted, paint, visible

TRACE = click.argument("name", metavar="TRACE")


@click.group()
def trace() -> None:
    """List, show, query, follow, count, verify, export and keep traces.

    TRACE is a file, the name of a run or its beginning, or `last`.
    """


@trace.command()
@TRACE
@click.option("--kind", "kinds", multiple=True, help="Only events of this kind (file.read) or group (net). Repeatable.")
@click.option("--action", "actions", multiple=True, help="Only events with this decision, or so answered. Repeatable.")
@click.option("--pid", "pids", type=int, multiple=True, help="Only events of this process. Repeatable.")
@click.option("--strace", "as_calls", is_flag=True, help="Print the calls as `strace -f -ttt -T` does.")
@AS_JSON
@COLOUR
def show(
    name: str,
    kinds: tuple[str, ...],
    actions: tuple[str, ...],
    pids: tuple[int, ...],
    as_calls: bool,
    as_json: bool,
    when: str,
) -> None:
    """Print a trace's events, one a line."""
    from agent_safety_layer.trace.exports.strace import line as call
    from agent_safety_layer.trace.query import query as made
    from agent_safety_layer.trace.query import select
    from agent_safety_layer.trace.show import heading, row

    try:
        wanted = made(kinds=kinds, actions=actions, pids=pids)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_calls and as_json:
        raise click.UsageError("--strace and --json exclude each other.")
    colour = not as_json and colour_wanted(when, sys.stdout.fileno())
    text = partial(row, colour=colour) if not as_calls else call
    plain = as_json or as_calls
    with opened(name) as reader:
        if not plain:
            click.echo(_title(reader.header))
            click.echo(paint(heading(), "dim", colour), color=True)
        for line in select(reader, wanted):
            if line.entry is not None:
                sys.stdout.write(line.raw.decode() if as_json else text(line.entry) + "\n")
        if not plain and reader.footer is not None:
            click.echo(_ending(reader.footer))
        tell_truncated(reader)


@trace.command()
@TRACE
@click.option(
    "--key", metavar="FILE", help="Have every checkpoint signed with this key: the public or the private half."
)
@AS_JSON
def verify(name: str, key: str | None, as_json: bool) -> None:
    """Say whether a trace is intact, truncated or changed, and at which line.

    Whoever can write the file can make the checks anew; only a signature shows that the supervisor did.

    Exit status 0 when it is intact, 1 when it was changed, 3 when it is truncated (the supervisor was killed, the disk
    was full, or the run goes on).
    """
    from agent_safety_layer.trace.runs import find
    from agent_safety_layer.trace.verify import CHANGED, INTACT
    from agent_safety_layer.trace.verify import verify as verdict_on

    checker = None
    if key is not None:
        from agent_safety_layer.trace.signing import Checker

        checker = Checker(key)
    path = find(name)
    verdict = verdict_on(path, checker)
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
@click.argument("path", type=click.Path(), required=False)
def keygen(path: str | None) -> None:
    """Make a key that signs traces (needs the extra `sign`): PATH, and PATH.pub for those who verify.

    Without PATH it is trace.key in the state folder, which the runs after that are signed with; for any other, set
    ASL_TRACE_KEY to it. Keep it where the supervised program cannot read.
    """
    import os

    from agent_safety_layer.state import state_dir
    from agent_safety_layer.trace.header import KEY
    from agent_safety_layer.trace.signing import generate

    place = os.path.abspath(path) if path else f"{state_dir()}/{KEY}"
    name = generate(place)
    click.echo(f"{visible(place)}, {visible(place)}.pub: key {name}")


@trace.command()
@click.option("--compress", "compressed", is_flag=True, help="Compress finished traces (zstd; needs the extra `zstd`).")
@click.option("--max-age", metavar="DURATION", help="Remove traces older than this: 30d.")
@click.option("--max-size", metavar="SIZE", help="Remove the oldest until the rest is no larger than this: 2GiB.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@AS_JSON
def retain(compressed: bool, max_age: str | None, max_size: str | None, dry_run: bool, as_json: bool) -> None:
    """Compress and remove old traces in the state folder.

    What is compressed can be read, queried and verified as before. A run that goes on is left alone.
    """
    from agent_safety_layer.policy.quantities import seconds, size
    from agent_safety_layer.trace.retention import retain as tidied

    try:
        age_s = seconds(max_age) if max_age is not None else None
        limit = size(max_size) if max_size is not None else None
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    for act in tidied(now=time.time(), compressed=compressed, max_age_s=age_s, max_bytes=limit, dry=dry_run):
        if as_json:
            import json
            from dataclasses import asdict

            click.echo(json.dumps(asdict(act)))
            continue
        before = f"{act.bytes_before} bytes"
        said = {
            "compressed": before if dry_run else f"{act.bytes_before} -> {act.bytes_after} bytes",
            "removed": before,
        }
        why = ", ".join(filter(None, (said.get(act.what, ""), act.why)))
        click.echo(f"{act.what:<10} {visible(act.path)}: {visible(why)}")


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


for command in (query, tail, sql, export):
    trace.add_command(command)
