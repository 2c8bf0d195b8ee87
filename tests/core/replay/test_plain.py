"""A policy survives being written into a trace."""

import json

import pytest

from agent_safety_layer.policy import PROFILES, Policy, load
from agent_safety_layer.policy.model import Environment
from agent_safety_layer.policy.plain import plain, rebuilt
from agent_safety_layer.trace.encode import dumps
from asl_hooks.value import replace
from tests.core.replay.scenes import LOOSE, STATEFUL, VARIABLES, policy

EVERYTHING = """
version: 1
name: everything
extends: [strict]
mode: observe
files: {read: ["/usr", "/a{b,c}"], write: ["${WORKSPACE}"], block: ["**/.env"], ask: ["~/Documents"], protect: ["/w/x"]}
network:
  allow: ["api.openai.com:443", "*.x.com", "10.1.0.0/16:5432", "localhost:1", "[::1]:2"]
  block: ["*.internal"]
  ask: ["*:443"]
  listen: ["127.0.0.1:8000-8100"]
  unix: ["/run/postgresql/*"]
  private_ips: true
exec: {allow: [git], block: [sudo], ask: ["git push*"]}
limits: {wall_time: 1h, memory: 2GiB, processes: 64}
environment: {set: {SECRET_OF_MINE: hunter2}}
rules:
  - {name: a, on: [file.read, net], host: "*.y.com", action: warn, reason: "é \\ud83d"}
  - {name: b, on: process.exec, argv: "rm -rf *", action: block}
  - {name: c, on: net, after: {on: file.read, path: "**/customers/**"}, action: require_approval}
  - {name: d, on: process.exec, after: {on: file.write, same: path}, action: audit}
approvals: {timeout: 5m, on_timeout: allow}
on_violation: kill
"""


def without_environment(whole: Policy) -> Policy:
    return Policy(tuple(replace(layer, environment=Environment()) for layer in whole.layers))


@pytest.mark.parametrize("text", [STATEFUL, LOOSE, EVERYTHING])
def test_a_policy_comes_back_equal(text):
    whole = policy(text.replace("\\ud83d", ""))
    again = rebuilt(json.loads(dumps(plain(whole))))
    assert again == without_environment(whole)
    assert repr(again.layers) == repr(without_environment(whole).layers)


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_come_back_equal(name):
    whole = load((name, "workspace"), variables=VARIABLES)
    assert rebuilt(json.loads(dumps(plain(whole)))) == without_environment(whole)


def test_values_of_the_environment_are_not_written():
    whole = policy(EVERYTHING)
    assert any("hunter2" in said for _, said in whole.layers[0].environment.put)
    assert "hunter2" not in dumps(plain(whole))


@pytest.mark.parametrize(
    "layers",
    [[{}], [{"name": "x", "unknown": 1}], [{"name": "x", "files": []}], [{"name": "x", "rules": [{}]}], [1], [None]],
)
def test_what_is_no_policy_is_a_value_error(layers):
    with pytest.raises(ValueError, match="not a policy"):
        rebuilt(layers)
