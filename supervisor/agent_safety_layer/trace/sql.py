"""Traces as tables that SQL can be asked of, with DuckDB (the extra ``sql``).

The files are read where they lie, in one pass per question; nothing is copied. ``place`` is where a rule stands and
``grp`` the group of the kind (``where`` and ``group`` are words of SQL).
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agent_safety_layer.errors import TraceError, UnsupportedError
from agent_safety_layer.trace.encode import dumps

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_TEXT, _WHOLE, _REAL = "VARCHAR", "BIGINT", "DOUBLE"
_DECISION = 'STRUCT(action VARCHAR, rule VARCHAR, "where" VARCHAR, reason VARCHAR)'
# What lines hold, as JSON has it.
_LINES = {
    **dict.fromkeys(("type", "run", "name", "backend", "outcome", "cwd"), _TEXT),
    **dict.fromkeys(("kind", "exe", "syscall", "op", "path", "path2", "spelled", "flags"), _TEXT),
    **dict.fromkeys(("host", "ip", "proto", "span", "detail", "effective", "result"), _TEXT),
    **dict.fromkeys(("seq", "us", "pid", "tid", "ppid", "mode", "fd", "port", "signal", "target", "lost"), _WHOLE),
    **dict.fromkeys(("exit_code", "processes", "peak_memory_bytes", "events", "blocked", "would_block"), _WHOLE),
    **dict.fromkeys(("time", "wall_seconds", "cpu_user_seconds", "cpu_system_seconds"), _REAL),
    "argv": "VARCHAR[]",
    "command": "VARCHAR[]",
    "redacted": "BOOLEAN",
    "continued": _TEXT,
    "decision": _DECISION,
    "policy": "STRUCT(names VARCHAR[], sha256 VARCHAR, mode VARCHAR)",
}

_VIEWS = """
CREATE VIEW runs AS
SELECT h.run, h.trace, h.name, make_timestamp_ms((h.time * 1000)::BIGINT) AS began, h.command, h.cwd,
  h.policy.names AS policies, h.policy.sha256 AS policy_sha256, h.policy.mode AS mode, h.backend,
  f.outcome, f.exit_code, f.signal, f.wall_seconds, f.cpu_user_seconds + f.cpu_system_seconds AS cpu_seconds,
  f.peak_memory_bytes, f.processes, f.events, f.blocked
FROM (SELECT * FROM lines JOIN names USING (filename) WHERE type = 'header' AND filename = trace) h
LEFT JOIN (SELECT * FROM lines JOIN names USING (filename) WHERE type = 'footer' AND continued IS NULL) f
  ON h.trace = f.trace;

CREATE VIEW events AS
SELECT names.of_run AS run, seq, make_timestamp((time * 1000000)::BIGINT) AS time, us,
  kind, split_part(kind, '.', 1) AS grp,
  coalesce(pid, 0) AS pid, coalesce(tid, 0) AS tid, coalesce(ppid, 0) AS ppid, exe,
  parse_filename(exe) AS program, syscall, op, path, path2, spelled, flags, mode, fd,
  host, ip, port, proto, argv, cwd, signal, target, span, detail,
  decision.action AS action, decision.rule AS rule, decision."where" AS place, decision.reason AS reason,
  coalesce(effective, decision.action) AS effective, result, coalesce(redacted, false) AS redacted,
  coalesce(lost, 0) AS lost
FROM lines JOIN names USING (filename) WHERE type = 'event';

CREATE VIEW denials AS
SELECT run, kind,
  coalesce(array_to_string(argv, ' '), path, nullif(host, '') || ':' || port, ip || ':' || port, detail, syscall)
    AS object,
  action, rule, place, count(*) AS events, min(time) AS first, max(time) AS last
FROM events WHERE action = 'block' OR effective = 'block' GROUP BY ALL;
"""


def ask(statement: str, paths: Sequence[str]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The names of the answer's columns, and its rows.

    Times are in UTC. Raises ``UnsupportedError`` without DuckDB, ``TraceError`` when there is no trace or the
    statement is wrong.
    """
    try:
        import duckdb
    except ImportError:
        wanted, remedy = "asl trace sql needs DuckDB", "pip install 'agent-safety-layer[sql]'"
        raise UnsupportedError(wanted, "it is not installed", remedy) from None
    if not paths:
        raise TraceError("There are no traces.", remedy="Name some, or see asl trace list.")
    with duckdb.connect() as connection:
        try:
            _tables(connection, paths)
            answer = connection.execute(statement)
            return [column[0] for column in answer.description or ()], answer.fetchall()
        except duckdb.Error as error:
            remedy = "asl trace sql --help lists the tables."
            raise TraceError(f"The question was not answered: {error}", remedy=remedy) from None


def _tables(connection: DuckDBPyConnection, paths: Sequence[str]) -> None:
    from agent_safety_layer.trace.parts import parts
    from agent_safety_layer.trace.reader import TraceReader

    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("CREATE TABLE names (filename VARCHAR, of_run VARCHAR, trace VARCHAR)")
    files = []
    for path in paths:
        with TraceReader(path) as reader:
            run = str(reader.header.get("run", ""))
        for part in parts(path):
            files.append(part)
            connection.execute("INSERT INTO names VALUES (?, ?, ?)", [part, run, path])
    columns = "{" + ", ".join(f"{name}: {_quoted(kind)}" for name, kind in _LINES.items()) + "}"
    listed = "[" + ", ".join(map(_quoted, files)) + "]"
    # A last line that was cut is passed over, as everywhere.
    connection.execute(
        f"CREATE VIEW lines AS SELECT * FROM read_json({listed}, format='newline_delimited', columns={columns},"
        " filename=true, ignore_errors=true, maximum_object_size=67108864)"
    )
    connection.execute(_VIEWS)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def plain(row: dict[str, Any]) -> str:
    """A row as one line of JSON."""
    return dumps({name: _plain(value) for name, value in row.items()})


def _plain(value: object) -> object:
    if isinstance(value, datetime.datetime):
        return value.isoformat() + "Z"
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if value is None or isinstance(value, str | int | float | dict):
        return value
    return str(value)
