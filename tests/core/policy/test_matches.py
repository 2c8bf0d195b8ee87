"""What is told about a decision: everything that matches, and steps that really lead to another decision."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_safety_layer.events import ALLOW, ASK, AUDIT, BLOCK, WARN, Decision, Event
from agent_safety_layer.policy import Policy, State, advance, decide, load_text
from agent_safety_layer.policy.matches import altered, change, explain
from agent_safety_layer.policy.operations import parse

HERE = {"WORKSPACE": "/w", "HOME": "/home/u", "TMP": "/tmp/run"}
TEXT = """
files:
  read: [/usr, /w]
  write: [/w]
  block: [/w/key, "/w/**/*.pem"]
  ask: [/w/docs]
network:
  allow: ["x.com:443"]
  block: ["evil.com"]
  ask: ["*.y.com"]
exec:
  block: ["rm -rf*", rm]
rules:
  - {name: careful, on: net, after: {on: file.read, path: /w/customers}, action: ask}
"""


def policy(*texts: str) -> Policy:
    return Policy(tuple(load_text(text, name=f"p{n}.yaml", variables=HERE).layers[0] for n, text in enumerate(texts)))


def explained(
    operation: str, *texts: str, state: State | None = None
) -> tuple[str, list[tuple[str, str]], tuple[str, ...]]:
    found = explain(policy(*(texts or (TEXT,))), state or State(), parse(operation, HERE, look=False))
    return found.decision.action, [(match.key, match.text) for match in found.matches], found.change


@pytest.mark.parametrize(
    ("operation", "action", "matching", "steps"),
    [
        (
            "file.read key/a.pem",
            BLOCK,
            [
                ("files.block", "/w/key"),
                ("files.block", "/w/**/*.pem"),
                ("files.write", "/w"),
                ("files.read", "/w"),
            ],
            2,
        ),
        ("file.read docs/a", ASK, [("files.ask", "/w/docs"), ("files.write", "/w"), ("files.read", "/w")], 1),
        ("file.write /etc/x", BLOCK, [], 1),
        ("file.write x", ALLOW, [("files.write", "/w")], 1),
        ("net.connect x.com:443", ALLOW, [("network.allow", "x.com:443"), ("rules", "careful")], 1),
        ("net.connect x.com:80", BLOCK, [("rules", "careful")], 1),
        ("net.connect evil.com:80", BLOCK, [("network.block", "evil.com"), ("rules", "careful")], 2),
        ("net.connect a.y.com:80", ASK, [("network.ask", "*.y.com"), ("rules", "careful")], 2),
        ("net.connect 169.254.169.254:80", BLOCK, [("rules", "careful")], 0),
        ("rm -rf x", BLOCK, [("exec.block", "rm -rf*"), ("exec.block", "rm")], 2),
    ],
)
def test_every_line_that_matches_is_told(
    operation: str, action: str, matching: list[tuple[str, str]], steps: int
) -> None:
    found = explained(operation)
    assert (found[0], found[1]) == (action, matching)
    assert len(found[2]) == steps


def test_layers_answer_each_for_itself() -> None:
    found = explain(
        policy("files: {read: [/w]}", "files: {block: [/w/x]}"), State(), parse("file.read x", HERE, look=False)
    )
    assert [answer.action for _, answer in found.answers] == [ALLOW, BLOCK]
    assert [match.layer for match in found.matches] == ["p0", "p1"]


def test_a_rule_that_waits_is_told_with_what_for() -> None:
    chosen = policy(TEXT)
    event = parse("net.connect x.com:443", HERE, look=False)
    before = explain(chosen, State(), event)
    assert before.decision.action == ALLOW
    assert "customers" in before.matches[-1].note
    read = Event("file.read", path="/w/customers/a")
    state = advance(chosen, State(), read, Decision(ALLOW))
    assert explain(chosen, state, event).decision == decide(chosen, state, event)
    assert explain(chosen, state, event).decision.action == ASK


_PATHS = ["/w", "/w/a", "/w/a/b", "/w/a/*", "/w/**/b", "/etc", "/", "/w/a/."]
_KEYS = ["read", "write", "block", "ask", "protect"]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(_KEYS), st.lists(st.sampled_from(_PATHS), max_size=3), min_size=1),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(["file.read /w/a", "file.write /w/a/b", "file.read /etc/x", "file.rename /w/a -> /etc/b"]),
)
def test_the_steps_told_lead_to_what_is_told(layers: list[dict[str, list[str]]], operation: str) -> None:
    texts = ["files: {" + ", ".join(f"{k}: {_written(k, v)}" for k, v in layer.items()) + "}" for layer in layers]
    chosen, event = policy(*texts), parse(operation, HERE, look=False)
    decision = decide(chosen, State(), event)
    steps, to = change(chosen, State(), event)
    assert steps  # nothing in such policies is unalterable
    if decision.action not in (ASK, BLOCK):
        assert to == BLOCK
        return
    assert to in (ALLOW, AUDIT, WARN)
    count = 0
    while decision.action in (ASK, BLOCK):
        changed = altered(chosen, State(), event, decision)
        assert changed is not None
        chosen, count = changed, count + 1
        decision = decide(chosen, State(), event)
        assert count < 20


def _written(key: str, paths: list[str]) -> str:
    return "[" + ", ".join(f'"{path}"' for path in paths if key in ("read", "write") or path != "/w/a/.") + "]"
