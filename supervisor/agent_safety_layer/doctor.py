"""What this machine can enforce, for people: each mechanism, what it is for, and what carries its part without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_safety_layer.native import core
from agent_safety_layer.terminal import paint, visible
from asl_hooks.probe import Finding, probes
from asl_hooks.value import value

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

FULL, FALLBACK, NONE = "full", "fallback", "none"

# Without these nothing can be supervised at all.
REQUIRED = ("kernel", "pidfd_getfd")
# One of these backends has to be whole.
BACKENDS = (("notify", "addfd", "wait_killable"), ("ptrace",))
_BY_PTRACE = "calls are intercepted with ptrace: as safe, slower"
# Without these something else does the work: what that is.
FALLBACKS = {
    **dict.fromkeys(("notify", "addfd", "wait_killable"), _BY_PTRACE),
    "landlock": "every file operation is carried out by the supervisor: as safe, slower",
    "sync_wake_up": "answers are slower when supervisor and command run on different CPUs",
    "userns": "ordinary users get no namespaces",
    "netns": "connections are made by the supervisor on the command's behalf",
    "mountns": "a blocked path inside an allowed folder makes the supervisor serve that folder",
    "pidns": "the supervisor ends the tree process by process",
    "cgroup": "memory and processes of the tree are counted by the supervisor instead of held by the kernel",
    "ptrace": "what an exec really runs cannot be verified: policies with exec rules need --best-effort",
    "yama": "see ptrace",
}
LANDLOCK_WHOLE = 6
_VERDICTS = {
    FULL: ("green", "This machine can enforce everything."),
    FALLBACK: ("yellow", "This machine can enforce policies; what is missing is done another way."),
    NONE: ("red", "This machine cannot enforce policies: asl-supervise will not start."),
}


@value
class Diagnosis:
    """All findings, and whether runs are enforced in full, with fallbacks, or not at all (``full fallback none``)."""

    findings: tuple[Finding, ...]
    verdict: str


def diagnose(without: Collection[str] = ()) -> Diagnosis:
    """The diagnosis of this machine, as this user; *without* takes mechanisms away, for tests only."""
    found = probes(without)
    return Diagnosis((*found, _compiled()), verdict_on(found))


def _compiled() -> Finding:
    """Whether the compiled core is there: that makes runs quicker, and changes nothing of what is enforced."""
    remedy = "Install a C compiler and Python.h (Debian: gcc python3-dev), and agent-safety-layer anew."
    if core is not None:
        return Finding("core", "the compiled core", "compiled", True)
    return Finding("core", "the compiled core", "not compiled: runs are the same, and slower", False, remedy)


def verdict_on(findings: Iterable[Finding]) -> str:
    """``none`` when something required is missing, ``fallback`` when anything else is, else ``full``."""
    findings = tuple(findings)
    lacking = {finding.name for finding in findings if not finding.ok}
    if lacking.intersection(REQUIRED) or all(lacking.intersection(backend) for backend in BACKENDS):
        return NONE
    verdict = FULL
    for finding in findings:
        if not finding.ok or (finding.name == "landlock" and finding.level < LANDLOCK_WHOLE):
            verdict = FALLBACK
    return verdict


def text(diagnosis: Diagnosis, colour: bool = False) -> str:
    """The diagnosis as lines: each mechanism with what was found; for what is missing, what that means and a remedy."""
    lines = []
    for finding in diagnosis.findings:
        mark = paint("ok", "green", colour) if finding.ok else paint("--", "red", colour)
        lines.append(f"{mark} {finding.name:<14} {visible(finding.found)}")
        if not finding.ok:
            lines.append(f"      wanted: {finding.wanted}")
            if finding.name in FALLBACKS:
                lines.append(f"      without: {FALLBACKS[finding.name]}")
            if finding.remedy:
                lines.append(f"      remedy: {visible(finding.remedy)}")
        elif finding.name == "landlock" and finding.level < LANDLOCK_WHOLE:
            lines.append("      Linux 6.12 brings ABI 6: signals and abstract sockets held by the kernel, too")
    hue, said = _VERDICTS[diagnosis.verdict]
    return "\n".join([*lines, "", paint(said, hue, colour)]) + "\n"
