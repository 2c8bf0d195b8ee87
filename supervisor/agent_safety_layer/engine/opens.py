"""Opening: what is opened is judged by the name of the held object, and opened through that very hold."""

from __future__ import annotations

import os
import select
import stat
from errno import EACCES, EBADF, EEXIST, EINVAL, EISDIR, ELOOP, ENOENT, ENOSYS, ENOTDIR, ENXIO, EXDEV

from agent_safety_layer.engine.absent import Absent
from agent_safety_layer.engine.objects import FOLDER, Objects, failing, nameless, signed
from agent_safety_layer.engine.operation import Injected, Operation
from agent_safety_layer.engine.plans import open_again
from agent_safety_layer.events import ASK, RANK, Event, text_of
from asl_hooks import memory
from asl_hooks._abi import linux
from asl_hooks.paths import Located, base_of, name_of, split
from asl_hooks.processes import interruption
from asl_hooks.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.engine.context import Context
    from asl_hooks.backend import Call
    from asl_hooks.processes import Process

_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
_TMPFILE = os.O_TMPFILE & ~os.O_DIRECTORY
REOPEN = ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC)
_ODD = os.O_PATH | os.O_DIRECTORY | _TMPFILE  # flags that not every other goes with
FLAGS = 0x7FFFFFFF  # an int's; open and openat ignore those that they do not know, the sign among them
_PATH_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC  # what openat(2) leaves of flags with O_PATH

_FLAG_NAMES = tuple(
    (getattr(os, name), name)
    for name in (
        *("O_CREAT", "O_EXCL", "O_NOCTTY", "O_TRUNC", "O_APPEND", "O_NONBLOCK", "O_DSYNC", "O_DIRECT"),
        *("O_DIRECTORY", "O_NOFOLLOW", "O_NOATIME", "O_CLOEXEC", "O_PATH"),
    )
)
_SYSTEMS = (b"/proc/", b"/sys/")  # what their files tell can depend on who opens them
_VARYING = (b"/proc/", b"/sys/", b"/dev/")  # what is there changes without a trace, or with who asks
_SPLICE_F_NONBLOCK = 2
_IN_DONT_FOLLOW = 0x02000000
_FLAG_TEXTS = 1024
_flag_texts: dict[int, str] = {}


def flags_text(flags: int) -> str:
    """Open flags by name: ``O_WRONLY|O_CREAT|O_CLOEXEC``."""
    known = _flag_texts.get(flags)
    if known is None:
        names = [("O_RDONLY", "O_WRONLY", "O_RDWR", "O_RDWR")[flags & 3]]
        names += [name for bit, name in _FLAG_NAMES if flags & bit]
        if flags & _TMPFILE:
            names.append("O_TMPFILE")
        if len(_flag_texts) >= _FLAG_TEXTS:  # open(2) takes bits that mean nothing: there are billions of them
            _flag_texts.clear()
        known = _flag_texts[flags] = "|".join(names)
    return known


class Opens:
    """Describes the open family of one run."""

    def __init__(self, context: Context, objects: Objects) -> None:
        self._context = context
        self._objects = objects
        self._absent = Absent()

    def open(self, call: Call, process: Process, name: str) -> Operation:
        """open, openat, openat2, creat."""
        args = call.args
        resolve = 0
        if name == "openat":
            dir_fd, at, flags, mode = signed(args[0]), 1, args[2] & FLAGS, args[3] & 0o7777
        elif name == "open":
            dir_fd, at, flags, mode = linux.AT_FDCWD, 0, args[1] & FLAGS, args[2] & 0o7777
        elif name == "creat":
            dir_fd, at, flags, mode = linux.AT_FDCWD, 0, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, args[1] & 0o7777
        else:
            dir_fd, at, (flags, mode, resolve) = signed(args[0]), 1, self._open_how(call, process)
        in_register = name != "openat2"  # openat2's flags lie in memory: the kernel reads them a second time
        if in_register and flags & _ODD:
            if flags & os.O_PATH:
                flags &= _PATH_FLAGS
            else:
                _refuse_nonsense(lambda: os.open(b"x", flags, mode, dir_fd=-1))
        path = self._objects.path(call, process, at, dir_fd)
        context = self._context
        if flags & os.O_CREAT and path.endswith(b"/"):
            os.close(self._objects.parent(path, call, process, EISDIR)[0].fd)
            raise OSError(EISDIR, "a folder's name")
        follow = not (flags & os.O_NOFOLLOW or (flags & os.O_CREAT and flags & os.O_EXCL))
        if resolve:
            found = self._resolve_within(call, process, at, dir_fd, flags, resolve)
        elif not flags & os.O_CREAT and self._absent.still(path):
            found = Located(path, -1, ENOENT)
        else:
            found = self._objects.locate(path, call, process, follow)
            if found.errno == ENOENT and found.path == path and not path.startswith(_VARYING):
                self._absent.note(path)
        canonical = text_of(found.path)
        try:
            if flags & os.O_PATH:  # a name that is held, nothing that can be read: as stat, which nobody judges
                if not in_register and not context.reads_bounded(canonical):
                    raise OSError(
                        ENOSYS if found.fd >= 0 else found.errno,
                        "the kernel could read other flags, and O_PATH descriptors cannot be injected",
                    )
                return Operation(None, failing(found.errno), bounded=True, fds=(found.fd,))
            kind = self._open_kind(found, flags)
            judged = self._objects.name_judged(found)
            made = mode if flags & (os.O_CREAT | _TMPFILE) else -1
            event = self._objects.event(kind, call, process, judged, path, flags=flags_text(flags), mode=made)
            writes = kind not in ("file.read", "file.list")
            bounded = context.writes_bounded(canonical) if writes else context.reads_bounded(canonical)
            if writes and (flags & _ACCESS != os.O_WRONLY or not in_register):
                bounded = bounded and context.reads_bounded(canonical)
            if canonical.startswith("/proc/") and canonical.endswith("/fd"):
                bounded = False  # what a backend needs there for itself, it can hide only from what it opens
            if flags & os.O_TRUNC and flags & _ACCESS == os.O_RDONLY:
                bounded = bounded and context.bounds_truncate
            if found.fd < 0 and not (found.creatable and flags & os.O_CREAT):
                return Operation(event, failing(found.errno), bounded=bounded, futile=lambda: found.errno)
            perform, blocking = self._opener(event, found, flags, mode, call, process)
        except BaseException:
            if found.fd >= 0:
                os.close(found.fd)
            raise
        if nameless(found):  # whoever can name its own descriptor in /proc has it already
            return Operation(None, perform, fds=(found.fd,), blocking=blocking)
        plain = kind != "file.create" and not blocking and not resolve
        again = _lasting_name(found) if plain else b""
        foreign = found.fd >= 0 and context.is_foreign_terminal(os.fstat(found.fd))
        return Operation(
            event, perform, bounded=bounded, fds=(found.fd,), blocking=blocking, reopen=again, outside=foreign
        )

    def watch(self, call: Call, process: Process, name: str) -> Operation:
        """inotify_add_watch: whoever watches a folder is told what is in it, by and by. A watched file tells nothing
        that a look at it does not.
        """
        mask = call.args[2] & 0xFFFFFFFF
        path = self._objects.path(call, process, 1, linux.AT_FDCWD)
        found = self._objects.locate(path, call, process, not mask & _IN_DONT_FOLLOW)
        if found.fd < 0:
            raise OSError(found.errno, "nothing there to watch")
        try:
            event = None
            if stat.S_ISDIR(os.fstat(found.fd).st_mode):
                judged = self._objects.name_judged(found)
                event = self._objects.event("file.list", call, process, judged, path, detail="watched")
            held = self._context.copy_descriptor(call, signed(call.args[0]))
        except BaseException:
            os.close(found.fd)
            raise

        def perform() -> int:  # by a path that leads to the held object and no further
            return linux.inotify_add_watch(held, b"/proc/self/fd/%d" % found.fd, mask & ~_IN_DONT_FOLLOW)

        return Operation(event, perform, fds=(found.fd, held))

    def _open_how(self, call: Call, process: Process) -> tuple[int, int, int]:
        size = call.args[3]
        if size < 24 or size > memory.PAGE:
            raise OSError(EINVAL, "open_how of a wrong size")
        how = memory.read(process.mem, call.args[2], size)
        if any(how[24:]):
            raise OSError(7, "open_how from a newer kernel")  # E2BIG
        flags, mode, resolve = (int.from_bytes(how[i : i + 8], "little") for i in (0, 8, 16))
        # The kernel that runs knows best which combinations there are; a flag that it gained later is none of ours.
        _refuse_nonsense(lambda: linux.openat2(-1, b"x", flags, mode, resolve))
        if flags >> 23:
            raise OSError(EINVAL, "open_how with unknown flags")
        return flags, mode, resolve

    def _resolve_within(self, call: Call, process: Process, at: int, dir_fd: int, flags: int, resolve: int) -> Located:
        """As openat2 with RESOLVE_* flags: by the kernel, from the very folder that the tracee named."""
        raw = memory.read_string(process.mem, call.args[at])
        start = os.open(base_of(call.tid, dir_fd), FOLDER)
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
                FOLDER,
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
        if found.fd < 0 and found.creatable and flags & os.O_CREAT:
            return "file.create"
        is_folder = found.fd >= 0 and stat.S_ISDIR(os.fstat(found.fd).st_mode)
        if is_folder and flags & _TMPFILE:
            return "file.create"
        if flags & _ACCESS != os.O_RDONLY or flags & os.O_TRUNC:
            return "file.write"
        return "file.list" if is_folder else "file.read"

    def _opener(
        self, event: Event, found: Located, flags: int, mode: int, call: Call, process: Process
    ) -> tuple[Callable[[], int | Injected], bool]:
        """What opens the object, and whether that may wait for others."""
        cloexec = bool(flags & os.O_CLOEXEC)
        if found.fd < 0:
            return lambda: Injected(self._create_or_open(event, found.path, flags, mode, process), cloexec), False
        there = os.fstat(found.fd)
        kind = there.st_mode
        if flags & os.O_CREAT and flags & os.O_EXCL:
            return failing(EEXIST), False
        if stat.S_ISLNK(kind):
            return failing(ENOTDIR if flags & os.O_DIRECTORY else ELOOP), False
        if flags & os.O_CREAT and stat.S_ISDIR(kind):
            return failing(EISDIR), False
        source = b"/proc/self/fd/%d" % found.fd
        how = flags & REOPEN | os.O_CLOEXEC | os.O_NOCTTY
        if flags & _TMPFILE:
            how |= flags & os.O_EXCL
        by_capabilities = stat.S_ISCHR(kind) or found.path.startswith(_SYSTEMS)

        def reopen() -> Injected:
            if flags & _TMPFILE:
                self._objects.as_creator(process)
            at = self._context.terminal_of(process) if found.path == b"/dev/tty" else source
            if not by_capabilities:
                return Injected(os.open(at, how, mode), cloexec)
            from asl_hooks.identity import Lowered

            with Lowered():
                return Injected(os.open(at, how, mode), cloexec)

        def wait() -> Injected:
            return Injected(_open_fifo(source, how, call.tid), cloexec)

        if flags & os.O_NONBLOCK or flags & os.O_DIRECTORY:
            return reopen, False
        if stat.S_ISFIFO(kind):
            return wait, True
        return reopen, stat.S_ISCHR(kind) and os.major(there.st_rdev) != 1

    def _create_or_open(self, event: Event, path: bytes, flags: int, mode: int, process: Process) -> int:
        """Create the file. When another one was faster, open what is there now, if that may be opened as well."""
        try:
            return self._create(path, flags, mode, process)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
        opened = replace(event, kind="file.write" if flags & (_ACCESS | os.O_TRUNC) else "file.read")
        decision = self._context.decide(opened)
        if RANK[decision.action] >= RANK[ASK]:
            raise OSError(EACCES, "it has come to be since, and may not be opened")
        self._context.advance(opened, decision)
        fd = open_again(path, flags)
        if fd < 0:
            raise OSError(ELOOP, "a link has come to be there, or it comes and goes")
        if flags & os.O_TRUNC and flags & _ACCESS:
            os.ftruncate(fd, 0)
        return fd

    def _create(self, path: bytes, flags: int, mode: int, process: Process) -> int:
        """Create the file and open it: below the folder that was judged, through no link."""
        folder, name = split(path)
        parent = linux.openat2(linux.AT_FDCWD, folder, FOLDER, 0, linux.RESOLVE_NO_SYMLINKS)
        try:
            self._objects.as_creator(process)
            how = flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            return os.open(name, how & ~os.O_TRUNC, mode, dir_fd=parent)
        finally:
            os.close(parent)


def _refuse_nonsense(trial: Callable[[], int]) -> None:
    """Raise the error that the kernel has for a combination of flags; *trial* is an open below no folder."""
    try:
        trial()
    except OSError as error:
        if error.errno != EBADF:
            raise


def _lasting_name(found: Located) -> bytes:
    """The canonical path, of a folder with a slash behind it; empty for what is not found again by its path alone."""
    if not found.path.startswith(b"/") or found.path.startswith(_SYSTEMS):
        return b""
    kind = stat.S_IFMT(os.fstat(found.fd).st_mode)
    return {stat.S_IFREG: found.path, stat.S_IFDIR: found.path + b"/"}.get(kind, b"")


def _open_fifo(path: bytes, how: int, tid: int) -> int:
    """Open one end of a FIFO as soon as somebody has the other, unless the waiting tracee gets a signal meanwhile.

    open(2) itself would wait on, as nothing tells it that the tracee was interrupted or killed.
    """
    from time import sleep

    writes = how & _ACCESS == os.O_WRONLY
    fd = -1
    pause_s = 0.001
    try:
        while True:
            if fd < 0:
                try:
                    fd = os.open(path, how | os.O_NONBLOCK)
                except OSError as error:
                    if error.errno != ENXIO:
                        raise
            if fd >= 0 and (writes or how & _ACCESS == os.O_RDWR or _has_writer(fd)):
                os.set_blocking(fd, True)
                return fd
            if errno := interruption(tid):
                raise OSError(errno, "the tracee was interrupted")
            sleep(pause_s)
            pause_s = min(pause_s * 2, 0.02)
    except BaseException:
        if fd >= 0:
            os.close(fd)
        raise


def _has_writer(fd: int) -> bool:
    """Whether somebody has the FIFO behind the reading end *fd* open for writing, or had since it was opened."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if poll.poll(0):
        return True
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        linux.tee(fd, writer, 1, _SPLICE_F_NONBLOCK)  # takes nothing out; 0 without writers
    except BlockingIOError:
        return True
    finally:
        os.close(reader)
        os.close(writer)
    return False
