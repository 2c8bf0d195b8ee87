"""What describing a call may ask of the engine. A fake of this is all that the describers' tests need."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from typing import Protocol

    from agent_safety_layer.events import Decision, Event
    from asl_hooks.backend import Call
    from asl_hooks.processes import Process
else:
    Protocol = object


class Context(Protocol):
    """The engine as the describers of calls see it."""

    def event(self, kind: str, call: Call, process: Process, **fields: object) -> Event:
        """An event of *kind* that names the calling process and the system call."""

    def decide(self, event: Event) -> Decision:
        """The policy's answer to a further event, in the present state."""

    def advance(self, event: Event, decision: Decision) -> None:
        """Let a further event have happened."""

    def may_connect(self, ip: str, port: int) -> bool:
        """Whether the policy lets the tree connect to *port* of this machine."""

    def reads_bounded(self, path: str) -> bool:
        """Whether the kernel itself confines reading at and below *path* to what the policy allows."""

    def writes_bounded(self, path: str) -> bool:
        """The same for every change."""

    @property
    def bounds_truncate(self) -> bool:
        """Whether the kernel bounds truncate(2) by path too (Landlock ABI 3)."""

    def kept_name(self, fd: int) -> str:
        """The name under which the policy keeps the held file from the tree, where that is another hard link to it."""

    def is_foreign_terminal(self, there: os.stat_result) -> bool:
        """Whether that is a terminal on which somebody else works."""

    def may_look_at(self, path: bytes, process: Process) -> bool:
        """Whether *path* below /proc shows only what the tree may see: itself, and what everybody may know of
        others."""

    def terminal_of(self, process: Process) -> bytes:
        """The device that /dev/tty means to *process*. ``OSError(ENXIO)`` when it has no terminal."""

    def copy_descriptor(self, call: Call, fd: int) -> int:
        """A copy here of the tracee's descriptor. ``OSError(EBADF)``."""
