"""What a forked process of the supervisor gives up before it reads anything that the tree wrote."""

from __future__ import annotations

import _signal
import ctypes
import os
import resource
import struct

from asl_hooks import syscalls
from asl_hooks._abi import linux

_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """The kernel kills this process when its parent, whose pid was *parent*, ends."""
    linux.prctl(linux.PR_SET_PDEATHSIG, _signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def stand_apart(keep: set[int]) -> None:
    """No descriptor but *keep* and standard error is open; the terminal's signals and input do not come here."""
    os.setsid()
    for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT, _signal.SIGPIPE):
        _signal.signal(number, _signal.SIG_IGN)
    for number in (_signal.SIGCHLD, _signal.SIGALRM, _signal.SIGWINCH, _signal.SIGUSR1, _signal.SIGUSR2):
        _signal.signal(number, _signal.SIG_DFL)
    _signal.set_wakeup_fd(-1)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    close_all_but(keep)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    if null > 2:
        os.close(null)


def close_all_but(keep: set[int]) -> None:
    """No descriptor is open but *keep*, standard input, output and error."""
    last = 2
    for fd in sorted(keep):
        if fd > last + 1:
            linux.close_range(last + 1, fd - 1, 0)
        last = fd
    linux.close_range(last + 1, 0xFFFFFFFF, 0)


def raise_descriptor_limit(most: int = 1 << 17) -> None:
    """The process may have as many descriptors as the hard limit allows, up to *most*."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most if hard == resource.RLIM_INFINITY else min(hard, most), hard))


def drop_capabilities() -> None:
    """The process holds no capability and can gain none; it cannot be traced or read by processes of the same user."""
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    linux.prctl(linux.PR_SET_DUMPABLE, 0, 0, 0, 0)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    nothing = ctypes.create_string_buffer(24)
    number = syscalls.number("capset", syscalls.native_arch())
    assert number is not None
    if _libc.syscall(ctypes.c_long(number), header, nothing) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"capset: {os.strerror(error)}")
