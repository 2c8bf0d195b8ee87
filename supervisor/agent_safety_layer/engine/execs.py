"""Exec: judged at the call, and again on what really runs, before its first instruction.

The kernel reads path and argv after the supervisor has, so the first judgement alone could be fooled by a second
thread, a link swapped in time, or a script that becomes another. The engine therefore compares (``real``) at the exec
stop (``asl_hooks.ptrace``) and judges the real executable and argv where they differ, interpreters of ``#!`` scripts
included.
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, ELOOP

from agent_safety_layer.engine.operation import Operation
from agent_safety_layer.events import Event, text_of
from asl_hooks import memory
from asl_hooks._abi import linux
from asl_hooks.paths import Located, base_of, locate, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.engine.context import Context
    from asl_hooks.backend import Call
    from asl_hooks.processes import Process

_LONGEST_CMDLINE = 1 << 21


class Execs:
    """Describes exec calls, and what really runs after them."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def exec(self, call: Call, process: Process, name: str) -> Operation:
        """execve, execveat. ``OSError`` where the kernel would fail it anyway, so that a search along PATH is no
        event.
        """
        args = call.args
        dir_fd, at, flags = linux.AT_FDCWD, 0, 0
        if name == "execveat":
            dir_fd, at, flags = args[0] & 0xFFFFFFFF, 1, args[4] & 0xFFFFFFFF
            dir_fd -= (dir_fd >> 31) << 32
        raw = memory.read_string(process.mem, args[at])
        if not raw and flags & linux.AT_EMPTY_PATH:
            held = self._context.copy_descriptor(call, dir_fd)
            found = Located(name_of(held), held)
        else:
            path = raw if raw.startswith(b"/") else base_of(call.tid, dir_fd) + b"/" + raw
            found = locate(path, process.pid, call.tid, not flags & linux.AT_SYMLINK_NOFOLLOW)
        if found.fd < 0:
            raise OSError(found.errno, "nothing to execute")
        try:
            mode = os.fstat(found.fd).st_mode
            if stat.S_ISLNK(mode):
                raise OSError(ELOOP, "a symbolic link")
            if not stat.S_ISREG(mode) or not os.access(b"/proc/self/fd/%d" % found.fd, os.X_OK):
                raise OSError(EACCES, "not executable")
            argv = tuple(text_of(word) for word in memory.read_strings(process.mem, args[at + 1]))
        except BaseException:
            os.close(found.fd)
            raise
        canonical = text_of(found.path)
        spelled = text_of(raw)
        event = self._context.event(
            "process.exec",
            call,
            process,
            path=canonical,
            spelled=spelled if spelled != canonical else "",
            argv=argv,
            cwd=text_of(_cwd(call.tid)),
        )
        return Operation(event, None, bounded=True, fds=(found.fd,))


def _cwd(tid: int) -> bytes:
    try:
        return os.readlink(b"/proc/%d/cwd" % tid)
    except OSError:
        return b""


def real(pid: int, judged: Event) -> Event | None:
    """What runs in *pid* now, as an event, when that is not what was judged; None when it is exactly that.

    ``OSError`` when it cannot be read: then it must not run.
    """
    exe = text_of(os.readlink(b"/proc/%d/exe" % pid))
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read(_LONGEST_CMDLINE).split(b"\0")[:-1]
    argv = tuple(text_of(word) for word in words)
    if exe == judged.path and argv == (judged.argv or ("",)):
        return None
    from asl_hooks.value import replace

    return replace(judged, path=exe, argv=argv, spelled="", detail="what the kernel runs for it")
