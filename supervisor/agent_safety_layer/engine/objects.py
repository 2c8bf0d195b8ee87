"""From a call's arguments to objects that are held open.

Every path is located once, as the tracee would (``asl_hooks.paths``), and held by an O_PATH descriptor: the event
names the held object, the decision is on that name, and what is performed is performed on the held object. Creation,
removal and renaming hold the parent folder instead and act on one component below it.
"""

from __future__ import annotations

import os
from errno import EACCES, EBADF, EEXIST, ENOENT
from fcntl import F_GETFL, fcntl

from agent_safety_layer.events import Event, text_of
from asl_hooks import memory
from asl_hooks._abi import linux
from asl_hooks.paths import Located, base_of, locate, name_of, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.engine.context import Context
    from agent_safety_layer.engine.operation import Injected
    from asl_hooks.backend import Call
    from asl_hooks.processes import Process

FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def signed(register: int) -> int:
    """A register that the kernel reads as a 32-bit int."""
    register &= 0xFFFFFFFF
    return register - 0x100000000 if register & 0x80000000 else register


def failing(errno: int) -> Callable[[], int | Injected]:
    """What performs nothing and fails with *errno*."""

    def fail() -> int:
        raise OSError(errno, os.strerror(errno))

    return fail


def nameless(found: Located) -> bool:
    """Whether the object is one that no path leads to (a pipe, a socket, a memfd): policies have no opinion about
    those.
    """
    if found.path.startswith(b"/memfd:"):  # a file may be called that, too
        return found.fd >= 0 and not os.fstat(found.fd).st_nlink
    return not found.path.startswith(b"/")


class Objects:
    """Finds the objects of calls. Methods raise ``OSError`` with the errno that the tracee shall see when there is
    nothing to judge: unreadable memory, a missing folder on the way.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._umask = os.umask(0o077)
        os.umask(self._umask)

    def path(self, call: Call, process: Process, index: int, dir_fd: int) -> bytes:
        """The path argument made absolute. Empty paths are ENOENT; callers that allow them look first."""
        return self.absolute(memory.read_string(process.mem, call.args[index]), call, dir_fd)

    def absolute(self, raw: bytes, call: Call, dir_fd: int) -> bytes:
        """The same for a path that has been read."""
        if raw.startswith(b"/"):
            return raw
        if not raw:
            raise OSError(ENOENT, "empty path")
        return base_of(call.tid, dir_fd) + b"/" + raw

    def locate(self, path: bytes, call: Call, process: Process, follow: bool) -> Located:
        """What *path* names, held; below /proc only what the tree may see."""
        found = locate(path, process.pid, call.tid, follow, lambda link: self._context.may_look_at(link, process))
        if found.path.startswith(b"/proc/") and not self._context.may_look_at(found.path, process):
            if found.fd >= 0:
                os.close(found.fd)
            raise OSError(EACCES, "a process outside the tree")
        return found

    def parent(
        self, path: bytes, call: Call, process: Process, dots: int | Callable[[bytes], int] = EEXIST
    ) -> tuple[Located, bytes, str]:
        """The held parent folder, the last component, and the canonical text of both together.

        ``dots`` is, or finds from it, the errno for a path that ends in no name: ``.``, ``..``, ``/``.
        """
        folder, name = split(path)
        found = self.locate(folder, call, process, True)
        if found.fd < 0:
            raise OSError(found.errno, "no such folder")
        if name.rstrip(b"/") in (b"", b".", b".."):
            os.close(found.fd)
            raise OSError(dots if isinstance(dots, int) else dots(name), "no name to act on")
        return found, name, text_of(found.path.rstrip(b"/") + b"/" + name.rstrip(b"/"))

    def name_judged(self, found: Located) -> str:
        """The name by which the held object is judged: the canonical one, or one that the policy keeps away."""
        canonical = text_of(found.path)
        return (self._context.kept_name(found.fd) or canonical) if found.fd >= 0 else canonical

    def event(self, kind: str, call: Call, process: Process, path: str, raw: bytes = b"", **more: object) -> Event:
        """An event about *path*; *raw* is how the tracee spelled it."""
        spelled = text_of(raw) if raw else ""
        return self._context.event(kind, call, process, path=path, spelled=spelled if spelled != path else "", **more)

    def as_creator(self, process: Process) -> None:
        """Take on the process's umask for what is created next."""
        if process.umask != self._umask:
            os.umask(process.umask)
            self._umask = process.umask

    def held_descriptor(self, call: Call, fd: int) -> Located:
        """A copy of the tracee's descriptor *fd* (AT_FDCWD: its working directory): the same open file, whatever the
        tracee does with the number.
        """
        if fd == linux.AT_FDCWD:
            held = os.open(b"/proc/%d/cwd" % call.tid, os.O_PATH | os.O_CLOEXEC)
        else:
            held = self._context.copy_descriptor(call, fd)
        name = name_of(held)
        if name.endswith(b" (deleted)") and not name.startswith(b"/memfd:") and not os.fstat(held).st_nlink:
            name = name[:-10]
        return Located(name, held)

    def opened_descriptor(self, call: Call, fd: int) -> Located:
        """The same, of a descriptor that is more than a name: ``OSError(EBADF)`` for one opened with O_PATH."""
        if fd == linux.AT_FDCWD:
            raise OSError(EBADF, "not a descriptor")
        found = self.held_descriptor(call, fd)
        if fcntl(found.fd, F_GETFL) & os.O_PATH:
            os.close(found.fd)
            raise OSError(EBADF, "an O_PATH descriptor")
        return found
