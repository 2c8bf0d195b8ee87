"""Changing what is there: length, mode, owner, times, extended attributes.

Landlock knows only truncation, so the rest is always performed here, on the held object; also through descriptors,
because one that may only read must not change metadata either.
"""

from __future__ import annotations

import os
import struct
from errno import E2BIG, EFBIG, EINVAL, ENAMETOOLONG, ENOSYS, EPERM, ERANGE

from agent_safety_layer.engine.objects import Objects, nameless, signed
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

_AT_FLAGS = linux.AT_SYMLINK_NOFOLLOW | linux.AT_EMPTY_PATH
_TIMES = struct.Struct("=4q")


class Metadata:
    """Describes the calls of one run that change files in place."""

    def __init__(self, context: Context, objects: Objects) -> None:
        self._context = context
        self._objects = objects

    def _object(
        self,
        call: Call,
        process: Process,
        place: tuple[int, int],
        act: Callable[[bytes], None],
        *,
        kind: str = "file.meta",
        flags: int = 0,
        bounded: bool = False,
        **more: object,
    ) -> Operation:
        """An operation on an object that is there, held open; *act* gets a path that leads to it and nothing else, be
        it a symbolic link.

        ``flags``: with AT_EMPTY_PATH an empty path means the descriptor itself, with AT_SYMLINK_NOFOLLOW a link itself.
        """
        dir_fd, index = place
        if flags & ~_AT_FLAGS:
            raise OSError(EINVAL, "unknown flags")
        follow = not flags & linux.AT_SYMLINK_NOFOLLOW
        if flags & linux.AT_EMPTY_PATH and not memory.read_string(process.mem, call.args[index]):
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
        if found.fd < 0:
            raise OSError(found.errno, "nothing there to change")
        canonical = text_of(found.path)
        event = None
        if not nameless(found):
            event = self._objects.event(kind, call, process, self._objects.name_judged(found), path, **more)

        def perform() -> int:
            act(b"/proc/self/fd/%d" % found.fd)  # leads to the object and no further, also when that is a link
            return 0

        bounded = bounded and self._context.writes_bounded(canonical)
        foreign = self._context.is_foreign_terminal(os.fstat(found.fd))
        return Operation(event, perform, bounded=bounded, fds=(found.fd,), outside=foreign)

    def truncate(self, call: Call, process: Process, name: str) -> Operation:
        """truncate."""
        size = call.args[1]
        size -= (size >> 63) << 64
        if size < 0:
            raise OSError(EINVAL, "a negative size")

        def cut(at: bytes) -> None:
            if size > _longest_file(process):
                raise OSError(EFBIG, "beyond the tracee's RLIMIT_FSIZE, which does not bind this process")
            os.truncate(at, size)

        return self._object(call, process, (-100, 0), cut, kind="file.write", bounded=self._context.bounds_truncate)

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
            flags=flags,
            mode=mode,
        )

    def chown(self, call: Call, process: Process, name: str) -> Operation:
        """chown, lchown, fchownat."""
        if name == "fchownat":
            place, at = (signed(call.args[0]), 1), 2
            flags = call.args[4] & 0xFFFFFFFF
        else:
            place, at, flags = (-100, 0), 1, linux.AT_SYMLINK_NOFOLLOW if name == "lchown" else 0
        uid, gid = _owner(call.args[at]), _owner(call.args[at + 1])
        return self._object(
            call, process, place, lambda at: os.chown(at, uid, gid), flags=flags, detail=f"owner {uid}:{gid}"
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

        def act(at: bytes) -> None:
            linux.utimensat(linux.AT_FDCWD, at, pair, 0)

        if name in ("utimensat", "futimesat") and not args[place[1]]:  # no path at all: the descriptor itself
            if flags:
                raise OSError(EINVAL, "flags without a path")
            found = self._objects.opened_descriptor(call, place[0])
            return self._on_held(found, b"", call, process, act, "file.meta", False, {})
        return self._object(call, process, place, act, flags=flags)

    @staticmethod
    def _times(process: Process, at: int, name: str) -> bytes | None:
        """Access and modification time as utimensat(2) takes them; None for now."""
        if not at:
            return None
        if name == "utime":
            accessed, modified = struct.unpack("=2q", memory.read(process.mem, at, 16))
            return _TIMES.pack(accessed, 0, modified, 0)
        times = memory.read(process.mem, at, 32)
        if name == "utimensat":
            return times
        accessed, more, modified, again = _TIMES.unpack(times)
        if not (0 <= more < 10**6 and 0 <= again < 10**6):
            raise OSError(EINVAL, "microseconds out of range")
        return _TIMES.pack(accessed, more * 1000, modified, again * 1000)

    def xattr(self, call: Call, process: Process, name: str) -> Operation:
        """setxattr, lsetxattr, removexattr, lremovexattr; the *at forms are refused, so that libc falls back to
        these.
        """
        if name.endswith("at"):
            raise OSError(ENOSYS, "not here")
        act = self._xattr_change(call, process, name)
        flags = linux.AT_SYMLINK_NOFOLLOW if name.startswith("l") else 0
        return self._object(call, process, (-100, 0), act, flags=flags)

    @staticmethod
    def _xattr_change(call: Call, process: Process, name: str) -> Callable[[bytes], None]:
        try:
            attribute = memory.read_string(process.mem, call.args[1], 256)
        except OSError as error:
            raise OSError(ERANGE if error.errno == ENAMETOOLONG else error.errno, "no name of an attribute") from error
        if attribute.startswith((b"security.", b"trusted.")):
            raise OSError(EPERM, "takes capabilities that a root supervisor has and its tree has not")
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
        found = self._objects.opened_descriptor(call, signed(call.args[0]))
        try:
            change = self._fd_change(call, process, name)
        except BaseException:
            os.close(found.fd)
            raise
        return self._on_held(found, b"", call, process, change, "file.meta", False, {})

    def _fd_change(self, call: Call, process: Process, name: str) -> Callable[[bytes], None]:
        if name == "fchmod":
            mode = call.args[1] & 0o7777
            return lambda at: os.chmod(at, mode)
        if name == "fchown":
            uid, gid = _owner(call.args[1]), _owner(call.args[2])
            return lambda at: os.chown(at, uid, gid)
        return self._xattr_change(call, process, name)


def _owner(register: int) -> int:
    """A user or group id as Python takes it: only the highest number means that it stays as it is."""
    register &= 0xFFFFFFFF
    return -1 if register == 0xFFFFFFFF else register


def _longest_file(process: Process) -> float:
    """The size that the tracee's RLIMIT_FSIZE lets its files have."""
    from resource import RLIM_INFINITY, RLIMIT_FSIZE, prlimit

    limit = prlimit(process.pid, RLIMIT_FSIZE)[0]
    return float("inf") if limit == RLIM_INFINITY else limit
