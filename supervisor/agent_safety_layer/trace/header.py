"""The fields of a trace's first line; the report and ``asl trace list`` read the same names."""

from __future__ import annotations

import os

from agent_safety_layer.trace import redact
from agent_safety_layer.trace.encode import Encoded, encoded

SCHEMA = 1
KEY_VARIABLE = "ASL_TRACE_KEY"
KEY = "trace.key"  # in the state folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent_safety_layer.policy import Policy


def header(
    *,
    run: str,
    time: float,
    command: Sequence[str],
    cwd: str,
    policies: Sequence[str],
    policy_hash: str,
    mode: str,
    backend: str,
    enforced: Mapping[str, str],
    not_enforced: Sequence[str] = (),
    name: str = "",
) -> dict[str, object]:
    """What is known when a run starts: ``enforced`` maps a mechanism to what it holds, ``not_enforced`` lists the rest.

    ``time`` is seconds since the epoch, ``policy_hash`` hexadecimal. The command is redacted; environment values are
    never part of a trace.
    """
    machine = os.uname()
    argv = tuple(command)
    return {
        "run": run,
        "name": name,
        "time": time,
        "command": redact.arguments(argv),
        "cwd": cwd,
        "policy": {"names": list(policies), "sha256": policy_hash, "mode": mode},
        "backend": backend,
        "enforced": dict(enforced),
        "not_enforced": list(not_enforced),
        "machine": {
            "system": machine.sysname,
            "release": machine.release,
            "arch": machine.machine,
            "uid": os.geteuid(),
        },
    }


def with_policy(fields: Mapping[str, object], policy: Policy, variables: Mapping[str, str]) -> dict[str, object]:
    """The header with all that a replay needs: the policy's ``layers`` and the ``variables`` that filled it in.

    They are for the trace alone: 20 kB that nobody wants to see in a report.
    """
    named = fields.get("policy")
    about = dict(named) if isinstance(named, dict) else {}
    return {**fields, "policy": {**about, "layers": told(policy), "variables": dict(variables)}}


def told(policy: Policy) -> Encoded:
    """The policy's layers as JSON, made once: most of what a header is."""
    text = policy.told
    if text is None:
        from agent_safety_layer.policy.plain import plain

        text = policy.told = encoded(plain(policy))
    return text


def key_path(state: str) -> str:
    """The path of the key that traces are signed with, or nothing. ``state`` is the state folder."""
    default = f"{state}/{KEY}"
    return os.environ.get(KEY_VARIABLE, "") or (default if os.path.lexists(default) else "")
