"""Who one acts as: the capabilities that a root tree keeps, and acting with a tracee's file system identity."""

from __future__ import annotations

import ctypes
import os
import struct
from errno import EINVAL, EPERM

from asl_hooks._abi import linux

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
    header = ctypes.create_string_buffer(_VERSION)
    current = ctypes.create_string_buffer(24)
    linux.capget(ctypes.addressof(header), ctypes.addressof(current))
    _, low, _, _, high, _ = struct.unpack("=6I", current.raw[:24])
    kept = sum(1 << capability for capability in KEPT) & (low | high << 32)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    wanted = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0))
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
