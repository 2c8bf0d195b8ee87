"""System calls that Python's ``os`` lacks, as one-line wrappers. Each raises ``OSError``; callers add meaning.

Numbers that differ between architectures come from the generated tables; all others are the same everywhere (>= 424).
"""

from __future__ import annotations

import os

from asl_hooks import syscalls
from asl_hooks._abi import ctypes

_libc = ctypes.CDLL(None, use_errno=True)
_long, _int, _ptr, _str, _size = ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def bind(name: str, *argtypes: Any) -> Callable[..., int]:
    """The system call *name* as a function of *argtypes*, raising ``OSError`` on failure."""
    function = _libc["syscall"]
    function.restype = _long
    function.argtypes = (_long, *argtypes)
    number = syscalls.number(name, syscalls.native_arch())
    get_errno = ctypes.get_errno

    def call(*args: Any) -> int:
        result: int = function(number, *args)
        if result < 0:
            errno = get_errno()
            raise OSError(errno, os.strerror(errno))
        return result

    call.__name__ = name
    return call


# prctl(2)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER = 1, 4, 15, 38, 36
# seccomp(2)
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 3, 1 << 5
SECCOMP_USER_NOTIF_FLAG_CONTINUE, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP = 1, 1
SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND = 0xC0502100, 0xC0182101
SECCOMP_IOCTL_NOTIF_ID_VALID, SECCOMP_IOCTL_NOTIF_ADDFD = 0x40082102, 0x40182103
SECCOMP_IOCTL_NOTIF_SET_FLAGS = 0x40082104
# unshare(2)
CLONE_FS, CLONE_NEWIPC = 0x200, 0x08000000
# pidfd_open(2)
PIDFD_THREAD, PIDFD_GET_INFO = 0x80, 0xC040FF0B
# openat2(2)
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_CACHED = 0x02, 0x04, 0x20
RESOLVE_BENEATH, RESOLVE_IN_ROOT = 0x08, 0x10
# *at(2)
AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = -100, 0x100, 0x200, 0x400, 0x1000
# ptrace(2)
PTRACE_POKEUSER, PTRACE_CONT, PTRACE_DETACH, PTRACE_SYSCALL = 6, 7, 17, 24
PTRACE_GETEVENTMSG, PTRACE_GETREGSET, PTRACE_SETREGSET = 0x4201, 0x4204, 0x4205
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_LISTEN = 0x4206, 0x4207, 0x4208
PTRACE_GETSIGMASK, PTRACE_SETSIGMASK, PTRACE_GET_SYSCALL_INFO = 0x420A, 0x420B, 0x420E
PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK, PTRACE_EVENT_CLONE, PTRACE_EVENT_EXEC = 1, 2, 3, 4
PTRACE_EVENT_SECCOMP, PTRACE_EVENT_STOP = 7, 128
PTRACE_O_TRACESYSGOOD, PTRACE_O_TRACEFORK, PTRACE_O_TRACEVFORK, PTRACE_O_TRACECLONE = 1 << 0, 1 << 1, 1 << 2, 1 << 3
PTRACE_O_TRACEEXEC, PTRACE_O_TRACESECCOMP, PTRACE_O_EXITKILL = 1 << 4, 1 << 7, 1 << 20
PTRACE_SYSCALL_INFO_ENTRY, PTRACE_SYSCALL_INFO_EXIT, PTRACE_SYSCALL_INFO_SECCOMP = 1, 2, 3
NT_PRSTATUS, NT_ARM_SYSTEM_CALL = 1, 0x404
# wait(2)
WCLONE = -0x80000000  # __WCLONE, as a C int
WALL = 0x40000000

prctl = bind("prctl", _long, _long, _long, _long, _long)
seccomp = bind("seccomp", _int, _int, _ptr)
pidfd_open = bind("pidfd_open", _int, _int)
pidfd_send_signal = bind("pidfd_send_signal", _int, _int, _ptr, ctypes.c_uint)
pidfd_getfd = bind("pidfd_getfd", _int, _int, _int)
ptrace = bind("ptrace", _long, _long, _ptr, _ptr)
# The same for what is asked at every stop, in a third of the time: no conversion of arguments (the first two fit a C
# int, the others are ``c_void_p``), and the GIL is kept, as requests on a stopped task wait for nothing. After -1 the
# same again with ``ptrace`` says why.
_python = ctypes.PyDLL(None)
ptrace_fast: Any = _python["ptrace"]
sched_getcpu: Any = _python["sched_getcpu"]
NULL = _ptr(0)
close_range = bind("close_range", ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)
linkat = bind("linkat", _int, _str, _int, _str, _int)
renameat2 = bind("renameat2", _int, _str, _int, _str, ctypes.c_uint)
fchmodat2 = bind("fchmodat2", _int, _str, ctypes.c_uint, _int)
setfsuid = bind("setfsuid", _long)
setfsgid = bind("setfsgid", _long)
setresuid = bind("setresuid", _long, _long, _long)
setresgid = bind("setresgid", _long, _long, _long)
capget = bind("capget", _ptr, _ptr)
capset = bind("capset", _ptr, _ptr)
setgroups = bind("setgroups", _int, _ptr)
unshare = bind("unshare", _long)
signalfd4 = bind("signalfd4", _int, _ptr, _size, _int)
tgkill = bind("tgkill", _int, _int, _int)
rt_tgsigqueueinfo = bind("rt_tgsigqueueinfo", _int, _int, _int, _str)
inotify_add_watch = bind("inotify_add_watch", _int, _str, ctypes.c_uint)
tee = bind("tee", _int, _int, _size, ctypes.c_uint)
utimensat = bind("utimensat", _int, _str, _str, _int)
_openat2 = bind("openat2", _int, _str, _ptr, _size)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_how = _OpenHow()
_how_at = ctypes.addressof(_how)


def openat2(dir_fd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
    """A new descriptor, as openat2(2). Not for use by several threads at once."""
    _how.flags, _how.mode, _how.resolve = flags, mode, resolve
    return _openat2(dir_fd, path, _how_at, 24)
