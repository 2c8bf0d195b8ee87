"""File calls: from registers to an ``Operation`` on objects that are held open.

Every path is located once, as the tracee would (``asl_hooks.paths``), and held by an O_PATH descriptor: the event
names the held object, the decision is on that name, and what is performed is performed on the held object. Creation,
removal and renaming hold the parent folder instead and act on one component below it.

Where any path below a folder could be blocked, that folder is outside the WRITE part of the Landlock domain, so every
change there comes through here, one after the other: between a check and the act that follows it nothing else changes
that folder.
"""

from __future__ import annotations

import os
import stat
from errno import (
    EACCES,
    EEXIST,
    EINVAL,
    EISDIR,
    ELOOP,
    ENOENT,
    ENXIO,
    EPERM,
    EXDEV,
)

from agent_safety_layer.engine.operation import Injected, Operation
from agent_safety_layer.events import ASK, RANK, Event, text_of
from asl_hooks import memory
from asl_hooks._abi import linux
from asl_hooks.paths import Located, base_of, locate, name_of, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.engine.context import Context
    from asl_hooks.backend import Call
    from asl_hooks.processes import Process

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
_TMPFILE = os.O_TMPFILE & ~os.O_DIRECTORY
_REOPEN = ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC)
_CARRIED = 10_000  # entries that a renamed folder may take along and have judged

_FLAG_NAMES = tuple(
    (getattr(os, name), name)
    for name in (
        *("O_CREAT", "O_EXCL", "O_NOCTTY", "O_TRUNC", "O_APPEND", "O_NONBLOCK", "O_DSYNC", "O_DIRECT"),
        *("O_DIRECTORY", "O_NOFOLLOW", "O_NOATIME", "O_CLOEXEC", "O_PATH"),
    )
)
_flag_texts: dict[int, str] = {}


def flags_text(flags: int) -> str:
    """Open flags by name: ``O_WRONLY|O_CREAT|O_CLOEXEC``."""
    known = _flag_texts.get(flags)
    if known is None:
        names = [("O_RDONLY", "O_WRONLY", "O_RDWR", "O_RDWR")[flags & 3]]
        names += [name for bit, name in _FLAG_NAMES if flags & bit]
        if flags & _TMPFILE:
            names.append("O_TMPFILE")
        known = _flag_texts[flags] = "|".join(names)
    return known


def _signed(register: int) -> int:
    """A register that the kernel reads as a 32-bit int."""
    register &= 0xFFFFFFFF
    return register - 0x100000000 if register & 0x80000000 else register


class Files:
    """Describes the file calls of one run. Methods are named by the table's tags; each answers an ``Operation``.

    They raise ``OSError`` with the errno that the tracee shall see when there is nothing to judge: unreadable memory,
    a missing folder on the way.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._umask = os.umask(0o077)
        os.umask(self._umask)

    # -- what every call needs -------------------------------------------------------------------------------------

    def _path(self, call: Call, process: Process, index: int, dir_fd: int) -> bytes:
        """The path argument made absolute. Empty paths are ENOENT; callers that allow them look first."""
        raw = memory.read_string(process.mem, call.args[index])
        if raw.startswith(b"/"):
            return raw
        if not raw:
            raise OSError(ENOENT, "empty path")
        return base_of(call.tid, dir_fd) + b"/" + raw

    def _locate(self, path: bytes, call: Call, process: Process, follow: bool) -> Located:
        found = locate(path, process.pid, call.tid, follow)
        if found.path.startswith(b"/proc/") and not self._context.may_look_at(found.path, process):
            if found.fd >= 0:
                os.close(found.fd)
            raise OSError(EACCES, "a process outside the tree")
        return found

    def _parent(self, path: bytes, call: Call, process: Process) -> tuple[Located, bytes, str]:
        """The held parent folder, the last component, and the canonical text of both together."""
        folder, name = split(path)
        if name.rstrip(b"/") in (b"", b".", b".."):
            raise OSError(EINVAL if name.rstrip(b"/") == b"." else EEXIST, "no name to act on")
        found = self._locate(folder, call, process, True)
        if found.fd < 0:
            raise OSError(found.errno, "no such folder")
        return found, name, text_of(found.path.rstrip(b"/") + b"/" + name.rstrip(b"/"))

    def _event(self, kind: str, call: Call, process: Process, path: str, raw: bytes = b"", **more: object) -> Event:
        spelled = text_of(raw) if raw else ""
        return self._context.event(kind, call, process, path=path, spelled=spelled if spelled != path else "", **more)

    def _as_creator(self, process: Process) -> None:
        if process.umask != self._umask:
            os.umask(process.umask)
            self._umask = process.umask

    # -- open ------------------------------------------------------------------------------------------------------

    def open(self, call: Call, process: Process, name: str) -> Operation:
        """open, openat, openat2, creat."""
        args = call.args
        resolve = 0
        if name == "openat":
            dir_fd, at, flags, mode = _signed(args[0]), 1, args[2] & 0xFFFFFFFF, args[3] & 0o7777
        elif name == "open":
            dir_fd, at, flags, mode = linux.AT_FDCWD, 0, args[1] & 0xFFFFFFFF, args[2] & 0o7777
        elif name == "creat":
            dir_fd, at, flags, mode = linux.AT_FDCWD, 0, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, args[1] & 0o7777
        else:
            dir_fd, at, (flags, mode, resolve) = _signed(args[0]), 1, self._open_how(call, process)
        path = self._path(call, process, at, dir_fd)
        context = self._context
        follow = not (flags & os.O_NOFOLLOW or (flags & os.O_CREAT and flags & os.O_EXCL))
        if resolve:
            found = self._resolve_within(call, process, at, dir_fd, flags, resolve)
        else:
            found = self._locate(path, call, process, follow)
        canonical = text_of(found.path)
        try:
            kind = self._open_kind(found, flags)
            event = self._event(kind, call, process, canonical, path, flags=flags_text(flags))
            writes = kind not in ("file.read", "file.list", "file.meta")
            if kind == "file.meta":  # O_PATH: a name that is held, nothing that can be read; as stat
                return Operation(event, None, bounded=True, fds=(found.fd,))
            bounded = context.writes_bounded(canonical) if writes else context.reads_bounded(canonical)
            if writes and flags & _ACCESS == os.O_RDWR:
                bounded = bounded and context.reads_bounded(canonical)
        except BaseException:
            if found.fd >= 0:
                os.close(found.fd)
            raise
        if found.fd < 0 and not (found.creatable and flags & os.O_CREAT):
            return Operation(event, _failing(found.errno), bounded=bounded)
        perform, blocking = self._opener(found, flags, mode, process)
        plain = not blocking and kind != "file.create" and found.path.startswith(b"/") and not resolve
        again = found.path if plain else b""
        return Operation(event, perform, bounded=bounded, fds=(found.fd,), blocking=blocking, reopen=again)

    def _open_how(self, call: Call, process: Process) -> tuple[int, int, int]:
        size = call.args[3]
        if size < 24 or size > memory.PAGE:
            raise OSError(EINVAL, "open_how of a wrong size")
        how = memory.read(process.mem, call.args[2], size)
        if any(how[24:]):
            raise OSError(7, "open_how from a newer kernel")  # E2BIG
        flags, mode, resolve = (int.from_bytes(how[i : i + 8], "little") for i in (0, 8, 16))
        if flags >> 32 or mode & ~0o7777:
            raise OSError(EINVAL, "open_how with unknown flags")
        return flags, mode, resolve

    def _resolve_within(self, call: Call, process: Process, at: int, dir_fd: int, flags: int, resolve: int) -> Located:
        """As openat2 with RESOLVE_* flags: by the kernel, from the very folder that the tracee named."""
        raw = memory.read_string(process.mem, call.args[at])
        start = os.open(base_of(call.tid, dir_fd), _FOLDER)
        try:
            held = os.O_PATH | os.O_CLOEXEC | flags & os.O_NOFOLLOW
            fd = linux.openat2(start, raw, held, 0, resolve & ~linux.RESOLVE_CACHED | linux.RESOLVE_NO_MAGICLINKS)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
            folder, name = split(b"/" + raw if not raw.startswith(b"/") else raw)
            parent = linux.openat2(
                start,
                folder.lstrip(b"/") or b".",
                _FOLDER,
                0,
                resolve & ~linux.RESOLVE_CACHED | linux.RESOLVE_NO_MAGICLINKS,
            )
            try:
                return Located(name_of(parent).rstrip(b"/") + b"/" + name, -1, ENOENT, True)
            finally:
                os.close(parent)
        finally:
            os.close(start)
        found = Located(name_of(fd), fd)
        if found.path.startswith(b"/proc/"):
            os.close(fd)
            raise OSError(EXDEV, "no RESOLVE_* flags below /proc")
        return found

    @staticmethod
    def _open_kind(found: Located, flags: int) -> str:
        if flags & os.O_PATH:
            return "file.meta"
        if flags & _TMPFILE or (found.fd < 0 and found.creatable and flags & os.O_CREAT):
            return "file.create"
        if flags & _ACCESS != os.O_RDONLY or flags & os.O_TRUNC:
            return "file.write"
        if found.fd >= 0 and stat.S_ISDIR(os.fstat(found.fd).st_mode):
            return "file.list"
        return "file.read"

    def _opener(
        self, found: Located, flags: int, mode: int, process: Process
    ) -> tuple[Callable[[], int | Injected], bool]:
        cloexec = bool(flags & os.O_CLOEXEC)
        if found.fd < 0:
            return lambda: Injected(self._create(found.path, flags, mode, process), cloexec), False
        kind = os.fstat(found.fd).st_mode
        if stat.S_ISLNK(kind):
            return _failing(ELOOP), False
        if stat.S_ISSOCK(kind):
            return _failing(ENXIO), False
        if flags & os.O_CREAT and flags & os.O_EXCL:
            return _failing(EEXIST), False
        if flags & os.O_CREAT and stat.S_ISDIR(kind) and not flags & _TMPFILE:
            return _failing(EISDIR), False
        source = b"/proc/self/fd/%d" % found.fd
        if found.path == b"/dev/tty":
            source = self._context.terminal_of(process)
        how = flags & _REOPEN | os.O_CLOEXEC | os.O_NOCTTY

        def reopen() -> Injected:
            if flags & _TMPFILE:
                self._as_creator(process)
            return Injected(os.open(source, how, mode), cloexec)

        blocking = stat.S_ISFIFO(kind) or (stat.S_ISCHR(kind) and os.major(os.fstat(found.fd).st_rdev) != 1)
        return reopen, blocking and not flags & os.O_NONBLOCK

    def _create(self, path: bytes, flags: int, mode: int, process: Process) -> int:
        """Create the file and open it: below the folder that was judged, through no link."""
        folder, name = split(path)
        if name.endswith(b"/"):
            raise OSError(EISDIR, "a folder's name")
        parent = linux.openat2(linux.AT_FDCWD, folder, _FOLDER, 0, linux.RESOLVE_NO_SYMLINKS)
        try:
            self._as_creator(process)
            how = flags & ~os.O_CLOEXEC | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(name, how & ~os.O_TRUNC, mode, dir_fd=parent)
        finally:
            os.close(parent)

    # -- making, removing, moving names ----------------------------------------------------------------------------

    def _entry(
        self,
        kind: str,
        call: Call,
        process: Process,
        place: tuple[int, int],
        act: Callable[[int, bytes], None],
        landlocked: bool = True,
        mutates: bool = False,
        **more: object,
    ) -> Operation:
        """An operation on one name below a held folder. ``place`` is (dir fd, index of the path argument).

        ``landlocked``: Landlock knows the operation, so it is bounded wherever the WRITE part of the domain covers it.
        """
        path = self._path(call, process, place[1], place[0])
        parent, name, canonical = self._parent(path, call, process)
        event = self._event(kind, call, process, canonical, path, **more)

        def perform() -> int:
            self._as_creator(process)
            act(parent.fd, name)
            return 0

        bounded = landlocked and self._context.writes_bounded(text_of(parent.path))
        return Operation(event, perform, bounded=bounded, fds=(parent.fd,), mutates=mutates)

    def mkdir(self, call: Call, process: Process, name: str) -> Operation:
        """mkdir, mkdirat."""
        place, mode = ((_signed(call.args[0]), 1), call.args[2]) if name == "mkdirat" else ((-100, 0), call.args[1])
        return self._entry(
            "file.create",
            call,
            process,
            place,
            lambda at, last: os.mkdir(last, mode & 0o7777, dir_fd=at),
            mode=mode & 0o7777,
        )

    def mknod(self, call: Call, process: Process, name: str) -> Operation:
        """mknod, mknodat: files, FIFOs and sockets; device nodes are refused."""
        place, mode = ((_signed(call.args[0]), 1), call.args[2]) if name == "mknodat" else ((-100, 0), call.args[1])
        mode &= 0xFFFFFFFF
        if stat.S_IFMT(mode) in (stat.S_IFCHR, stat.S_IFBLK):
            raise OSError(EPERM, "device nodes are not made here")
        return self._entry(
            "file.create", call, process, place, lambda at, last: os.mknod(last, mode, dir_fd=at), mode=mode & 0o7777
        )

    def unlink(self, call: Call, process: Process, name: str) -> Operation:
        """unlink, unlinkat, rmdir."""
        place = (_signed(call.args[0]), 1) if name == "unlinkat" else (-100, 0)
        folder = name == "rmdir" or (name == "unlinkat" and bool(call.args[2] & linux.AT_REMOVEDIR))
        act = os.rmdir if folder else os.unlink
        path = self._path(call, process, place[1], place[0])
        last = split(path)[1].rstrip(b"/")
        if folder and last in (b"", b".", b".."):  # the kernel's own errors for names that cannot be removed
            raise OSError({b".": EINVAL, b"..": 39}.get(last, 16), "not a name that can be removed")
        is_link = os.path.islink(path)
        return self._entry("file.delete", call, process, place, lambda at, last: act(last, dir_fd=at), mutates=is_link)

    def symlink(self, call: Call, process: Process, name: str) -> Operation:
        """symlink, symlinkat. The target is text: it is judged when somebody follows it."""
        target = memory.read_string(process.mem, call.args[0])
        place = (_signed(call.args[1]), 2) if name == "symlinkat" else (-100, 1)
        return self._entry(
            "file.create",
            call,
            process,
            place,
            lambda at, last: os.symlink(target, last, dir_fd=at),
            mutates=True,
            detail="symbolic link to " + text_of(target),
        )

    def rename(self, call: Call, process: Process, name: str) -> Operation:
        """rename, renameat, renameat2."""
        args = call.args
        if name == "rename":
            places, flags = ((-100, 0), (-100, 1)), 0
        else:
            places = ((_signed(args[0]), 1), (_signed(args[2]), 3))
            flags = args[4] & 0xFFFFFFFF if name == "renameat2" else 0
        if flags & 4:
            raise OSError(EPERM, "whiteouts are not made here")
        paths = [self._path(call, process, at, dir_fd) for dir_fd, at in places]
        source, name1, text1 = self._parent(paths[0], call, process)
        try:
            target, name2, text2 = self._parent(paths[1], call, process)
        except BaseException:
            os.close(source.fd)
            raise
        event = self._event("file.rename", call, process, text1, paths[0], path2=text2)
        context = self._context
        ends = (context.writes_bounded(text_of(source.path)), context.writes_bounded(text_of(target.path)))

        def perform() -> int:
            if _is_folder_at(source.fd, name1):
                self._judge_carried(event, text1, text2, any(ends))
            if flags & 2 and _is_folder_at(target.fd, name2):
                self._judge_carried(event, text2, text1, any(ends))
            linux.renameat2(source.fd, name1, target.fd, name2, flags)
            return 0

        return Operation(event, perform, bounded=all(ends), fds=(source.fd, target.fd), mutates=True)

    def _judge_carried(self, event: Event, source: str, target: str, unserialised: bool) -> None:
        """A renamed folder takes its contents along: each entry must be as allowed at its new name as at its old.

        ``unserialised``: one end lies where the kernel alone bounds changes, so entries could appear between this and
        the rename; EXDEV then makes mv(1) copy, and each copy is judged. The same where there is too much to judge.
        """
        if unserialised:
            raise OSError(EXDEV, "moved piece by piece, so that each piece is judged")
        count = 0
        for folder, folders, files in os.walk(os.fsencode(source)):
            for name in folders + files:
                count += 1
                if count > _CARRIED:
                    raise OSError(EXDEV, "too much to judge at once")
                old = text_of(folder + b"/" + name)
                new = target + old[len(source) :]
                before, after = self._strictness(event, old), self._strictness(event, new)
                if before >= RANK[ASK] or after >= RANK[ASK] or before > after:
                    raise OSError(EACCES, f"it would take {old} along")

    def _strictness(self, event: Event, path: str) -> int:
        from asl_hooks.value import replace

        decide = self._context.decide
        return max(
            RANK[decide(replace(event, kind=kind, path=path, path2="")).action] for kind in ("file.read", "file.write")
        )

    def link(self, call: Call, process: Process, name: str) -> Operation:
        """link, linkat: another name for a file, so it must be writable under both."""
        args = call.args
        if name == "link":
            places, flags = ((-100, 0), (-100, 1)), 0
        else:
            places, flags = ((_signed(args[0]), 1), (_signed(args[2]), 3)), args[4] & 0xFFFFFFFF
        if flags & linux.AT_EMPTY_PATH and not memory.read_string(process.mem, args[1]):
            found = self._held_descriptor(call, _signed(args[0]))
            path1 = found.path
        else:
            path1 = self._path(call, process, places[0][1], places[0][0])
            found = self._locate(path1, call, process, bool(flags & linux.AT_SYMLINK_FOLLOW))
        if found.fd < 0:
            raise OSError(found.errno, "no such file")
        try:
            path2 = self._path(call, process, places[1][1], places[1][0])
            parent, last, text2 = self._parent(path2, call, process)
        except BaseException:
            os.close(found.fd)
            raise
        text1 = text_of(found.path)
        event = self._event("file.link", call, process, text1, path1, path2=text2)

        def perform() -> int:
            # By way of /proc: linking a descriptor itself (AT_EMPTY_PATH) takes CAP_DAC_READ_SEARCH.
            source = b"/proc/self/fd/%d" % found.fd
            if stat.S_ISLNK(os.fstat(found.fd).st_mode):
                raise OSError(EPERM, "no hard links to symbolic links")
            linux.linkat(linux.AT_FDCWD, source, parent.fd, last, linux.AT_SYMLINK_FOLLOW)
            return 0

        context = self._context
        bounded = context.writes_bounded(os.path.dirname(text1)) and context.writes_bounded(text_of(parent.path))
        return Operation(event, perform, bounded=bounded, fds=(found.fd, parent.fd))

    # -- changing what is there ------------------------------------------------------------------------------------

    def _held_descriptor(self, call: Call, fd: int) -> Located:
        """A copy of the tracee's descriptor *fd*: the same open file, whatever the tracee does with the number."""
        held = self._context.copy_descriptor(call, fd)
        name = name_of(held)
        if name.endswith(b" (deleted)") and not name.startswith(b"/memfd:"):
            name = name[:-10]
        return Located(name, held)

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
            found = self._held_descriptor(call, dir_fd)
            path = b""
        else:
            path = self._path(call, process, index, dir_fd)
            found = self._locate(path, call, process, follow)
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
        event = None if _is_nameless(found) else self._event(kind, call, process, canonical, path, **more)
        if found.fd < 0:
            return Operation(event, _failing(found.errno))

        def perform() -> int:
            if not follow_possible and kind == "file.meta":
                raise OSError(95, "not on a symbolic link")  # EOPNOTSUPP, as the kernel for chmod
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
            place, mode = (_signed(call.args[0]), 1), call.args[2] & 0o7777
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
            place, at = (_signed(call.args[0]), 1), 2
            flags = call.args[4] & 0xFFFFFFFF
        else:
            place, at, flags = (-100, 0), 1, linux.AT_SYMLINK_NOFOLLOW if name == "lchown" else 0
        uid, gid = _signed(call.args[at]), _signed(call.args[at + 1])
        if flags & linux.AT_SYMLINK_NOFOLLOW:
            return self._entry_or_object_chown(call, process, place, uid, gid, bool(flags & linux.AT_EMPTY_PATH))
        return self._object(
            call,
            process,
            place,
            lambda at: os.chown(at, uid, gid),
            empty=bool(flags & linux.AT_EMPTY_PATH),
            detail=f"owner {uid}:{gid}",
        )

    def _entry_or_object_chown(
        self, call: Call, process: Process, place: tuple[int, int], uid: int, gid: int, empty: bool
    ) -> Operation:
        if empty and not memory.read_string(process.mem, call.args[place[1]]):
            return self._object(
                call, process, place, lambda at: os.chown(at, uid, gid), empty=True, detail=f"owner {uid}:{gid}"
            )
        return self._entry(
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
            place, times = (_signed(args[0]), 1), args[2]
            flags = args[3] & 0xFFFFFFFF if name == "utimensat" else 0
        pair = self._times(process, times, name)
        nothing = name in ("utimensat", "futimesat")  # NULL path: the descriptor itself
        if flags & linux.AT_SYMLINK_NOFOLLOW and call.args[place[1]]:
            return self._entry(
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
            raise OSError(38, "not here")  # ENOSYS
        act = self._xattr_change(call, process, name)
        return self._object(call, process, (-100, 0), act, follow=not name.startswith("l"))

    @staticmethod
    def _xattr_change(call: Call, process: Process, name: str) -> Callable[[bytes], None]:
        attribute = memory.read_string(process.mem, call.args[1], 256)
        if "remove" in name:
            return lambda at: os.removexattr(at, attribute)
        if call.args[3] > 65536:
            raise OSError(7, "value too long")
        content = memory.read(process.mem, call.args[2], call.args[3]) if call.args[3] else b""
        flags = call.args[4] & 0xFFFFFFFF
        return lambda at: os.setxattr(at, attribute, content, flags)

    def fd_meta(self, call: Call, process: Process, name: str) -> Operation:
        """fchmod, fchown, fsetxattr, fremovexattr: a descriptor that may only read must not change the file's
        metadata.
        """
        change = self._fd_change(call, process, name)
        found = self._held_descriptor(call, _signed(call.args[0]))
        return self._on_held(found, b"", call, process, change, "file.meta", False, {})

    def _fd_change(self, call: Call, process: Process, name: str) -> Callable[[bytes], None]:
        if name == "fchmod":
            mode = call.args[1] & 0o7777
            return lambda at: os.chmod(at, mode)
        if name == "fchown":
            uid, gid = _signed(call.args[1]), _signed(call.args[2])
            return lambda at: os.chown(at, uid, gid)
        return self._xattr_change(call, process, name)


def _failing(errno: int) -> Callable[[], int | Injected]:
    def fail() -> int:
        raise OSError(errno, os.strerror(errno))

    return fail


def _is_nameless(found: Located) -> bool:
    """Whether the object is one that no path leads to (a pipe, a socket, a memfd): policies have no opinion about
    those.
    """
    return not found.path.startswith(b"/") or found.path.startswith(b"/memfd:")


def _is_folder_at(parent: int, name: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


_NOW, _OMIT = (1 << 30) - 1, (1 << 30) - 2


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
