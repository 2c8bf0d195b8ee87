"""Who one acts as: the capabilities that a root tree keeps, and acting with a tracee's file system identity."""

from __future__ import annotations

import os
import struct
from errno import EINVAL, EPERM

from asl_hooks._abi import ctypes, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asl_hooks.processes import Process

# capabilities(7): what a root shell's everyday work needs, and nothing that reaches beyond files and the tree itself.
CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_KILL = 0, 1, 3, 4, 5
CAP_SETGID, CAP_SETUID, CAP_NET_BIND_SERVICE = 6, 7, 10
KEPT = (
    *(CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_KILL),
    *(CAP_SETGID, CAP_SETUID, CAP_NET_BIND_SERVICE),
)
_KEPT = sum(1 << capability for capability in KEPT)
_PR_CAPBSET_DROP, _LAST = 24, 63
_VERSION = struct.pack("=II", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3


def drop_capabilities() -> None:
    """Establishes: this thread, and all it becomes, has no capability but those of ``KEPT`` that it had.

    With no_new_privs an exec cannot gain any, so the bounding set is emptied only where that is allowed (CAP_SETPCAP).
    """
    for capability in range(_LAST + 1):
        if capability in KEPT:
            continue
        try:
            linux.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        except OSError as error:
            if error.errno in (EINVAL, EPERM):
                break
            raise
    _, permitted, _ = _capabilities()
    kept = permitted & _KEPT
    _set_capabilities(kept, kept, 0)


class Lowered:
    """A context in which this thread has no capabilities but such as the tree can have.

    For opening what looks at the capabilities of whoever opens it, and gives by them for as long as it is open: files
    of /proc, devices.
    """

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = effective, permitted, inheritable = _capabilities()
        if effective & ~_KEPT:
            _set_capabilities(effective & _KEPT, permitted, inheritable)

    def __exit__(self, *_: object) -> None:
        if self._before[0] & ~_KEPT:
            _set_capabilities(*self._before)


def _capabilities() -> tuple[int, int, int]:
    """This thread's effective, permitted and inheritable capabilities, a bit for each."""
    header, current = ctypes.create_string_buffer(_VERSION), ctypes.create_string_buffer(24)
    linux.capget(ctypes.addressof(header), ctypes.addressof(current))
    words = struct.unpack("=6I", current.raw[:24])
    return words[0] | words[3] << 32, words[1] | words[4] << 32, words[2] | words[5] << 32


def _set_capabilities(*sets: int) -> None:
    header = ctypes.create_string_buffer(_VERSION)
    words = (*(each & 0xFFFFFFFF for each in sets), *(each >> 32 for each in sets))
    wanted = ctypes.create_string_buffer(struct.pack("=6I", *words))
    linux.capset(ctypes.addressof(header), ctypes.addressof(wanted))


class ActingAs:
    """A context in which this thread creates and opens files as *process* would: its uid, gid and groups.

    For a supervisor that is root over a tree that may change its identity. Linux keeps these per thread (setfsuid(2)),
    and takes the capabilities that override file permissions away with uid 0.
    """

    __slots__ = ("_gid", "_groups", "_process", "_uid")

    def __init__(self, process: Process) -> None:
        self._process = process
        self._uid, self._gid, self._groups = os.geteuid(), os.getegid(), tuple(os.getgroups())

    def __enter__(self) -> None:
        process = self._process
        _set_groups(process.groups)
        linux.setfsgid(process.gid)
        linux.setfsuid(process.uid)

    def __exit__(self, *_: object) -> None:
        linux.setfsuid(self._uid)
        linux.setfsgid(self._gid)
        _set_groups(self._groups)


class Being(ActingAs):
    """The same, and who is on the other side of a socket (SO_PEERCRED, SCM_CREDENTIALS) is told of that user and group.

    Only around single calls: with the effective uid go all capabilities, that of looking at other processes included.
    The saved uid stays, and leads back.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        super().__enter__()
        linux.setresgid(self._process.gid, self._process.gid, -1)
        linux.setresuid(self._process.uid, self._process.uid, -1)

    def __exit__(self, *exc: object) -> None:
        linux.setresuid(self._uid, self._uid, -1)
        linux.setresgid(self._gid, self._gid, -1)
        super().__exit__(*exc)


def _set_groups(groups: tuple[int, ...]) -> None:
    array = (ctypes.c_uint32 * max(len(groups), 1))(*groups)
    linux.setgroups(len(groups), ctypes.addressof(array))
