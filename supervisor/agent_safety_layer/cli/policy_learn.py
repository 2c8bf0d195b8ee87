"""``asl policy learn``: a policy that allows what recorded runs did, and refuses what they did not do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agent_safety_layer.cli.output import output_file
from agent_safety_layer.terminal import visible

if TYPE_CHECKING:
    from agent_safety_layer.events import Decision
    from agent_safety_layer.policy import Policy
    from agent_safety_layer.policy.evidence import Deed, Run
    from agent_safety_layer.policy.learning import Learned

_ROUNDS = 4
_SHOWN = 10


@click.command()
@click.argument("names", metavar="TRACE...", nargs=-1, required=True)
@click.option("--merge", metavar="POLICY", default="", help="Add what is missing to this policy, instead of a new one.")
@click.option("-o", "--output", metavar="FILE", default="", help="Write to FILE instead of standard output.")
@click.option("--name", "called", default="learned", show_default=True, help="The new policy's name.")
def learn(names: tuple[str, ...], merge: str, output: str, called: str) -> None:
    """Write the smallest readable policy that would have allowed what these runs did.

    \b
      asl-supervise --observe python agent.py      1. run once; nothing is blocked
      asl policy learn last -o agent.yaml          2. learn, and read what was learned
      asl-supervise -p agent.yaml python agent.py  3. run enforced

    Folders are folded where that is safe, never across secrets; hosts are named; commands keep their shape. Each line
    tells how often it was needed. What a line of the runs' own policy refused stays refused, and is told in comments.
    The result is checked against the traces before it is written.
    """
    from agent_safety_layer.policy.evidence import gather
    from agent_safety_layer.policy.learning import learn as learned_from
    from agent_safety_layer.policy.learning import without_idle as drop
    from agent_safety_layer.policy.lesson import document
    from agent_safety_layer.trace.runs import find

    runs = gather(find(name) for name in names)
    if merge:
        text, policies = _merged(runs, merge)
    else:
        learned = learned_from(runs)
        policies = [_loaded(document(learned, runs, called), run) for run in runs]
        if drop(learned, policies):
            policies = [_loaded(document(learned, runs, called), run) for run in runs]
        text = document(learned, runs, called)
    if output:
        with output_file(output) as out:
            out.write(text)
    else:
        click.echo(text, nl=False)
    _tell(runs, policies, output)


def _merged(runs: list[Run], merge: str) -> tuple[str, list[Policy]]:
    """The policy file with what it lacks. Adding to a list can close what was open, so it is looked at again."""
    from agent_safety_layer.errors import PolicyError
    from agent_safety_layer.policy.learning import learn as learned_from
    from agent_safety_layer.policy.lesson import merged

    try:
        with open(merge, "rb") as file:
            raw = file.read()
    except OSError as error:
        raise PolicyError(f"The policy cannot be read: {error.strerror}.", file=merge) from None
    text, all_learned = raw.decode("utf-8", "replace"), None
    policies = [_loaded(text, run, merge) for run in runs]
    for _ in range(_ROUNDS):
        by_path = {run.path: policy for run, policy in zip(runs, policies, strict=True)}
        further = learned_from(runs, lambda run, known=by_path: known[run.path])  # type: ignore[misc]
        if not any(further.lists.values()) and all_learned is not None:
            break
        all_learned = _joined(all_learned, further)
        text = merged(raw, all_learned, merge)
        policies = [_loaded(text, run, merge) for run in runs]
    return text, policies


def _joined(first: Learned | None, second: Learned) -> Learned:
    if first is None:
        return second
    for key, lines in second.lists.items():
        first.lists[key] = list({text: (text, note) for text, note in (*first.lists.get(key, ()), *lines)}.values())
    return first


def _loaded(text: str, run: Run, name: str = "learned.yaml") -> Policy:
    from agent_safety_layer.policy import load_text

    return load_text(text, name=name, variables=run.variables)


def _tell(runs: list[Run], policies: list[Policy], output: str) -> None:
    """Say what the check against the traces found."""
    from agent_safety_layer.policy.learning import exceptions
    from agent_safety_layer.policy.operations import written

    done = sum(deed.done for run in runs for deed in run.deeds)
    stopped: list[tuple[Run, Deed, Decision]] = list(exceptions(runs, policies))
    refused = sum(not deed.done for run in runs for deed in run.deeds)
    said = f"asl: allowed: {done - len(stopped)} of {done} different operations that went on"
    said += f"; still refused: {refused}" if refused else ""
    click.echo(said + (f"; written to {visible(output)}" if output else ""), err=True)
    for _, deed, decision in stopped[:_SHOWN]:
        why = f"{decision.rule} {decision.where}".rstrip()
        click.echo(f"asl: not allowed: {visible(written(deed.event), 200)} [{visible(why)}]", err=True)
    if len(stopped) > _SHOWN:
        click.echo(f"asl: ... and {len(stopped) - _SHOWN} more", err=True)


__all__ = ["learn"]
