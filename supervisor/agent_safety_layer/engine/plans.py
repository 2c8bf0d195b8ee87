"""Answers that can be given again: how an open of this path with these flags was answered last time.

A plan is either "wave it through" (the kernel bounds it) or "open this canonical path, through no link" (what was
decided is the name, and the kernel guarantees that the name is what is opened). So a stale plan is never unsafe. That
the record stays right is the ``epoch``'s doing: whatever can make a path lead elsewhere begins a new one, and so does
every second.
"""

from __future__ import annotations

import os
import stat

from agent_safety_layer.events import text_of
from asl_hooks import memory, syscalls
from asl_hooks._abi import linux
from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent_safety_layer.tally import Slot
    from asl_hooks.backend import Call
    from asl_hooks.processes import Process

_MOST = 1024  # kept per process
_NOTHING: tuple[int, Any] = (-1, None)
_AT_FDCWD = 0xFFFFFF9C
_KEPT_FLAGS = 0xFFFFFFFF & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC)
_UNKEPT = os.O_CREAT | os.O_TRUNC  # an open that may find a file or make one is looked at each time


@value
class Plan:
    """How an open was answered: waved through, or opened anew by its canonical path ``reopen``; and its trace line."""

    epoch: int
    base: bytes
    reopen: bytes
    body: bytes
    slot: Slot


class Plans:
    """Plans of opens, kept with the processes that they are for."""

    def __init__(self) -> None:
        arch = syscalls.native_arch()
        # Where each call has its folder descriptor (or -1), path and flags.
        self.shapes = {
            number: shape
            for name, shape in (("open", (-1, 0, 1)), ("openat", (0, 1, 2)))
            if (number := syscalls.number(name, arch)) is not None
        }
        self.epoch = 0

    def find(self, call: Call, process: Process, shape: tuple[int, int, int]) -> Plan | None:
        """The plan for this open. Without one, the place for it is kept ready for ``keep``."""
        dir_at, path_at, flags_at = shape
        flags = call.args[flags_at]
        if flags & _UNKEPT:
            return None
        try:
            path = memory.read_string(process.mem, call.args[path_at])
        except OSError:
            return None
        relative = path[:1] != b"/"
        key: tuple[object, ...] = (path, flags)
        if process.spans:
            key = (path, flags, process.span_of(call.tid))  # which the recorded line shows
        if relative:
            key = (*key, call.args[dir_at] if dir_at >= 0 else _AT_FDCWD, call.tid)
        plan: Plan | None = process.cache.get(key)
        if plan is None or plan.epoch != self.epoch or (relative and plan.base != _base_of(call, dir_at)):
            process.cache[None] = (call.id, key)
            return None
        return plan

    def path_of(self, call: Call, process: Process) -> bytes:
        """What the open that was just looked up, and has no plan, calls the file; empty for every other call."""
        looked, key = process.cache.get(None, _NOTHING)
        path: bytes = key[0] if looked == call.id else b""
        return path

    def keep(
        self,
        call: Call,
        process: Process,
        reopen: bytes,
        body: bytes,
        slot: Slot,
        absolute: bytes = b"",
        described: str = "",
    ) -> None:
        """Remember how this open was answered, if the same one again can be answered the same way. ``absolute`` is its
        path behind the folder that it starts from, where it was read once; ``described`` is that of an open whose path
        was read again, and may have been another one by then.
        """
        looked, key = process.cache.pop(None, _NOTHING)
        shape = self.shapes.get(call.nr)
        if looked != call.id or shape is None:
            return  # another call was looked up since: this one had to wait for its answer
        if b"/proc" in key[0] or b"/dev" in key[0]:
            return  # names that mean something else to each process
        if len(process.cache) > _MOST:
            process.cache.clear()
        base = b""
        if key[0][:1] != b"/":
            base = absolute[: -len(key[0]) - 1] or _base_of(call, shape[0])
        if described and described != text_of(base + b"/" + key[0] if base else key[0]):
            return
        process.cache[key] = Plan(self.epoch, base, reopen, body, slot)


def _base_of(call: Call, dir_at: int) -> bytes:
    """The folder that a relative open starts from, as text."""
    dir_fd = call.args[dir_at] & 0xFFFFFFFF if dir_at >= 0 else _AT_FDCWD
    try:
        if dir_fd == _AT_FDCWD:
            return os.readlink(b"/proc/%d/cwd" % call.tid)
        return os.readlink(b"/proc/%d/fd/%d" % (call.tid, dir_fd))
    except OSError:
        return b""


def open_again(path: bytes, flags: int) -> int:
    """Open the canonical *path*, through no link, if it still is a plain file with one name, or with a slash at its end
    a folder; -1 when not.

    O_NONBLOCK, so that a FIFO put in its place cannot stop the loop. With several names it may be a file that the
    policy keeps from the tree under another one: that is looked at each time.
    """
    how = flags & _KEPT_FLAGS | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        fd = linux.openat2(linux.AT_FDCWD, path, how, 0, linux.RESOLVE_NO_SYMLINKS)
    except OSError:
        return -1
    there = os.fstat(fd)
    if not (stat.S_ISDIR(there.st_mode) if path.endswith(b"/") else is_plain(there)):
        os.close(fd)
        return -1
    if not flags & os.O_NONBLOCK:
        os.set_blocking(fd, True)
    return fd


def is_plain(there: os.stat_result) -> bool:
    """Whether it is a file with one name."""
    return stat.S_ISREG(there.st_mode) and there.st_nlink == 1
