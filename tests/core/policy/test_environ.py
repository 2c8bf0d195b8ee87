"""What of the environment the child gets."""

from __future__ import annotations

import pytest

from agent_safety_layer.policy import Policy, environment, load, load_text

HERE = {"WORKSPACE": "/w", "HOME": "/home/u"}


def test_block_beats_pass_and_pass_beats_secrets() -> None:
    text = "environment: {secrets: ['*_{KEY,TOKEN}'], pass: [A_KEY, 'C*'], block: [C_KEY, D], set: {NEW: x, E: y}}"
    variables = dict.fromkeys(("A_KEY", "B_KEY", "B_TOKEN", "C_KEY", "D", "E", "KEY"), "1")
    assert environment(load_text(text, variables=HERE), variables) == {"A_KEY": "1", "E": "y", "KEY": "1", "NEW": "x"}


def test_every_enforcing_layer_strips_and_the_last_one_sets() -> None:
    texts = ("environment: {block: [A], set: {X: '1'}}", "environment: {block: [B], set: {X: '2'}}")
    watching = "mode: observe\nenvironment: {block: [C], set: {Y: '1'}}"
    policy = Policy(tuple(load_text(text, variables=HERE).layers[0] for text in (*texts, watching)))
    assert environment(policy, {"A": "", "B": "", "C": "", "D": ""}) == {"C": "", "D": "", "X": "2"}


@pytest.mark.parametrize(
    "name",
    [
        *(
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "GITHUB_TOKEN",
            "GH_TOKEN",
            "NPM_TOKEN",
            "DB_PASSWORD",
            "STRIPE_API_KEY",
        ),
        *("SSH_AUTH_SOCK", "DATABASE_URL", "KUBECONFIG", "DBUS_SESSION_BUS_ADDRESS", "GOOGLE_APPLICATION_CREDENTIALS"),
        *("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "HF_TOKEN", "MY_SECRET", "SECRET_THING", "TWINE_PASSWORD"),
    ],
)
def test_secrets_stay_outside(name: str) -> None:
    assert environment(load(variables=HERE), {name: "x", "PATH": "/bin"}) == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "HOME",
        "LANG",
        "TERM",
        "PWD",
        "OLDPWD",
        "VIRTUAL_ENV",
        "PYTHONPATH",
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
    ],
)
def test_what_an_agent_needs_comes_along(name: str) -> None:
    assert environment(load(variables=HERE), {name: "x"}) == {name: "x"}
    if name.endswith("_API_KEY"):
        assert name not in environment(load(["strict"], variables=HERE), {name: "x"})


@pytest.mark.parametrize("text", ["files: {read: [/]}", "environment: {block: [A]}", "environment: {secrets: ['*_X']}"])
def test_secrets_stay_outside_of_a_policy_that_extends_nothing(text: str) -> None:
    given = {"GITHUB_TOKEN": "x", "OPENAI_API_KEY": "x", "HOME": "/home/u"}
    assert environment(load_text(text, variables=HERE), given) == {"HOME": "/home/u"}


def test_what_is_passed_comes_along_though_nothing_is_extended() -> None:
    policy = load_text("environment: {pass: [GITHUB_TOKEN]}", variables=HERE)
    assert environment(policy, {"GITHUB_TOKEN": "x", "NPM_TOKEN": "y"}) == {"GITHUB_TOKEN": "x"}


def test_another_layer_without_an_opinion_takes_nothing_away() -> None:
    limits = load_text("limits: {memory: 1GiB}", variables=HERE)
    both = Policy((*load(variables=HERE).layers, *limits.layers))
    assert environment(both, {"OPENAI_API_KEY": "x", "NPM_TOKEN": "y"}) == {"OPENAI_API_KEY": "x"}
