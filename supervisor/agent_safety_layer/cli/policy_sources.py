"""What the ``asl policy`` commands share: where policies come from, and what their variables stand for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent_safety_layer.policy import Policy

SOURCE = "NAME|FILE"
POLICIES = click.option(
    "-p", "--policy", "sources", metavar=SOURCE, multiple=True, help="The policy. Repeatable: layers."
)


def variables_here() -> dict[str, str]:
    """What a run that was started here would fill in; the folders need not exist."""
    from agent_safety_layer.state import state_path, working_directory

    here = working_directory()
    return {
        "WORKSPACE": here,
        "CWD": here,
        "HOME": os.path.expanduser("~"),
        "TMP": "/tmp/asl-run",
        "USER": os.environ.get("USER", str(os.getuid())),
        "STATE": state_path(),
    }


def sources_with_administrator(sources: Sequence[str]) -> tuple[str, ...]:
    """The sources of a run with these ``-p``: the default without any, and the administrator's where there is one."""
    from agent_safety_layer.policy import ADMINISTRATOR, DEFAULT

    given = tuple(sources) or (DEFAULT,)
    return (*given, ADMINISTRATOR) if os.path.lexists(ADMINISTRATOR) and ADMINISTRATOR not in given else given


def layers_of(sources: Sequence[str], variables: Mapping[str, str]) -> Policy:
    """The policy that the sources make, one layer each."""
    from agent_safety_layer.policy import load

    return load(sources, variables=variables)
