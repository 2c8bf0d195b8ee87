"""Changing what is there: length, mode, owner, times, extended attributes.

Landlock knows only truncation, so the rest is always performed here, on the held object; also through descriptors,
because one that may only read must not change metadata either.
"""

from __future__ import annotations

import os
import stat
from errno import E2BIG, EINVAL, ENOSYS, EOPNOTSUPP

from agent_safety_layer.engine.entries import Entries
from agent_safety_layer.engine.objects import Objects, failing, signed
from agent_safety_layer.engine.operation import Operation
from agent_safety_layer.events import text_of
from asl_hooks import memory
from asl_hooks._abi import linux
from asl_hooks.paths import Located

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.engine.context import Context
    from asl_hooks.backend import Call
    from asl_hooks.processes import Process


class Metadata:
    """Describes the calls of one run that change files in place."""

    def __init__(self, context: Context, objects: Objects, entries: Entries) -> None:
        self._context = context
        self._objects = objects
        self._entries = entries

    def _object(
        self,
        call: Call,
        process: Process,
        place: tuple[int, int],
        act: Callable[[bytes], None],
        *,
        kind: str = "file.meta",
        follow: bool = True,
        empty: bool = False,
        bounded: bool = False,
        **more: object,
    ) -> Operation:
        """An operation on an object that is there, held open; *act* gets a path that leads to it and nothing else.

        ``empty``: an empty or NULL path means the descriptor itself.
        """
        dir_fd, index = place
        if empty and (not call.args[index] or not memory.read_string(process.mem, call.args[index])):
            found = self._objects.held_descriptor(call, dir_fd)
            path = b""
        else:
            path = self._objects.path(call, process, index, dir_fd)
            found = self._objects.locate(path, call, process, follow)
        return self._on_held(found, path, call, process, act, kind, bounded, more)

    def _on_held(
        self,
        found: Located,
        path: bytes,
        call: Call,
        process: Process,
        act: Callable[[bytes], None],
        kind: str,
        bounded: bool,
        more: dict[str, object],
    ) -> Operation:
        canonical = text_of(found.path)
        event = None if _is_nameless(found) else self._objects.event(kind, call, process, canonical, path, **more)
        if found.fd < 0:
            return Operation(event, failing(found.errno))

        def perform() -> int:
            if not follow_possible and kind == "file.meta":
                raise OSError(EOPNOTSUPP, "not on a symbolic link")
            act(b"/proc/self/fd/%d" % found.fd)
            return 0

        follow_possible = not stat.S_ISLNK(os.fstat(found.fd).st_mode)
        return Operation(event, perform, bounded=bounded and self._context.writes_bounded(canonical), fds=(found.fd,))

    def truncate(self, call: Call, process: Process, name: str) -> Operation:
        """truncate."""
        size = call.args[1]
        size -= (size >> 63) << 64
        bounded = self._context.bounds_truncate
        return self._object(
            call, process, (-100, 0), lambda at: os.truncate(at, size), kind="file.write", bounded=bounded
        )

    def chmod(self, call: Call, process: Process, name: str) -> Operation:
        """chmod, fchmodat, fchmodat2."""
        if name == "chmod":
            place, mode, flags = (-100, 0), call.args[1] & 0o7777, 0
        else:
            place, mode = (signed(call.args[0]), 1), call.args[2] & 0o7777
            flags = call.args[3] & 0xFFFFFFFF if name == "fchmodat2" else 0
        return self._object(
            call,
            process,
            place,
            lambda at: os.chmod(at, mode),
            follow=not flags & linux.AT_SYMLINK_NOFOLLOW,
            empty=bool(flags & linux.AT_EMPTY_PATH),
            mode=mode,
        )

    def chown(self, call: Call, process: Process, name: str) -> Operation:
        """chown, lchown, fchownat."""
        if name == "fchownat":
            place, at = (signed(call.args[0]), 1), 2
            flags = call.args[4] & 0xFFFFFFFF
        else:
            place, at, flags = (-100, 0), 1, linux.AT_SYMLINK_NOFOLLOW if name == "lchown" else 0
        uid, gid = signed(call.args[at]), signed(call.args[at + 1])
        if flags & linux.AT_SYMLINK_NOFOLLOW:
            return self._chown_link(call, process, place, uid, gid, bool(flags & linux.AT_EMPTY_PATH))
        return self._object(
            call,
            process,
            place,
            lambda at: os.chown(at, uid, gid),
            empty=bool(flags & linux.AT_EMPTY_PATH),
            detail=f"owner {uid}:{gid}",
        )

    def _chown_link(
        self, call: Call, process: Process, place: tuple[int, int], uid: int, gid: int, empty: bool
    ) -> Operation:
        if empty and not memory.read_string(process.mem, call.args[place[1]]):
            return self._object(
                call, process, place, lambda at: os.chown(at, uid, gid), empty=True, detail=f"owner {uid}:{gid}"
            )
        return self._entries.entry(
            "file.meta",
            call,
            process,
            place,
            lambda at, last: os.chown(last, uid, gid, dir_fd=at, follow_symlinks=False),
            landlocked=False,
            detail=f"owner {uid}:{gid}",
        )

    def utime(self, call: Call, process: Process, name: str) -> Operation:
        """utime, utimes, futimesat, utimensat."""
        args = call.args
        flags = 0
        if name in ("utime", "utimes"):
            place, times = (-100, 0), args[1]
        else:
            place, times = (signed(args[0]), 1), args[2]
            flags = args[3] & 0xFFFFFFFF if name == "utimensat" else 0
        pair = self._times(process, times, name)
        nothing = name in ("utimensat", "futimesat")  # NULL path: the descriptor itself
        if flags & linux.AT_SYMLINK_NOFOLLOW and call.args[place[1]]:
            return self._entries.entry(
                "file.meta",
                call,
                process,
                place,
                lambda at, last: _set_times(last, pair, at),
                landlocked=False,
            )
        return self._object(call, process, place, lambda at: _set_times(at, pair, None), empty=nothing)

    @staticmethod
    def _times(process: Process, at: int, name: str) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Access and modification time as (seconds, nanoseconds) pairs; None for now."""
        if not at:
            return None
        size = 16 if name == "utime" else 32
        numbers = memory.read(process.mem, at, size)
        words = [int.from_bytes(numbers[i : i + 8], "little", signed=True) for i in range(0, size, 8)]
        if name == "utime":
            return (words[0], 0), (words[1], 0)
        scale = 1 if name == "utimensat" else 1000
        return (words[0], words[1] * scale), (words[2], words[3] * scale)

    def xattr(self, call: Call, process: Process, name: str) -> Operation:
        """setxattr, lsetxattr, removexattr, lremovexattr; the *at forms are refused, so that libc falls back to
        these.
        """
        if name.endswith("at"):
            raise OSError(ENOSYS, "not here")
        act = self._xattr_change(call, process, name)
        return self._object(call, process, (-100, 0), act, follow=not name.startswith("l"))

    @staticmethod
    def _xattr_change(call: Call, process: Process, name: str) -> Callable[[bytes], None]:
        attribute = memory.read_string(process.mem, call.args[1], 256)
        if "remove" in name:
            return lambda at: os.removexattr(at, attribute)
        if call.args[3] > 65536:
            raise OSError(E2BIG, "value too long")
        content = memory.read(process.mem, call.args[2], call.args[3]) if call.args[3] else b""
        flags = call.args[4] & 0xFFFFFFFF
        return lambda at: os.setxattr(at, attribute, content, flags)

    def fd_meta(self, call: Call, process: Process, name: str) -> Operation:
        """fchmod, fchown, fsetxattr, fremovexattr: a descriptor that may only read must not change the file's
        metadata.
        """
        change = self._fd_change(call, process, name)
        found = self._objects.held_descriptor(call, signed(call.args[0]))
        return self._on_held(found, b"", call, process, change, "file.meta", False, {})

    def _fd_change(self, call: Call, process: Process, name: str) -> Callable[[bytes], None]:
        if name == "fchmod":
            mode = call.args[1] & 0o7777
            return lambda at: os.chmod(at, mode)
        if name == "fchown":
            uid, gid = signed(call.args[1]), signed(call.args[2])
            return lambda at: os.chown(at, uid, gid)
        return self._xattr_change(call, process, name)


def _is_nameless(found: Located) -> bool:
    """Whether the object is one that no path leads to (a pipe, a socket, a memfd): policies have no opinion about
    those.
    """
    return not found.path.startswith(b"/") or found.path.startswith(b"/memfd:")


_NOW, _OMIT = (1 << 30) - 1, (1 << 30) - 2  # UTIME_NOW, UTIME_OMIT


def _set_times(path: bytes, pair: tuple[tuple[int, int], tuple[int, int]] | None, dir_fd: int | None) -> None:
    """utimensat(2), UTIME_NOW and UTIME_OMIT included. ``dir_fd``: a name below it that is not followed."""
    if pair is None:
        os.utime(path, None, dir_fd=dir_fd, follow_symlinks=dir_fd is None)
        return
    import time

    there = os.stat(path, dir_fd=dir_fd, follow_symlinks=dir_fd is None)
    now = time.time_ns()
    stamps = []
    for (seconds, nanos), kept in zip(pair, (there.st_atime_ns, there.st_mtime_ns), strict=True):
        if nanos == _NOW:
            stamps.append(now)
        elif nanos == _OMIT:
            stamps.append(kept)
        elif 0 <= nanos < 10**9:
            stamps.append(seconds * 10**9 + nanos)
        else:
            raise OSError(EINVAL, "nanoseconds out of range")
    os.utime(path, ns=(stamps[0], stamps[1]), dir_fd=dir_fd, follow_symlinks=dir_fd is None)
