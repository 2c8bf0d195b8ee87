"""What a check finds, and the exception that says no."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from agent_safety_layer.approval import ApprovalRequest
from agent_safety_layer.boundaries import BoundaryViolation
from agent_safety_layer.events import ALLOW, BLOCK, Decision, strictest
from agent_safety_layer.policies import PolicyResult


@dataclass
class SafetyCheckResult:
    """All that policies and boundaries say about one operation, and whether it may run.

    ``requires_approval`` tells that a person had to be asked; ``approval_request`` is the question with its answer,
    None when there was no gate to ask at.
    """

    allowed: bool
    policy_results: list[PolicyResult] = field(default_factory=list)
    boundary_violations: list[BoundaryViolation] = field(default_factory=list)
    requires_approval: bool = False
    approval_request: ApprovalRequest | None = None

    @property
    def blocked_reason(self) -> str | None:
        """Why it may not run: the first policy that blocks, else the first boundary. None when it may.

        Also None when the policy that blocks gives no reason.
        """
        if self.allowed:
            return None
        for result in self.policy_results:
            if result.is_blocked:
                return result.reason
        if self.boundary_violations:
            return self.boundary_violations[0].reason
        if not self.requires_approval:
            return "Operation blocked"
        request = self.approval_request
        if request is None:
            return "Operation blocked: approval is required and there is no approval gate"
        by = f" by {request.responder}" if request.responder else ""
        told = f": {request.response_message}" if request.response_message else ""
        return f"Operation blocked: approval {_WORDS.get(request.status.value, request.status.value)}{by}{told}"

    @property
    def decision(self) -> Decision:
        """The strictest of it all, as a ``Decision`` like those about system calls."""
        found = Decision(ALLOW)
        for violation in self.boundary_violations:
            found = strictest(found, Decision(BLOCK, violation.boundary_name, "", violation.reason))
        for result in self.policy_results:
            where, rule = result.metadata.get("where", ""), result.metadata.get("rule", result.policy_name)
            found = strictest(found, Decision(result.action.value, rule, where, result.reason or ""))
        return found


_WORDS = {"timeout": "timed out", "pending": "was not given"}


class SafetyViolation(Exception):  # its name is public since 0.1
    """Raised when an operation may not run, or ran beyond a boundary.

    ``policy_result`` is the policy's result that blocks it, else ``boundary_violation`` the first boundary's; neither
    is set when an approval was refused. ``result`` is the whole check, None when it was raised without one.
    """

    def __init__(
        self,
        message: str,
        policy_result: PolicyResult | None = None,
        boundary_violation: BoundaryViolation | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.policy_result = policy_result
        self.boundary_violation = boundary_violation
        self.result: SafetyCheckResult | None = None

    @property
    def is_policy_violation(self) -> bool:
        """Whether a policy blocks the operation."""
        return self.policy_result is not None

    @property
    def is_boundary_violation(self) -> bool:
        """Whether a boundary does."""
        return self.boundary_violation is not None


class Crossed(Exception):
    """What policies and boundaries say of an operation that has begun. Its cause is what the operation raised."""

    def __init__(self, results: Sequence[PolicyResult], violations: Sequence[BoundaryViolation] = ()) -> None:
        super().__init__()
        self.results = list(results)
        self.violations = list(violations)


def violation_of(result: SafetyCheckResult) -> SafetyViolation:
    """The exception for an operation that may not run."""
    policy = next((found for found in result.policy_results if found.is_blocked), None)
    boundary = next(iter(result.boundary_violations), None) if policy is None else None
    error = SafetyViolation(result.blocked_reason or "Operation blocked", policy, boundary)
    error.result = result
    return error


__all__ = ["Crossed", "SafetyCheckResult", "SafetyViolation", "violation_of"]
