"""``asl policy test``: operations and the decisions expected of them, for CI."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from agent_safety_layer.cli.options import AS_JSON, COLOUR
from agent_safety_layer.cli.policy_sources import POLICIES, layers_of, variables_here
from agent_safety_layer.terminal import colour_wanted, paint, visible

if TYPE_CHECKING:
    from agent_safety_layer.policy import Policy
    from agent_safety_layer.policy.trial import Result, Suite


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@POLICIES
@click.option("-v", "--verbose", is_flag=True, help="Tell what was right, too.")
@AS_JSON
@COLOUR
def test(files: tuple[str, ...], sources: tuple[str, ...], verbose: bool, as_json: bool, when: str) -> None:
    """Decide the operations in FILE, and tell where the decision is not the one expected.

    \b
      policy: [policy.yaml]                   beside FILE; -p replaces it; without both, the default profile
      variables: {HOME: /home/sam}            what ${WORKSPACE}, ~ and the others mean; else as in a run started here
      tests:
        - file.read ~/.ssh/id_ed25519: block
        - net.connect api.example.com:443: allow
        - operation: git push origin HEAD     a command
          after: [file.read customers/a.csv]  done before, by the same process
          expect: ask
          rule: exec.ask                      the rule that must decide; `where: policy.yaml:7` its line

    Exit status 0 when all is as expected, 1 when something is not, 125 when FILE or the policy cannot be used.
    """
    colour = colour_wanted(when, sys.stdout.fileno())
    failed = total = 0
    for file in files:
        suite, policy, results = _run(file, sources)
        wrong = [result for result in results if not result.passed]
        failed += len(wrong)
        total += len(results)
        if as_json:
            import json

            click.echo(json.dumps({"file": file, "failed": len(wrong), "tests": [_plain(one) for one in results]}))
            continue
        for result in results:
            if not result.passed:
                _print_wrong(suite, policy, result, colour)
            elif verbose:
                said = f"{suite.file}:{result.case.line}: {result.case.operation}: {result.case.expect}"
                click.echo(f"{paint('ok', 'green', colour)}    {visible(said)}", color=True)
    if not as_json:
        said = f"{failed} of {total} failed" if failed else f"all {total} as expected"
        click.echo(paint(said, "red" if failed else "green", colour), color=True)
    raise SystemExit(1 if failed else 0)


def _run(file: str, sources: tuple[str, ...]) -> tuple[Suite, Policy, list[Result]]:
    from agent_safety_layer.errors import PolicyError
    from agent_safety_layer.policy.loading import BUILT_IN, DEFAULT
    from agent_safety_layer.policy.trial import read, run

    try:
        with open(file, "rb") as opened:
            suite = read(opened.read(), file)
    except OSError as error:
        raise PolicyError(f"The tests cannot be read: {error.strerror}.", file=file) from None
    folder = os.path.dirname(file)
    beside = (name if name in BUILT_IN else os.path.join(folder, name) for name in suite.policy)
    variables = {**variables_here(), **suite.variables}
    if "WORKSPACE" in suite.variables:
        variables["CWD"] = suite.variables.get("CWD", suite.variables["WORKSPACE"])
    policy = layers_of(sources or tuple(beside) or (DEFAULT,), variables)
    return suite, policy, run(suite, policy, variables)


def _print_wrong(suite: Suite, policy: Policy, result: Result, colour: bool) -> None:
    from agent_safety_layer.policy import State
    from agent_safety_layer.policy.matches import change

    case, found = result.case, result.decision
    named = f" ({case.name})" if case.name else ""
    click.echo(
        f"{paint('wrong', 'red', colour)} {visible(f'{suite.file}:{case.line}: {case.operation}{named}')}", color=True
    )
    wanted = "  ".join(part for part in (case.expect, case.rule, case.where) if part)
    click.echo(paint(f"  - expected  {visible(wanted)}", "green", colour), color=True)
    rule = f"{found.rule} ({found.where})" if found.where else found.rule or "no rule"
    click.echo(paint(f"  + found     {visible(f'{found.action}  {rule}')}", "red", colour), color=True)
    if found.reason:
        click.echo(f"    because   {visible(found.reason)}")
    steps, to = change(policy, State(), result.event)
    if steps and to == case.expect and not case.after:
        click.echo(f"    to {to:<6} {visible('; and '.join(steps))}")


def _plain(result: Result) -> dict[str, Any]:
    case, found = result.case, result.decision
    return {
        "line": case.line,
        "name": case.name,
        "operation": case.operation,
        "after": list(case.after),
        "passed": result.passed,
        "expected": {"action": case.expect, "rule": case.rule, "where": case.where},
        "found": {"action": found.action, "rule": found.rule, "where": found.where, "reason": found.reason},
    }
