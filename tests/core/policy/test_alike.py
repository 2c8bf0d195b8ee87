"""Names that are alike to a policy: whatever its patterns are, it decides the same about all of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_safety_layer.events import ACTIONS, Event
from agent_safety_layer.policy import Policy, State, decide, load_text, varying

HERE = {"WORKSPACE": "/w", "HOME": "/home/u", "TMP": "/tmp/run"}
KINDS = ("file.read", "file.list", "file.write", "file.create", "file.delete", "file.meta")
NAMES = ("a", "b", "ab", "ba", "a.x", "b.x", ".x", "abc")
SEGMENTS = (*NAMES, "*", "**", "a*", "*.x", "?b", "[ab]", "*a*", "{a,b}.x")

segments = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4)
patterns = segments.map(lambda parts: "/" + "/".join(parts))
alone = patterns.map(lambda pattern: f"{pattern}/.")
lists = st.lists(patterns | alone, max_size=3)
more = st.sampled_from(("", "", "match: 'z', ", "match: '[.]x', ", "argv: 'no *', "))
rule = st.tuples(st.sets(st.sampled_from(KINDS), min_size=1), patterns, more, st.sampled_from(ACTIONS))


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    lines = ["files:"]
    for key in ("read", "write"):
        lines.append(f"  {key}: {[*draw(lists), '/']!r}" if draw(st.booleans()) else f"  {key}: {draw(lists)!r}")
    lines += [f"  {key}: {draw(st.lists(patterns, max_size=3))!r}" for key in ("block", "ask", "protect")]
    rules = draw(st.lists(rule, max_size=3))
    if rules:
        lines.append("rules:")
    lines += [
        f"  - {{name: r{i}, on: [{', '.join(sorted(on))}], path: {path!r}, {closer}action: {action}}}"
        for i, (on, path, closer, action) in enumerate(rules)
    ]
    return load_text("\n".join(lines) + "\n", name="p.yaml", variables=HERE)


def said(policy: Policy, kind: str, path: str) -> tuple[str, str, str]:
    decision = decide(policy, State(), Event(kind, path=path))
    return decision.action, decision.rule, decision.where


@settings(max_examples=400, deadline=None)
@given(policies(), st.lists(st.sampled_from(NAMES), min_size=1, max_size=3), st.sampled_from(KINDS))
def test_the_policy_decides_the_same_about_names_that_are_alike(policy: Policy, folders: list[str], kind: str) -> None:
    folder = "/" + "/".join(folders)
    found = varying(policy, kind, folder)
    if found is None:
        assert any(rule.condition.match or rule.condition.argv for rule in policy.layers[-1].rules)
        return
    alike = [f"{folder}/{name}" for name in (*NAMES, "of no pattern", "z") if not found.about(name)]
    for other in (f"{folder}/of no pattern", *(f"{folder}/{name}" for name in NAMES), "/a", "/ab/a", "/z"):
        if varying(policy, kind, other) is found:
            alike += [f"{other}/{name}" for name in (*NAMES, "z") if not found.about(name)]
    assert len({said(policy, kind, path) for path in alike}) <= 1


@pytest.mark.parametrize(
    ("section", "kind", "name", "about"),
    [
        ("files: {read: [/], block: ['/w/secret']}", "file.read", "secret", True),
        ("files: {read: [/], block: ['/w/secret']}", "file.read", "other", False),
        ("files: {read: [/], block: ['/w/secret/deep']}", "file.create", "secret", True),  # its place
        ("files: {read: [/], block: ['**/.env']}", "file.read", ".env", True),
        ("files: {read: [/], block: ['**/.env']}", "file.read", ".envrc", False),
        ("files: {read: [/], ask: ['/w/*.pem']}", "file.read", "a.pem", True),
        ("files: {read: [/], ask: ['/w/*.pem']}", "file.read", "a.pen", False),
        ("files: {read: ['/w/only/.']}", "file.list", "only", True),
        ("files: {write: [/w], protect: ['/w/a/*']}", "file.write", "a", True),
        ("rules: [{name: r, on: file.read, path: '/w/x*', action: block}]", "file.read", "xy", True),
        ("rules: [{name: r, on: file.read, path: '/w/x*', action: block}]", "file.read", "y", False),
        (
            "rules: [{name: r, on: file.read, path: '/w/x*', action: block}]",
            "file.write",
            "xy",
            True,
        ),  # opened for both
        ("rules: [{name: r, on: file.read, path: '/w/x*', action: block}]", "file.delete", "xy", False),
        ("rules: [{name: r, on: file.read, path: '/other/x*', action: block}]", "file.read", "xy", False),
    ],
)
def test_what_a_pattern_could_be_about(section: str, kind: str, name: str, about: bool) -> None:
    found = varying(load_text(section + "\n", name="p.yaml", variables=HERE), kind, "/w")
    assert found is not None
    assert found.about(name) is about


@pytest.mark.parametrize("condition", ["match: 'x'", "argv: 'x *'", ""])
def test_no_name_is_like_another_to_a_rule_that_looks_at_more_than_the_path(condition: str) -> None:
    more = f", {condition}" if condition else ""
    policy = load_text(f"rules: [{{name: r, on: file.read{more}, action: block}}]\n", name="p.yaml", variables=HERE)
    assert varying(policy, "file.read", "/w") is None
    assert varying(policy, "file.delete", "/w") is not None


@pytest.mark.parametrize("condition", ["match: 'x'", "argv: 'x *'"])
@pytest.mark.parametrize("path", ["**", "/w", "/w/**", "/w/in", "**/in", "/w/*"])
def test_nor_to_one_that_looks_at_more_where_its_path_leads(path: str, condition: str) -> None:
    text = f"rules: [{{name: r, on: file.read, path: '{path}', {condition}, action: block}}]\n"
    policy = load_text(text, name="p.yaml", variables=HERE)
    assert varying(policy, "file.read", "/w/in") is None
    assert varying(policy, "file.delete", "/w/in") is not None
    elsewhere = varying(policy, "file.read", "/other")
    assert (elsewhere is None) is (path == "**")


def test_folders_that_the_same_patterns_cover_are_alike() -> None:
    text = "files: {read: [/], write: [/w], block: ['**/.env', '/w/a/b*/c']}\n"
    policy = load_text(text, name="p.yaml", variables=HERE)
    for alike in (("/w/x", "/w/y", "/w/x/deep", "/w/a/x"), ("/other", "/else/where"), ("/w/a/b", "/w/a/bb")):
        assert len({id(varying(policy, "file.read", folder)) for folder in alike}) == 1
    ones = [varying(policy, "file.read", folder) for folder in ("/w/x", "/other", "/w/a", "/w/a/b", "/w/a/b/c")]
    assert len(set(ones)) == len(ones)
    assert varying(policy, "file.write", "/w/x") is not varying(policy, "file.read", "/w/x")
