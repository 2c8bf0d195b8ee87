"""``asl policy explain``: which rule decides an operation, what else is about it, and what would change it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from agent_safety_layer.cli.options import AS_JSON, COLOUR
from agent_safety_layer.cli.policy_sources import POLICIES, layers_of, sources_with_administrator, variables_here
from agent_safety_layer.terminal import colour_wanted, paint, visible

if TYPE_CHECKING:
    from agent_safety_layer.events import Decision, Event
    from agent_safety_layer.policy import Policy, State
    from agent_safety_layer.policy.matches import Explanation

HUE = {"allow": "green", "audit": "blue", "warn": "yellow", "require_approval": "yellow", "block": "red"}


@click.command()
@click.argument("operation", metavar="OPERATION|TRACE:SEQ", nargs=-1, required=True)
@POLICIES
@AS_JSON
@COLOUR
def explain(operation: tuple[str, ...], sources: tuple[str, ...], as_json: bool, when: str) -> None:
    """Say which rule decides an operation and why, every line that is about it, and what would change the decision.

    \b
      asl policy explain file.write /etc/passwd
      asl policy explain -p policy.yaml 'net.connect api.example.com:443'
      asl policy explain 'process.exec rm -rf /'
      asl policy explain last:1842          an operation of a recorded run, under that run's policy or under -p

    -p is as for asl-supervise: without it, the default profile.
    """
    event, policy, state, note = _asked(" ".join(operation), sources)
    from agent_safety_layer.policy.matches import explain as explained
    from agent_safety_layer.policy.operations import written

    found = explained(policy, state, event)
    if as_json:
        import json

        click.echo(json.dumps(_plain(written(event), event, found, note), indent=2))
    else:
        _print(written(event), found, note, colour_wanted(when, sys.stdout.fileno()))


def _asked(text: str, sources: tuple[str, ...]) -> tuple[Event, Policy, State, str]:
    """The event, the policy, the state in which it is decided, and a remark."""
    from agent_safety_layer.policy import State
    from agent_safety_layer.policy.operations import parse

    name, colon, seq = text.rpartition(":")
    if colon and seq.isdigit() and " " not in name:
        return _recorded(name, int(seq), sources)
    variables = variables_here()
    policy = layers_of(sources_with_administrator(sources), variables)
    event = parse(text, variables)
    note = ""
    if event.kind == "process.exec" and not event.path:
        note = "There is no such program here, so only what is said about commands was looked at."
    elif event.kind == "net.connect" and event.host and not event.ip:
        note = "The address that the name resolves to is judged as well: private ones need an entry of their own."
    return event, policy, State(), note


def _recorded(name: str, seq: int, sources: tuple[str, ...]) -> tuple[Event, Policy, State, str]:
    from agent_safety_layer.errors import TraceError
    from agent_safety_layer.policy.past import before
    from agent_safety_layer.trace.reader import TraceReader
    from agent_safety_layer.trace.replay import recorded_policy, recorded_variables
    from agent_safety_layer.trace.runs import find

    path = find(name)
    with TraceReader(path) as reader:
        header = reader.header
        line = next((line for line in reader.lines() if line.entry is not None and line.entry.seq == seq), None)
    if line is None or line.entry is None:
        raise TraceError(f"There is no event {seq} in this trace.", file=path, remedy="asl trace show --json has seq.")
    policy = layers_of(sources, recorded_variables(header)) if sources else recorded_policy(header)
    effective, decision = line.entry.outcome.effective, line.entry.decision
    recorded = f"Recorded: {decision.action}"
    recorded += f", carried out as {effective}" if effective != decision.action else ""
    recorded += f" [{decision.rule} {decision.where}".rstrip() + "]"
    if line.redacted:
        recorded += ". The trace shows it redacted, so this can differ from what was judged"
    return line.entry.event, policy, before(path, policy, line.entry), f"{recorded}."


def _print(operation: str, found: Explanation, note: str, colour: bool) -> None:
    decision = found.decision
    said = paint(decision.action, HUE[decision.action], colour)
    click.echo(f"{said}  {visible(operation)}", color=True)
    click.echo(f"  decided by  {visible(_rule(decision))}")
    if decision.reason:
        click.echo(f"  because     {visible(decision.reason)}")
    if len(found.answers) > 1:
        for name, answer in found.answers:
            click.echo(f"  layer       {visible(name)}: {answer.action}  {visible(_rule(answer))}")
    for at, match in enumerate(found.matches):
        label = "matches" if not at else ""
        line = f"{match.key}: {match.text}" + (f"  ({match.note})" if match.note else "")
        click.echo(f"  {label:<10}  {visible(f'{line:<44} {match.action:<16} {match.origin}')}")
    if not found.matches:
        click.echo("  matches     no line names it")
    if found.change:
        click.echo(f"  to {found.to:<8} {visible('; and '.join(found.change))}")
    else:
        click.echo("  to change   nothing in a policy alters this")
    if note:
        click.echo(f"  note        {visible(note)}")


def _rule(decision: Decision) -> str:
    return f"{decision.rule} ({decision.where})" if decision.where else decision.rule or "no rule"


def _plain(operation: str, event: Event, found: Explanation, note: str) -> dict[str, Any]:
    fields = dict(zip(event._fields, event, strict=True))  # type: ignore[attr-defined, call-overload]
    return {
        "operation": operation,
        "event": {name: field for name, field in fields.items() if field not in ("", 0, -1, 0.0, ())},
        "decision": _decision(found.decision),
        "layers": [{"layer": name, **_decision(answer)} for name, answer in found.answers],
        "matches": [
            {"layer": m.layer, "key": m.key, "text": m.text, "where": m.origin, "action": m.action, "note": m.note}
            for m in found.matches
        ],
        "change": {"to": found.to, "steps": list(found.change)},
        "note": note,
    }


def _decision(decision: Decision) -> dict[str, str]:
    fields: dict[str, str] = dict(zip(decision._fields, decision, strict=True))  # type: ignore[attr-defined, call-overload]
    return fields
