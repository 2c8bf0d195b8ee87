"""Traces back into values, one line at a time: memory stays flat whatever the file's size."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import msgspec

from agent_safety_layer.errors import TraceError
from agent_safety_layer.events import Decision, Event, Outcome, TraceEntry
from agent_safety_layer.trace.files import open_trace
from agent_safety_layer.trace.header import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

HEADER, EVENT, CHECKPOINT, FOOTER = TYPES = ("header", "event", "checkpoint", "footer")


class _Decision(msgspec.Struct):
    action: str
    rule: str = ""
    where: str = ""
    reason: str = ""


class _Event(msgspec.Struct):
    """An event line. The names and defaults are those of ``Event``; a test compares them."""

    seq: int
    time: float
    us: int
    kind: str
    decision: _Decision
    pid: int = 0
    tid: int = 0
    ppid: int = 0
    exe: str = ""
    syscall: str = ""
    op: str = ""
    path: str = ""
    path2: str = ""
    spelled: str = ""
    flags: str = ""
    mode: int = -1
    fd: int = -1
    host: str = ""
    ip: str = ""
    port: int = 0
    proto: str = ""
    argv: tuple[str, ...] = ()
    cwd: str = ""
    signal: int = 0
    target: int = 0
    span: str = ""
    detail: str = ""
    effective: str = ""
    result: str = ""
    redacted: bool = False
    lost: int = 0
    first: int = msgspec.field(default=0, name="from")


@dataclass(frozen=True, slots=True)
class Line:
    """One whole line of a trace.

    An event has its ``entry``, and ``redacted`` when it was decided on more than the line shows; a ``session.gap`` says
    in ``lost`` how many events are missing and in ``first`` the seq of the first. Other lines have ``fields``.
    """

    number: int
    type: str
    raw: bytes
    entry: TraceEntry | None = None
    fields: dict[str, Any] | None = None
    redacted: bool = False
    lost: int = 0
    first: int = 0


EVENT_BEGINS = b'{"type":"event"'
FOOTER_BEGINS = b'{"type":"footer"'
_CHUNK = 1 << 20
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode


def decode(line: bytes | str) -> TraceEntry:
    """The entry on an event line. Raises ``TraceError`` when the line is not one."""
    raw = line.encode() if isinstance(line, str) else line
    parsed = parse(raw, 0)
    if parsed.entry is None:
        raise TraceError(f"A {parsed.type} line is not an event.")
    return parsed.entry


def parse(raw: bytes, number: int, file: str = "") -> Line:
    """The line as a value. Raises ``TraceError`` with the line's number when it is not one of a trace."""
    try:
        if not raw.startswith(EVENT_BEGINS):
            fields = _decode_any(raw)
            kind = fields.get("type")
            if kind != EVENT:
                if kind not in TYPES:
                    raise TraceError(f"Unknown line type {kind!r}.", file=file, line=number)
                return Line(number, kind, raw, fields=fields)
        e = _decode_event(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TraceError(f"Not a line of a trace: {error}.", file=file, line=number) from None
    event = Event(
        e.kind,
        e.pid,
        e.tid,
        e.ppid,
        e.exe,
        e.syscall,
        e.op,
        e.path,
        e.path2,
        e.spelled,
        e.flags,
        e.mode,
        e.fd,
        e.host,
        e.ip,
        e.port,
        e.proto,
        e.argv,
        e.cwd,
        e.signal,
        e.target,
        e.span,
        e.detail,
        e.time,
    )
    d = e.decision
    outcome = Outcome(e.effective or d.action, e.result, e.us)
    entry = TraceEntry(e.seq, event, Decision(d.action, d.rule, d.where, d.reason), outcome)
    return Line(number, EVENT, raw, entry, redacted=e.redacted, lost=e.lost, first=e.first)


def _end(footer: dict[str, Any] | None) -> dict[str, Any] | None:
    """The footer, if it is the run's and not a part's."""
    return None if footer is None or "continued" in footer else footer


def time_of(raw: bytes) -> float:
    """The time of an event line that a supervisor wrote, without parsing it."""
    return float(raw.split(b",", 3)[2][7:])


class TraceReader:
    """A trace being read: ``header`` at once, entries by iterating, then ``footer`` and ``truncated_after``.

    A last line that was cut is passed over, and ``truncated_after`` is the number of the last whole line; it is set too
    when the footer is missing, as after a killed supervisor or while the run goes on. It is None for a whole trace. A
    line that no trace has raises ``TraceError`` when it is reached. Parts of a split trace are read as one, their lines
    numbered on.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.footer: dict[str, Any] | None = None
        self.truncated_after: int | None = None
        try:
            self._file: IO[bytes] = open_trace(self.path)
        except OSError as error:
            remedy = "asl trace list shows the traces there are."
            raise TraceError(f"Cannot read the trace: {error.strerror}.", file=self.path, remedy=remedy) from None
        try:
            self.header = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> dict[str, Any]:
        try:
            raw = self._file.readline()
        except OSError as error:
            raise TraceError(f"Cannot read the trace: {error.strerror}.", file=self.path) from None
        if raw.endswith(b"\n"):
            line = parse(raw, 1, self.path)
        elif not raw or raw.startswith(b'{"type":"header"'[: len(raw)]):
            raise TraceError("The trace ends before its header does.", file=self.path, line=1)
        else:
            raise TraceError("Not a trace.", file=self.path, line=1)
        if line.type != HEADER or line.fields is None:
            raise TraceError("Not a trace: the first line is not a header.", file=self.path, line=1)
        schema = line.fields.get("schema")
        if schema != SCHEMA:
            remedy = "Read it with the version of agent-safety-layer that wrote it."
            raise TraceError(f"Trace schema {SCHEMA} wanted, {schema!r} found.", file=self.path, line=1, remedy=remedy)
        return line.fields

    def lines(self) -> Iterator[Line]:
        """Every whole line after the header, in order."""
        for number, raw in self.raw():
            yield parse(raw, number, self.path)

    def raw(self, needle: bytes = b"") -> Iterator[tuple[int, bytes]]:
        """The same with each line's number and bytes, not looked at; only lines that hold *needle*, when it is given.

        Ten times as fast as ``lines``, and what lies between the lines with a rare needle costs next to nothing.
        """
        if needle:
            return self._holding(needle)
        return self._raw()

    def _raw(self) -> Iterator[tuple[int, bytes]]:
        number = 1
        for number, raw in enumerate(self._file, 2):
            if raw[-1:] != b"\n":
                self.truncated_after = number - 1
                return
            if raw[:16] == FOOTER_BEGINS:
                self.footer = _end(parse(raw, number, self.path).fields)
            yield number, raw
        if self.footer is None:
            self.truncated_after = number

    def _holding(self, needle: bytes) -> Iterator[tuple[int, bytes]]:
        number, rest, last = 2, b"", b""  # number: of the line that begins at ``counted``
        while chunk := self._file.read(_CHUNK):
            data = rest + chunk
            end = data.rfind(b"\n") + 1
            counted, at = 0, data.find(needle, 0, end)
            while at >= 0:
                start, stop = data.rfind(b"\n", 0, at) + 1, data.index(b"\n", at) + 1
                number += data.count(b"\n", counted, start)
                counted = start
                yield number, data[start:stop]
                at = data.find(needle, stop, end)
            number += data.count(b"\n", counted, end)
            if end:
                last = data[data.rfind(b"\n", 0, end - 1) + 1 : end]
            rest = data[end:]
        if last.startswith(FOOTER_BEGINS) and not rest:
            self.footer = _end(parse(last, number - 1, self.path).fields)
        if self.footer is None:
            self.truncated_after = number - 1

    def __iter__(self) -> Iterator[TraceEntry]:
        for line in self.lines():
            if line.entry is not None:
                yield line.entry

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> TraceReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
