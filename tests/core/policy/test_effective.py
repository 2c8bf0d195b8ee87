"""A policy written out says the same when it is read again, and shows where each line comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent_safety_layer.policy import PROFILES, Policy, load, load_text
from agent_safety_layer.policy.effective import effective

HERE = {"WORKSPACE": "/home/u/w", "HOME": "/home/u", "TMP": "/tmp/run"}
OWN = """
version: 1
name: 'a "quoted" name'
mode: observe
files: {read: [/usr, "/home/u/."], write: []}
network: {allow: ["x.com:443", "[::1]:80"], listen: [], unix: ["@a", /run/x], private_ips: true}
exec: {ask: ["git push*"], allow: []}
environment: {pass: [A_TOKEN], set: {B: "1: x", C: ''}}
limits: {wall_time: 1h30m, memory: 2GiB, processes: 7, cpu: 50%}
rules:
  - {name: a, on: file, path: "/x/*", match: 'a\\s"b', action: warn, reason: "it's so"}
  - {on: net, host: "*.x.com", after: {on: file.read, path: /c, same: path}, action: block}
  - {on: process.exec, argv: "rm *", action: ask}
approvals: {timeout: 10s, on_timeout: allow}
on_violation: kill
record: changes
"""


def plain(value: Any) -> Any:
    """The value without the places where things stand."""
    if isinstance(value, tuple):
        fields = getattr(value, "_fields", None)
        if fields is None:
            return tuple(plain(inner) for inner in value)
        places = ("origin", "read_list", "write_list", "allow_list")
        return {
            name: bool(inner) if name in places else plain(inner) for name, inner in zip(fields, value, strict=True)
        }
    return value


def again(policy: Policy) -> Policy:
    return load_text("\n".join(effective(policy)), variables=HERE)


@pytest.mark.parametrize("name", [*PROFILES, "secrets"])
def test_profiles_say_the_same_again(name: str) -> None:
    policy = load((name,), variables=HERE)
    assert plain(again(policy).layers) == plain(policy.layers)


def test_a_policy_with_everything_says_the_same_again() -> None:
    policy = load_text(OWN, variables=HERE)
    assert plain(again(policy).layers) == plain(policy.layers)


def test_what_protects_the_policys_own_file_is_written_as_paths(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("files: {read: [/], write: ['${WORKSPACE}']}\n")
    lines = effective(load((str(file),), variables=HERE))
    assert [line for line in lines if f'- "{file}"' in line and "built-in" in line]
    assert load_text("\n".join(lines), variables=HERE).layers[0].files


def test_each_line_says_where_it_stands() -> None:
    lines = effective(load(("ci",), variables=HERE))
    ssh = next(line for line in lines if '"${HOMES}/.ssh"' in line)
    assert ssh.partition("# ")[2].startswith("profiles/secrets.yaml:")
    assert any('"${WORKSPACE}"' in line and "profiles/workspace.yaml:" in line for line in lines)


def test_layers_are_documents() -> None:
    lines = effective(load(("ci", "strict"), variables=HERE))
    assert lines.count("---") == 1
    assert "layer 2 of 2" in "\n".join(lines)
