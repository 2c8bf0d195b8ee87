"""The closing words on stderr: what was blocked, by which rule, how to allow it, and where the trace is."""

from __future__ import annotations

from agent_safety_layer.events import BLOCK
from agent_safety_layer.terminal import paint, visible
from agent_safety_layer.wording import object_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.report import Ending
    from agent_safety_layer.tally import Denial, Tally

_RULES = 8  # shown; the rest are counted
_NAMES = 3  # per rule
_WIDTH = 100


def summary(tally: Tally, ending: Ending, trace: str, *, verbosity: int = 0, colour: bool = False) -> str:
    """The text to print when a run has ended, its newlines included; often empty.

    Quiet (``verbosity`` below 0): nothing. Normal: what was denied, by rule, if anything was; why the run was ended, if
    it was. Verbose: the counts and the cost too, always.
    """
    if verbosity < 0:
        return ""
    lines = denied(tally, colour)
    if ending.outcome not in ("exited", "signaled"):
        lines.insert(0, f"asl: {paint(f'run ended: {_OUTCOMES.get(ending.outcome, ending.outcome)}', 'red', colour)}")
    if verbosity > 0:
        lines += _counts(tally, ending)
    if lines and trace:
        lines.append(paint(f"asl: trace: {visible(trace)}", "dim", colour))
    return "".join(f"{line}\n" for line in lines)


_OUTCOMES = {
    "wall_time": "its time limit passed",
    "cpu_time": "its CPU time limit passed",
    "memory": "its memory limit was reached",
    "idle_time": "it did nothing for too long",
    "output": "its output limit was reached",
    "written": "its limit of bytes written was reached",
    "operations": "its limit of operations was reached",
    "violation": "on_violation is kill",
    "trace_full": "the trace could not be written",
    "failed": "the supervisor failed",
}


def denied(tally: Tally, colour: bool = False) -> list[str]:
    """What was denied, as lines: the total, then each rule with its place, count, some names and a remedy."""
    total = tally.blocked or tally.would_block
    if not total:
        return []
    by_rule: dict[tuple[str, str, bool], list[Denial]] = {}
    for denial in tally.denials:
        key = (denial.decision.rule, denial.decision.where, denial.effective == BLOCK)
        by_rule.setdefault(key, []).append(denial)
    verb = "blocked" if tally.blocked else "would have been blocked"
    head = f"{total} operation{'s' if total != 1 else ''} {verb}"
    lines = [f"asl: {paint(head, 'red' if tally.blocked else 'yellow', colour)}"]
    ranked = sorted(by_rule.items(), key=lambda item: -sum(denial.n for denial in item[1]))
    for (rule, where, blocked), denials in ranked[:_RULES]:
        count = sum(denial.n for denial in denials)
        names = ", ".join(visible(object_of(denial.event), _WIDTH) for denial in denials[:_NAMES])
        if len(denials) > _NAMES:
            names += f" and {len(denials) - _NAMES} more"
        place = f" ({visible(where, _WIDTH)})" if where else ""
        would = "" if blocked or not tally.blocked else " (not enforced)"
        lines.append(f"  {count}x {visible(rule, _WIDTH) or 'no rule'}{place}{would}: {names}")
        remedies = list(dict.fromkeys(denial.remedy for denial in denials))
        if remedies[0]:
            more = " …" if len(remedies) > 1 else ""
            lines.append(paint(f"     to allow: {visible(remedies[0], 3 * _WIDTH)}{more}", "dim", colour))
    if len(ranked) > _RULES or tally.unlisted:
        rest = sum(denial.n for _, denials in ranked[_RULES:] for denial in denials) + tally.unlisted
        lines.append(f"  {rest}x more, in the trace")
    return lines


def _counts(tally: Tally, ending: Ending) -> list[str]:
    per_kind = ", ".join(f"{kind} {sum(actions.values())}" for kind, actions in tally.counts().items())
    cpu_s, peak_mib = ending.cpu_user_s + ending.cpu_system_s, ending.peak_memory_bytes / 2**20
    return [
        f"asl: {tally.events} events: {per_kind or 'none'}",
        f"asl: {ending.wall_s:.2f} s, CPU {cpu_s:.2f} s, peak memory {peak_mib:.0f} MiB",
    ]
