"""``asl trace query``, ``tail`` and ``sql``: the events that one looks for, in traces of any size."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agent_safety_layer.cli.options import AS_JSON, COLOUR, opened, tell_truncated
from agent_safety_layer.terminal import colour_wanted, paint, visible

if TYPE_CHECKING:
    from agent_safety_layer.trace.query import Query
    from agent_safety_layer.trace.reader import Line

F = TypeVar("F", bound=Callable[..., Any])

FILTERS = (
    click.option("--kind", "kinds", multiple=True, help="Of this kind (file.read) or group (net)."),
    click.option("--action", "actions", multiple=True, help="With this decision, or so answered."),
    click.option("--path", "paths", metavar="GLOB", multiple=True, help="On this path or below, as in a policy."),
    click.option("--host", "hosts", metavar="HOST[:PORT]", multiple=True, help="To this host, as in a policy."),
    click.option("--pid", "pids", type=int, multiple=True, help="By this process."),
    click.option("--exe", "exes", metavar="GLOB", multiple=True, help="By this program: a path or a bare name."),
    click.option("--syscall", "syscalls", multiple=True, help="By this system call."),
    click.option("--result", "results", multiple=True, help="With this result: a number or an error's name."),
    click.option(
        "--since", metavar="TIME", help="Not before: 2026-11-23T14:05, 14:05:30, +90s after the start, 10m ago."
    ),
    click.option("--until", metavar="TIME", help="Not after."),
)


def filters(command: F) -> F:
    """The command with the options that say which events."""
    for option in reversed(FILTERS):
        command = option(command)
    return command


def made(given: dict[str, Any], began: float) -> Query:
    """The query that the options mean for a run that *began* then."""
    from agent_safety_layer.trace import query as queries

    try:
        times = {name: queries.moment(text, began, time.time()) for name in ("since", "until") if (text := given[name])}
        return queries.query(**{**given, "since": None, "until": None, **times})
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def began(header: dict[str, Any]) -> float:
    """When the run began, in seconds since the epoch; 0 when the header does not say it."""
    found = header.get("time")
    return float(found) if isinstance(found, int | float) else 0.0


@click.command()
@click.argument("names", metavar="TRACE...", nargs=-1, required=True)
@filters
@click.option("--count", "count", metavar="by FIELD", nargs=2, help="How many of each kind, host, path, exe, rule, ...")
@click.option("--limit", type=click.IntRange(1), help="At most so many events, or values that are counted.")
@AS_JSON
@COLOUR
def query(
    names: tuple[str, ...],
    count: tuple[str, str] | None,
    limit: int | None,
    as_json: bool,
    when: str,
    **given: Any,
) -> None:
    """Print the events that fit, of one trace or several.

    Every filter can be given several times: one of them has to fit. Different filters have to fit all.

    \b
      asl trace query last --action block
      asl trace query last --kind net --count by host
      asl trace query run1.jsonl run2.jsonl --path '**/.env' --since 14:05 --json
    """
    from agent_safety_layer.trace.query import FIELDS

    colour = not as_json and colour_wanted(when, sys.stdout.fileno())
    if count is None:
        _print_events(names, given, limit, as_json, colour)
    elif count[0] == "by" and count[1] in FIELDS:
        _print_counts(names, given, count[1], limit, as_json)
    else:
        raise click.UsageError(f"Write --count by FIELD; FIELD is one of {' '.join(FIELDS)}.")


def _print_events(
    names: tuple[str, ...], given: dict[str, Any], limit: int | None, as_json: bool, colour: bool
) -> None:
    from itertools import islice

    from agent_safety_layer.trace.query import select
    from agent_safety_layer.trace.show import heading

    left = limit
    for name in names:
        with opened(name) as reader:
            shown = 0
            for shown, line in enumerate(islice(select(reader, made(given, began(reader.header))), left), 1):
                if shown == 1 and not as_json:
                    if len(names) > 1:
                        click.echo(paint(visible(reader.path), "bold", colour), color=True)
                    click.echo(paint(heading(), "dim", colour), color=True)
                _write(line, as_json, colour, reader.header if len(names) > 1 else None)
            tell_truncated(reader)
        if left is not None:
            left -= shown
            if not left:
                return


def _print_counts(names: tuple[str, ...], given: dict[str, Any], field: str, limit: int | None, as_json: bool) -> None:
    from agent_safety_layer.trace.query import Count

    count = Count(field)
    for name in names:
        with opened(name) as reader:
            count.add(reader, made(given, began(reader.header)))
            tell_truncated(reader)
    values = count.values[:limit]
    if as_json:
        from agent_safety_layer.trace.encode import dumps

        click.echo(dumps({"field": field, "counts": dict(values)}))
        return
    for value, n in values:
        click.echo(f"{n:>10}  {visible(value)}")


def _write(line: Line, as_json: bool, colour: bool, header: dict[str, Any] | None = None) -> None:
    """Print the event; with the *header*'s run where events of several runs are printed."""
    from agent_safety_layer.trace.encode import dumps
    from agent_safety_layer.trace.show import row

    if line.entry is None:
        return
    if not as_json:
        sys.stdout.write(row(line.entry, colour) + "\n")
    elif header is None:
        sys.stdout.write(line.raw.decode())
    else:
        sys.stdout.write(f'{{"run":{dumps(str(header.get("run", "")))},{line.raw.decode()[1:]}')


@click.command()
@click.argument("name", metavar="[TRACE]", default="last")
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on until the run ends.")
@click.option(
    "-n", "--lines", "count", type=click.IntRange(0), default=10, show_default=True, help="How many at first."
)
@filters
@AS_JSON
@COLOUR
def tail(name: str, follows: bool, count: int, as_json: bool, when: str, **given: Any) -> None:
    """Print the last events of a trace; with -f go on as the run does. TRACE is `last` when not given.

    \b
      asl trace tail -f
      asl trace tail -f --action block --action require_approval
    """
    from agent_safety_layer.trace.files import is_compressed
    from agent_safety_layer.trace.follow import follow, last
    from agent_safety_layer.trace.parts import parts

    with opened(name) as reader:
        path, header = parts(reader.path)[-1], reader.header
    wanted = made(given, began(header))

    def passes(line: Line) -> bool:
        return line.entry is not None and wanted.passes(line.entry)

    colour = not as_json and colour_wanted(when, sys.stdout.fileno())
    try:
        lines, end, ended = (
            last(path, count, passes) if not is_compressed(path) else (_tail(path, count, wanted), 0, True)
        )
        for line in lines:
            _write(line, as_json, colour)
        if not follows or ended:
            return
        sys.stdout.flush()
        for line in follow(path, end):
            if passes(line):
                _write(line, as_json, colour)
                sys.stdout.flush()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _tail(path: str, count: int, wanted: Query) -> list[Line]:
    from collections import deque

    from agent_safety_layer.trace.query import select

    with opened(path) as reader:
        return list(deque(select(reader, wanted), count))


@click.command()
@click.argument("statement", metavar="SQL")
@click.argument("names", metavar="[TRACE]...", nargs=-1)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@AS_JSON
def sql(statement: str, names: tuple[str, ...], as_csv: bool, as_json: bool) -> None:
    """Ask SQL of one trace or many (DuckDB; needs the extra `sql`). Without TRACE: of all runs in the state folder.

    \b
    Tables:
      runs      run trace name began command cwd policies policy_sha256 mode backend
                outcome exit_code signal wall_seconds cpu_seconds peak_memory_bytes processes events blocked
      events    run seq time us kind grp pid tid ppid exe program syscall op path path2 spelled flags mode fd
                host ip port proto argv cwd signal target span detail
                action rule place reason effective result redacted lost
      denials   run kind object action rule place events first last

    \b
      asl trace sql 'select host, count(*) from events where grp = $$net$$ group by all order by 2 desc' last
      asl trace sql 'select run, outcome, blocked from runs order by began desc limit 10'
    """
    from agent_safety_layer.trace.runs import find, runs
    from agent_safety_layer.trace.sql import ask

    paths = [find(name) for name in names] if names else [run.path for run in runs()]
    columns, rows = ask(statement, paths)
    if as_json:
        from agent_safety_layer.trace.sql import plain

        for one in rows:
            click.echo(plain(dict(zip(columns, one, strict=True))))
    elif as_csv:
        from agent_safety_layer.trace.exports.csv import write_rows

        write_rows(sys.stdout, columns, rows)
    else:
        _table(columns, [[_cell(value) for value in one] for one in rows])


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return visible(" ".join(map(str, value)))
    return visible(str(value))


def _table(columns: list[str], rows: list[list[str]]) -> None:
    wide = [max(len(cells) for cells in column) for column in zip(map(visible, columns), *rows, strict=True)]
    for cells in (columns, *rows):
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, wide, strict=True)).rstrip())
