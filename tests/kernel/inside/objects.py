"""Metadata, descriptors, contents, odd names and working directories."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Callable

import probing
from probing import (
    AT_FDCWD,
    EMPTY,
    FCHMODAT2,
    NOFOLLOW,
    OPENAT2,
    about,
    c,
    libc,
    opened,
    says,
    write,
)


def stamps(path: str) -> str:
    """Access and modification time where they were set here."""
    there = os.stat(path, follow_symlinks=path.endswith("/"))
    return " ".join(str(ns) if ns < 5000 * 10**9 else "now" for ns in (there.st_atime_ns, there.st_mtime_ns))


def metadata() -> None:
    """Mode, owner, times and attributes, in all spellings."""
    me, mine = os.getuid(), os.getgid()
    for path in ("file", "link", "dir", "dirlink/", "dangling", "missing", "fifo", "", "file/"):
        raw = path.encode()
        acts: dict[str, Callable[[], object]] = {
            "chmod": lambda r=raw: c(libc.chmod(r, 0o4640)),
            "fchmodat": lambda r=raw: c(libc.syscall(FCHMODAT2, AT_FDCWD, r, 0o611, 0)),
            "fchmodat2 nofollow": lambda r=raw: c(libc.syscall(FCHMODAT2, AT_FDCWD, r, 0o600, NOFOLLOW)),
            "fchmodat2 flags": lambda r=raw: c(libc.syscall(FCHMODAT2, AT_FDCWD, r, 0o600, 0x8000)),
            "chown": lambda r=raw: c(libc.chown(r, me, mine)),
            "chown keep": lambda r=raw: c(libc.chown(r, -1, -1)),
            "lchown": lambda r=raw: c(libc.lchown(r, me, mine)),
            "fchownat nofollow": lambda r=raw: c(libc.fchownat(AT_FDCWD, r, me, mine, NOFOLLOW)),
            "fchownat empty": lambda r=raw: c(libc.fchownat(AT_FDCWD, r, me, mine, EMPTY)),
            "fchownat flags": lambda r=raw: c(libc.fchownat(AT_FDCWD, r, me, mine, 0x8000)),
            "truncate": lambda r=raw: c(libc.truncate(r, ctypes.c_long(3))),
            "truncate -1": lambda r=raw: c(libc.truncate(r, ctypes.c_long(-1))),
            "utime": lambda r=raw: c(libc.utime(r, struct.pack("=qq", 1000, 2000))),
            "utimes": lambda r=raw: c(libc.utimes(r, struct.pack("=qqqq", 1001, 5, 2001, 6))),
            "utimes bad": lambda r=raw: c(libc.utimes(r, struct.pack("=qqqq", 1001, 1000000, 2001, 6))),
            "utimensat": lambda r=raw: c(libc.utimensat(AT_FDCWD, r, struct.pack("=qqqq", 1002, 7, -2002, 8), 0)),
            "utimensat nofollow": lambda r=raw: c(
                libc.utimensat(AT_FDCWD, r, struct.pack("=qqqq", 1003, 7, 2003, 8), NOFOLLOW)
            ),
            "utimensat omit": lambda r=raw: c(
                libc.utimensat(AT_FDCWD, r, struct.pack("=qqqq", 0, (1 << 30) - 2, 2004, 1), 0)
            ),
            "utimensat bad": lambda r=raw: c(libc.utimensat(AT_FDCWD, r, struct.pack("=qqqq", 0, 1 << 31, 2004, 1), 0)),
            "setxattr": lambda r=raw: c(libc.setxattr(r, b"user.a", b"abc", 3, 0)),
            "setxattr create": lambda r=raw: c(libc.setxattr(r, b"user.a", b"abc", 3, 1)),
            "lsetxattr": lambda r=raw: c(libc.lsetxattr(r, b"user.a", b"abcd", 4, 0)),
            "setxattr bad name": lambda r=raw: c(libc.setxattr(r, b"a", b"abc", 3, 0)),
            "setxattr long name": lambda r=raw: c(libc.setxattr(r, b"user." + b"a" * 300, b"abc", 3, 0)),
            "setxattr long": lambda r=raw: c(libc.setxattr(r, b"user.a", b"a" * 70000, 70000, 0)),
            "setxattr null": lambda r=raw: c(libc.setxattr(r, b"user.a", None, 3, 0)),
            "setxattr empty": lambda r=raw: c(libc.setxattr(r, b"user.b", None, 0, 0)),
            "getxattr": lambda p=path: os.getxattr(p, b"user.a"),
            "removexattr": lambda r=raw: c(libc.removexattr(r, b"user.a")),
            "lremovexattr": lambda r=raw: c(libc.lremovexattr(r, b"user.b")),
        }
        for name, act in acts.items():
            said = says(act)
            try:
                after = f"{about(path)} {stamps(path)}"
            except OSError:
                after = "-"
            print(f"{name} {path!r}: {said} {after}")
    os.chmod("file", 0o644)
    os.chmod("dir", 0o755)
    write("file", "hello")
    before = os.stat("file").st_mtime_ns
    print("utime now", says(lambda: os.utime("file")), os.stat("file").st_mtime_ns >= before - 10**7)


def descriptors() -> None:
    """Metadata through descriptors of every kind."""
    me, mine = os.getuid(), os.getgid()
    reader, writer = os.pipe()
    kinds = {
        "read": os.open("file", os.O_RDONLY),
        "write": os.open("file", os.O_WRONLY),
        "path": os.open("file", os.O_PATH),
        "link": os.open("link", os.O_PATH | os.O_NOFOLLOW),
        "folder": os.open("dir", os.O_RDONLY),
        "pipe": reader,
        "memfd": os.memfd_create("m"),
        "closed": 997,
        "negative": -1,
    }
    for kind, fd in kinds.items():
        for name, act in {
            "fchmod": lambda f=fd: c(libc.fchmod(f, 0o640)),
            "fchown": lambda f=fd: c(libc.fchown(f, me, mine)),
            "futimens": lambda f=fd: c(libc.futimens(f, struct.pack("=qqqq", 1000, 1, 2000, 2))),
            "fsetxattr": lambda f=fd: c(libc.fsetxattr(f, b"user.f", b"1", 1, 0)),
            "fremovexattr": lambda f=fd: c(libc.fremovexattr(f, b"user.f")),
            "fchownat empty": lambda f=fd: c(libc.fchownat(f, b"", me, mine, EMPTY)),
            "fchmodat2 empty": lambda f=fd: c(libc.syscall(FCHMODAT2, f, b"", 0o604, EMPTY)),
            "utimensat empty": lambda f=fd: c(libc.utimensat(f, b"", struct.pack("=qqqq", 1, 1, 2, 2), EMPTY)),
            "utimensat no path": lambda f=fd: c(libc.utimensat(f, b"", struct.pack("=qqqq", 1, 1, 2, 2), 0)),
            "by proc": lambda f=fd: c(libc.chmod(f"/proc/self/fd/{f}".encode(), 0o600)),
            "reopen": lambda f=fd: (
                opened(f"/proc/self/fd/{f}", os.O_RDONLY | os.O_NONBLOCK).split(" ", 1)[1].split("'")[0]
            ),
            "dev fd": lambda f=fd: about(f"/dev/fd/{f}").split()[0],
            "below": lambda f=fd: opened("inner", os.O_RDONLY, dir_fd=f),
            "create below": lambda f=fd: opened("made-below", os.O_RDWR | os.O_CREAT, 0o600, dir_fd=f),
        }.items():
            print(f"{name} {kind}: {says(act)}")
    os.chmod("dir", 0o755)
    for fd in kinds.values():
        with contextlib.suppress(OSError):
            os.close(fd)
    os.close(writer)


def content() -> None:
    """Appending, truncating, offsets, descriptors that are shared."""
    for flags, name in ((os.O_APPEND, "append"), (os.O_TRUNC, "trunc"), (0, "plain")):
        write("file", "hello")
        fd = os.open("file", os.O_RDWR | flags)
        os.write(fd, b"XY")
        with open("file", "rb") as file:
            print(name, file.read(), os.lseek(fd, 0, 1))
        os.close(fd)
    write("file", "hello")
    with open("file", "a+") as file:
        file.write("!")
        file.seek(0)
        print("a+", file.read())
    with open("file", "r+b", 0) as file:
        file.truncate(2)
        print("ftruncate", about("file"))
        file.seek(10)
        file.write(b"z")
    with open("file", "rb") as file:
        print("sparse", file.read())
    write("file", "hello")
    fd = os.open("file", os.O_RDONLY)
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    os.read(fd, 2)
    print("reopened has its own offset", os.read(again, 9), os.read(fd, 9))
    print("reopen for writing", says(lambda: opened(f"/proc/self/fd/{fd}", os.O_WRONLY)))
    os.unlink("file")
    print("deleted", says(lambda: os.read(os.open(f"/proc/self/fd/{again}", os.O_RDONLY), 9)))
    print("deleted create", says(lambda: opened(f"/proc/self/fd/{again}", os.O_WRONLY | os.O_CREAT)))
    os.close(fd)
    os.close(again)
    write("file", "hello")


def names() -> None:
    """Bytes that are no text, and the empty and the very long."""
    for name in (
        b"\xff\xfe",
        b"new\nline",
        b"\x1b[31mred",
        "ünï".encode(),
        b" ",
        b"-rf",
        b"a\\b",
        b"\xc3",
        b"(deleted)",
        b"x (deleted)",
    ):
        print(
            name,
            says(lambda n=name: opened(n, os.O_CREAT | os.O_WRONLY, 0o600)),
            says(lambda n=name: os.rename(n, n + b"2")),
        )
        print(name, says(lambda n=name: os.unlink(n + b"2")))
    folder = b"\xff\xfed"
    os.mkdir(folder)
    os.mkdir(folder + b"/in")
    print("moved", says(lambda: os.rename(folder, b"plain")), sorted(os.listdir("plain")))
    os.rmdir("plain/in")
    os.rmdir("plain")
    for bad in (None, 1, -1 & (2**64 - 1), 2**47, 2**63):
        print(
            "bad pointer",
            bad,
            says(lambda b=bad: c(libc.syscall(OPENAT2, AT_FDCWD, ctypes.c_void_p(b), bytes(24), 24))),
        )
        print("bad pointer", bad, says(lambda b=bad: c(libc.mkdir(ctypes.c_void_p(b), 0o700))))
        print("bad pointer", bad, says(lambda b=bad: c(libc.rename(b"file", ctypes.c_void_p(b)))))
        print("bad pointer", bad, says(lambda b=bad: c(libc.symlink(ctypes.c_void_p(b), b"s"))))
        print("bad pointer", bad, says(lambda b=bad: c(libc.chmod(ctypes.c_void_p(b), 0o700))))
    os.mkdir("d")
    here = os.open("d", os.O_RDONLY)
    for _ in range(18):
        os.mkdir("n" * 200, dir_fd=here)
        below = os.open("n" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    print("deep below a descriptor", says(lambda: opened("leaf", os.O_CREAT | os.O_RDWR, dir_fd=here).split()[2]))
    os.close(here)


def folders() -> None:
    """Working directories: changed, renamed and deleted."""
    top = os.getcwd()
    os.mkdir("cwd")
    os.chdir("cwd")
    write("in")
    os.rename("../cwd", "../cwd2")
    print("renamed", says(lambda: opened("in", os.O_RDONLY)), os.path.basename(os.getcwd()))
    os.unlink("in")
    os.rmdir("../cwd2")
    print("deleted open", says(lambda: opened("in", os.O_RDONLY)))
    print("deleted create", says(lambda: opened("in", os.O_WRONLY | os.O_CREAT)))
    print("deleted mkdir", says(lambda: os.mkdir("in")))
    print("deleted absolute", says(lambda: opened(top + "/file", os.O_RDONLY)))
    os.chdir(top)
    print("listing", says(lambda: sorted(os.listdir("dir"))), says(lambda: sorted(os.listdir("dirlink"))))
    fd = os.open("sub", os.O_RDONLY)
    print("listing fd", says(lambda: os.listdir(fd)))
    os.fchdir(fd)
    print("fchdir", says(lambda: opened("deep/leaf", os.O_RDONLY)))
    os.chdir(top)
    os.close(fd)
    print("walk", [(os.path.relpath(a), sorted(b), sorted(d)) for a, b, d in os.walk("sub")])


if __name__ == "__main__":
    probing.main(metadata, descriptors, content, names, folders)
