"""What a path leads to, found as the kernel finds it: compared with the kernel's own answer."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from errno import EACCES, ELOOP, ENOENT, ENOTDIR

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asl_hooks.paths import Located, _walk, base_of, locate, name_of, several_named, split

ME = os.getpid()
NAMES = ("a", "b", "c", "d")
segment = st.sampled_from((*NAMES, "..", ".", ""))
relative = st.lists(segment, min_size=1, max_size=6).map("/".join).filter(bool)
node = st.one_of(
    st.tuples(st.just("file")),
    st.tuples(st.just("folder")),
    st.tuples(st.just("link"), relative),
    st.tuples(st.just("absolute"), relative),
)
place = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
trees = st.lists(st.tuples(place, node), max_size=12)


def found(path: bytes, follow: bool, walk: bool) -> Located:
    """What is found, by the kernel where it can or step by step; the descriptor is closed."""
    how = _walk(path, ME, ME, follow, lambda _: True) if walk else locate(path, ME, ME, follow)
    if how.fd >= 0:
        os.close(how.fd)
    return how


def native(path: bytes, follow: bool) -> tuple[int, int | None]:
    """The errno and the inode that the kernel finds there."""
    try:
        fd = os.open(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        return error.errno or 0, None
    inode = os.fstat(fd).st_ino
    os.close(fd)
    return 0, inode


def inside(path: pathlib.Path, top: pathlib.Path) -> bool:
    """Whether what is made at *path* is made below *top*."""
    return os.path.realpath(path.parent).startswith(f"{top}/") or os.path.realpath(path.parent) == str(top)


def build(top: pathlib.Path, tree: list[tuple[str, tuple[str, ...]]]) -> None:
    for where, what in tree:
        path = top / where
        if not inside(path, top):
            continue  # a link leads out of the test's own folder
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if what[0] == "file":
                path.touch(exist_ok=False)
            elif what[0] == "folder":
                path.mkdir()
            else:
                path.symlink_to(what[1] if what[0] == "link" else f"{top}/{what[1]}")


@given(tree=trees, path=relative, follow=st.booleans(), slash=st.booleans())
@example(tree=[("a", ("link", "b/"))], path="a", follow=True, slash=False)
@example(tree=[("a", ("file",))], path="a/..", follow=True, slash=False)
@example(tree=[("a", ("file",)), ("b", ("link", "a"))], path="b/.", follow=False, slash=False)
@example(tree=[("a", ("link", "c/.")), ("c", ("file",))], path="a", follow=True, slash=False)
@settings(max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_kernel_and_we_find_the_same(
    tmp_path: pathlib.Path, tree: list[tuple[str, tuple[str, ...]]], path: str, follow: bool, slash: bool
) -> None:
    top = pathlib.Path(os.path.realpath(tmp_path)) / "top"
    top.mkdir()
    try:
        build(top, tree)
        whole = os.fsencode(f"{top}/{path}{'/' if slash else ''}")
        errno, inode = native(whole, follow)
        for walk in (False, True):
            how = found(whole, follow, walk)
            assert how.errno == errno
            if inode is None:
                assert how.fd == -1
            else:
                assert os.lstat(how.path).st_ino == inode
                assert how.path == os.fsencode(os.path.realpath(os.path.dirname(how.path))) + b"/" + os.path.basename(
                    how.path
                ) or how.path in (b"/", os.fsencode(os.path.realpath(how.path)))
            if how.creatable and inside(pathlib.Path(os.fsdecode(how.path)), top):
                with pytest.raises(FileNotFoundError):
                    os.lstat(how.path)
                fd = os.open(whole, os.O_CREAT | os.O_WRONLY, 0o600)
                os.close(fd)
                assert os.path.realpath(how.path) == how.path
                os.unlink(how.path)
    finally:
        shutil.rmtree(top)


def test_magic_links_lead_to_the_object_itself(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    fd = os.open(file, os.O_RDONLY)
    os.unlink(file)
    for name in (f"/proc/self/fd/{fd}", f"/dev/fd/{fd}", f"/proc/{ME}/fd/{fd}", f"/proc/thread-self/fd/{fd}"):
        how = locate(os.fsencode(name), ME, ME, True)
        assert os.path.samestat(os.fstat(how.fd), os.fstat(fd))
        os.close(how.fd)
    link = found(os.fsencode(f"/proc/self/fd/{fd}"), False, False)
    assert link.path == b"/proc/%d/fd/%d" % (ME, fd)
    os.close(fd)
    assert found(b"/proc/self/fd/%d" % fd, True, False).errno == ENOENT


def test_what_proc_says_of_oneself_is_the_tracee_s() -> None:
    other = os.getppid()
    for name in ("/proc/self/status", "/proc/mounts", "/etc/mtab", "/proc/net/dev"):
        if os.path.exists(name):
            how = locate(os.fsencode(name), other, other, True)
            assert how.path.startswith(b"/proc/%d/" % other) or not how.path.startswith(b"/proc/")
            os.close(how.fd)


def test_links_that_the_tracee_may_not_follow_are_not_followed() -> None:
    for name in (b"/proc/1/cwd", b"/proc/1/root/etc/passwd", b"/proc/1/fd/0"):
        how = locate(name, ME, ME, True, lambda link: False)
        assert (how.fd, how.errno) in ((-1, EACCES), (-1, ENOENT))


def test_pipes_have_a_name_that_is_no_path() -> None:
    reader, writer = os.pipe()
    how = locate(b"/proc/self/fd/%d" % reader, ME, ME, True)
    assert how.path == b"pipe:[%d]" % os.fstat(reader).st_ino
    assert os.path.samestat(os.fstat(how.fd), os.fstat(reader))
    os.close(how.fd)
    assert found(b"/proc/self/fd/%d/x" % reader, True, False).errno == ENOTDIR
    os.close(reader)
    os.close(writer)


def test_too_many_links_are_a_loop(tmp_path: pathlib.Path) -> None:
    for number in range(45):
        (tmp_path / f"l{number}").symlink_to(f"l{number + 1}")
    (tmp_path / "l45").touch()
    for start, errno in ((0, ELOOP), (4, ELOOP), (5, 0), (30, 0)):
        for walk in (False, True):
            assert found(os.fsencode(tmp_path / f"l{start}"), True, walk).errno == errno


def test_folders_to_start_from(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    fd = os.open(folder, os.O_RDONLY)
    reader, writer = os.pipe()
    memfd = os.memfd_create("m")
    assert base_of(ME, fd) == os.fsencode(os.path.realpath(folder))
    monkeypatch.chdir(folder)
    assert base_of(ME, -100) == os.fsencode(os.path.realpath(folder))
    for bad, errno in ((reader, ENOTDIR), (memfd, ENOTDIR), (999, 9)):
        with pytest.raises(OSError) as error:
            base_of(ME, bad)
        assert error.value.errno == errno
    folder.rmdir()
    for gone in (fd, -100):
        with pytest.raises(OSError) as error:
            base_of(ME, gone)
        assert error.value.errno == ENOENT
    monkeypatch.chdir(tmp_path)
    for open_fd in (fd, reader, writer, memfd):
        os.close(open_fd)


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (b"/a/b", (b"/a/", b"b")),
        (b"/a", (b"/", b"a")),
        (b"/a/b///", (b"/a/", b"b///")),
        (b"/", (b"/", b"/")),
        (b"//a//b", (b"//a//", b"b")),
        (b"/a/..", (b"/a/", b"..")),
    ],
)
def test_the_last_component_keeps_its_slashes(path: bytes, parts: tuple[bytes, bytes]) -> None:
    assert split(path) == parts


def test_a_descriptor_knows_its_name(tmp_path: pathlib.Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    assert name_of(fd) == os.fsencode(os.path.realpath(tmp_path))
    os.close(fd)


@pytest.mark.parametrize("refused", [False, True])
def test_files_with_several_names_are_found_also_where_faccessat2_is_refused(
    refused: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    names = [tmp_path / "one", folder / "two", tmp_path / "alone", folder / "link"]
    names[0].touch()
    names[1].hardlink_to(names[0])
    names[2].touch()
    names[3].symlink_to(names[0])
    if refused:
        monkeypatch.setattr(os, "access", lambda *_, **__: False)
    asked = [str(path) for path in (names[0], folder, names[2], names[3], tmp_path / "missing")]
    assert [path for path, _ in several_named(asked)] == [str(names[0]), str(names[1])]
