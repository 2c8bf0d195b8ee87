"""Every error of the product.

    AslError               message · remedy · exit_code
    ├─ PolicyError         file, line, key; "did you mean"
    ├─ UnsupportedError    wanted · found · remedy          (asl_hooks.errors)
    ├─ BackendError        call, errno, pid                 (asl_hooks.errors)
    ├─ TraceError          line, schema version
    ├─ UsageError          the command line
    └─ InternalError       "this is our bug"

A denial is not an error: it is a ``Decision``.
"""

from __future__ import annotations

from asl_hooks.errors import AslError, BackendError, UnsupportedError


class PolicyError(AslError):
    """A policy that cannot be used: which file, line and key, and what was probably meant."""

    def __init__(self, message: str, *, file: str = "", line: int = 0, key: str = "", remedy: str = "") -> None:
        self.file = file
        self.line = line
        self.key = key
        place = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        super().__init__(f"{place}{message}", remedy=remedy)


class TraceError(AslError):
    """A trace that cannot be written or read; ``line`` is 1-based, 0 when it concerns the whole file."""

    def __init__(self, message: str, *, file: str = "", line: int = 0, remedy: str = "") -> None:
        self.file = file
        self.line = line
        place = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        super().__init__(f"{place}{message}", remedy=remedy)


class UsageError(AslError):
    """A command line that makes no sense."""


class InternalError(AslError):
    """Our bug. The message says what was impossible and happened."""

    def __init__(self, message: str) -> None:
        super().__init__(f"Internal error: {message}.", remedy="This is a bug in agent-safety-layer; please report it.")


__all__ = ["AslError", "BackendError", "InternalError", "PolicyError", "TraceError", "UnsupportedError", "UsageError"]
