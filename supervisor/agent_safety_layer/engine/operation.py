"""An operation: one stopped call, described as an event, with the means to carry it out in the tracee's stead.

``bounded`` says which half of the invariant holds. A bounded operation is one that the kernel itself confines
(Landlock domain, filter, empty network namespace) whatever the tracee does to the arguments after they were looked
at: it may be waved through. Any other is only ever performed here, on the objects held open in ``fds``.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.events import Event
    from asl_hooks.identity import ActingAs


class Injected:
    """A result that is a descriptor to install in the tracee; ``fd`` is closed once that is done."""

    __slots__ = ("cloexec", "fd")

    def __init__(self, fd: int, cloexec: bool) -> None:
        self.fd = fd
        self.cloexec = cloexec


class Operation:
    """What the call would do (``event``), whether the kernel bounds it, and ``perform`` to do it here.

    ``event`` is None where there is nothing that a policy could judge, such as the mode of a pipe. ``perform``
    returns the call's result (a number, or ``Injected``) or raises ``OSError`` with the errno that the tracee shall
    see. ``blocking``: it may wait for others, so it runs on a thread of its own, unless ``at_once``, where there is
    one, does it without waiting (it raises ``BlockingIOError`` if it cannot). ``fds`` are closed by ``close``.
    ``mutates``: it can change what paths lead to. ``reopen``: the canonical path of a plain file or folder that was
    opened and can be opened again by that, or nothing. ``outside``: it reaches for a process that is not of the tree.
    ``prepare`` is done once it may go on, before it does: it calls back with 0 or an errno, at once or later, in the
    loop's thread. ``refusal`` tells the errno of a refusal, 0 for the one that is the kind's. ``futile`` tells the
    errno with which the call fails whatever is decided, 0 where it may succeed: the kernel, too, says that something is
    missing or already there before it says that it may not be touched.
    """

    __slots__ = (
        *("acting", "at_once", "blocking", "bounded", "event", "fds", "futile", "mutates", "outside", "perform"),
        *("prepare", "refusal", "reopen"),
    )

    def __init__(
        self,
        event: Event | None,
        perform: Callable[[], int | Injected] | None,
        *,
        bounded: bool = False,
        fds: tuple[int, ...] = (),
        blocking: bool = False,
        at_once: Callable[[], int] | None = None,
        mutates: bool = False,
        reopen: bytes = b"",
        outside: bool = False,
        prepare: Callable[[Callable[[int], None]], None] | None = None,
        refusal: Callable[[], int] | None = None,
        futile: Callable[[], int] | None = None,
    ) -> None:
        self.event = event
        self.acting: ActingAs | None = None  # whose identity to perform it with, where that is not our own
        self.perform = perform
        self.bounded = bounded
        self.fds = fds
        self.blocking = blocking
        self.at_once = at_once
        self.mutates = mutates
        self.reopen = reopen
        self.outside = outside
        self.prepare = prepare
        self.refusal = refusal
        self.futile = futile

    def close(self) -> None:
        """Let go of the objects that were held."""
        for fd in self.fds:
            if fd >= 0:
                os.close(fd)
        self.fds = ()
