"""Policies: what an operation's text, type and context say about whether it may go on.

    PatternPolicy   a regular expression (BlockPolicy, WarnPolicy, AuditPolicy name the action)
    ApprovalPolicy  a type of operation that a person has to approve
    CustomPolicy    a function of yours
    PolicySet       several, evaluated together

``Policy.block_pattern`` and its siblings make them. The strictest result wins; the order of policies never matters.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_safety_layer.replay import RecordedOperation


class PolicyAction(Enum):
    """What is to become of an operation: the actions of ``agent_safety_layer.events``, by the same words."""

    ALLOW = "allow"
    BLOCK = "block"
    WARN = "warn"
    AUDIT = "audit"
    REQUIRE_APPROVAL = "require_approval"


@dataclass
class PolicyResult:
    """What one policy says about one operation.

    ``metadata`` holds what the policy knows more: the pattern and the text that matched it, a timeout in seconds.
    """

    action: PolicyAction
    policy_name: str
    reason: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def is_blocked(self) -> bool:
        """Whether the operation must not run."""
        return self.action is PolicyAction.BLOCK

    @property
    def requires_approval(self) -> bool:
        """Whether a person has to say yes first."""
        return self.action is PolicyAction.REQUIRE_APPROVAL


class Policy(ABC):
    """The base of all policies, and the place of the functions that make the usual ones.

    Your own derive from it and answer in ``evaluate``. ``name`` is what results, traces and ``remove_policy`` call it;
    ``description`` is the name when none is given. ``evaluate`` may run for an operation that is only asked about and
    at several threads' hands at once.

    >>> policy = Policy.block_pattern(r"rm\\s+-rf", "No recursive delete")
    >>> policy.evaluate("rm -rf /", {}).reason
    'No recursive delete'
    >>> policy.evaluate("ls", {}) is None
    True
    """

    def __init__(self, name: str, description: str | None = None) -> None:
        self.name = name
        self.description = description or name

    @abstractmethod
    def evaluate(self, operation: str, context: dict[str, Any]) -> PolicyResult | None:
        """The result when this policy is about the operation, None when it is not.

        ``operation`` is the text given to ``check`` or ``execute``, or a guarded function's name. ``context`` holds
        what was given with it; for a guarded function its arguments by name, and ``function``, ``args``, ``kwargs``.
        """

    def evaluate_recorded(self, operation: RecordedOperation, context: dict[str, Any]) -> PolicyResult | None:
        """The result for an operation of a recorded session, which may hold more than its text and context tell."""
        return self.evaluate(operation.operation, context)

    def fresh(self) -> Policy:
        """A policy like this one that has seen nothing yet, for a replay. Itself, unless it keeps a state."""
        return self

    @staticmethod
    def block_pattern(pattern: str, reason: str, name: str | None = None, flags: int = re.IGNORECASE) -> PatternPolicy:
        """A policy that blocks what the regular expression is found in. Raises ``re.error`` when it is not one."""
        return PatternPolicy(_pattern_name("block", pattern, name), pattern, PolicyAction.BLOCK, reason, flags)

    @staticmethod
    def warn_pattern(pattern: str, reason: str, name: str | None = None, flags: int = re.IGNORECASE) -> PatternPolicy:
        """A policy that lets matching operations run, logs a warning, and marks their trace entries."""
        return PatternPolicy(_pattern_name("warn", pattern, name), pattern, PolicyAction.WARN, reason, flags)

    @staticmethod
    def audit_pattern(pattern: str, reason: str, name: str | None = None, flags: int = re.IGNORECASE) -> PatternPolicy:
        """A policy that lets matching operations run and notes in their trace entries that it matched."""
        return PatternPolicy(_pattern_name("audit", pattern, name), pattern, PolicyAction.AUDIT, reason, flags)

    @staticmethod
    def require_approval(
        operation_type: str, reason: str | None = None, timeout: int = 300, name: str | None = None
    ) -> ApprovalPolicy:
        """A policy that has operations of this type wait for a person, at most ``timeout`` seconds.

        >>> Policy.require_approval("send_email", timeout=60).evaluate("send_email", {}).metadata
        {'timeout': 60, 'operation_type': 'send_email'}
        """
        return ApprovalPolicy(
            name or f"approve_{operation_type}",
            operation_type,
            reason or f"Operation '{operation_type}' requires approval",
            timeout,
        )

    @staticmethod
    def custom(
        name: str,
        check_fn: Callable[[str, dict[str, Any]], PolicyResult | None],
        description: str | None = None,
    ) -> CustomPolicy:
        """A policy that is the function ``check_fn(operation, context)``; it is called once for each operation.

        >>> def no_spending(operation, context):
        ...     if context.get("cost", 0) > 100:
        ...         return PolicyResult(PolicyAction.BLOCK, "cost", "Too expensive")
        >>> Policy.custom("cost", no_spending).evaluate("buy", {"cost": 200}).is_blocked
        True
        """
        return CustomPolicy(name, check_fn, description)


def _pattern_name(verb: str, pattern: str, name: str | None) -> str:
    return name or f"{verb}_{pattern[:20]}"


class PatternPolicy(Policy):
    """Matches a regular expression anywhere in the operation, or in one value of its context.

    With ``context_key`` the value of that key is looked at, if the context has one. For a guarded function the name and
    the arguments are looked at, each alone and all in one line.
    """

    def __init__(
        self,
        name: str,
        pattern: str,
        action: PolicyAction,
        reason: str,
        flags: int = re.IGNORECASE,
        context_key: str | None = None,
    ) -> None:
        super().__init__(name, reason)
        self.pattern_str = pattern
        self.pattern = re.compile(pattern, flags)
        self.action = action
        self.reason = reason
        self.context_key = context_key

    def evaluate(self, operation: str, context: dict[str, Any]) -> PolicyResult | None:
        """The policy's action when the pattern is found; ``metadata`` tells the pattern and the text."""
        key = self.context_key
        text = operation if key is None or key not in context else str(context[key])
        if self.pattern.search(text) is None:
            return None
        return PolicyResult(self.action, self.name, self.reason, {"pattern": self.pattern_str, "matched": text})


class BlockPolicy(PatternPolicy):
    """Blocks what the pattern is found in."""

    def __init__(self, name: str, pattern: str, reason: str, flags: int = re.IGNORECASE) -> None:
        super().__init__(name, pattern, PolicyAction.BLOCK, reason, flags)


class WarnPolicy(PatternPolicy):
    """Warns of what the pattern is found in."""

    def __init__(self, name: str, pattern: str, reason: str, flags: int = re.IGNORECASE) -> None:
        super().__init__(name, pattern, PolicyAction.WARN, reason, flags)


class AuditPolicy(PatternPolicy):
    """Notes what the pattern is found in."""

    def __init__(self, name: str, pattern: str, reason: str, flags: int = re.IGNORECASE) -> None:
        super().__init__(name, pattern, PolicyAction.AUDIT, reason, flags)


class ApprovalPolicy(Policy):
    """Has a type of operation approved by a person; ``timeout`` is in seconds.

    An operation is of a type when that is its whole text, or what its context says under ``operation_type``.
    """

    def __init__(self, name: str, operation_type: str, reason: str, timeout: int = 300) -> None:
        super().__init__(name, reason)
        self.operation_type = operation_type
        self.reason = reason
        self.timeout = timeout

    def evaluate(self, operation: str, context: dict[str, Any]) -> PolicyResult | None:
        """``REQUIRE_APPROVAL`` for operations of the type, with the timeout in ``metadata``."""
        if self.operation_type not in (operation, context.get("operation_type")):
            return None
        metadata = {"timeout": self.timeout, "operation_type": self.operation_type}
        return PolicyResult(PolicyAction.REQUIRE_APPROVAL, self.name, self.reason, metadata)


class CustomPolicy(Policy):
    """Answers with what a function answers. What the function raises is raised, and the operation does not run."""

    def __init__(
        self,
        name: str,
        check_fn: Callable[[str, dict[str, Any]], PolicyResult | None],
        description: str | None = None,
    ) -> None:
        super().__init__(name, description)
        self.check_fn = check_fn

    def evaluate(self, operation: str, context: dict[str, Any]) -> PolicyResult | None:
        """What the function says."""
        return self.check_fn(operation, context)


def checked_list(given: Any, what: str, method: str, how: str) -> list[Any]:
    """The members of what was given, or that very list, empty for None; each has *method*. Raises ``TypeError``, which
    says *how* to make such.
    """
    if given is None:
        return []
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)
    found = given if isinstance(given, list) else list(given) if several else [given]
    for each in found:
        if isinstance(each, type) or not callable(getattr(each, method, None)):
            raise TypeError(f"{what} takes a list of objects with a method {method}(), and {each!r} has none. {how}")
    if not several:
        raise TypeError(f"{what} takes a list, and {given!r} is none. Write {what}=[...].")
    return found


_HOW = "A profile or policy file goes to SafetyLayer.from_policy, a pattern to Policy.block_pattern."


class PolicySet:
    """Policies evaluated together. ``policies`` is the list that was given; it can be changed at any time."""

    def __init__(self, policies: list[Policy] | None = None) -> None:
        self.policies: list[Policy] = checked_list(policies, "policies", "evaluate", _HOW)

    def add(self, policy: Policy) -> None:
        """Add a policy."""
        checked_list([policy], "policies", "evaluate", _HOW)
        self.policies.append(policy)

    def remove(self, policy_name: str) -> bool:
        """Remove the first policy of that name; False when there is none."""
        for policy in self.policies:
            if policy.name == policy_name:
                self.policies.remove(policy)
                return True
        return False

    def evaluate_all(self, operation: str, context: dict[str, Any]) -> list[PolicyResult]:
        """The results of all policies that have one, in the policies' order."""
        return self.evaluate_call(operation, operation, (), context)

    def evaluate_call(
        self, operation: str, line: str, arguments: Sequence[str], context: dict[str, Any]
    ) -> list[PolicyResult]:
        """Like ``evaluate_all`` for a call: ``line`` is the operation with its arguments, ``arguments`` their texts.

        Only pattern policies look at the texts; the others find the arguments in the context.
        """
        found = []
        subjects = {"line": (line,), "operation": (operation, line), "each": (operation, line, *arguments)}
        for policy in tuple(self.policies):
            if arguments and isinstance(policy, PatternPolicy):
                result = None
                search = policy.pattern.search
                usual = policy.context_key is None and type(policy).evaluate is PatternPolicy.evaluate
                for text in subjects[_reach(policy.pattern.pattern)]:
                    if usual and search(text) is None:  # what evaluate would find, for half of its price
                        continue
                    result = policy.evaluate(text, context)
                    if result is not None:
                        break
            else:
                result = policy.evaluate(operation, context)
            if result is not None:
                found.append(_checked(policy, result))
        return found

    def evaluate_recorded(self, operation: RecordedOperation, context: dict[str, Any]) -> list[PolicyResult]:
        """Like ``evaluate_all``, for an operation of a recorded session."""
        answers = ((policy, policy.evaluate_recorded(operation, context)) for policy in tuple(self.policies))
        return [_checked(policy, result) for policy, result in answers if result is not None]

    def evaluate_first_block(self, operation: str, context: dict[str, Any]) -> PolicyResult | None:
        """The first result that blocks, or None."""
        return next((result for result in self.evaluate_all(operation, context) if result.is_blocked), None)

    def __iter__(self) -> Iterator[Policy]:
        return iter(self.policies)

    def __len__(self) -> int:
        return len(self.policies)


def _checked(policy: Policy, result: object) -> PolicyResult:
    if not isinstance(result, PolicyResult):
        raise TypeError(f"Policy '{policy.name}' answered {result!r}, not a PolicyResult or None.")
    return result


@lru_cache(maxsize=1024)
def _reach(pattern: str) -> str:
    """Which texts of a call the pattern has to be looked for in.

    A pattern that does not look beyond what it matches finds in the line whatever it finds in a part. One that is tied
    to an end has to see each part alone. One that says what must *not* be there is about the operation: it would match
    nearly every argument.
    """
    if "(?!" in pattern or "(?<!" in pattern:
        return "operation"
    ties = ("^", "$", "\\A", "\\Z", "\\B", "(?=", "(?<=")
    return "each" if any(tie in pattern for tie in ties) else "line"


__all__ = [
    "ApprovalPolicy",
    "AuditPolicy",
    "BlockPolicy",
    "CustomPolicy",
    "PatternPolicy",
    "Policy",
    "PolicyAction",
    "PolicyResult",
    "PolicySet",
    "WarnPolicy",
]
