"""The one seam to the kernel: a ``Backend`` stops system calls and carries out the answers.

``asl_hooks.notify`` (seccomp user notification) and the ptrace backend fill it; tests fill it with a fake.
"""

from __future__ import annotations

from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol
else:
    Protocol = object


@value
class Call:
    """One stopped system call, raw: ``args`` are six unsigned 64-bit registers, ``tid`` the thread that made it."""

    id: int
    tid: int
    arch: int
    nr: int
    args: tuple[int, int, int, int, int, int]


class Backend(Protocol):
    """Stops and answers system calls. Every stopped call gets exactly one of ``proceed``, ``fail``, ``give``,
    ``inject``.

    An answer to a call whose thread has gone (killed, or interrupted by a signal) is dropped and ``False`` comes back:
    whatever was made for it must be released by the caller, and the call may come again.
    """

    name: str
    traces: bool  # it is the tracer of the tree: exec stops come to it, and nobody else can trace
    tells: bool  # it tells what the calls that went on returned
    pending: bool  # ``receive`` has more, though ``fileno`` does not say so

    def fileno(self) -> int:
        """A descriptor that polls readable when ``receive`` has a call; hangs up when no tracee is left."""

    def receive(self) -> Call | None:
        """The next stopped call, or None when there is none after all. To be called when ``fileno`` polls readable."""

    def guard(self) -> None:
        """Establishes: ``receive`` waits for moments at most, whatever the tracees do. Main thread only."""

    def valid(self, call: Call) -> bool:
        """Whether the call still waits: what was read from its memory before this is its own, not a successor's."""

    def follow(self, became: Callable[[int, int], bool], exited: Callable[[int], None]) -> None:
        """A backend that traces asks *became* whether what a process has become by an exec may run (the thread that
        made it, the process), or kills it; and tells *exited* of each task, by its id, that has."""

    def child(self) -> None:
        """To be called when this process got a SIGCHLD."""

    def collect(self) -> None:
        """Take what has become of tracees that are being killed, and no more calls."""

    def proceed(self, call: Call, told: Callable[[int | None], None] | None = None) -> bool:
        """Let the kernel run the call as it stands. Only ever for what the kernel bounds (see README, invariant).

        A backend that ``tells`` calls *told* once with what it returned, None when the thread died in it.
        """

    def fail(self, call: Call, errno: int) -> bool:
        """Make the call return ``-errno`` without running."""

    def give(self, call: Call, result: int) -> bool:
        """Make the call return ``result`` without running: it was carried out on the tracee's behalf."""

    def inject(self, call: Call, fd: int, cloexec: bool, told: Callable[[int | None], None] | None = None) -> bool:
        """Install a copy of ``fd`` in the tracee and make the call return its number there. ``fd`` stays the
        caller's. *told* as in ``proceed``."""

    def close(self) -> None:
        """Stop listening: intercepted calls of whoever is left fail from now on."""
