"""Landlock: which files, ports and processes a process tree may reach, held by the kernel (landlock(7), Linux 5.13).

    Ruleset ─ downgrade(ruleset, abi()) → what this kernel can hold of it, and what is lost       (pure)
            ─ build(ruleset)            → a ruleset descriptor, and the paths that were not there
            ─ restrict(fd)              → the domain holds in this thread, for good

A right that a ruleset handles is denied everywhere except where a rule grants it. ``execve`` needs EXECUTE and
READ_FILE.
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, EINVAL, ENOENT, ENOSYS, ENOTDIR, EOPNOTSUPP

from asl_hooks._abi import constants as k
from asl_hooks.errors import BackendError, UnsupportedError
from asl_hooks.value import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

READ = k.LANDLOCK_ACCESS_FS_EXECUTE | k.LANDLOCK_ACCESS_FS_READ_FILE | k.LANDLOCK_ACCESS_FS_READ_DIR
MAKE_SOCKET = k.LANDLOCK_ACCESS_FS_MAKE_SOCK
MAKE_DEVICE = k.LANDLOCK_ACCESS_FS_MAKE_CHAR | k.LANDLOCK_ACCESS_FS_MAKE_BLOCK
WRITE = (
    k.LANDLOCK_ACCESS_FS_WRITE_FILE
    | k.LANDLOCK_ACCESS_FS_TRUNCATE
    | k.LANDLOCK_ACCESS_FS_REMOVE_DIR
    | k.LANDLOCK_ACCESS_FS_REMOVE_FILE
    | k.LANDLOCK_ACCESS_FS_MAKE_DIR
    | k.LANDLOCK_ACCESS_FS_MAKE_REG
    | k.LANDLOCK_ACCESS_FS_MAKE_SOCK
    | k.LANDLOCK_ACCESS_FS_MAKE_FIFO
    | k.LANDLOCK_ACCESS_FS_MAKE_SYM
    | k.LANDLOCK_ACCESS_FS_REFER
)
IOCTL_DEV = k.LANDLOCK_ACCESS_FS_IOCTL_DEV
RESOLVE_UNIX = k.LANDLOCK_ACCESS_FS_RESOLVE_UNIX
FILES = READ | WRITE | MAKE_DEVICE | IOCTL_DEV  # every right that tells what may be done with files
TCP = k.LANDLOCK_ACCESS_NET_BIND_TCP | k.LANDLOCK_ACCESS_NET_CONNECT_TCP
SCOPES = k.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | k.LANDLOCK_SCOPE_SIGNAL
LOG_OFF = k.LANDLOCK_RESTRICT_SELF_LOG_SAME_EXEC_OFF | k.LANDLOCK_RESTRICT_SELF_LOG_SUBDOMAINS_OFF

# What a rule may grant on something that is not a folder; the kernel takes no other right there.
_OF_A_FILE = (
    k.LANDLOCK_ACCESS_FS_EXECUTE
    | k.LANDLOCK_ACCESS_FS_WRITE_FILE
    | k.LANDLOCK_ACCESS_FS_READ_FILE
    | k.LANDLOCK_ACCESS_FS_TRUNCATE
    | k.LANDLOCK_ACCESS_FS_IOCTL_DEV
    | k.LANDLOCK_ACCESS_FS_RESOLVE_UNIX
)

# Each right: the field of a Ruleset that holds it, its bit, its name, the ABI that brought it.
RIGHTS = (
    ("fs", k.LANDLOCK_ACCESS_FS_EXECUTE, "fs.execute", 1),
    ("fs", k.LANDLOCK_ACCESS_FS_WRITE_FILE, "fs.write_file", 1),
    ("fs", k.LANDLOCK_ACCESS_FS_READ_FILE, "fs.read_file", 1),
    ("fs", k.LANDLOCK_ACCESS_FS_READ_DIR, "fs.read_dir", 1),
    ("fs", k.LANDLOCK_ACCESS_FS_REMOVE_DIR, "fs.remove_dir", 1),
    ("fs", k.LANDLOCK_ACCESS_FS_REMOVE_FILE, "fs.remove_file", 1),
    ("fs", k.LANDLOCK_ACCESS_FS_MAKE_CHAR, "fs.make_char", 1),
    ("fs", k.LANDLOCK_ACCESS_FS_MAKE_DIR, "fs.make_dir", 1),
    ("fs", k.LANDLOCK_ACCESS_FS_MAKE_REG, "fs.make_reg", 1),
    ("fs", k.LANDLOCK_ACCESS_FS_MAKE_SOCK, "fs.make_sock", 1),
    ("fs", k.LANDLOCK_ACCESS_FS_MAKE_FIFO, "fs.make_fifo", 1),
    ("fs", k.LANDLOCK_ACCESS_FS_MAKE_BLOCK, "fs.make_block", 1),
    ("fs", k.LANDLOCK_ACCESS_FS_MAKE_SYM, "fs.make_sym", 1),
    ("fs", k.LANDLOCK_ACCESS_FS_REFER, "fs.refer", 2),
    ("fs", k.LANDLOCK_ACCESS_FS_TRUNCATE, "fs.truncate", 3),
    ("net", k.LANDLOCK_ACCESS_NET_BIND_TCP, "net.bind_tcp", 4),
    ("net", k.LANDLOCK_ACCESS_NET_CONNECT_TCP, "net.connect_tcp", 4),
    ("fs", k.LANDLOCK_ACCESS_FS_IOCTL_DEV, "fs.ioctl_dev", 5),
    ("scopes", k.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, "scope.abstract_unix_socket", 6),
    ("scopes", k.LANDLOCK_SCOPE_SIGNAL, "scope.signal", 6),
    ("log", k.LANDLOCK_RESTRICT_SELF_LOG_SAME_EXEC_OFF, "log.same_exec_off", 7),
    ("log", k.LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON, "log.new_exec_on", 7),
    ("log", k.LANDLOCK_RESTRICT_SELF_LOG_SUBDOMAINS_OFF, "log.subdomains_off", 7),
    ("fs", k.LANDLOCK_ACCESS_FS_RESOLVE_UNIX, "fs.resolve_unix", 9),
    ("net", k.LANDLOCK_ACCESS_NET_BIND_UDP, "net.bind_udp", 10),
    ("net", k.LANDLOCK_ACCESS_NET_CONNECT_SEND_UDP, "net.connect_send_udp", 10),
)


@value
class Ruleset:
    """What is handled (LANDLOCK_ACCESS_FS_*, _NET_*, LANDLOCK_SCOPE_*), and what rules grant of it.

    ``paths`` are pairs of a path and the rights on it and everything below it; ``ports`` of a TCP or UDP port and the
    rights on it. ``log`` (LANDLOCK_RESTRICT_SELF_LOG_*) says what the kernel's audit log records; it bounds nothing.
    """

    fs: int = 0
    net: int = 0
    scopes: int = 0
    paths: tuple[tuple[str, int], ...] = ()
    ports: tuple[tuple[int, int], ...] = ()
    log: int = 0


def abi(limit: int | None = None) -> int:
    """The kernel's Landlock ABI, 0 where there is no Landlock; never more than *limit*, to behave as an older
    kernel."""
    from asl_hooks._abi import landlock

    try:
        found = landlock.version()
    except OSError as error:
        if error.errno not in (ENOSYS, EOPNOTSUPP):
            raise BackendError("landlock_create_ruleset", error.errno or 0) from error
        found = 0
    return found if limit is None else min(found, limit)


def downgrade(ruleset: Ruleset, abi: int) -> tuple[Ruleset, tuple[str, ...]]:
    """The part of *ruleset* that a kernel with Landlock *abi* can hold, and the names of what it will not hold.

    Not counted as lost: ``fs.refer`` on ABI 1, where moving and linking between folders is always denied; and ``log``.
    """
    kept = {"fs": 0, "net": 0, "scopes": 0, "log": 0}
    lost = []
    for field, bit, name, since in RIGHTS:
        if getattr(ruleset, field) & bit:
            if abi >= since:
                kept[field] |= bit
            elif field != "log" and not (name == "fs.refer" and abi == 1):
                lost.append(name)
    paths = tuple((path, access & kept["fs"]) for path, access in ruleset.paths if access & kept["fs"])
    ports = tuple((port, access & kept["net"]) for port, access in ruleset.ports if access & kept["net"])
    return replace(ruleset, **kept, paths=paths, ports=ports), tuple(lost)


def build(ruleset: Ruleset) -> tuple[int, tuple[str, ...]]:
    """The descriptor of a new kernel ruleset (close-on-exec, the caller's), and the paths left out of it.

    Left out is what no longer exists or cannot be reached by this user: the domain only gets narrower. On something
    that is not a folder only the rights that files have are granted. Raises ``UnsupportedError`` where there is no
    Landlock or it is too old for *ruleset* (see ``downgrade``), ``BackendError`` otherwise.
    """
    from asl_hooks._abi import landlock

    try:
        fd = landlock.create_ruleset(ruleset.fs, ruleset.net, ruleset.scopes)
    except OSError as error:
        lost = downgrade(ruleset, abi())[1]
        if lost:
            raise UnsupportedError(
                f"Landlock with {', '.join(lost)} is needed",
                f"this kernel has ABI {abi()}" if abi() else "this kernel has none",
                "Use a newer Linux with landlock among the active security modules (lsm=landlock,…).",
            ) from error
        raise BackendError("landlock_create_ruleset", error.errno or 0) from error
    try:
        grant = landlock.add_path
        skipped = [path for path, access in ruleset.paths if not _grant(grant, fd, path, access & ruleset.fs)]
        for port, access in ruleset.ports:
            landlock.add_port(fd, access, port)
    except OSError as error:
        os.close(fd)
        raise BackendError(f"landlock_add_rule({error.filename or ''})", error.errno or 0) from error
    return fd, tuple(skipped)


def _grant(grant: Callable[[int, int, int], None], ruleset: int, path: str, access: int) -> bool:
    """Whether *path* was there. It is not followed if it is a link: what it leads to is not what was meant."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR, EACCES):
            return False
        raise
    try:
        if access:
            grant(ruleset, access, fd)
    except OSError as error:
        if error.errno != EINVAL or stat.S_ISDIR(os.fstat(fd).st_mode):  # most are folders: nobody asks first
            raise OSError(error.errno, error.strerror, path) from error
        if access & _OF_A_FILE:
            grant(ruleset, access & _OF_A_FILE, fd)
    finally:
        os.close(fd)
    return True


def restrict(ruleset: int, log: int = 0) -> None:
    """The domain of the descriptor *ruleset* holds in this thread, its later threads and children, for good.

    Needs no_new_privs or CAP_SYS_ADMIN. *log* are the ruleset's ``log`` flags. Raises ``BackendError``.
    """
    from asl_hooks._abi import landlock

    try:
        landlock.restrict_self(ruleset, log)
    except OSError as error:
        remedy = "Needs no_new_privs, and at most 16 domains around each other."
        raise BackendError("landlock_restrict_self", error.errno or 0, remedy=remedy) from error


def below(folder: int, access: int, act: Callable[[], T]) -> T:
    """What *act* returns or raises (``OSError``), done by a thread of its own that has *access* only below the open
    *folder*; by one without such a bound where this kernel has no Landlock.

    For what the kernel does by a path that others can make lead elsewhere meanwhile. About 0.2 ms.
    """
    from _thread import allocate_lock, start_new_thread

    from asl_hooks._abi import landlock, linux

    done: list[T] = []
    failed: list[OSError] = []
    finished = allocate_lock()
    finished.acquire()

    def confined() -> None:
        try:
            if abi():
                linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # of this thread only, as the domain
                ruleset = landlock.create_ruleset(access, 0, 0)
                try:
                    landlock.add_path(ruleset, access, folder)
                    landlock.restrict_self(ruleset, 0)
                finally:
                    os.close(ruleset)
            done.append(act())
        except OSError as error:
            failed.append(error)
        finally:
            finished.release()

    start_new_thread(confined, ())
    finished.acquire()
    if not done:
        raise failed[0]
    return done[0]


__all__ = [
    "FILES",
    "IOCTL_DEV",
    "LOG_OFF",
    "MAKE_DEVICE",
    "MAKE_SOCKET",
    "READ",
    "RESOLVE_UNIX",
    "RIGHTS",
    "SCOPES",
    "TCP",
    "WRITE",
    "Ruleset",
    "abi",
    "below",
    "build",
    "downgrade",
    "restrict",
]
