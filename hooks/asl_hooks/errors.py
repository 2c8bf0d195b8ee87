"""Errors that a mechanism can raise; ``agent_safety_layer.errors`` holds the rest of the tree.

AslError               message · remedy · exit_code
├─ UnsupportedError    wanted · found · remedy
└─ BackendError        call, errno, pid
"""

from __future__ import annotations


class AslError(Exception):
    """An error meant for the user: what went wrong, and in ``remedy`` what to do about it.

    ``exit_code`` is what the commands exit with when it reaches them.
    """

    exit_code = 125

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()


class UnsupportedError(AslError):
    """This machine cannot do what was asked: what was wanted, what was found, what to do."""

    def __init__(self, wanted: str, found: str, remedy: str) -> None:
        super().__init__(f"{wanted}; {found}.", remedy=remedy)
        self.wanted = wanted
        self.found = found


class BackendError(AslError):
    """A kernel interface failed in a way that is not the tracee's doing."""

    def __init__(self, call: str, errno: int, *, pid: int = 0, remedy: str = "") -> None:
        from os import strerror

        of = f" of process {pid}" if pid else ""
        super().__init__(f"{call}{of} failed: {strerror(errno)} (errno {errno}).", remedy=remedy)
        self.call = call
        self.errno = errno
        self.pid = pid
