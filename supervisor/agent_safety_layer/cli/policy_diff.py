"""``asl policy diff``: what one policy allows and another does not, by example."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from agent_safety_layer.cli.options import AS_JSON, COLOUR
from agent_safety_layer.cli.policy_sources import layers_of, variables_here
from agent_safety_layer.terminal import colour_wanted, paint, visible

if TYPE_CHECKING:
    from agent_safety_layer.events import Decision
    from agent_safety_layer.policy import Policy
    from agent_safety_layer.policy.differences import Difference


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--fail-on", type=click.Choice(["looser", "stricter", "any"]), help="Exit with status 1 when B is.")
@AS_JSON
@COLOUR
def diff(first: str, second: str, fail_on: str | None, as_json: bool, when: str) -> None:
    """Say what is allowed under B and not under A, and the other way round, with an example for each difference.

    A and B are policies: built-in profiles or files. Lines of theirs that can never matter are told, too. For CI:

    \b
      asl policy diff --fail-on looser main.yaml pull-request.yaml
    """
    from agent_safety_layer.policy.differences import differences, idle, settings

    variables = variables_here()
    one, two = layers_of((first,), variables), layers_of((second,), variables)
    found = differences(one, two)
    if as_json:
        import json
        from dataclasses import asdict

        unused = {"first": [asdict(line) for line in idle(one)], "second": [asdict(line) for line in idle(two)]}
        told = [{"name": name, "first": a, "second": b} for name, a, b in settings(one, two)]
        click.echo(json.dumps({"differences": [_plain(each) for each in found], "settings": told, "idle": unused}))
    else:
        _print(found, (first, second), (one, two), colour_wanted(when, sys.stdout.fileno()))
    looser = any(each.looser for each in found)
    stricter = any(not each.looser for each in found)
    failed = {"looser": looser, "stricter": stricter, "any": looser or stricter}
    raise SystemExit(1 if fail_on and failed[fail_on] else 0)


def _print(found: list[Difference], names: tuple[str, str], policies: tuple[Policy, Policy], colour: bool) -> None:
    from agent_safety_layer.policy.differences import idle, settings

    for looser, title in ((True, "allows more"), (False, "allows less")):
        some = [each for each in found if each.looser is looser]
        if some:
            click.echo(f"{visible(names[1])} {title} than {visible(names[0])}:")
        for each in some:
            _print_one(each, colour)
    if not found:
        click.echo("No operation was found that they decide otherwise.")
    told = list(settings(*policies))
    if told:
        click.echo("Settings:")
    for name, a, b in told:
        click.echo(f"  {visible(f'{name}: {a} -> {b}')}")
    for source, policy in zip(names, policies, strict=True):
        for line in idle(policy):
            said = f"{line.origin}: {line.key}: {line.text}"
            click.echo(f"In {visible(source)}, {visible(said)} can never matter.")


def _print_one(each: Difference, colour: bool) -> None:
    from agent_safety_layer.policy.operations import written

    sign, hue = ("+", "green") if each.looser else ("-", "red")
    later = "  (once what a rule waits for has happened)" if each.later else ""
    said = visible(f"{written(each.example)}{later}")
    click.echo(f"  {paint(sign, hue, colour)} {said}", color=True)
    click.echo(f"      {visible(f'{_told(each.first)}  ->  {_told(each.second)}')}")


def _told(decision: Decision) -> str:
    rule = f"{decision.rule} {decision.where}".strip()
    return f"{decision.action} [{rule}]" if rule else decision.action


def _plain(each: Difference) -> dict[str, object]:
    from agent_safety_layer.policy.operations import written

    first, second = each.first, each.second
    return {
        "example": written(each.example),
        "looser": each.looser,
        "later": each.later,
        "first": {"action": first.action, "rule": first.rule, "where": first.where},
        "second": {"action": second.action, "rule": second.rule, "where": second.where},
    }
