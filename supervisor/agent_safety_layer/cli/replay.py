"""``asl replay``: a recorded run decided again, under its own policy or others."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from agent_safety_layer.terminal import colour_wanted, paint, visible

if TYPE_CHECKING:
    from agent_safety_layer.events import Decision
    from agent_safety_layer.policy import Policy
    from agent_safety_layer.trace.replay import Change, LimitUse, Replayed, Verdicts

CONDITIONS = ("new-block", "new-ask", "looser", "any")
_HUE = {"allow": "green", "audit": "blue", "block": "red"}


@click.command()
@click.argument("name", metavar="TRACE")
@click.option(
    "-p", "--policy", "sources", metavar="NAME|FILE", multiple=True, help="Decide by this policy. Repeatable."
)
@click.option("--compare", is_flag=True, help="Each -p is a policy of its own, side by side, instead of a layer.")
@click.option(
    "--fail-on",
    "fail_on",
    type=click.Choice(CONDITIONS),
    multiple=True,
    help="Exit with status 1 when something is newly blocked, newly asked, allowed more, or changed. Repeatable.",
)
@click.option("--limit", type=click.IntRange(0), default=50, show_default=True, help="Changes printed per policy.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every change.")
@click.option("--color", "when", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colours.")
def replay(
    name: str,
    sources: tuple[str, ...],
    compare: bool,
    fail_on: tuple[str, ...],
    limit: int,
    as_json: bool,
    when: str,
) -> None:
    """Decide each event of a run again, and tell what would change by which rule.

    TRACE is a file, the name of a run or its beginning, or `last`. Without -p it is decided by the recorded policy,
    which changes nothing. ${WORKSPACE} and the other variables mean what they meant in the run.

    \b
      asl replay last -p strict                      what would `strict` have blocked?
      asl replay run.jsonl -p old.yaml -p new.yaml --compare
      asl replay run.jsonl -p policy.yaml --fail-on new-block      for CI

    Redacted command lines keep their recorded decision, and so does what no policy was asked about.
    """
    from agent_safety_layer.trace.replay import replay as decided_again
    from agent_safety_layer.trace.runs import find

    path = find(name)
    replayed = decided_again(path, _policies(path, sources, compare))
    if as_json:
        import json

        click.echo(json.dumps(_plain(path, replayed), indent=2))
    else:
        _print(replayed, limit, colour_wanted(when, sys.stdout.fileno()))
    if replayed.truncated_after is not None:
        click.echo(f"asl: {visible(path)}: truncated after line {replayed.truncated_after}", err=True)
    if any(_fails(replayed, verdicts, fail_on) for verdicts in replayed.verdicts):
        raise SystemExit(1)


def _policies(path: str, sources: tuple[str, ...], compare: bool) -> list[tuple[str, Policy]]:
    from agent_safety_layer.policy import load
    from agent_safety_layer.trace.reader import TraceReader
    from agent_safety_layer.trace.replay import recorded_policy, recorded_variables

    with TraceReader(path) as reader:
        header = reader.header
    if not sources:
        own = recorded_policy(header)
        return [(own.name, own)]
    variables = recorded_variables(header)
    groups = [(source,) for source in sources] if compare else [sources]
    return [(" + ".join(group), load(group, variables=variables)) for group in groups]


def _fails(replayed: Replayed, verdicts: Verdicts, fail_on: tuple[str, ...]) -> bool:
    from agent_safety_layer.events import ASK, BLOCK

    limits = replayed.limits(verdicts)
    new_limit = any(use.hit and not use.was_hit for use in limits)
    found = {
        "new-block": verdicts.new(BLOCK) > 0 or new_limit,
        "new-ask": verdicts.new(ASK) > 0,
        "looser": verdicts.looser > 0 or any(use.was_hit and not use.hit for use in limits),
        "any": bool(verdicts.moves) or any(use.was_hit != use.hit for use in limits),
    }
    return any(found[condition] for condition in fail_on)


def _print(replayed: Replayed, limit: int, colour: bool) -> None:
    from agent_safety_layer.events import ASK, BLOCK

    columns = ("EVENTS", "BLOCKED", "RATE", "ASKED", "NEW BLOCKS", "NEW ASKS", "LOOSER", "OTHER RULE")
    wide = max(10, *(len(visible(verdicts.name)) for verdicts in (replayed.recorded, *replayed.verdicts)))
    click.echo(paint(f"{'POLICY':<{wide}}" + "".join(f"{column:>12}" for column in columns), "dim", colour), color=True)
    for verdicts in (replayed.recorded, *replayed.verdicts):
        events, blocked = verdicts.events(), verdicts.events(BLOCK)
        cells = [events, blocked, _rate(blocked, events), verdicts.events(ASK)]
        if verdicts.policy is not None:
            cells += [verdicts.new(BLOCK), verdicts.new(ASK), verdicts.looser, verdicts.reruled]
        click.echo(f"{visible(verdicts.name):<{wide}}" + "".join(f"{cell:>12}" for cell in cells))
    for verdicts in replayed.verdicts:
        _print_changes(replayed, verdicts, limit, colour)


def _print_changes(replayed: Replayed, verdicts: Verdicts, limit: int, colour: bool) -> None:
    name, changes, limits = visible(verdicts.name), verdicts.changes, replayed.limits(verdicts)
    click.echo()
    events = sum(verdicts.moves.values())
    if not events:
        click.echo(f"{name}: every event is decided as it was")
    else:
        others = " (at least)" if verdicts.unlisted else ""
        click.echo(f"{name}: {len(changes)} distinct operations{others} change, {events} events")
    for change in changes[:limit]:
        click.echo(f"  {change.count:>7}x {_told(change, colour)}", color=True)
    left = len(changes) - limit
    if left > 0:
        click.echo(f"           ... and {left} more; see --limit, --json")
    for use in limits:
        if use.hit or use.was_hit:
            click.echo(f"  {_limit(use)}")
    if verdicts.redacted:
        click.echo(f"  {verdicts.redacted} redacted events keep the recorded decision")


def _told(change: Change, colour: bool) -> str:
    before, after = change.before.action, change.after.action
    moved = f"{paint(before, _HUE.get(before, 'yellow'), colour)} -> {paint(after, _HUE.get(after, 'yellow'), colour)}"
    said = f"{moved}  {change.kind} {visible(change.object, 200) or '-'}"
    return said + paint(f"  [{visible(_rules(change))}]", "dim", colour)


def _rules(change: Change) -> str:
    """The rule that changes it; when nothing decides any more, the one that did."""
    after = _rule(change.after)
    return after if change.after.where else ", ".join(filter(None, (after, f"was {_rule(change.before)}")))


def _rule(decision: Decision) -> str:
    return f"{decision.rule} {decision.where}".strip() or "no rule"


def _limit(use: LimitUse) -> str:
    used = f"the run used {use.used:g}"
    if use.limit is None:
        return f"limits.{use.name} ended the run, and is not set here"
    if use.hit and use.was_hit:
        return f"limits.{use.name} {use.limit:g} ends the run as it did"
    return f"limits.{use.name} {use.limit:g} " + (
        f"would have ended the run: {used}" if use.hit else f"would not: {used}"
    )


def _rate(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "-"


def _plain(path: str, replayed: Replayed) -> dict[str, Any]:
    return {
        "trace": path,
        "run": replayed.header.get("run"),
        "truncated_after": replayed.truncated_after,
        "recorded": _counts(replayed.recorded),
        "policies": [
            {
                **_counts(verdicts),
                "sha256": verdicts.policy.sha256 if verdicts.policy is not None else "",
                **_changes(verdicts),
                "limits": [
                    {"name": use.name, "limit": use.limit, "used": use.used, "hit": use.hit, "was_hit": use.was_hit}
                    for use in replayed.limits(verdicts)
                ],
            }
            for verdicts in replayed.verdicts
        ],
    }


def _counts(verdicts: Verdicts) -> dict[str, Any]:
    from agent_safety_layer.events import ASK, BLOCK

    events, blocked = verdicts.events(), verdicts.events(BLOCK)
    return {
        "name": verdicts.name,
        "events": events,
        "counts": dict(sorted(verdicts.counts.items())),
        "blocked": blocked,
        "block_rate": blocked / events if events else 0.0,
        "asked": verdicts.events(ASK),
    }


def _changes(verdicts: Verdicts) -> dict[str, Any]:
    from agent_safety_layer.events import ASK, BLOCK

    return {
        "changed": sum(verdicts.moves.values()),
        "new_blocks": verdicts.new(BLOCK),
        "new_asks": verdicts.new(ASK),
        "looser": verdicts.looser,
        "other_rule": verdicts.reruled,
        "kept": verdicts.kept,
        "redacted": verdicts.redacted,
        "changes": [
            {
                "kind": change.kind,
                "object": change.object,
                "count": change.count,
                "first_seq": change.seq,
                "before": _decision(change.before),
                "after": _decision(change.after),
            }
            for change in verdicts.changes
        ],
        "changes_unlisted": verdicts.unlisted,
    }


def _decision(decision: Decision) -> dict[str, str]:
    return {
        "action": decision.action,
        "rule": decision.rule,
        "where": decision.where,
        "reason": decision.reason,
    }
