"""A policy's tests: what passes, what does not, and what is wrong with the file itself."""

from __future__ import annotations

import pytest

from agent_safety_layer.policy import PolicyMistakes, load_text
from agent_safety_layer.policy.trial import read, run

HERE = {"WORKSPACE": "/w", "HOME": "/home/u", "CWD": "/w"}
POLICY = """
files: {read: [/w], write: [/w/out], block: ["~/.ssh"]}
exec: {ask: ["git push*"]}
rules:
  - {name: careful, on: net, after: {on: file.read, path: /w/customers}, action: ask}
"""
TESTS = """
policy: policy.yaml
variables: {WORKSPACE: /w, HOME: /home/u}
tests:
  - file.read ~/.ssh/id: block
  - file.write out/a: allow
  - file.write a: allow
  - net.connect x.com:443: allow
  - operation: git push
    expect: ask
    rule: exec.ask
    where: policy.yaml:3
  - operation: git push
    expect: ask
    rule: exec.block
  - name: no export
    after: [file.read customers/a]
    operation: net.connect x.com:443
    expect: require_approval
"""


def test_results() -> None:
    suite = read(TESTS.encode(), "tests.yaml")
    assert suite.policy == ("policy.yaml",)
    results = run(suite, load_text(POLICY, variables=HERE), suite.variables)
    assert [result.passed for result in results] == [True, True, False, True, True, False, True]
    assert [result.case.line for result in results] == [5, 6, 7, 8, 9, 13, 16]
    assert results[2].decision.rule == "files.write"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("tests: []", 1, "at least one"),
        ("test:\n  - a: allow", 1, "tests"),
        ("tests:\n  - file.read /x: alow", 2, "allow"),
        ("tests:\n  - {operation: ls, expects: allow}", 2, "expect"),
        ("tests:\n  - {expect: allow, name: x}", 2, "operation"),
        ("tests:\n  - just text", 2, "mapping"),
        ("variables: {HOM: /x}\ntests:\n  - ls: allow", 1, "HOME"),
        ("variables: {HOME: x}\ntests:\n  - ls: allow", 1, "absolute"),
        ("tests: [", 1, "YAML"),
    ],
)
def test_mistakes_have_their_line(text: str, line: int, said: str) -> None:
    with pytest.raises(PolicyMistakes, match=said) as caught:
        read(text.encode(), "tests.yaml")
    assert caught.value.line == line


def test_all_senseless_operations_are_told_at_once() -> None:
    suite = read(b"tests:\n  - file.reed /x: allow\n  - ls: allow\n  - net.connect x: block\n", "t.yaml")
    with pytest.raises(PolicyMistakes) as caught:
        run(suite, load_text(POLICY, variables=HERE), HERE)
    assert [mistake.line for mistake in caught.value.mistakes] == [2, 4]
