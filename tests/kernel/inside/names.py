"""Opening, making, removing, moving and linking names."""

from __future__ import annotations

import contextlib
import os
import stat

import probing
from probing import (
    AT_FDCWD,
    BENEATH,
    FOLLOW,
    IN_ROOT,
    NO_MAGIC,
    NO_SYMLINKS,
    NO_XDEV,
    OPENAT2,
    about,
    c,
    libc,
    openat2,
    opened,
    says,
    write,
)

PATHS = (
    *("file", "dir", "link", "dirlink", "dangling", "dangling-deep", "loop", "missing", "missing/x", "file/x", "", "."),
    *(
        "..",
        "/",
        "dir/",
        "file/",
        "link/",
        "dirlink/",
        "missing/",
        "dir/.",
        "dir/..",
        "file/.",
        "file/..",
        "dir//inner",
    ),
    *("./dir/./inner", "dir/../file", "dirlink/inner", "dirlink/../file", "dirlink-slash/inner", "up-link", "abs-link"),
    *("missing/../file", "dangling/", "x" * 255, "x" * 256, "dir/" * 1100 + "file", "./" * 1500 + "file", "a\nb"),
    *("/proc/self/cwd/file", "/proc/self/cwd", "/proc/self/root/proc/self/cwd/file", "/proc/self/fd/1/x"),
    *("/proc/self/nothing", "/proc/thread-self/cwd/file", "/dev/null", "/dev/null/x", "dir/inner/../inner"),
)
FLAGS = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY,
    "rw": os.O_RDWR,
    "create": os.O_WRONLY | os.O_CREAT,
    "create rw append": os.O_RDWR | os.O_CREAT | os.O_APPEND,
    "excl": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "nofollow": os.O_RDONLY | os.O_NOFOLLOW,
    "create nofollow": os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW,
    "dir": os.O_RDONLY | os.O_DIRECTORY,
    "dir nofollow": os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
    "dir w": os.O_WRONLY | os.O_DIRECTORY,
    "path": os.O_PATH,
    "path nofollow": os.O_PATH | os.O_NOFOLLOW,
    "path dir": os.O_PATH | os.O_DIRECTORY,
    "tmpfile": os.O_TMPFILE | os.O_RDWR,
    "tmpfile r": os.O_TMPFILE | os.O_RDONLY,
    "trunc r": os.O_RDONLY | os.O_TRUNC,
    "create dir": os.O_CREAT | os.O_DIRECTORY,
    "sync noatime": os.O_RDWR | os.O_SYNC | os.O_NOATIME | os.O_NONBLOCK,
}


def opens() -> None:
    """Every way to open every path."""
    for path in PATHS:
        for name, flags in FLAGS.items():
            if path in ("/", "..") and name not in ("r", "nofollow", "dir", "path", "path dir"):
                continue  # outside of what may be changed
            said = says(lambda path=path, flags=flags: opened(path, flags))
            print(f"open {path[:40]!r} {name}: {said}".replace("x" * 255, "x255"))
            for made in ("missing", "nowhere", "x" * 255, "a\nb"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(made)
            write("file", "hello")


def opens2() -> None:
    """openat2 with every RESOLVE flag."""
    here = os.open(".", os.O_RDONLY)
    for path in ("file", "link", "dirlink/inner", "dir/../file", "..", "/etc/passwd", "/file", "dangling", "new"):
        for name, resolve in (
            *(("plain", 0), ("no xdev", NO_XDEV), ("no magic", NO_MAGIC), ("no links", NO_SYMLINKS)),
            *(("beneath", BENEATH), ("in root", IN_ROOT), ("unknown", 1 << 40)),
        ):
            for flags in (os.O_RDONLY, os.O_PATH | os.O_NOFOLLOW, os.O_WRONLY | os.O_CREAT):
                if path in ("/etc/passwd", "/file") and flags & os.O_CREAT and resolve != IN_ROOT:
                    continue  # outside of what may be changed
                if path == "dangling" and resolve and flags & os.O_CREAT:
                    continue  # served: ELOOP, where the kernel alone would make what the link names
                mode = 0o640 if flags & os.O_CREAT else 0
                said = says(lambda p=path, f=flags, m=mode, r=resolve: openat2(p, f, m, r, here))
                print(f"openat2 {path} {name} {oct(flags)}: {said}")
                for made in ("new", "nowhere"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(made)
    for name, act in {
        "mode without creat": lambda: openat2("file", os.O_RDONLY, 0o600),
        "unknown flag": lambda: openat2("file", 1 << 35),
        "unknown low flag": lambda: openat2("file", 1 << 30),
        "huge mode": lambda: openat2("new", os.O_CREAT | os.O_WRONLY, 0o77777),
        "short": lambda: openat2("file", os.O_RDONLY, size=16),
        "long": lambda: openat2("file", os.O_RDONLY, size=32),
        "null": lambda: c(libc.syscall(OPENAT2, AT_FDCWD, b"file", None, 24)),
        "path with more": lambda: openat2("file", os.O_PATH | os.O_APPEND),
        "bad fd": lambda: openat2("file", 0, dir_fd=999),
        "file as folder": lambda: openat2("file", 0, dir_fd=0),
    }.items():
        print(f"openat2 {name}: {says(act)}")
    os.close(here)


def creation() -> None:
    """Names that are made and removed, with modes under umasks."""
    for mask in (0, 0o022, 0o077, 0o777):
        os.umask(mask)
        print(f"umask {oct(mask)}")
        for name, act in {
            "open": lambda: os.close(os.open("made", os.O_CREAT | os.O_WRONLY, 0o7777)),
            "creat": lambda: os.close(c(libc.creat(b"made", 0o666))),
            "mkdir": lambda: os.mkdir("made", 0o7777),
            "mkdir/": lambda: os.mkdir("made/", 0o700),
            "mkfifo": lambda: os.mkfifo("made", 0o666),
            "mknod": lambda: os.mknod("made", stat.S_IFREG | 0o644),
            "mknod 0": lambda: os.mknod("made", 0o644),
            "mksock": lambda: os.mknod("made", stat.S_IFSOCK | 0o644),
            "symlink": lambda: os.symlink("file", "made"),
            "tmpfile": lambda: os.close(os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o666)),
        }.items():
            print(f"make {name}: {says(act)} {about('made')}")
            with contextlib.suppress(OSError):
                os.unlink("made")
            with contextlib.suppress(OSError):
                os.rmdir("made")
    os.umask(0o022)
    for path in (
        "dir",
        "dir/",
        "dir/.",
        "dir/..",
        "file",
        "link",
        "dangling",
        "missing/x",
        "file/x",
        "/",
        ".",
        "..",
        "",
        "x" * 256,
    ):
        print(f"mkdir {path[:20]!r}: {says(lambda p=path: os.mkdir(p))}")
        print(f"mkfifo {path[:20]!r}: {says(lambda p=path: os.mkfifo(p))}")
        print(f"symlink {path[:20]!r}: {says(lambda p=path: os.symlink('t', p))}")
        print(f"link to {path[:20]!r}: {says(lambda p=path: os.link('file', p))}")
    for path in ("newlink/", "newfifo/"):
        print(f"symlink {path!r}: {says(lambda p=path: os.symlink('t', p))} {about(path[:-1])}")
        print(f"mkfifo {path!r}: {says(lambda p=path: os.mkfifo(p))}")
    print("symlink empty", says(lambda: os.symlink("", "empty")))
    print("symlink long", says(lambda: os.symlink("t" * 4095, "long")), says(lambda: len(os.readlink("long"))))


def removal() -> None:
    """Names that go away, and those that do not."""
    for path in (
        "dir",
        "dir/",
        "dirlink",
        "dirlink/",
        ".",
        "..",
        "dir/.",
        "dir/..",
        "/",
        "",
        "missing",
        "file/x",
        "file/",
    ):
        if path != "dirlink":
            print(f"unlink {path!r}: {says(lambda p=path: os.unlink(p))}")
        print(f"rmdir {path!r}: {says(lambda p=path: os.rmdir(p))}")
    os.mkdir("gone")
    print("rmdir gone/", says(lambda: os.rmdir("gone/")), about("gone"))
    write("gone")
    print("unlink gone", says(lambda: os.unlink("gone")), about("gone"))
    os.symlink("file", "gone")
    print("unlink link", says(lambda: os.unlink("gone")), about("gone"), about("file"))
    fd = os.open("dir", os.O_RDONLY)
    write("dir/gone")
    print("unlinkat", says(lambda: os.unlink("gone", dir_fd=fd)), about("dir/gone"))
    print("unlinkat bad flags", says(lambda: c(libc.unlinkat(fd, b"inner", 0x8000))))
    print("unlinkat bad fd", says(lambda: os.unlink("gone", dir_fd=998)))
    os.close(fd)


def renames() -> None:
    """Moving, replacing, exchanging."""

    def move(old: str, new: str, flags: int = 0) -> str:
        said = says(lambda: c(libc.renameat2(AT_FDCWD, old.encode(), AT_FDCWD, new.encode(), flags)))
        return f"{said}: {about(old.rstrip('/') or '/')} | {about(new.rstrip('/') or '/')}"

    for old, new, flags in (
        *(("a", "b", 0), ("a", "missing/b", 0), ("missing", "b", 0), ("a", "dir", 0), ("dir", "a", 0), ("a", "a", 0)),
        *(("folder", "emptied", 0), ("folder", "dir", 0), ("folder", "folder/below", 0), ("folder/", "moved/", 0)),
        *(("a/", "b", 0), ("a", "b/", 0), (".", "b", 0), ("folder", "..", 0), ("link2", "b", 0), ("dirlink2/", "b", 0)),
        *(
            ("a", "c", 1),
            ("a", "b", 1),
            ("a", "c", 2),
            ("folder", "c", 2),
            ("a", "missing", 2),
            ("a", "c", 3),
            ("a", "b", 8),
        ),
        *(("", "b", 0), ("a", "", 0), ("a", "x" * 256, 0), ("hard1", "hard2", 0)),
    ):
        os.mkdir("r")
        os.chdir("r")
        write("a", "aa")
        write("c", "ccc")
        os.mkdir("dir")
        write("dir/full")
        os.mkdir("emptied")
        os.mkdir("folder")
        write("folder/one")
        os.symlink("a", "link2")
        os.symlink("dir", "dirlink2")
        write("hard1")
        os.link("hard1", "hard2")
        print(f"rename {old[:20]!r} {new[:20]!r} {flags}: {move(old, new, flags)}; {sorted(os.listdir('.'))}")
        os.chdir("..")
        import shutil

        shutil.rmtree("r")
    fd = os.open("dir", os.O_RDONLY)
    os.rename("file", "moved", dst_dir_fd=fd)
    print("renameat", about("dir/moved"), about("file"))
    os.rename("moved", "file", src_dir_fd=fd)
    os.close(fd)


def links() -> None:
    """Hard links of everything."""
    for source in ("file", "link", "dir", "dangling", "fifo", "missing", "file/", "dirlink/", ""):
        for flags in (0, FOLLOW):
            said = says(lambda s=source, f=flags: c(libc.linkat(AT_FDCWD, s.encode(), AT_FDCWD, b"hard", f)))
            print(f"link {source!r} {flags:#x}: {said} {about('hard')}")
            with contextlib.suppress(OSError):
                os.unlink("hard")
    print("link there", says(lambda: os.link("file", "fifo")))
    print("link slash", says(lambda: os.link("file", "hard/")))
    print("link flags", says(lambda: c(libc.linkat(AT_FDCWD, b"file", AT_FDCWD, b"hard", 0x8000))))
    for extra in (0, os.O_EXCL):
        fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | extra, 0o640)
        os.write(fd, b"kept")
        source = f"/proc/self/fd/{fd}".encode()
        print(
            "link tmpfile",
            extra,
            says(lambda s=source: c(libc.linkat(AT_FDCWD, s, AT_FDCWD, b"hard", FOLLOW))),
            about("hard"),
        )
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink("hard")
    fd = os.open("file", os.O_RDONLY)
    print("link fd", says(lambda: c(libc.linkat(fd, b"", AT_FDCWD, b"hard", 0))))
    os.close(fd)


if __name__ == "__main__":
    probing.main(opens, opens2, creation, removal, renames, links)
