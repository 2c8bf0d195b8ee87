"""File calls and what they answer, one line each. Run in an empty folder outside and inside a run: both must print the
same.

    python names.py FOLDER
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
import sys
from collections.abc import Callable

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
OPENAT2, FCHMODAT2 = 437, 452  # the same on every architecture
AT_FDCWD, NOFOLLOW, FOLLOW, EMPTY = -100, 0x100, 0x400, 0x1000
NO_XDEV, NO_MAGIC, NO_SYMLINKS, BENEATH, IN_ROOT = 1, 2, 4, 8, 0x10


def says(act: Callable[[], object]) -> str:
    """What *act* returns, or the name of the error that it raises."""
    try:
        return str(act())
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")


def c(result: int) -> int:
    """The result of a libc call, or its error."""
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def about(path: str | int) -> str:
    """Type, mode, owner, size and links of what is there."""
    try:
        there = os.lstat(path) if isinstance(path, str) else os.fstat(path)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    size = there.st_size if stat.S_ISREG(there.st_mode) else "-"
    links = "-" if os.path.samestat(there, os.stat("/")) else there.st_nlink  # others make folders there
    return f"{stat.filemode(there.st_mode)} {there.st_uid}:{there.st_gid} {size} {links}"


def opened(path: str | bytes, flags: int, mode: int = 0o777, dir_fd: int | None = None) -> str:
    """The flags and the object that an open gives."""
    fd = os.open(path, flags, mode, dir_fd=dir_fd)
    try:
        got = fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NOFOLLOW
        where = os.readlink(f"/proc/self/fd/{fd}").rpartition("/")[2]
        if where.startswith("#"):
            where = "unnamed"
        if path == "..":
            where = "above"
        return f"{oct(got)} cloexec={fcntl.fcntl(fd, fcntl.F_GETFD)} {about(fd)} {where!r} at {os.lseek(fd, 0, 1)}"
    except OSError as error:
        return f"{oct(got)} {about(fd)} {errno.errorcode[error.errno or 0]}"
    finally:
        os.close(fd)


def openat2(path: str, flags: int, mode: int = 0, resolve: int = 0, dir_fd: int = AT_FDCWD, size: int = 24) -> str:
    """What openat2 opens."""
    how = struct.pack("=QQQQ", flags, mode, resolve, 0)
    fd = c(libc.syscall(OPENAT2, dir_fd, path.encode(), how, size))
    try:
        return f"{about(fd)} {os.readlink(f'/proc/self/fd/{fd}').rpartition('/')[2] if path != '..' else ''!r}"
    finally:
        os.close(fd)


def write(path: str, text: str = "x") -> None:
    """Put *text* into a file."""
    with open(path, "w") as file:
        file.write(text)


def text(path: str) -> str:
    """What a file holds."""
    with open(path) as file:
        return file.read()


def scene() -> None:
    """Every kind of thing that a path can lead to."""
    os.umask(0o022)
    write("file", "hello")
    os.mkdir("dir")
    write("dir/inner", "inside")
    os.symlink("file", "link")
    os.symlink("dir", "dirlink")
    os.symlink("nowhere", "dangling")
    os.symlink("nodir/nowhere", "dangling-deep")
    os.symlink("loop", "loop")
    os.symlink("dir/", "dirlink-slash")
    os.symlink("../" + os.path.basename(os.getcwd()) + "/file", "up-link")
    os.symlink(os.path.abspath("file"), "abs-link")
    os.mkfifo("fifo")
    os.mkdir("sub")
    os.mkdir("sub/deep")
    write("sub/deep/leaf")


def main(*groups: Callable[[], None]) -> None:
    """Run *groups* of probes in a scene below the folder that the command line names."""
    os.chdir(sys.argv[1])
    os.mkdir("scene")
    os.chdir("scene")
    scene()
    for group in groups:
        try:
            group()
        except Exception as error:
            print(f"{group.__name__} ended: {error!r}")
        sys.stdout.flush()
