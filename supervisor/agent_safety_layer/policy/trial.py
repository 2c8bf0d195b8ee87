"""Operations and the decisions expected of them, from a YAML file: a policy's tests.

    policy: [policy.yaml]              # beside this file; -p replaces it
    variables: {HOME: /home/sam, WORKSPACE: /home/sam/project}
    tests:
      - file.read ~/.ssh/id_ed25519: block
      - net.connect api.example.com:443: allow
      - operation: process.exec git push origin HEAD
        expect: ask
        rule: exec.ask                 # which rule must decide, and in `where` which line
      - after: [file.read customers/list.csv]
        operation: net.connect api.example.com:443
        expect: ask

With ``variables``, operations mean the same on every machine: links are not followed, programs are not looked for. What
``after`` lists is done by the same process before the operation is judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_safety_layer.errors import PolicyError, UsageError
from agent_safety_layer.events import Decision, Event
from agent_safety_layer.policy import operations
from agent_safety_layer.policy.decision import decide
from agent_safety_layer.policy.reader import PolicyMistakes, action, suggest
from agent_safety_layer.policy.state import State, advance
from agent_safety_layer.policy.yaml import compose
from asl_hooks.value import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent_safety_layer.policy.model import Policy
    from agent_safety_layer.policy.yaml import Node

_TOP = ("version", "policy", "variables", "tests")
_KEYS = ("name", "operation", "expect", "rule", "where", "after")
_PID = 1


@dataclass(frozen=True, slots=True)
class Case:
    """One expectation and the line where it stands. ``expect`` is an action; ``rule`` and ``where`` may be empty."""

    operation: str
    expect: str
    line: int
    rule: str = ""
    where: str = ""
    name: str = ""
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suite:
    """What a file holds: ``policy`` are sources as they are written, ``variables`` empty when it has none."""

    file: str
    policy: tuple[str, ...]
    variables: dict[str, str]
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What a case came to. ``decision`` is what was found, ``event`` what it was found for."""

    case: Case
    event: Event
    decision: Decision

    @property
    def passed(self) -> bool:
        """Whether what was found is what was expected."""
        case, found = self.case, self.decision
        return (
            case.expect == found.action
            and case.rule in ("", found.rule)
            and (not case.where or found.where == case.where or found.where.endswith(f"/{case.where}"))
        )


def read(raw: bytes, file: str) -> Suite:
    """The suite in *raw*. Raises ``PolicyMistakes`` with everything that is wrong with it."""
    mistakes: list[PolicyError] = []
    reader = _Reader(file, mistakes)
    try:
        suite = reader.suite(compose(raw, file))
    except PolicyError as error:
        mistakes.append(error)
        suite = Suite(file, (), {}, ())
    if mistakes:
        raise PolicyMistakes(mistakes)
    return suite


def run(suite: Suite, policy: Policy, variables: Mapping[str, str]) -> list[Result]:
    """Each case's result, in order. Raises ``PolicyMistakes`` for operations that make no sense."""
    look = not suite.variables
    results: list[Result] = []
    mistakes: list[PolicyError] = []
    for case in suite.cases:
        try:
            *earlier, event = [
                replace(operations.parse(text, variables, look=look), pid=_PID)
                for text in (*case.after, case.operation)
            ]
        except UsageError as error:
            mistakes.append(PolicyError(error.message, file=suite.file, line=case.line, remedy=error.remedy))
            continue
        state = State()
        for one in earlier:
            state = advance(policy, state, one, decide(policy, state, one))
        results.append(Result(case, event, decide(policy, state, event)))
    if mistakes:
        raise PolicyMistakes(mistakes)
    return results


class _Reader:
    def __init__(self, file: str, mistakes: list[PolicyError]) -> None:
        self.file = file
        self.mistakes = mistakes

    def suite(self, node: Node) -> Suite:
        top, line = node
        if not isinstance(top, dict):
            self.wrong(line, "A file of tests is a mapping with tests: and usually policy:.")
            return Suite(self.file, (), {}, ())
        for key, (_, at) in top.items():
            if key not in _TOP:
                self.wrong(at, f"There is no key '{key}' here.", suggest(key, _TOP))
        policy = tuple(self.texts(top.get("policy", ([], line)), "policy"))
        tests, at = top.get("tests", (None, line))
        if not isinstance(tests, list) or not tests:
            self.wrong(at, "tests: must be a list with at least one test.")
            tests = []
        cases = [case for item in tests if (case := self.case(item)) is not None]
        return Suite(self.file, policy, self.variables(top), tuple(cases))

    def variables(self, top: dict[str, Node]) -> dict[str, str]:
        value, line = top.get("variables", (None, 0))
        if value is None:
            return {}
        found: dict[str, str] = {}
        for name, (text, at) in value.items() if isinstance(value, dict) else ():
            if name not in ("WORKSPACE", "HOME", "TMP", "STATE", "USER", "CWD"):
                known = ("WORKSPACE", "HOME", "TMP", "STATE", "USER", "CWD")
                self.wrong(at, f"There is no variable '{name}'.", suggest(name, known))
            elif not isinstance(text, str) or not (text.startswith("/") or name == "USER"):
                self.wrong(at, f"{name} must be an absolute path.")
            else:
                found[name] = text
        if not isinstance(value, dict):
            self.wrong(line, "variables: is a mapping from names to paths.")
        return found

    def case(self, node: Node) -> Case | None:
        value, line = node
        if not isinstance(value, dict) or not value:
            self.wrong(line, "A test is 'operation: decision', or a mapping with operation: and expect:.")
            return None
        if len(value) == 1:
            operation, (expected, _) = next(iter(value.items()))
            return self.made(operation, expected, line)
        for key, (_, at) in value.items():
            if key not in _KEYS:
                self.wrong(at, f"There is no key '{key}' in a test.", suggest(key, _KEYS))
        fields = {
            key: str(value[key][0]) for key in ("name", "rule", "where") if key in value and value[key][0] is not None
        }
        operation = value.get("operation", ("", line))[0]
        if not isinstance(operation, str) or not operation:
            self.wrong(line, "The test has no operation:.")
            return None
        case = self.made(operation, value.get("expect", (None, line))[0], line)
        if case is None:
            return None
        after = tuple(self.texts(value["after"], "after")) if "after" in value else ()
        return Case(case.operation, case.expect, line, **fields, after=after)

    def made(self, operation: str, expected: object, line: int) -> Case | None:
        try:
            return Case(operation, action(expected), line)
        except ValueError as error:
            self.wrong(line, f"{error}")
            return None

    def texts(self, node: Node, key: str) -> list[str]:
        value, line = node
        items = value if isinstance(value, list) else [node]
        for item, at in items:
            if not isinstance(item, str) or not item:
                self.wrong(at or line, f"{key}: is text, or a list of texts.")
        return [item for item, _ in items if isinstance(item, str) and item]

    def wrong(self, line: int, message: str, remedy: str = "") -> None:
        self.mistakes.append(PolicyError(message, file=self.file, line=line, remedy=remedy))


__all__ = ["Case", "Result", "Suite", "read", "run"]
