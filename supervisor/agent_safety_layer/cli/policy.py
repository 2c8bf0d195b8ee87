"""``asl policy``: whether a policy is right, what it says, and what it says to an operation."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from agent_safety_layer.cli.policy_diff import diff
from agent_safety_layer.cli.policy_explain import explain
from agent_safety_layer.cli.policy_learn import learn
from agent_safety_layer.cli.policy_sources import SOURCE, layers_of, sources_with_administrator, variables_here
from agent_safety_layer.cli.policy_test import test
from agent_safety_layer.terminal import visible

if TYPE_CHECKING:
    from agent_safety_layer.policy import Policy


@click.group()
def policy() -> None:
    """Check, show, explain, test, learn and compare policies.

    NAME is a built-in profile, FILE a policy's path.
    """


@policy.command()
@click.argument("sources", metavar=f"{SOURCE}...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: one object for each source.")
def check(sources: tuple[str, ...], as_json: bool) -> None:
    """Say whether policies are right; each mistake with its file, line and what was probably meant.

    Lines that can never matter, because others say the same or something stricter, are told, too: they are no mistakes.
    Exit status 0 when all are right, 1 when one is not.
    """
    from agent_safety_layer.errors import PolicyError

    status = 0
    for source in sources:
        try:
            loaded = layers_of((source,), variables_here())
        except PolicyError as error:
            status = 1
            mistakes = getattr(error, "mistakes", (error,))
            if as_json:
                _json({"source": source, "right": False, "mistakes": [_mistake(one) for one in mistakes]})
            else:
                for mistake in mistakes:
                    click.echo(visible(str(mistake)), err=True)
                count = len(mistakes)
                click.echo(f"{visible(source)}: {count} mistake{'s' if count > 1 else ''}", err=True)
            continue
        from agent_safety_layer.policy.differences import idle

        unused = idle(loaded)
        if as_json:
            said = [{"key": line.key, "text": line.text, "where": line.origin} for line in unused]
            _json({"source": source, "right": True, "mode": loaded.mode, "entries": _count(loaded), "idle": said})
            continue
        click.echo(f"{visible(source)}: right ({_count(loaded)} entries, {loaded.mode})")
        for line in unused:
            click.echo(f"  {visible(f'{line.origin}: {line.key}: {line.text}')} can never matter")
    raise SystemExit(status)


@policy.command()
@click.argument("sources", metavar=f"[{SOURCE}]...", nargs=-1)
@click.option("--file", "as_written", is_flag=True, help="Print the files as they are written, to read or to copy.")
def show(sources: tuple[str, ...], as_written: bool) -> None:
    """Print the policy that holds under these sources: each layer with all that it extends, and where each line stands.

    What is printed can be used as a policy. Several sources are layers, as for `asl-supervise -p`; the administrator's
    policy is added when there is one. Without a name: which built-in profiles there are.
    """
    from agent_safety_layer.policy import profile_path
    from agent_safety_layer.policy.effective import effective
    from agent_safety_layer.policy.loading import BUILT_IN

    if not sources:
        for name in BUILT_IN:
            click.echo(f"{name:<10} {_first_sentence(profile_path(name))}")
        return
    if not as_written:
        for line in effective(layers_of(sources_with_administrator(sources), variables_here())):
            click.echo(visible(line))
        return
    for source in sources:
        path = profile_path(source) if "/" not in source and os.path.isfile(profile_path(source)) else source
        click.echo(_text_of(path), nl=False)


def _json(fields: dict[str, object]) -> None:
    import json

    click.echo(json.dumps(fields))


def _mistake(error: Exception) -> dict[str, object]:
    return {name: getattr(error, name, "") for name in ("file", "line", "key", "message", "remedy")}


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


def _count(loaded: Policy) -> int:
    count = 0
    for layer in loaded.layers:
        for section in (layer.files, layer.network, layer.exec):
            fields: tuple[object, ...] = section or ()  # type: ignore[assignment]  # every value is a tuple
            count += sum(len(field) for field in fields if isinstance(field, tuple))
        count += len(layer.rules)
    return count


for command in (explain, test, learn, diff):
    policy.add_command(command)
