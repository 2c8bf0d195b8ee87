"""``asl doctor``."""

from __future__ import annotations

import sys

import click

from agent_safety_layer.doctor import NONE, diagnose, text
from agent_safety_layer.errors import UnsupportedError
from agent_safety_layer.spans import outer_run
from agent_safety_layer.terminal import colour_wanted


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_obj
def doctor(without: frozenset[str] | None, as_json: bool) -> None:
    """Say what this machine can enforce for this user, by trying it, and what to do about the rest.

    Exit status 0 when policies can be enforced, with fallbacks or without; 1 when they cannot, 125 inside a
    supervised run, where that cannot be tried.
    """
    outer = outer_run()
    if outer:
        raise UnsupportedError(
            "What this machine can enforce cannot be tried from inside a supervised run",
            f"this process is supervised by run {outer}",
            "Run asl doctor outside of it.",
        )
    diagnosis = diagnose(without or frozenset())
    if as_json:
        import json

        names = ("name", "wanted", "found", "ok", "remedy", "level")
        findings = [{name: getattr(finding, name) for name in names} for finding in diagnosis.findings]
        click.echo(json.dumps({"verdict": diagnosis.verdict, "findings": findings}, indent=2))
    else:
        click.echo(text(diagnosis, colour_wanted("auto", sys.stdout.fileno())), nl=False, color=True)
    raise SystemExit(1 if diagnosis.verdict == NONE else 0)
