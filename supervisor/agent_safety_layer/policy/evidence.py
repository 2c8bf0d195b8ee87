"""What recorded runs did, counted: the distinct operations of one or more traces, under names that hold anywhere.

Paths are taken apart with the variables of their run (``${WORKSPACE}/a``, ``~/.cache/b``), so that runs in different
folders, or of different users, add up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent_safety_layer.events import BLOCK, Decision, Event
from agent_safety_layer.policy.globs import escape
from agent_safety_layer.policy.plain import rebuilt
from agent_safety_layer.trace.reader import TraceReader
from agent_safety_layer.trace.replay import recorded_variables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent_safety_layer.policy.model import Policy
    from agent_safety_layer.policy.tiers import Steps

_ROOTS = (("WORKSPACE", "${WORKSPACE}"), ("TMP", "${TMP}"), ("HOME", "~"))
_GOVERNED = ("file.", "net.", "process.exec")
# A decision of these means that no list names it; of any other, that a line refuses it by name.
UNLISTED = frozenset(
    (
        *("files.read", "files.write", "exec.allow"),
        *("network.allow", "network.private_ips", "network.listen", "network.unix"),
    )
)


@dataclass(slots=True)
class Deed:
    """A distinct operation of one run: the first event of it, how often it was done, and what was said to it."""

    event: Event
    decision: Decision
    effective: str
    redacted: bool
    count: int = 0

    @property
    def done(self) -> bool:
        """Whether it went on, and not merely because a run that blocks nothing carried out what a line refuses."""
        return self.effective != BLOCK and (self.decision.action != BLOCK or self.decision.rule in UNLISTED)


@dataclass(slots=True)
class Run:
    """One trace: its header and footer, what its variables stood for, its policy where it holds one, and its deeds."""

    path: str
    header: dict[str, Any]
    variables: dict[str, str]
    policy: Policy | None
    footer: dict[str, Any] | None = None
    deeds: list[Deed] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    events: int = 0

    def steps(self, path: str) -> Steps:
        """The path taken apart: the variable that it begins with or an empty text, then names, escaped as patterns."""
        for name, said in _ROOTS:
            root = self.variables.get(name, "").rstrip("/")
            if root and (path == root or path.startswith(f"{root}/")):
                return (said, *map(_escaped, path[len(root) :].strip("/").split("/"))) if path != root else (said,)
        names = [name for name in path.split("/") if name]
        if names[:1] == ["proc"]:  # numbers of processes and descriptors are others in each run
            return ("", *("*" if name.isdigit() else _escaped(name) for name in names))
        return ("", *map(_escaped, names))


def gather(paths: Iterable[str]) -> list[Run]:
    """The runs of the traces, as far as each goes. Raises ``TraceError`` for what is no trace."""
    return [_run(path) for path in paths]


def _run(path: str) -> Run:
    with TraceReader(path) as reader:
        layers = (reader.header.get("policy") or {}).get("layers")
        try:
            policy = rebuilt(layers) if layers is not None else None
        except ValueError:
            policy = None
        run = Run(path, reader.header, recorded_variables(reader.header), policy)
        known: dict[tuple[object, ...], Deed] = {}
        for line in reader.lines():
            if line.entry is None:
                continue
            event, decision, effective = line.entry.event, line.entry.decision, line.entry.outcome.effective
            if not event.kind.startswith(_GOVERNED):
                continue
            run.events += 1
            key = (*_telling(event), decision.action, decision.rule, decision.where, effective)
            deed = known.get(key)
            if deed is None:
                deed = known[key] = Deed(event, decision, effective, line.redacted)
                run.deeds.append(deed)
            deed.count += 1
            if event.kind in ("file.delete", "file.rename") and effective != BLOCK:
                run.gone.add(event.path)
        run.footer = reader.footer
    return run


def _telling(event: Event) -> tuple[object, ...]:
    """What of an event a decision can depend on."""
    return (
        *(event.kind, event.path, event.path2, event.spelled, event.host, event.ip, event.port, event.proto),
        *(event.argv, event.detail, event.syscall, "O_DIRECTORY" in event.flags),
    )


def _escaped(name: str) -> str:
    """The name as a pattern. A variable cannot be escaped, so its dollar sign becomes a class of one; a control
    character that no pattern may hold becomes any."""
    said = escape(name).replace("$", "[$]") if "${" in name else escape(name)
    return "".join("?" if c in "\0\1" else c for c in said)


__all__ = ["UNLISTED", "Deed", "Run", "gather"]
