"""Events name the object that a call would act on, however the call spells it."""

from __future__ import annotations

import os
import pathlib
import struct
from errno import EACCES, EBADF, EEXIST, EFAULT, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR

import pytest

from agent_safety_layer.engine import execs
from tests.core.engine.scene import AT_FDCWD, Scene, descriptors

R, W, RW = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
CREATE, EXCL = os.O_CREAT, os.O_EXCL

SPELLINGS = {
    "file": "file",
    "./file": "file",
    "dir/../file": "file",
    "dir//inner": "dir/inner",
    "link": "file",
    "dirlink/inner": "dir/inner",
    "dirlink/../link": "file",
    "dir/": "dir",
    "dirlink/": "dir",
    "missing": "missing",
    "dangling": "nowhere",
    "dir/missing": "dir/missing",
    "/proc/self/cwd/file": "file",
    "/proc/thread-self/cwd/link": "file",
    "/proc/self/root/proc/self/cwd/dir/inner": "dir/inner",
    "/proc/self/task/../cwd/file": "file",
    "new\nline": "new\nline",
    "\x1b[31mred": "\x1b[31mred",
    "ünï": "ünï",
    "x" * 255: "x" * 255,
    "./" * 1500 + "file": "file",
}


@pytest.mark.parametrize("spelled", SPELLINGS, ids=lambda text: text[:20].encode().hex() if "\n" in text else text[:20])
def test_an_open_is_about_the_canonical_path(spelled: str, scene: Scene, workspace: pathlib.Path) -> None:
    event = scene.event("openat", AT_FDCWD, spelled, R, 0)
    assert event.path == f"{workspace}/{SPELLINGS[spelled]}"
    assert event.spelled == ("" if spelled in (SPELLINGS[spelled],) else _absolute(spelled, workspace))


def _absolute(spelled: str, workspace: pathlib.Path) -> str:
    return spelled if spelled.startswith("/") else f"{workspace}/{spelled}"


def test_a_descriptor_is_a_place_to_start_from(scene: Scene, workspace: pathlib.Path) -> None:
    fd = os.open("dir", R)
    try:
        assert scene.event("openat", fd, "inner", R, 0).path == f"{workspace}/dir/inner"
        assert scene.event("openat", fd, "../link", R, 0).path == f"{workspace}/file"
        assert scene.event("openat", fd | 0xDEAD00000000, "inner", R, 0).path == f"{workspace}/dir/inner"
        for through in (f"/proc/self/fd/{fd}/inner", f"/dev/fd/{fd}/inner", f"/proc/{os.getpid()}/fd/{fd}/inner"):
            assert scene.event("openat", AT_FDCWD, through, R, 0).path == f"{workspace}/dir/inner"
        os.rename("dir", "moved")
        assert scene.event("openat", fd, "inner", R, 0).path == f"{workspace}/moved/inner"
    finally:
        os.close(fd)
    with pytest.raises(OSError) as error:
        scene.event("openat", fd, "inner", R, 0)
    assert error.value.errno == EBADF


def test_a_descriptor_by_name_is_the_object_and_not_its_text(scene: Scene, workspace: pathlib.Path) -> None:
    fd = os.open("file", R)
    try:
        for name in (f"/proc/self/fd/{fd}", f"/dev/fd/{fd}"):
            assert scene.event("openat", AT_FDCWD, name, W, 0).path == f"{workspace}/file"
        os.unlink("file")
        pathlib.Path("file (deleted)").write_text("another")
        assert scene.make("openat", AT_FDCWD, f"/proc/self/fd/{fd}", R, 0) == ("inject", False)
        assert os.read(scene.backend.injected[-1], 9) == b"hello"
    finally:
        os.close(fd)


def test_pipes_have_no_path_but_can_be_reopened(scene: Scene) -> None:
    """Also for writing: `> /dev/stderr` names what one has already, and no list of paths is about that."""
    reader, writer = os.pipe()
    os.write(writer, b"piped")
    for name, flags in ((reader, R), (writer, W)):
        operation = scene.describe("openat", AT_FDCWD, f"/dev/fd/{name}", flags | os.O_NONBLOCK, 0)
        assert operation.event is None
        operation.close()
    memory = os.memfd_create("x")
    operation = scene.describe("openat", AT_FDCWD, f"/proc/self/fd/{memory}", RW, 0)
    assert operation.event is None
    operation.close()
    os.close(memory)
    assert scene.make("openat", AT_FDCWD, f"/dev/fd/{reader}", R | os.O_NONBLOCK, 0) == ("inject", False)
    assert os.read(scene.backend.injected[-1], 9) == b"piped"
    os.close(reader)
    os.close(writer)


def test_bytes_that_are_no_text_are_told_as_such(scene: Scene, workspace: pathlib.Path) -> None:
    event = scene.event("openat", AT_FDCWD, b"\xff\xfe/..//\xc3", CREATE | W, 0o600)
    assert event.path == f"{workspace}/\\xff\\xfe/\\xc3" or event.path.endswith("\\xc3")
    assert scene.make("mkdirat", AT_FDCWD, b"\xff", 0o700) == ("give", 0)
    assert os.listdir(b".").count(b"\xff") == 1


KINDS = {
    ("file", R): "file.read",
    ("file", W): "file.write",
    ("file", RW): "file.write",
    ("file", R | os.O_TRUNC): "file.write",
    ("file", W | CREATE): "file.write",
    ("file", R | CREATE): "file.read",
    ("missing", W | CREATE): "file.create",
    ("missing", R | CREATE): "file.create",
    ("dangling", W | CREATE): "file.create",
    ("missing", R): "file.read",
    ("missing", W): "file.write",
    ("dir", R): "file.list",
    ("dir", R | os.O_DIRECTORY): "file.list",
    ("dir", W | os.O_TMPFILE): "file.create",
}


@pytest.mark.parametrize(("path", "flags"), KINDS)
def test_flags_tell_the_kind(path: str, flags: int, scene: Scene) -> None:
    assert scene.event("openat", AT_FDCWD, path, flags, 0).kind == KINDS[path, flags]


def test_every_member_of_the_open_family_says_the_same(scene: Scene, workspace: pathlib.Path) -> None:
    how = struct.pack("=QQQ", W | CREATE, 0o600, 0)
    events = [scene.event("openat", AT_FDCWD, "missing", W | CREATE, 0o600)]
    events.append(scene.event("openat2", AT_FDCWD, "missing", how, 24))
    events.append(scene.event("creat", "missing", 0o600))
    events.append(scene.event("open", "missing", W | CREATE, 0o600))
    assert {(event.kind, event.path) for event in events} == {("file.create", f"{workspace}/missing")}
    assert [event.flags for event in events] == [*["O_WRONLY|O_CREAT"] * 2, "O_WRONLY|O_CREAT|O_TRUNC", events[0].flags]


def test_a_name_only_is_nobody_s_business(scene: Scene) -> None:
    operation = scene.describe("openat", AT_FDCWD, "file", os.O_PATH, 0)
    assert operation.event is None
    assert operation.bounded
    operation.close()


FAILURES = {
    ("", R): ENOENT,
    ("loop", R): ELOOP,
    ("file/x", R): ENOTDIR,
    ("file/", R): ENOTDIR,
    ("file/..", R): ENOTDIR,
    ("missing/x", W | CREATE): ENOENT,
    ("missing/../file", R): ENOENT,
    ("missing/", W | CREATE): EISDIR,
    ("dir", W | CREATE): EISDIR,
    ("dir", W): EISDIR,
    ("file", W | CREATE | EXCL): EEXIST,
    ("link", W | CREATE | EXCL): EEXIST,
    ("dangling", W | CREATE | EXCL): EEXIST,
    ("link", R | os.O_NOFOLLOW): ELOOP,
    ("link", R | os.O_NOFOLLOW | os.O_DIRECTORY): ENOTDIR,
    ("file", R | os.O_DIRECTORY): ENOTDIR,
    ("dir", R | os.O_TMPFILE): EINVAL,
    ("x" * 256, R): ENAMETOOLONG,
    ("x/" * 2048, R): ENAMETOOLONG,
    ("/proc/self/fd/999", R): ENOENT,
    ("/proc/self/nothing", R): ENOENT,
}


@pytest.mark.parametrize(("path", "flags"), FAILURES, ids=lambda value: str(value)[:16])
def test_what_the_kernel_would_fail_fails_alike(path: str, flags: int, scene: Scene) -> None:
    os.symlink("loop", "loop")
    with pytest.raises(OSError) as outside:
        os.close(os.open(path, flags, 0o600))
    assert outside.value.errno == FAILURES[path, flags]
    assert scene.make("openat", AT_FDCWD, path, flags, 0o600) == ("fail", FAILURES[path, flags])


def test_what_cannot_be_read_is_no_path(scene: Scene) -> None:
    for bad in (0, 1, 2**47, 2**63 - 1, 2**64 - 1):
        assert scene.make("openat", AT_FDCWD, bad, R, 0) == ("fail", EFAULT)
        assert scene.make("renameat", AT_FDCWD, "file", AT_FDCWD, bad) == ("fail", EFAULT)
        assert scene.make("openat2", AT_FDCWD, "file", bad, 24) == ("fail", EFAULT)
    assert not scene.recorder.entries


def test_another_process_s_secrets_in_proc_are_not_to_be_had(scene: Scene) -> None:
    parent = os.getppid()
    for what in ("environ", "mem", "maps", "fd/0", "cwd", "root/etc/passwd"):
        assert scene.make("openat", AT_FDCWD, f"/proc/{parent}/{what}", R, 0) == ("fail", EACCES)
    assert scene.make("openat", AT_FDCWD, f"/proc/{parent}/stat", R, 0) == ("inject", False)
    assert scene.make("openat", AT_FDCWD, f"/proc/{os.getpid()}/environ", R, 0) == ("inject", False)


@pytest.mark.parametrize("resolve", [0x01, 0x02, 0x04, 0x08, 0x10])
def test_openat2_resolves_within_what_it_says(resolve: int, scene: Scene, workspace: pathlib.Path) -> None:
    how = struct.pack("=QQQ", R, 0, resolve)
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert scene.event("openat2", fd, "dir/inner", how, 24).path == f"{workspace}/dir/inner"
        if resolve == 0x04:
            with pytest.raises(OSError, match="symbolic links"):
                scene.event("openat2", fd, "link", how, 24)
        else:
            assert scene.event("openat2", fd, "link", how, 24).path == f"{workspace}/file"
        if resolve == 0x08:
            with pytest.raises(OSError, match="Invalid cross-device link"):
                scene.event("openat2", fd, "../ws/file", how, 24)
        elif resolve == 0x10:
            assert scene.event("openat2", fd, "/../file", how, 24).path == f"{workspace}/file"
    finally:
        os.close(fd)


def test_openat2_s_structure_is_checked(scene: Scene) -> None:
    good = struct.pack("=QQQ", R, 0, 0)
    assert scene.make("openat2", AT_FDCWD, "file", good, 24) == ("inject", False)
    assert scene.make("openat2", AT_FDCWD, "file", good, 23) == ("fail", EINVAL)
    assert scene.make("openat2", AT_FDCWD, "file", good + bytes(8), 32) == ("inject", False)
    assert scene.make("openat2", AT_FDCWD, "file", good + b"\1" * 8, 32) == ("fail", 7)
    for flags, mode, resolve in ((1 << 40, 0, 0), (1 << 30, 0, 0), (R, 0o600, 0), (W | CREATE, 1 << 20, 0), (R, 0, 64)):
        how = struct.pack("=QQQ", flags, mode, resolve)
        assert scene.make("openat2", AT_FDCWD, "file", how, 24) == ("fail", EINVAL)


def test_nothing_leaks_when_it_fails(scene: Scene) -> None:
    before = descriptors()
    for _ in range(3):
        assert scene.make("openat", AT_FDCWD, "/dev/tty", R, 0) == ()
        scene.settle()
        scene.make("linkat", AT_FDCWD, "file", AT_FDCWD, "missing/x", 0)
        scene.make("renameat", AT_FDCWD, "file", AT_FDCWD, "missing/x")
        scene.make("mkdirat", AT_FDCWD, "dir/.", 0o700)
        scene.make("fchmod", 999, 0o700)
    for fd in scene.backend.injected:
        os.close(fd)
    scene.backend.injected.clear()
    assert descriptors() == before


def test_an_exec_is_about_what_runs(scene: Scene, workspace: pathlib.Path) -> None:
    program = os.path.realpath("/bin/true")
    os.symlink(program, "tool")
    event = scene.event("execve", "tool", scene.argv(b"other", b"-x", b"\xff"), 0)
    assert (event.kind, event.path, event.argv) == ("process.exec", program, ("other", "-x", "\\xff"))
    assert event.spelled == "tool"
    assert event.cwd == str(workspace)
    fd = os.open(program, os.O_PATH)
    assert scene.event("execveat", fd, "", scene.argv(b"x"), 0, 0x1000).path == program
    os.close(fd)
    for path, errno in (("missing", ENOENT), ("file", EACCES), ("dir", EACCES), ("", ENOENT), ("file/x", ENOTDIR)):
        assert scene.make("execve", path, scene.argv(b"x"), 0) == ("fail", errno)
    assert not scene.recorder.entries


@pytest.mark.parametrize("settled_s", [2.0, -60.0])  # too fresh to be remembered, and remembered
def test_a_script_that_has_changed_is_read_anew(
    scene: Scene, workspace: pathlib.Path, monkeypatch: pytest.MonkeyPatch, settled_s: float
) -> None:
    monkeypatch.setattr(execs, "_SETTLED_S", settled_s)
    script = workspace / "script"
    for tick, argument in enumerate(("one", "two", "six")):
        script.write_text(f"#!/bin/echo {argument}\n")
        script.chmod(0o755)
        os.utime(script, (tick, tick))  # what changes within one tick of the clock has the same time
        for _ in range(2):
            scene.event("execve", "script", scene.argv(b"x"), 0)
            _, runs = scene.process.execs.pop(os.getpid())
            assert runs.argv == ("/bin/echo", argument, "script")
    script.write_text("no first line of that kind\n")
    scene.event("execve", "script", scene.argv(b"x"), 0)
    assert len(scene.process.execs.pop(os.getpid())) == 1
    script.chmod(0o644)
    os.utime(script, (9, 9))
    assert scene.make("execve", "script", scene.argv(b"x"), 0) == ("fail", EACCES)
