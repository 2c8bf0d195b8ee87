"""Making, removing and moving names: each acts on one component below a folder that is held open.

Where any path below a folder could be blocked, that folder is outside the WRITE part of the Landlock domain, so every
change there comes through here, one after the other: between a check and the act that follows it nothing else changes
that folder.
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, EBUSY, EEXIST, EINVAL, EISDIR, ENOENT, ENOTEMPTY, EPERM, EXDEV

from agent_safety_layer.engine.objects import Objects, signed
from agent_safety_layer.engine.operation import Operation
from agent_safety_layer.events import ASK, BLOCK, RANK, Event, text_of
from asl_hooks import memory
from asl_hooks._abi import linux
from asl_hooks.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.engine.context import Context
    from asl_hooks.backend import Call
    from asl_hooks.paths import Located
    from asl_hooks.processes import Process

_CARRIED = 10_000  # entries that a renamed folder may take along and have judged


class Entries:
    """Describes the calls of one run that make, remove and move names."""

    def __init__(self, context: Context, objects: Objects) -> None:
        self._context = context
        self._objects = objects

    def entry(
        self,
        kind: str,
        call: Call,
        process: Process,
        place: tuple[int, int],
        act: Callable[[int, bytes], None],
        dots: int | Callable[[bytes], int] = EEXIST,
        mutates: Callable[[int, bytes], bool] | None = None,
        **more: object,
    ) -> Operation:
        """An operation on one name below a held folder. ``place`` is (dir fd, index of the path argument), ``dots`` the
        errno for a path that ends in no name; ``mutates`` tells of the name whether paths lead elsewhere without it.
        """
        path = self._objects.path(call, process, place[1], place[0])
        parent, name, canonical = self._objects.parent(path, call, process, dots)
        if kind == "file.create" and _is_there(parent.fd, name):  # as the kernel: before it asks whether one may
            os.close(parent.fd)
            raise OSError(EEXIST, "it exists")
        event = self._objects.event(kind, call, process, canonical, path, **more)

        def perform() -> int:
            self._objects.as_creator(process)
            act(parent.fd, name)
            return 0

        def futile() -> int:
            return ENOENT if kind == "file.delete" and not _is_there(parent.fd, name) else 0

        bounded = self._context.writes_bounded(text_of(parent.path))
        turns = mutates is not None and mutates(parent.fd, name)
        return Operation(event, perform, bounded=bounded, fds=(parent.fd,), mutates=turns, futile=futile)

    def mkdir(self, call: Call, process: Process, name: str) -> Operation:
        """mkdir, mkdirat."""
        place, mode = ((signed(call.args[0]), 1), call.args[2]) if name == "mkdirat" else ((-100, 0), call.args[1])
        return self.entry(
            "file.create",
            call,
            process,
            place,
            lambda at, last: os.mkdir(last, mode & 0o7777, dir_fd=at),
            mutates=_always,
            mode=mode & 0o7777,
        )

    def mknod(self, call: Call, process: Process, name: str) -> Operation:
        """mknod, mknodat: files, FIFOs and sockets; device nodes are refused."""
        place, mode = ((signed(call.args[0]), 1), call.args[2]) if name == "mknodat" else ((-100, 0), call.args[1])
        mode &= 0xFFFFFFFF
        if stat.S_IFMT(mode) in (stat.S_IFCHR, stat.S_IFBLK):
            raise OSError(EPERM, "device nodes are not made here")
        return self.entry(
            "file.create", call, process, place, lambda at, last: os.mknod(last, mode, dir_fd=at), mode=mode & 0o7777
        )

    def unlink(self, call: Call, process: Process, name: str) -> Operation:
        """unlink, unlinkat, rmdir."""
        place = (signed(call.args[0]), 1) if name == "unlinkat" else (-100, 0)
        flags = call.args[2] & 0xFFFFFFFF if name == "unlinkat" else 0
        if flags & ~linux.AT_REMOVEDIR:
            raise OSError(EINVAL, "unknown flags")
        if flags or name == "rmdir":
            return self.entry(
                "file.delete",
                call,
                process,
                place,
                lambda at, last: os.rmdir(last, dir_fd=at),
                dots=_no_folder,
                mutates=_always,
            )
        return self.entry(
            "file.delete",
            call,
            process,
            place,
            lambda at, last: os.unlink(last, dir_fd=at),
            dots=EISDIR,
            mutates=_is_link,
        )

    def symlink(self, call: Call, process: Process, name: str) -> Operation:
        """symlink, symlinkat. The target is text: it is judged when somebody follows it."""
        target = memory.read_string(process.mem, call.args[0])
        place = (signed(call.args[1]), 2) if name == "symlinkat" else (-100, 1)
        return self.entry(
            "file.create",
            call,
            process,
            place,
            lambda at, last: os.symlink(target, last, dir_fd=at),
            mutates=_always,
            mode=stat.S_IFLNK | 0o777,
            detail="symbolic link to " + text_of(target),
        )

    def rename(self, call: Call, process: Process, name: str) -> Operation:
        """rename, renameat, renameat2."""
        args = call.args
        if name == "rename":
            places, flags = ((-100, 0), (-100, 1)), 0
        else:
            places = ((signed(args[0]), 1), (signed(args[2]), 3))
            flags = args[4] & 0xFFFFFFFF if name == "renameat2" else 0
        if flags & 4:
            raise OSError(EPERM, "whiteouts are not made here")
        paths = [self._objects.path(call, process, at, dir_fd) for dir_fd, at in places]
        source, name1, text1 = self._objects.parent(paths[0], call, process, EBUSY)
        try:
            target, name2, text2 = self._objects.parent(paths[1], call, process, EBUSY)
        except BaseException:
            os.close(source.fd)
            raise
        mode = _mode_at(source.fd, name1)
        event = self._objects.event("file.rename", call, process, text1, paths[0], path2=text2, mode=mode)
        context = self._context
        ends = (context.writes_bounded(text_of(source.path)), context.writes_bounded(text_of(target.path)))

        moves = [(source, name1, text2)]
        if flags & 2:  # the two change places
            moves.append((target, name2, text1))
            back = replace(event, path=text2, path2=text1, spelled="", mode=_mode_at(target.fd, name2))
            event = max(event, back, key=lambda event: RANK[context.decide(event).action])
        folders = [move for move in moves if stat.S_ISDIR(max(_mode_at(move[0].fd, move[1]), 0))]
        try:
            refused = None if all(ends) else self._refused(event, folders, any(ends))
        except BaseException:
            os.close(source.fd)
            os.close(target.fd)
            raise
        if refused is not None and context.decide(refused).action == BLOCK:
            event, refused = refused, None  # so that it is told as what it is
        asked = context.decide(event).action == ASK

        def perform() -> int:
            if refused is not None or (asked and self._refused(event, folders, any(ends)) is not None):
                raise OSError(EACCES, "something in it may not go along")
            if folders and any(ends):
                raise OSError(EXDEV, "moved piece by piece, so that each piece is judged")
            linux.renameat2(source.fd, name1, target.fd, name2, flags)
            return 0

        return Operation(
            event,
            perform,
            bounded=all(ends),
            fds=(source.fd, target.fd),
            mutates=True,
            futile=lambda: 0 if _is_there(source.fd, name1) else ENOENT,
        )

    def _refused(self, event: Event, folders: list[tuple[Located, bytes, str]], unserialised: bool) -> Event | None:
        """A renamed folder takes its contents along: the event of the first entry that may not go, because it is not as
        allowed at its new name as at its old; None when all may.

        Where one end lies where the kernel alone bounds changes (``unserialised``), entries could appear between this
        and the rename; there EXDEV will make mv(1) copy, and each copy is judged. The same where there are too many.
        """
        count = 0
        for parent, name, target in () if unserialised else folders:
            source = parent.path.rstrip(b"/") + b"/" + name.rstrip(b"/")
            for folder, below, files in os.walk(source, onerror=_reraise):
                for entry in below + files:
                    count += 1
                    if count > _CARRIED:
                        raise OSError(EXDEV, "too much to judge at once")
                    path = folder + b"/" + entry
                    old, new = text_of(path), target + text_of(path[len(source) :])
                    mode, detail = os.lstat(path).st_mode, f"goes along with {event.path}"
                    moved = replace(event, path=old, path2=new, spelled="", mode=mode, detail=detail)
                    before, after = (self._strictness(event, at) for at in (old, new))
                    if max(RANK[self._context.decide(moved).action], before, after) >= RANK[ASK] or before > after:
                        return moved
        return None

    def _strictness(self, event: Event, path: str) -> int:
        decide = self._context.decide
        event = replace(event, path=path, path2="", mode=stat.S_IFDIR)  # whatever it is, it keeps being that
        return max(RANK[decide(replace(event, kind=kind)).action] for kind in ("file.read", "file.write"))

    def link(self, call: Call, process: Process, name: str) -> Operation:
        """link, linkat: another name for a file, so it must be writable under both."""
        args = call.args
        if name == "link":
            places, flags = ((-100, 0), (-100, 1)), 0
        else:
            places, flags = ((signed(args[0]), 1), (signed(args[2]), 3)), args[4] & 0xFFFFFFFF
        if flags & ~(linux.AT_EMPTY_PATH | linux.AT_SYMLINK_FOLLOW):
            raise OSError(EINVAL, "unknown flags")
        if flags & linux.AT_EMPTY_PATH and not memory.read_string(process.mem, args[1]):
            found = self._objects.held_descriptor(call, signed(args[0]))
            path1 = found.path
        else:
            path1 = self._objects.path(call, process, places[0][1], places[0][0])
            found = self._objects.locate(path1, call, process, bool(flags & linux.AT_SYMLINK_FOLLOW))
        if found.fd < 0:
            raise OSError(found.errno, "no such file")
        try:
            path2 = self._objects.path(call, process, places[1][1], places[1][0])
            parent, last, text2 = self._objects.parent(path2, call, process)
        except BaseException:
            os.close(found.fd)
            raise
        text1 = text_of(found.path)
        mode = os.fstat(found.fd).st_mode
        event = self._objects.event("file.link", call, process, text1, path1, path2=text2, mode=mode)

        def perform() -> int:
            # By way of /proc: linking a descriptor itself (AT_EMPTY_PATH) takes CAP_DAC_READ_SEARCH. This leads to the
            # held object and no further, also when that is a symbolic link.
            source = b"/proc/self/fd/%d" % found.fd
            linux.linkat(linux.AT_FDCWD, source, parent.fd, last, linux.AT_SYMLINK_FOLLOW)
            return 0

        context = self._context
        bounded = context.writes_bounded(os.path.dirname(text1)) and context.writes_bounded(text_of(parent.path))
        return Operation(
            event,
            perform,
            bounded=bounded,
            fds=(found.fd, parent.fd),
            mutates=True,  # what opens that name anew has not looked at what has several names
            futile=lambda: EEXIST if _is_there(parent.fd, last) else 0,
        )


def _is_there(parent: int, name: bytes) -> bool:
    try:
        os.stat(name.rstrip(b"/"), dir_fd=parent, follow_symlinks=False)
    except OSError:
        return False
    return True


def _always(parent: int, name: bytes) -> bool:
    """What was a file is a folder now, or what was a folder a file; or a path leads elsewhere."""
    return True


def _is_link(parent: int, name: bytes) -> bool:
    return stat.S_ISLNK(max(_mode_at(parent, name.rstrip(b"/")), 0))


def _no_folder(name: bytes) -> int:
    """The errno of rmdir(2) for a path that ends in no name."""
    return {b".": EINVAL, b"..": ENOTEMPTY}.get(name.rstrip(b"/"), EBUSY)


def _mode_at(parent: int, name: bytes) -> int:
    """Type and permissions of what is there, -1 for nothing."""
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return -1


def _reraise(error: OSError) -> None:
    raise OSError(EACCES, "a folder in it cannot be looked into") from error
