"""The run's result as JSON: the truth behind the exit status, for CI and for other programs."""

from __future__ import annotations

import errno
import os

from agent_safety_layer.errors import AslError
from agent_safety_layer.trace.encode import dumps
from agent_safety_layer.wording import object_of
from asl_hooks.paths import is_special
from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent_safety_layer.tally import Denial, Tally

SCHEMA = 1


@value
class Ending:
    """How a run ended and what it used.

    ``outcome`` is one of ``exited signaled wall_time cpu_time idle_time memory output written operations violation
    trace_full not_found not_executable refused failed``; ``peak_memory_bytes`` is the largest process's (as
    ``time -v`` has it), ``tree_peak_memory_bytes`` that of all together as far as it was measured; ``exit_code`` is
    what the caller sees, ``signal`` what ended the child, or 0. ``usage`` is ``Accounts.told``.
    """

    outcome: str
    exit_code: int
    signal: int = 0
    wall_s: float = 0.0
    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    peak_memory_bytes: int = 0
    tree_peak_memory_bytes: int = 0
    processes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    usage: Mapping[str, object] | None = None


def footer(tally: Tally, ending: Ending) -> dict[str, object]:
    """The totals that a trace's last line holds."""
    return {
        "outcome": ending.outcome,
        "exit_code": ending.exit_code,
        "signal": ending.signal,
        "wall_seconds": round(ending.wall_s, 6),
        "cpu_user_seconds": round(ending.cpu_user_s, 6),
        "cpu_system_seconds": round(ending.cpu_system_s, 6),
        "peak_memory_bytes": ending.peak_memory_bytes,
        "tree_peak_memory_bytes": ending.tree_peak_memory_bytes,
        "processes": ending.processes,
        "read_bytes": ending.read_bytes,
        "written_bytes": ending.written_bytes,
        "counts": tally.counts(),
        "effective": tally.effective(),
        "blocked": tally.blocked,
        "would_block": tally.would_block,
        "usage": ending.usage or {},
    }


def report(tally: Tally, header: Mapping[str, object], ending: Ending, trace: str) -> dict[str, object]:
    """What ``--report`` writes: the header's fields, the totals, every distinct denial, the trace's path or ''."""
    return {
        "schema": SCHEMA,
        **header,
        **footer(tally, ending),
        "events": tally.events,
        "denials": [_denial(denial) for denial in tally.denials],
        "denials_unlisted": tally.unlisted,
        "trace": trace,
    }


def _denial(denial: Denial) -> dict[str, object]:
    decision = denial.decision
    return {
        "kind": denial.kind,
        "object": object_of(denial.event),
        "action": denial.action,
        "effective": denial.effective,
        "rule": decision.rule,
        "where": decision.where,
        "reason": decision.reason,
        "remedy": denial.remedy,
        "count": denial.n,
    }


class ReportFile:
    """Where the report will go, settled before the run: a bad path fails early, and the tree cannot redirect it later.

    Made by replacing, so readers see the old report or the new one. Permissions follow the umask: reports are made to
    be read by others, and hold no secrets. Devices and descriptors (``/dev/stderr``) are written in place.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._folder = self._fd = -1
        try:
            if is_special(self.path):
                self._fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
                return
            parent, self._name = os.path.split(self.path)
            os.makedirs(parent, exist_ok=True)
            self._folder = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if not os.access(".", os.W_OK | os.X_OK, dir_fd=self._folder):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if os.path.isdir(self.path):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        except OSError as error:
            self.close()
            raise self._error(error) from None

    def write(self, report: Mapping[str, object]) -> None:
        """Write the report and close. Raises ``AslError`` when it cannot be written."""
        data = dumps(dict(report)).encode() + b"\n"
        try:
            if self._folder < 0:
                _write_all(self._fd, data)
                return
            temporary = f".{self._name[:200]}.{os.urandom(4).hex()}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(temporary, flags, 0o666, dir_fd=self._folder)
            try:
                try:
                    _write_all(fd, data)
                finally:
                    os.close(fd)
                os.rename(temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            except OSError:
                os.unlink(temporary, dir_fd=self._folder)
                raise
        except OSError as error:
            raise self._error(error) from None
        finally:
            self.close()

    def close(self) -> None:
        """Release what is open; nothing is written."""
        for fd in (self._folder, self._fd):
            if fd >= 0:
                os.close(fd)
        self._folder = self._fd = -1

    def _error(self, error: OSError) -> AslError:
        return AslError(
            f"Cannot write the report {self.path}: {error.strerror}.", remedy="Choose another path with --report FILE."
        )


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
