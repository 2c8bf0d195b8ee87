"""What a supervised run came to: its report as an object, and what it printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar

from agent_safety_layer.errors import AslError
from agent_safety_layer.events import TraceEntry

Text = TypeVar("Text", str, bytes)


@dataclass(frozen=True, slots=True)
class Denied:
    """One distinct thing that was refused (or, in observe mode, would have been), and how often.

    ``object`` is the path, address or command; ``rule`` and ``where`` (``file:line``) the rule that decided; ``remedy``
    what would allow it.
    """

    kind: str
    object: str
    action: str
    effective: str
    rule: str
    where: str
    reason: str
    remedy: str
    count: int


@dataclass(frozen=True, slots=True)
class Report:
    """The truth about a run: what ``asl-supervise --report`` writes, as an object. ``raw`` has it as plain values.

    ``outcome`` is ``exited signaled wall_time cpu_time idle_time memory output written operations violation trace_full
    failed``. ``counts`` and ``effective`` are ``{kind: {action: events}}``, by what was decided and by what was done.
    ``enforced`` maps each mechanism to what it holds. ``trace`` is the path of the run's trace.
    """

    run: str
    outcome: str
    exit_code: int
    signal: int
    wall_seconds: float
    cpu_user_seconds: float
    cpu_system_seconds: float
    peak_memory_bytes: int
    tree_peak_memory_bytes: int
    processes: int
    read_bytes: int
    written_bytes: int
    events: int
    blocked: int
    would_block: int
    counts: dict[str, dict[str, int]]
    effective: dict[str, dict[str, int]]
    denials: tuple[Denied, ...]
    denials_unlisted: int
    command: tuple[str, ...]
    cwd: str
    name: str
    policy: dict[str, Any]
    enforced: dict[str, str]
    not_enforced: tuple[str, ...]
    trace: str
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Report:
        """The object for what a report file holds. Raises ``KeyError`` for a report without one of the fields."""
        made = {each.name: raw[each.name] for each in fields(cls) if each.name != "raw"}
        made["denials"] = tuple(Denied(**denial) for denial in raw["denials"])
        for name in ("command", "not_enforced"):
            made[name] = tuple(made[name])
        return cls(**made, raw=raw)


class RunFailed(AslError):
    """A run that was to succeed (``check=True``) and did not; ``completed`` has all about it."""

    def __init__(self, completed: Completed[Any]) -> None:
        report = completed.report
        how = f"signal {report.signal}" if report.signal else f"exit status {report.exit_code}"
        super().__init__(f"{completed.args[0]} ended with {how} ({report.outcome}).")
        self.completed = completed
        self.exit_code = report.exit_code


@dataclass(frozen=True, slots=True)
class Completed(Generic[Text]):
    """A run that is over.

    ``stdout`` and ``stderr`` are what was captured, else None. ``returncode`` is as ``subprocess`` has it: negative
    for the signal that ended the child; 124 when a time limit ended it, 137 for other limits.
    """

    args: tuple[str, ...]
    report: Report
    stdout: Text | None = None
    stderr: Text | None = None

    @property
    def returncode(self) -> int:
        """The exit status; ``-n`` for signal ``n``."""
        return -self.report.signal if self.report.outcome == "signaled" else self.report.exit_code

    @property
    def outcome(self) -> str:
        """What ended it; see ``Report``."""
        return self.report.outcome

    @property
    def denials(self) -> tuple[Denied, ...]:
        """What was refused."""
        return self.report.denials

    def events(self) -> Iterator[TraceEntry]:
        """Every event, read from the trace. Raises ``TraceError``."""
        from agent_safety_layer.trace.reader import TraceReader

        with TraceReader(self.report.trace) as reader:
            yield from reader

    def check(self) -> None:
        """Raises ``RunFailed`` unless the exit status is 0."""
        if self.returncode:
            raise RunFailed(self)


__all__ = ["Completed", "Denied", "Report", "RunFailed"]
