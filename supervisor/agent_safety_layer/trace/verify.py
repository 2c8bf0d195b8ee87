"""Whether a trace is what its supervisor wrote: intact, cut short, or changed, and at which line."""

from __future__ import annotations

import hashlib
import os
from binascii import crc32
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_safety_layer.errors import TraceError
from agent_safety_layer.trace.files import open_trace
from agent_safety_layer.trace.reader import CHECKPOINT, EVENT, FOOTER, HEADER, Line, parse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent_safety_layer.trace.signing import Checker

INTACT, TRUNCATED, CHANGED = "intact", "truncated", "changed"
_DIGEST = 64  # hexadecimal digits
_BEFORE_DIGEST = len(',"crc":"12345678","sha256":"')
_SIGNED = b'","signature":"'
_SIGNATURE = len(_SIGNED) + 2 * 64


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a trace.

    ``line`` is the last whole one when ``truncated``, the wrong one when ``changed``, the last one when ``intact``.
    ``proven`` is the last line that a checkpoint vouches for; what follows it, after a kill, is readable but unproven.
    """

    state: str
    line: int
    message: str
    events: int
    proven: int


class _Changed(Exception):
    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


def verify(path: str | os.PathLike[str], checker: Checker | None = None) -> Verdict:
    """The verdict on the trace at *path*, read once with flat memory. Raises ``TraceError`` when it cannot be read.

    With a ``checker`` each checkpoint and the footer must be signed with its key.
    """
    try:
        with open_trace(path) as file:
            return verify_lines(file, checker)
    except OSError as error:
        raise TraceError(f"Cannot read the trace: {error.strerror}.", file=os.fspath(path)) from None


def verify_lines(lines: Iterable[bytes], checker: Checker | None = None) -> Verdict:
    """The verdict on a trace given as lines, each with its newline."""
    check = _Check(checker)
    number = 0
    try:
        for number, raw in enumerate(lines, 1):
            if not raw.endswith(b"\n"):
                return check.cut(number, raw)
            check.line(number, raw)
    except TraceError as error:  # what is compressed is damaged
        number += 1
        message = f"changed at line {number}: {error.message.rstrip('.')}"
        return Verdict(CHANGED, number, message, check.events, check.proven)
    except _Changed as found:
        return Verdict(
            CHANGED, found.line, f"changed at line {found.line}: {found.message}", check.events, check.proven
        )
    if check.footer:
        parts = f" in {check.parts} parts" if check.parts > 1 else ""
        message = f"intact: {number} lines, {check.events} events{parts}"
        if checker is not None:
            message += f", signed with the key {checker.name}"
        elif check.signed:
            message += ", signed; give the public key with --key to check that"
        return Verdict(INTACT, number, message, check.events, number)
    return check.truncated(number)


class _Check:
    def __init__(self, checker: Checker | None) -> None:
        self._checker = checker
        self.signed = False  # the latest seal
        self.events = 0
        self.proven = 0
        self.footer = False
        self._next = 1  # the seq that is expected
        self._hash = hashlib.sha256()
        self.parts = 1
        self._digest = ""  # in the latest seal
        self._continued = False  # the latest seal says that there is another part
        self._since: list[int] = []  # CRC of each line since the last seal, which was at line ``proven``

    def line(self, number: int, raw: bytes) -> None:
        if self.footer:
            raise _Changed(number, "nothing may follow the footer")
        try:
            line = parse(raw, number)
        except TraceError as error:
            raise _Changed(number, error.message.rstrip(".")) from None
        begins = number == 1 or self._continued
        if (line.type == HEADER) != begins:
            raise _Changed(number, "the header is missing" if begins else "a second header")
        if begins:
            self._begin_part(line)
        if line.type in (CHECKPOINT, FOOTER):
            self._seal(line)
        else:
            if line.type == EVENT:
                self._event(line)
            self._since.append(crc32(raw))
            self._hash.update(raw)

    def _begin_part(self, line: Line) -> None:
        """The header of the first part, or of the one that is due."""
        fields = line.fields or {}
        if self._continued:
            self.parts += 1
            wanted = {"part": self.parts, "first": self._next, "events_before": self.events, "previous": self._digest}
            if any(fields.get(name) != value for name, value in wanted.items()):
                raise _Changed(line.number, f"this is not the part {self.parts} that followed")
            self._continued = False
            self._hash = hashlib.sha256()
        elif isinstance(part := fields.get("part"), int):  # by itself: what came before is not to be seen
            self.parts = part
            self._next, self.events = int(fields.get("first", 1)), int(fields.get("events_before", 0))

    def _event(self, line: Line) -> None:
        assert line.entry is not None
        seq = line.entry.seq
        gap = line.entry.event.kind == "session.gap" and line.first == self._next and line.lost > 0
        if seq > self._next and not gap:
            raise _Changed(line.number, f"event {self._next} is missing before event {seq}")
        if seq < self._next:
            raise _Changed(line.number, f"event {seq} is out of place: event {self._next} is due")
        self._next = seq + 1
        self.events += 1

    def _seal(self, line: Line) -> None:
        fields: dict[str, Any] = line.fields or {}
        raw, number = line.raw, line.number
        end = len(raw) - 3  # of what is within the last value's quotes
        signature = raw[end - _SIGNATURE : end] if raw[end - _SIGNATURE : end].startswith(_SIGNED) else b""
        end -= len(signature)
        at = end - _DIGEST
        begin = at - _BEFORE_DIGEST
        if raw[begin:at] != b',"crc":"%08x","sha256":"' % crc32(raw[: max(begin, 0)]) or raw[-3:] != b'"}\n':
            raise _Changed(number, f"this {line.type} is not as it was written")
        try:
            packed = bytes.fromhex(fields["lines"])
        except (KeyError, TypeError, ValueError):
            raise _Changed(number, f"this {line.type} was not written by agent-safety-layer") from None
        if fields.get("events") != self.events:
            raise _Changed(number, f"this {line.type} counts {fields.get('events')} events, there are {self.events}")
        self._compare(number, packed)
        self._hash.update(raw[:at])
        digest = self._hash.hexdigest()
        if raw[at:end] != digest.encode():
            raise _Changed(
                number, f"SHA-256 differs: this line, or one since line {self.proven + 1}, is not as it was written"
            )
        self._check_signature(line, digest, signature)
        self._hash.update(raw[at:])
        self._digest = digest
        self._continued = line.type == FOOTER and "continued" in fields
        self.proven, self._since, self.footer = number, [], line.type == FOOTER and not self._continued

    def _check_signature(self, line: Line, digest: str, signature: bytes) -> None:
        self.signed = bool(signature)
        if self._checker is None:
            return
        if not signature:
            raise _Changed(line.number, f"this {line.type} is not signed")
        said = signature[len(_SIGNED) :].decode("ascii", "replace")
        try:
            made = bytes.fromhex(said)
        except ValueError:
            made = b""
        if made.hex() != said or not self._checker.holds(digest, made):
            raise _Changed(line.number, f"this {line.type} was not signed with the key {self._checker.name}")

    def _compare(self, number: int, packed: bytes) -> None:
        """Find the line since the last seal that is not the one that was sealed."""
        wanted = [int.from_bytes(packed[at : at + 4]) for at in range(0, len(packed), 4)]
        found = self._since
        first = number - len(found)
        if wanted == found:
            return
        if len(found) > len(wanted) and found[len(found) - len(wanted) :] == wanted:
            raise _Changed(number - len(wanted), "a checkpoint is missing before this line")
        for at, (a, b) in enumerate(zip(wanted, found, strict=False)):
            if a != b:
                raise _Changed(first + at, "this line is not as it was written")
        missing = len(wanted) - len(found)
        raise _Changed(
            number,
            f"{missing} lines are missing before it" if missing > 0 else f"{-missing} lines were inserted before it",
        )

    def cut(self, number: int, raw: bytes) -> Verdict:
        """The verdict when the last line has no newline: cut, unless something else stands in the newline's place."""
        try:
            parse(raw[:-1], number)
        except TraceError:
            return self.truncated(number - 1)
        return Verdict(
            CHANGED, number, f"changed at line {number}: its end is not as it was written", self.events, self.proven
        )

    def truncated(self, number: int) -> Verdict:
        message = f"truncated after line {number}"
        if self._continued:
            message += f": part {self.parts + 1} is missing"
        if number > self.proven:
            message += f"; lines {self.proven + 1} to {number} came after the last checkpoint and are unproven"
        return Verdict(TRUNCATED, number, message, self.events, self.proven)
