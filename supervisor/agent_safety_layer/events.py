"""What flows: an ``Event`` happened, a ``Decision`` answers it, an ``Outcome`` is what came of it, a ``TraceEntry``
records all three.

All four are frozen values. Text in them is always valid Unicode: bytes of a name that are not UTF-8 appear as ``\\xNN``
(``text_of``), in the decision as in the record, so that a replay sees what the run saw.
"""

from __future__ import annotations

from asl_hooks.value import value

# Actions, from loosest to strictest; the strictest matching rule wins.
ALLOW, AUDIT, WARN, ASK, BLOCK = ACTIONS = ("allow", "audit", "warn", "require_approval", "block")
PYTHON = "Python"  # where a decision stands that a Python policy made: nothing decides it again
RANK: dict[str, int] = {action: rank for rank, action in enumerate(ACTIONS)}

FILE_KINDS = (
    "file.read",
    "file.write",
    "file.create",
    "file.delete",
    "file.rename",
    "file.link",
    "file.meta",
    "file.list",
)
NET_KINDS = ("net.connect", "net.bind", "net.listen", "net.send", "net.dns", "net.unix")
PROCESS_KINDS = ("process.exec", "process.fork", "process.exit", "process.signal", "process.deny")
OTHER_KINDS = (
    *("limit.hit", "op.call", "op.log", "approval.asked", "approval.answered"),
    *("session.start", "session.end", "session.gap"),
)
KINDS = (*FILE_KINDS, *NET_KINDS, *PROCESS_KINDS, *OTHER_KINDS)
GROUPS: dict[str, tuple[str, ...]] = {"file": FILE_KINDS, "net": NET_KINDS, "process": PROCESS_KINDS}


@value
class Event:
    """One operation that a process (or a guarded function) attempts. Only what the kind needs is set.

    ``path`` and ``path2`` are canonical and absolute, as the tracee sees them; ``spelled`` is what it wrote, when
    that differs. ``flags`` holds names (``O_WRONLY|O_CREAT``), ``mode`` permission bits or -1 (as in ``st_mode``, with
    the type, of a symbolic link that is made and of what is renamed or linked), ``fd`` a descriptor or -1. ``host`` is
    a name when one is known for ``ip``; ``port`` is 0 when there is none; ``proto`` is ``tcp udp unix ...``. ``time``
    is seconds since the epoch; a decision never looks at any other clock.
    """

    kind: str
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
    time: float = 0.0


@value
class Decision:
    """The answer to an event: the strictest action that any rule gives, and the rule that gave it.

    ``where`` is ``file:line`` of that rule; ``rule`` its name or its place in the policy (``files.block``).
    """

    action: str
    rule: str = ""
    where: str = ""
    reason: str = ""


@value
class Outcome:
    """What was done and what came of it.

    ``effective`` is the action that was applied (in observe mode it can be looser than the decision). ``result`` is the
    return value when it is known, an errno name when the call failed by our hand, empty when the kernel went on alone.
    """

    effective: str
    result: str = ""
    us: int = 0


@value
class TraceEntry:
    """One line of a trace: position, event, decision, outcome."""

    seq: int
    event: Event
    decision: Decision
    outcome: Outcome


def text_of(raw: bytes) -> str:
    """The bytes as text: UTF-8 where they are that, ``\\xNN`` for each byte that is not."""
    return raw.decode("utf-8", "backslashreplace")


def strictest(first: Decision, second: Decision) -> Decision:
    """The stricter of two decisions; the first when they are equal."""
    return second if RANK[second.action] > RANK[first.action] else first
