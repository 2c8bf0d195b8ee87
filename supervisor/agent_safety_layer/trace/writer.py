"""The trace file of a running supervisor: lines gather in memory and reach the file in batches, each whole or last."""

from __future__ import annotations

import errno
import os
from binascii import crc32
from struct import pack
from time import monotonic

from agent_safety_layer.errors import AslError, TraceError
from agent_safety_layer.native import core
from agent_safety_layer.state import make_private
from agent_safety_layer.trace.encode import dumps
from agent_safety_layer.trace.header import SCHEMA
from agent_safety_layer.trace.lines import Lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    class Hash(Protocol):
        def update(self, data: bytes, /) -> None: ...
        def copy(self) -> Hash: ...
        def hexdigest(self) -> str: ...


FLUSH_S = 0.2
BUFFER_BYTES = 64 * 1024
CHECKPOINT_EVENTS = 512
CHECKPOINT_BYTES = 256 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


class TraceWriter:
    """One trace being written. On a full disk, ``on_full="stop"`` raises, ``"gap"`` counts what is lost and goes on.

    Establishes, when made: the file is new, ours alone (0600), append-only for this descriptor, and holds the header.
    Raises ``TraceError`` when it cannot be; exit status 125.

    What is lost to a full disk is lost by whole lines. The line that was cut is finished first when room returns, and a
    ``session.gap`` event follows that says how many events are missing. ``sign`` makes signatures of digests.

    ``split`` is how many bytes, and how many seconds, a file may be of before another part is begun; 0 is no limit.
    """

    def __init__(
        self,
        path: str,
        header: Mapping[str, object],
        *,
        on_full: str = "stop",
        sign: Callable[[str], bytes] | None = None,
        split: tuple[int, float] = (0, 0.0),
    ) -> None:
        folder, name = os.path.split(os.path.abspath(path))
        self.path = os.path.join(os.path.realpath(folder), name)  # parts come later, when a link may lead elsewhere
        self._header = header
        self._split = split
        self._part = 1
        self._part_began = monotonic()
        self._sealed = ""  # the digest in the latest seal
        self.lines: Lines = Lines() if core is None else core.Lines()
        self.lost = 0  # events lost to a full disk, over the whole run
        self._gap_on_full = on_full == "gap"
        self._sign = sign
        self._fd = _create(self.path)
        self._next_flush = 0.0
        self._digest = _Digest()
        self._checks: list[int] = []  # CRC-32 of each line since the last checkpoint
        self._unsealed_bytes = 0
        self._events = 0
        self._bytes = 0
        self._rest = b""  # of a line that was cut by a full disk
        self._missing = 0  # events lost since the last gap was written
        self._gap = (0, 0)  # that gap's own seq, and the first that is missing
        self._why = 0
        self._raised = False
        try:
            self._put([dumps({"type": "header", "schema": SCHEMA, **header}).encode() + b"\n"], "header")
            if self._why:
                raise self._error(self._why)
        except BaseException:
            os.close(self._fd)
            self._fd = -1
            raise

    def add(self, body: bytes, time: float, us: int = 0) -> int:
        """The event's position in the trace. ``body`` is of ``encode.body``; ``time`` is kept to the microsecond."""
        seq = self.lines.add(body, time, us)
        if self.lines.size > BUFFER_BYTES:
            self.flush()
        return seq

    @property
    def seq(self) -> int:
        """Of the latest event."""
        return self.lines.seq

    @property
    def pending(self) -> bool:
        """Whether a flush has something to do."""
        return bool(self.lines.size or self._rest or self._missing)

    def due(self, now: float) -> bool:
        """Whether to flush: something is pending and the last yes is 200 ms old. ``now`` is monotonic seconds."""
        if now < self._next_flush or not self.pending:
            return False
        self._next_flush = now + FLUSH_S
        return True

    def flush(self) -> None:
        """Bring what is pending into the file. Raises ``TraceError``, once, if a full disk is to stop the run."""
        lines = self.lines.take()
        if self._missing:
            lines.insert(0, self._gap_line())
        if lines or self._rest:
            self._put(lines, "event")
            if self._rest:
                return
            if self._is_split_due():
                self._begin_part()
            elif len(self._checks) >= CHECKPOINT_EVENTS or self._unsealed_bytes >= CHECKPOINT_BYTES:
                self._digest.fast()
                self._put([self._seal(f'{{"type":"checkpoint","events":{self._events},"bytes":{self._bytes}')], "seal")

    def _is_split_due(self) -> bool:
        bytes_, seconds = self._split
        return bool(bytes_ and self._bytes >= bytes_) or bool(seconds and monotonic() - self._part_began >= seconds)

    def _begin_part(self) -> None:
        """End this file and go on in another; in this one, when another cannot be made now."""
        from agent_safety_layer.trace.parts import part_path

        self._part_began = monotonic()
        following = part_path(self.path, self._part + 1)
        try:
            fd = _create(following)
        except TraceError:
            self._split = (2 * self._split[0], self._split[1])
            return
        name = os.path.basename(following)
        fields = dumps({"type": "footer", "events": self._events, "lost": self.lost, "continued": name})
        try:
            self._digest.fast()
            self._put([self._seal(fields[:-1])], "seal")
        finally:
            if self._rest:  # of that footer: the disk is full
                os.close(fd)
                os.unlink(following)
        if self._rest:
            return
        os.close(self._fd)
        self._fd = fd
        self._part += 1
        self._digest, self._checks, self._unsealed_bytes, self._bytes = _Digest(), [], 0, 0
        about = {"part": self._part, "first": self.seq + 1, "events_before": self._events, "previous": self._sealed}
        self._put([dumps({"type": "header", "schema": SCHEMA, **self._header, **about}).encode() + b"\n"], "header")

    def close(self, footer: Mapping[str, object]) -> None:
        """Write what is pending and the footer, and close the file. A second call does nothing.

        Raises ``TraceError`` when that fails, unless a full disk was reported already; then the footer is missing.
        """
        if self._fd < 0:
            return
        told = self._raised
        try:
            self.flush()
            fields = dumps({"type": "footer", "events": self._events, "lost": self.lost, **footer})
            if not self._rest and not self._missing:
                self._put([self._seal(fields[:-1])], "seal")
            if (self._rest or self._missing) and not self._raised:
                raise self._error(self._why)
        except TraceError:
            if not told:
                raise
        finally:
            os.close(self._fd)
            self._fd = -1

    def _put(self, lines: list[bytes], kind: str) -> None:
        """Write the lines, all of one kind.

        Establishes: digest, checks and counts describe exactly the lines that began to reach the file.
        """
        data = b"".join(lines)
        written, why = _write(self._fd, self._rest + data)
        offset = written - len(self._rest)  # into data; negative when even the line that was cut could not be finished
        if not why:
            self._rest = b""
            self._account(lines, data, kind)
            return
        kept, end = 0, 0
        while end < offset:
            end += len(lines[kept])
            kept += 1
        self._rest = (self._rest + data)[written : len(self._rest) + end]
        self._why = why
        if kept:
            self._account(lines[:kept], data[:end], kind)
        if kind == "event":
            self._lose(len(lines) - kept)
        if why not in _FULL or not (self._gap_on_full or self._raised):
            self._raised = True
            raise self._error(why)

    def _account(self, lines: list[bytes], data: bytes, kind: str) -> None:
        self._digest.update(data)
        self._bytes += len(data)
        if kind == "seal":
            self._checks = []
            self._unsealed_bytes = 0
            return
        self._checks += map(crc32, lines)
        self._unsealed_bytes += len(data)
        if kind == "event":
            self._events += len(lines)
            self._missing = 0  # whatever was, the gap that says so is the first of these lines

    def _lose(self, events: int) -> None:
        """Note that the latest *events* of the events are lost, a gap that was waiting to be written among them."""
        first = self.seq - events + 1
        if self._missing:
            first = self._gap[1]
            events -= 1
        self.lost += events
        self._missing += events
        if self._missing:
            self.lines.seq += 1  # every event so far is written or lost, so the gap may take the next place
            self._gap = (self.seq, first)

    def _gap_line(self) -> bytes:
        from time import time

        place, first = self._gap
        detail = f"{self._missing} events lost: {os.strerror(self._why)}"
        return (
            b'{"type":"event","seq":%d,"time":%.6f,"us":0,"kind":"session.gap","detail":"%b","lost":%d,"from":%d,'
            b'"decision":{"action":"allow"}}\n' % (place, time(), detail.encode(), self._missing, first)
        )

    def _seal(self, fields: str) -> bytes:
        """The line with its checks: CRC-32 of each line since the last such line, its own CRC, SHA-256 of the file.

        The last two cover everything up to where they stand.
        """
        line = f'{fields},"lines":"{pack(f">{len(self._checks)}I", *self._checks).hex()}"'.encode()
        line += b',"crc":"%08x","sha256":"' % crc32(line)
        digest = self._sealed = self._digest.after(line)
        line += digest.encode()
        if self._sign is not None:
            line += b'","signature":"' + self._sign(digest).hex().encode()
        return line + b'"}\n'

    def _error(self, code: int) -> TraceError:
        return TraceError(
            f"Cannot write the trace: {os.strerror(code)}.",
            file=self.path,
            remedy="Make room there, or write it elsewhere with --trace PATH.",
        )


class _Digest:
    """The running SHA-256. What comes before the first checkpoint waits unhashed, for most runs end before it.

    OpenSSL hashes seven times as fast as CPython's own module and takes 6 ms more to load, so short runs go without it.
    """

    def __init__(self) -> None:
        self._hash: Hash | None = None
        self._waiting: list[bytes] = []

    def update(self, data: bytes) -> None:
        if self._hash is None:
            self._waiting.append(data)
        else:
            self._hash.update(data)

    def fast(self) -> None:
        """From now on, hash as the bytes come."""
        if self._hash is None:
            import hashlib

            self._hash = hashlib.sha256(b"".join(self._waiting))
            self._waiting.clear()

    def after(self, data: bytes) -> str:
        """The digest, in hexadecimal, of everything so far and *data*, which is not kept."""
        digest = self._hash.copy() if self._hash is not None else light_sha256()(b"".join(self._waiting))
        digest.update(data)
        return digest.hexdigest()


def light_sha256() -> Callable[[bytes], Hash]:
    """The constructor of a SHA-256 that is quick to load."""
    for name in ("_sha2", "_sha256"):  # CPython from 3.12 on, and 3.11
        try:
            module = __import__(name)
        except ImportError:
            continue
        found: Callable[[bytes], Hash] = module.sha256
        return found
    from hashlib import sha256

    return sha256


def _create(path: str) -> int:
    try:
        make_private(os.path.dirname(path))
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        remedy = "A trace is never overwritten: choose another path, or move that file away."
        raise TraceError("The trace's file exists.", file=path, remedy=remedy) from None
    except AslError as error:
        raise TraceError(error.message, file=path, remedy=error.remedy) from None
    except OSError as error:
        remedy = "Choose a path that you can write with --trace PATH."
        raise TraceError(f"Cannot make the trace: {error.strerror}.", file=path, remedy=remedy) from None


def _write(fd: int, data: bytes) -> tuple[int, int]:
    """How many bytes were written, and the errno that stopped it (0 for none)."""
    done = 0
    try:
        while done < len(data):
            done += os.write(fd, data[done:] if done else data)
    except OSError as error:
        return done, error.errno or errno.EIO
    return done, 0
