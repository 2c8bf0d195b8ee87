"""``asl policy``: whether a policy is right, and what it says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from agent_safety_layer.terminal import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent_safety_layer.policy import Layer, Policy

SOURCE = "NAME|FILE"


@click.group()
def policy() -> None:
    """Check and show policies. NAME is a built-in profile, FILE a policy's path."""


@policy.command()
@click.argument("sources", metavar=f"{SOURCE}...", nargs=-1, required=True)
def check(sources: tuple[str, ...]) -> None:
    """Say whether policies are right; each mistake with its file, line and what was probably meant.

    Exit status 0 when all are right, 1 when one is not.
    """
    from agent_safety_layer.errors import PolicyError

    status = 0
    for source in sources:
        try:
            loaded = _load((source,))
        except PolicyError as error:
            status = 1
            for mistake in getattr(error, "mistakes", (error,)):
                click.echo(visible(str(mistake)), err=True)
        else:
            click.echo(f"{visible(source)}: right ({_sizes(loaded)})")
    raise SystemExit(status)


@policy.command()
@click.argument("sources", metavar=f"[{SOURCE}]...", nargs=-1)
@click.option("--joined", is_flag=True, help="Print every entry with all that is extended, and where each stands.")
def show(sources: tuple[str, ...], joined: bool) -> None:
    """Print a policy, to read or to copy. Without a name: which built-in profiles there are."""
    from agent_safety_layer.policy import PROFILES, profile_path

    if not sources:
        for name in PROFILES:
            click.echo(f"{name:<10} {_first_sentence(profile_path(name))}")
        return
    if joined:
        for layer in _load(sources).layers:
            click.echo(f"# {visible(layer.name)}, {layer.mode}")
            for place, said in _entries(layer):
                click.echo(f"{visible(said):<60} {visible(place)}".rstrip())
        return
    for source in sources:
        path = profile_path(source) if "/" not in source and os.path.isfile(profile_path(source)) else source
        click.echo(_text_of(path), nl=False)


def _load(sources: tuple[str, ...]) -> Policy:
    from agent_safety_layer.policy import load
    from agent_safety_layer.state import state_path

    # What a run would fill in; the folders need not exist to read a policy.
    variables = {
        "WORKSPACE": os.getcwd(),
        "CWD": os.getcwd(),
        "HOME": os.path.expanduser("~"),
        "TMP": "/tmp/asl-run",
        "USER": os.environ.get("USER", str(os.getuid())),
        "STATE": state_path(),
    }
    return load(sources, variables=variables)


def _text_of(path: str) -> str:
    from agent_safety_layer.errors import PolicyError

    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        what = (error.strerror or str(error)) if isinstance(error, OSError) else "not UTF-8"
        raise PolicyError(f"Cannot read the policy: {what}.", file=path, remedy="See asl policy show.") from None


def _first_sentence(path: str) -> str:
    lines = _text_of(path).splitlines()
    count = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
    said = " ".join(line.lstrip("# ") for line in lines[:count])
    return said.partition(". ")[0].rstrip(".")


def _sizes(loaded: Policy) -> str:
    count = sum(1 for layer in loaded.layers for _ in _entries(layer))
    return f"{count} entries, {loaded.mode}"


def _entries(layer: Layer) -> Iterator[tuple[str, str]]:
    """Where each entry of the layer stands, and the entry."""
    for section in ("files", "network", "exec"):
        held = getattr(layer, section)
        for name in held._fields if held is not None else ():
            entries = getattr(held, name)
            if isinstance(entries, tuple):
                for entry in entries:
                    yield entry.origin, f"{section}.{name}: {entry.text}"
            elif isinstance(entries, bool):
                yield held.origin, f"{section}.{name}: {str(entries).lower()}"
    for name in layer.limits._fields:  # type: ignore[attr-defined]  # every value has them
        amount = getattr(layer.limits, name)
        if amount is not None:
            yield "", f"limits.{name}: {amount:g}"
    for rule in layer.rules:
        yield rule.origin, f"rules: {rule.name}: {rule.action} on {', '.join(rule.condition.on)}"
