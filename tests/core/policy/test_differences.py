"""Differences are found by example, none is missed that random operations find, and idle lines are idle."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_safety_layer.events import ALLOW, ASK, BLOCK, Event
from agent_safety_layer.policy import Policy, State, decide, load, load_text
from agent_safety_layer.policy.differences import differences, idle
from agent_safety_layer.policy.differences import settings as settings_that_differ
from agent_safety_layer.policy.files import CHANGES
from agent_safety_layer.policy.operations import written
from agent_safety_layer.policy.witnesses import sample

HERE = {"WORKSPACE": "/w", "HOME": "/home/u", "TMP": "/tmp/run"}


def policy(text: str) -> Policy:
    return load_text(text, variables=HERE)


def told(first: str, second: str) -> list[tuple[str, str, str]]:
    return [
        (written(one.example), one.first.action, one.second.action)
        for one in differences(policy(first), policy(second))
    ]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("files: {read: [/w]}", "files: {read: [/w]}", set()),
        (
            "files: {read: [/w]}",
            "files: {read: [/w, /srv]}",
            {("file.read /srv", BLOCK, ALLOW)},
        ),
        (
            "files: {read: [/], block: ['/w/**/*.key']}",
            "files: {read: [/]}",
            {("file.read /w/example.key", BLOCK, ALLOW)},
        ),
        ("network: {allow: ['x.com:443']}", "network: {allow: ['x.com']}", {("net.connect x.com:22", BLOCK, ALLOW)}),
        (
            "network: {allow: ['x.com:400-500']}",
            "network: {allow: ['x.com:401-500']}",
            {("net.connect x.com:400", ALLOW, BLOCK)},
        ),
        ("network: {allow: ['10.0.0.0/8']}", "network: {allow: ['10.0.0.0/9']}", {("net.connect", ALLOW, BLOCK)}),
        ("exec: {block: ['git push*']}", "exec: {ask: ['git push*']}", {("process.exec git push", BLOCK, ASK)}),
        (
            "rules: [{name: a, on: process.exec, match: 'rm\\s+-rf\\s+/(\\s|$)', action: block}]",
            "rules: []",
            {("process.exec rm -rf /", BLOCK, ALLOW)},
        ),
    ],
)
def test_examples(first: str, second: str, expected: set[tuple[str, str, str]]) -> None:
    found = told(first, second)
    for operation, one, two in expected:
        assert any(has.startswith(operation) and (before, after) == (one, two) for has, before, after in found)
    if not expected:
        assert not found


def test_the_looser_ones_come_first_and_both_ways_are_told() -> None:
    found = differences(policy("files: {read: [/a, /b]}"), policy("files: {read: [/b, /c]}"))
    assert [(one.looser, written(one.example)) for one in found] == [(True, "file.read /c"), (False, "file.read /a")]


def test_a_rule_that_waits_is_looked_at_once_it_waits_no_more() -> None:
    rule = "rules: [{name: a, on: net, after: {on: file.read, path: /c}, action: block}]"
    found = [one for one in differences(policy(rule), policy("rules: []")) if one.example.kind == "net.connect"]
    assert [(one.later, one.first.action, one.second.action) for one in found] == [(True, BLOCK, ALLOW)]


def test_built_in_profiles_become_stricter() -> None:
    names = ("workspace", "ci", "strict")
    loaded = [load((name,), variables={**HERE, "WORKSPACE": "/home/u/w"}) for name in names]
    for looser, stricter in pairwise(loaded):
        assert [written(one.example) for one in differences(looser, stricter) if one.looser] == []
        assert any(not one.looser for one in differences(looser, stricter))


def test_settings() -> None:
    one, two = policy("limits: {memory: 1GiB}"), policy("on_violation: kill")
    assert {name for name, *_ in settings_that_differ(one, two)} == {"limits.memory", "on_violation"}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("files: {read: [/w, /w/a]}", ["/w/a"]),
        ("files: {read: [/w], write: [/w]}", ["/w"]),
        ("files: {read: [/w], block: [/w/a]}", []),
        ("files: {read: [/w], block: [/x]}", ["/x"]),
        ("files: {block: [/x, '/x/**/*.key']}", ["/x/**/*.key"]),
        ("files: {read: [/w], protect: [/w/a]}", ["/w/a"]),
        ("network: {allow: ['*.x.com', 'a.x.com', 'x.com']}", ["a.x.com"]),
        ("network: {allow: ['10.0.0.0/8', '10.1.0.0/16']}", ["10.1.0.0/16"]),
        ("exec: {block: [git, 'git push*', rm]}", ["git push*"]),
        ("exec: {allow: [ls], block: [rm]}", ["rm"]),
        ("rules: [{name: a, on: net, action: block}, {name: b, on: net, host: x.com, action: ask}]", ["b"]),
        ("rules: [{name: a, on: net, host: x.com, action: block}]", []),
        ("rules: [{name: a, on: file.read, path: /x, action: allow}]", ["a"]),
    ],
)
def test_lines_that_can_never_matter(text: str, lines: list[str]) -> None:
    assert [line.text for line in idle(policy(text))] == lines


def test_no_line_of_a_profile_is_told() -> None:
    assert idle(load(("workspace", "strict"), variables=HERE)) == []


@pytest.mark.parametrize(
    "pattern", [r"rm\s+-rf\s+/(\s|$)", "^a+b{2,3}[c-e]?$", "(x|y)z", r"\d{4}-\d\d", "[^a]b", "a.c", r"(?i)secret"]
)
def test_texts_for_patterns(pattern: str) -> None:
    import re2

    found = sample(pattern)
    assert found is not None
    assert re2.search(pattern, found)


# Whatever a random operation shows, an example shows.

_NAMES = ["a", "b", "ab", "x.key", ".env"]
_PATTERN = st.lists(st.sampled_from(["a", "b", "*", "**", "a*", "*.key", ".env", "[ab]"]), min_size=1, max_size=3).map(
    lambda parts: "/" + "/".join(parts)
)
_FILES = st.dictionaries(
    st.sampled_from(["read", "write", "block", "ask", "protect"]), st.lists(_PATTERN, min_size=1, max_size=3)
)
_PATH = st.lists(st.sampled_from(_NAMES), max_size=4).map(lambda parts: "/" + "/".join(parts))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(_FILES, _FILES, st.lists(_PATH, min_size=20, max_size=40))
def test_no_difference_in_files_is_missed(
    first: dict[str, list[str]], second: dict[str, list[str]], paths: list[str]
) -> None:
    one, two = (policy("files: " + json.dumps(files)) for files in (first, second))
    found = differences(one, two)
    known = {(each.example.kind in CHANGES, each.first.action, each.second.action) for each in found}
    for path in paths:
        for kind in ("file.read", "file.write"):
            event = Event(kind, path=path)
            actions = decide(one, State(), event).action, decide(two, State(), event).action
            if actions[0] != actions[1]:
                assert (kind in CHANGES, *actions) in known


@settings(max_examples=100, deadline=None, derandomize=True)
@given(_FILES, st.lists(_PATH, min_size=20, max_size=40))
def test_what_is_called_idle_can_be_left_out(files: dict[str, list[str]], paths: list[str]) -> None:
    whole = policy("files: " + json.dumps(files))
    unused = idle(whole)
    if not unused:
        return
    line = unused[0]
    _, _, key = line.key.partition(".")
    left = {**files, key: [text for text in files[key] if text != line.text]}
    less = policy("files: " + json.dumps(left))
    if files[key].count(line.text) > 1:
        return
    for path in paths:
        for kind in ("file.read", "file.write"):
            event = Event(kind, path=path)
            assert decide(whole, State(), event).action == decide(less, State(), event).action
