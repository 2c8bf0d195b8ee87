"""System V IPC and POSIX message queues: objects with names outside the file system, shared by an IPC namespace.

What a supervisor needs to make, find and remove them for a tree that has no such namespace of its own. The kinds are
``shm``, ``sem`` and ``msg``. Sources: sysvipc(7), mq_overview(7).
"""

from __future__ import annotations

import ctypes
import os
import struct
from errno import ENOENT

from asl_hooks._abi.linux import bind

IPC_PRIVATE, IPC_RMID, IPC_SET, IPC_STAT, IPC_INFO = 0, 0, 1, 2, 3
IPC_CREAT, IPC_EXCL, MODE = 0o1000, 0o2000, 0o777
# Commands that only look, at the whole or at an entry of its table, as /proc/sysvipc does: the id is no object's.
LOOKS = {"shm": (3, 13, 14, 15), "sem": (3, 18, 19, 20), "msg": (3, 11, 12, 13)}
MQ_ATTR_SIZE = 64
_OWNER = struct.Struct("=2I")  # uid, gid; after the key, at the start of each kind's structure
_int, _ptr, _size, _str = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p

_get = {
    "shm": bind("shmget", _int, _size, _int),
    "sem": bind("semget", _int, _int, _int),
    "msg": bind("msgget", _int, _int),
}
_msgctl = bind("msgctl", _int, _int, _ptr)
_shmctl = bind("shmctl", _int, _int, _ptr)
_semctl = bind("semctl", _int, _int, _int, _ptr)
_mq_open = bind("mq_open", _str, _int, ctypes.c_uint, _ptr)
_mq_unlink = bind("mq_unlink", _str)


def get(kind: str, key: int, size: int, flags: int) -> int:
    """The id of the object of that *key*, made if the flags say so; *size* is bytes (shm) or semaphores (sem)."""
    return _get[kind](key, flags) if kind == "msg" else _get[kind](key, size, flags)


def find(kind: str, key: int) -> int:
    """The id of the object that is there under *key*, -1 for none. ``OSError(EACCES)`` for one of somebody else's."""
    try:
        return get(kind, key, 0, 0)
    except FileNotFoundError:
        return -1


def _control(kind: str, ident: int, command: int, at: int) -> None:
    if kind == "sem":
        _semctl(ident, 0, command, at)
    else:
        (_shmctl if kind == "shm" else _msgctl)(ident, command, at)


def remove(kind: str, ident: int) -> None:
    """The object is gone (a segment: once nobody has it attached)."""
    _control(kind, ident, IPC_RMID, 0)


def hand_over(kind: str, ident: int, uid: int, gid: int) -> None:
    """The object belongs to that user and group."""
    status = ctypes.create_string_buffer(256)
    at = ctypes.addressof(status)
    _control(kind, ident, IPC_STAT, at)
    _OWNER.pack_into(status, 4, uid, gid)
    _control(kind, ident, IPC_SET, at)


def open_queue(name: bytes, flags: int, mode: int = 0, attributes: bytes = b"") -> int:
    """A descriptor of the POSIX message queue *name* (without a slash in front)."""
    return _mq_open(name, flags | os.O_CLOEXEC, mode, attributes or None)


def inode_of_queue(name: bytes) -> tuple[int, int] | None:
    """What tells the queue *name* from one that has the name later; None when there is none."""
    try:
        fd = open_queue(name, os.O_RDONLY)
    except OSError as error:
        if error.errno == ENOENT:
            return None
        raise
    try:
        found = os.fstat(fd)
    finally:
        os.close(fd)
    return found.st_dev, found.st_ino


def remove_queue(name: bytes) -> None:
    """The name is gone."""
    _mq_unlink(name)
