"""Served changes do what the kernel would, to the object that was judged and to no other."""

from __future__ import annotations

import os
import pathlib
import stat
import struct
from collections.abc import Callable
from errno import EACCES, EBADF, EBUSY, EEXIST, EINVAL, EISDIR, ENOTDIR, ENOTEMPTY, EOPNOTSUPP, EPERM, EXDEV

import pytest

from tests.core.engine.scene import AT_FDCWD, Scene, mode

NOFOLLOW, EMPTY, REMOVEDIR, FOLLOW = 0x100, 0x1000, 0x200, 0x400
DONE = ("give", 0)
BLOCKING = (
    'version: 1\nfiles: {read: ["/"], write: ["/"], block: ["${WORKSPACE}/**/.env", "${WORKSPACE}/.git/hooks"]}\n'
)


def test_names_are_made_with_the_tracee_s_umask(scene: Scene) -> None:
    mask = os.umask(0o022)
    try:
        for tracee, wanted in ((0o077, 0o700), (0, 0o777), (0o027, 0o750)):
            scene.process.umask = tracee
            assert scene.make("mkdirat", AT_FDCWD, "made", 0o777) == DONE
            assert mode("made") == wanted
            os.rmdir("made")
            assert scene.make("openat", AT_FDCWD, "made", os.O_CREAT | os.O_WRONLY, 0o666) == ("inject", False)
            assert mode("made") == wanted & 0o666
            os.unlink("made")
    finally:
        os.umask(mask)


def test_nodes_of_every_kind(scene: Scene) -> None:
    for kind in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, 0):
        assert scene.make("mknodat", AT_FDCWD, "node", kind | 0o600, 0) == DONE
        assert stat.S_IFMT(os.stat("node").st_mode) == (kind or stat.S_IFREG)
        os.unlink("node")
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        assert scene.make("mknodat", AT_FDCWD, "node", kind | 0o600, os.makedev(1, 3)) == ("fail", EPERM)
    assert scene.make("symlinkat", "any\n target", AT_FDCWD, "sym") == DONE
    assert os.readlink("sym") == "any\n target"


def test_removal_takes_names_and_nothing_behind_them(scene: Scene) -> None:
    assert scene.make("unlinkat", AT_FDCWD, "link", 0) == DONE
    assert os.path.exists("file")
    assert scene.make("unlinkat", AT_FDCWD, "dirlink", REMOVEDIR) == ("fail", ENOTDIR)
    assert scene.make("unlinkat", AT_FDCWD, "dir", REMOVEDIR) == ("fail", ENOTEMPTY)
    assert scene.make("unlinkat", AT_FDCWD, "dir", 0x8000) == ("fail", EINVAL)
    for path, errno in ((".", EINVAL), ("..", ENOTEMPTY), ("/", EBUSY)):
        assert scene.make("unlinkat", AT_FDCWD, path, REMOVEDIR) == ("fail", errno)
        assert scene.make("unlinkat", AT_FDCWD, path, 0) == ("fail", EISDIR)
        assert scene.make("mkdirat", AT_FDCWD, path, 0o700) == ("fail", EEXIST)
        assert scene.make("renameat", AT_FDCWD, path, AT_FDCWD, "x") == ("fail", EBUSY)


def test_a_rename_is_about_both_names(scene: Scene, workspace: pathlib.Path) -> None:
    event = scene.event("renameat2", AT_FDCWD, "link", AT_FDCWD, "dirlink/new", 0)
    assert (event.kind, event.path, event.path2) == ("file.rename", f"{workspace}/link", f"{workspace}/dir/new")
    assert scene.make("renameat", AT_FDCWD, "link", AT_FDCWD, "dirlink/new") == DONE
    assert os.readlink("dir/new") == "file"
    assert scene.make("renameat2", AT_FDCWD, "file", AT_FDCWD, "dir/inner", 1) == ("fail", EEXIST)
    assert scene.make("renameat2", AT_FDCWD, "file", AT_FDCWD, "dir/inner", 2) == DONE
    assert pathlib.Path("file").read_text() == "inside"
    assert scene.make("renameat2", AT_FDCWD, "file", AT_FDCWD, "gone", 4) == ("fail", EPERM)


CARRIED: dict[str, Callable[[], None]] = {
    "a blocked file": lambda: pathlib.Path("box/sub/.env").write_text("secret"),
    "what would be blocked at its new place": lambda: pathlib.Path("box/hooks").mkdir(),
    "a blocked file below a name that is no text": lambda: _nested(b"box/\xff/.env"),
    "a folder that cannot be looked into": lambda: os.chmod("box/sub", 0),
}


def _nested(path: bytes) -> None:
    os.makedirs(os.path.dirname(path))
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


@pytest.mark.parametrize("what", CARRIED)
def test_a_renamed_folder_cannot_take_along(what: str, scenes: Callable[..., Scene]) -> None:
    os.makedirs("box/sub")
    scene = scenes(BLOCKING)
    assert scene.make("renameat", AT_FDCWD, "box", AT_FDCWD, "box2") == DONE
    assert scene.make("renameat", AT_FDCWD, "box2", AT_FDCWD, "box") == DONE
    CARRIED[what]()
    if what == "a folder that cannot be looked into" and os.geteuid() == 0:
        pytest.skip("root looks into everything")
    assert scene.make("renameat", AT_FDCWD, "box", AT_FDCWD, ".git") == ("fail", EACCES)
    assert os.path.isdir("box")
    assert scene.make("renameat2", AT_FDCWD, "dir", AT_FDCWD, "box", 2) == (
        DONE if what == "what would be blocked at its new place" else ("fail", EACCES)
    )
    if os.path.isdir("box/sub"):
        os.chmod("box/sub", 0o700)


def test_a_folder_whose_name_is_no_text_is_looked_into_all_the_same(scenes: Callable[..., Scene]) -> None:
    _nested(b"\xff/hooks/post-commit")
    scene = scenes(BLOCKING)
    assert scene.make("renameat", AT_FDCWD, b"\xff", AT_FDCWD, ".git") == ("fail", EACCES)
    assert scene.make("renameat", AT_FDCWD, b"\xff", AT_FDCWD, "plain") == DONE


def test_a_folder_that_others_may_fill_meanwhile_is_moved_piece_by_piece(
    scenes: Callable[..., Scene], workspace: pathlib.Path
) -> None:
    scene = scenes(writes=(f"{workspace}/dir",))
    os.mkdir("dir/sub")
    assert scene.make("renameat", AT_FDCWD, "dir/sub", AT_FDCWD, "sub") == ("fail", EXDEV)
    assert scene.make("renameat", AT_FDCWD, "dir/inner", AT_FDCWD, "inner") == DONE
    assert scene.make("renameat", AT_FDCWD, "dir/sub", AT_FDCWD, "dir/sub2") == ("proceed",)


def test_a_link_is_about_what_it_leads_to(scene: Scene, workspace: pathlib.Path) -> None:
    event = scene.event("linkat", AT_FDCWD, "link", AT_FDCWD, "dir/hard", FOLLOW)
    assert (event.kind, event.path, event.path2) == ("file.link", f"{workspace}/file", f"{workspace}/dir/hard")
    assert scene.event("linkat", AT_FDCWD, "link", AT_FDCWD, "hard", 0).path == f"{workspace}/link"
    assert scene.make("linkat", AT_FDCWD, "link", AT_FDCWD, "dir/hard", FOLLOW) == DONE
    assert os.path.samefile("dir/hard", "file")
    assert scene.make("linkat", AT_FDCWD, "link", AT_FDCWD, "hard", 0) == DONE
    assert os.path.islink("hard")
    assert scene.make("linkat", AT_FDCWD, "file", AT_FDCWD, "hard2", 0x8000) == ("fail", EINVAL)
    assert scene.make("linkat", AT_FDCWD, "dir", AT_FDCWD, "hard2", 0) == ("fail", EPERM)
    fd = os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o600)
    os.write(fd, b"unnamed")
    assert scene.make("linkat", AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, "named", FOLLOW) == DONE
    assert pathlib.Path("named").read_text() == "unnamed"
    os.close(fd)


def test_modes_in_every_spelling(scene: Scene, workspace: pathlib.Path) -> None:
    fd = os.open("file", os.O_RDONLY)
    calls: list[tuple[str, tuple[int | str, ...]]] = [
        ("fchmodat", (AT_FDCWD, "link", 0o601)),
        ("fchmodat2", (AT_FDCWD, "link", 0o602, 0)),
        ("fchmodat2", (fd, "", 0o603, EMPTY)),
        ("fchmod", (fd, 0o604)),
        ("fchmodat", (AT_FDCWD, f"/proc/self/fd/{fd}", 0o605)),
        ("fchmodat", (AT_FDCWD, f"{workspace}/dirlink/../file", 0o606)),
    ]
    for number, (name, args) in enumerate(calls, 1):
        event = scene.event(name, *args)
        assert (event.kind, event.path) == ("file.meta", f"{workspace}/file")
        assert scene.make(name, *args) == DONE
        assert mode("file") == 0o600 + number
    assert scene.make("fchmodat2", AT_FDCWD, "link", 0o777, NOFOLLOW) == ("fail", EOPNOTSUPP)
    assert scene.make("fchmodat2", AT_FDCWD, "file", 0o777, 0x8000) == ("fail", EINVAL)
    os.close(fd)
    name_only = os.open("file", os.O_PATH)
    assert scene.make("fchmod", name_only, 0o777) == ("fail", EBADF)
    assert scene.make("fchmod", -1, 0o777) == ("fail", EBADF)
    os.close(name_only)
    assert mode("file") == 0o606


@pytest.mark.parametrize("how", ["lchown", "fchownat", "utimensat"])
def test_a_slash_behind_a_link_leads_to_the_folder_in_the_event_too(
    how: str, scene: Scene, workspace: pathlib.Path
) -> None:
    me, mine = os.getuid(), os.getgid()
    args: dict[str, tuple[int | str | bytes, ...]] = {
        "lchown": ("dirlink/", me, mine),
        "fchownat": (AT_FDCWD, "dirlink/", me, mine, NOFOLLOW),
        "utimensat": (AT_FDCWD, "dirlink/", struct.pack("=4q", 1, 0, 2, 0), NOFOLLOW),
    }
    assert scene.event(how, *args[how]).path == f"{workspace}/dir"
    link = os.lstat("dirlink").st_mtime_ns
    assert scene.make(how, *args[how]) == DONE
    assert os.lstat("dirlink").st_mtime_ns == link
    if how == "utimensat":
        assert os.stat("dir").st_mtime == 2
        assert scene.event(how, AT_FDCWD, "dirlink", *args[how][2:]).path == f"{workspace}/dirlink"
        assert scene.make(how, AT_FDCWD, "dirlink", *args[how][2:]) == DONE
        assert os.lstat("dirlink").st_mtime == 2


def test_times_in_every_spelling(scene: Scene, workspace: pathlib.Path) -> None:
    calls = {
        "utimensat": (AT_FDCWD, "link", struct.pack("=4q", 11, 5, 21, 7), 0),
        "utime": ("link", struct.pack("=2q", 12, 22)),
        "utimes": ("link", struct.pack("=4q", 13, 5, 23, 7)),
        "futimesat": (AT_FDCWD, "link", struct.pack("=4q", 14, 5, 24, 7)),
    }
    nanos = {"utimensat": (5, 7), "utime": (0, 0), "utimes": (5000, 7000), "futimesat": (5000, 7000)}
    for number, (name, args) in enumerate(calls.items(), 1):
        assert scene.event(name, *args).path == f"{workspace}/file"
        assert scene.make(name, *args) == DONE
        found = os.stat("file")
        accessed, modified = nanos[name]
        assert found.st_atime_ns == (10 + number) * 10**9 + accessed
        assert found.st_mtime_ns == (20 + number) * 10**9 + modified
    omit, now = (1 << 30) - 2, (1 << 30) - 1
    assert scene.make("utimensat", AT_FDCWD, "file", struct.pack("=4q", 0, omit, 99, 1), 0) == DONE
    assert (os.stat("file").st_atime, os.stat("file").st_mtime) == (14.000005, 99.000000001)
    assert scene.make("utimensat", AT_FDCWD, "file", struct.pack("=4q", 0, now, 0, omit), 0) == DONE
    assert os.stat("file").st_atime > 10**9
    assert os.stat("file").st_mtime == 99.000000001
    assert scene.make("utimes", "file", struct.pack("=4q", 0, 10**6, 0, 0)) == ("fail", EINVAL)
    fd = os.open("file", os.O_RDONLY)
    assert scene.make("utimensat", fd, 0, struct.pack("=4q", 1, 0, 2, 0), 0) == DONE
    assert os.stat("file").st_mtime == 2
    assert scene.make("utimensat", fd, 0, 0, NOFOLLOW) == ("fail", EINVAL)
    os.close(fd)


def test_attributes_in_every_spelling(scene: Scene, workspace: pathlib.Path) -> None:
    try:
        os.setxattr("file", b"user.probe", b"1")
    except OSError:
        pytest.skip("no user attributes on this file system")
    fd = os.open("file", os.O_RDONLY)
    assert scene.make("setxattr", "link", "user.a", b"one", 3, 0) == DONE
    assert os.getxattr("file", b"user.a") == b"one"
    assert scene.make("setxattr", "link", "user.a", b"two", 3, os.XATTR_CREATE) == ("fail", EEXIST)
    assert scene.make("fsetxattr", fd, "user.a", b"two", 3, 0) == DONE
    assert os.getxattr("file", b"user.a") == b"two"
    assert scene.make("lsetxattr", "link", "user.a", b"no", 2, 0) == ("fail", EPERM)
    assert scene.event("removexattr", "link", "user.a").path == f"{workspace}/file"
    assert scene.make("fremovexattr", fd, "user.a") == DONE
    assert os.listxattr("file") == ["user.probe"]
    os.close(fd)


def test_truncation_is_writing(scene: Scene, workspace: pathlib.Path) -> None:
    event = scene.event("truncate", "link", 2)
    assert (event.kind, event.path) == ("file.write", f"{workspace}/file")
    assert scene.make("truncate", "link", 2) == DONE
    assert pathlib.Path("file").read_text() == "he"
    assert scene.make("truncate", "file", -1) == ("fail", EINVAL)
    assert scene.make("truncate", "dir", 0) == ("fail", EISDIR)


def test_what_has_no_name_is_changed_without_asking_anybody(scenes: Callable[..., Scene]) -> None:
    scene = scenes("version: 1\nfiles: {read: [], write: []}\n")
    assert scene.make("fchmodat", AT_FDCWD, "file", 0o600) == ("fail", EACCES)
    fd = os.memfd_create("nameless")
    assert scene.make("fchmod", fd, 0o600) == DONE
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    os.close(fd)
