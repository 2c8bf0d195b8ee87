"""Landlock domains in the kernel: each denial beside the same act where it is allowed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from errno import EACCES, ENOENT, EPERM, EXDEV
from pathlib import Path

import pytest

from asl_hooks import landlock
from asl_hooks._abi import constants as k
from asl_hooks.errors import UnsupportedError
from asl_hooks.landlock import FILES, READ, SCOPES, TCP, WRITE, Ruleset
from tests.kernel.child import errno_of, outcome

SYSTEM = tuple((folder, READ) for folder in ("/usr", "/bin", "/lib", "/lib64", "/etc"))


def need(abi: int) -> None:
    """Skips, or fails where Landlock must work, unless the kernel has this ABI."""
    found = landlock.abi()
    if found < abi:
        wanted = f"Landlock ABI {abi} needed, {found} found"
        if "landlock" in os.environ.get("ASL_MUST_WORK", "").split(","):
            pytest.fail(wanted)
        pytest.skip(wanted)


def within(ruleset: Ruleset, act: Callable[[], object]) -> int:
    """The errno of *act* in a child whose domain is *ruleset*; 0 if it goes through."""

    def inside() -> int:
        fd, _ = landlock.build(ruleset)
        landlock.restrict(fd)
        os.close(fd)
        return errno_of(act)

    return outcome(inside)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    need(3)
    for name in ("open", "closed"):
        (tmp_path / name / "folder").mkdir(parents=True)
        (tmp_path / name / "file").write_text(name)
    return tmp_path


WRITES: dict[str, Callable[[Path], object]] = {
    "overwrite": lambda at: (at / "file").open("r+").write("x"),
    "truncate": lambda at: os.truncate(at / "file", 1),
    "create": lambda at: (at / "new").open("x"),
    "mkdir": lambda at: (at / "new").mkdir(),
    "symlink": lambda at: (at / "new").symlink_to("file"),
    "fifo": lambda at: os.mkfifo(at / "new"),
    "remove": lambda at: (at / "file").unlink(),
    "rmdir": lambda at: (at / "folder").rmdir(),
    "rename": lambda at: (at / "file").rename(at / "new"),
    "move": lambda at: (at / "file").rename(at / "folder" / "file"),
    "link": lambda at: os.link(at / "file", at / "folder" / "file"),
}


@pytest.mark.parametrize("act", WRITES)
def test_writing_outside_fails_and_inside_works(tree: Path, act: str) -> None:
    ruleset = Ruleset(fs=FILES & ~k.LANDLOCK_ACCESS_FS_IOCTL_DEV, paths=((str(tree / "open"), READ | WRITE),))
    assert within(ruleset, lambda: WRITES[act](tree / "closed")) in (EACCES, EXDEV)
    assert sorted(os.listdir(tree / "closed")) == ["file", "folder"]
    assert (tree / "closed" / "file").read_text() == "closed"
    assert os.listdir(tree / "closed" / "folder") == []
    assert within(ruleset, lambda: WRITES[act](tree / "open")) == 0


def test_reading_outside_fails_and_inside_works(tree: Path) -> None:
    ruleset = Ruleset(fs=READ, paths=((str(tree / "open"), READ),))
    assert within(ruleset, (tree / "closed" / "file").read_text) == EACCES
    assert within(ruleset, lambda: os.listdir(tree / "closed")) == EACCES
    assert within(ruleset, (tree / "open" / "file").read_text) == 0
    assert within(ruleset, lambda: os.listdir(tree / "open")) == 0
    assert within(ruleset, lambda: (tree / "closed" / "file").write_text("not handled")) == 0


def test_a_rule_for_a_file_covers_that_file(tree: Path) -> None:
    """Rights that only folders have are trimmed: the kernel would not take them."""
    ruleset = Ruleset(fs=FILES & ~k.LANDLOCK_ACCESS_FS_IOCTL_DEV, paths=((str(tree / "open" / "file"), READ | WRITE),))
    assert within(ruleset, lambda: (tree / "open" / "file").open("r+").write("x")) == 0
    assert within(ruleset, (tree / "open" / "file").unlink) == EACCES
    assert within(ruleset, lambda: os.listdir(tree / "open")) == EACCES


def test_exec_needs_the_right_to_read(tree: Path) -> None:
    execute = k.LANDLOCK_ACCESS_FS_EXECUTE

    def start() -> None:
        subprocess.run(["/bin/true"], check=True)

    assert within(Ruleset(fs=READ, paths=SYSTEM), start) == 0
    assert within(Ruleset(fs=READ, paths=tuple((path, execute) for path, _ in SYSTEM)), start) == EACCES
    assert within(Ruleset(fs=READ, paths=tuple((path, READ & ~execute) for path, _ in SYSTEM)), start) == EACCES


def test_paths_that_are_gone_are_left_out_and_named(tree: Path) -> None:
    missing, below_a_file = str(tree / "missing"), str(tree / "open" / "file" / "below")
    fd, skipped = landlock.build(Ruleset(fs=READ, paths=((missing, READ), (str(tree), READ), (below_a_file, READ))))
    try:
        assert skipped == (missing, below_a_file)
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_an_older_kernel_is_imitated(tree: Path) -> None:
    assert landlock.abi(limit=2) == 2
    assert landlock.abi(limit=99) == landlock.abi()
    full = Ruleset(fs=FILES, paths=((str(tree / "open"), READ),))
    older, lost = landlock.downgrade(full, landlock.abi(limit=2))
    assert lost == ("fs.truncate", "fs.ioctl_dev")
    assert within(older, lambda: os.truncate(tree / "closed" / "file", 0)) == 0
    assert within(older, (tree / "closed" / "file").unlink) == EACCES


def test_more_than_the_kernel_has_is_unsupported() -> None:
    need(1)
    with pytest.raises(UnsupportedError, match=r"net\.bind_udp"):
        if landlock.abi() >= 10:
            pytest.skip("this kernel has every right that is known")
        landlock.build(Ruleset(net=k.LANDLOCK_ACCESS_NET_BIND_UDP))


def test_tcp_reaches_only_the_ports_that_are_granted() -> None:
    need(4)
    with socket.create_server(("127.0.0.1", 0)) as granted, socket.create_server(("127.0.0.1", 0)) as other:
        port = granted.getsockname()[1]
        ruleset = Ruleset(net=TCP, ports=((port, k.LANDLOCK_ACCESS_NET_CONNECT_TCP),))
        assert within(ruleset, lambda: socket.create_connection(granted.getsockname(), 5).close()) == 0
        assert within(ruleset, lambda: socket.create_connection(other.getsockname(), 5).close()) == EACCES
        assert within(ruleset, lambda: socket.create_server(("127.0.0.1", 0)).close()) == EACCES
    assert within(Ruleset(fs=READ), lambda: socket.create_server(("127.0.0.1", 0)).close()) == 0


def test_signals_and_abstract_sockets_stay_inside() -> None:
    need(6)
    name = f"\0asl-test-{os.getpid()}"
    reached: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: reached.append(number))
    parent = os.getpid()

    def call() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(name)

    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(name)
            server.listen()
            assert within(Ruleset(scopes=SCOPES), lambda: os.kill(parent, signal.SIGUSR1)) == EPERM
            assert reached == []
            assert within(Ruleset(scopes=SCOPES), call) == EPERM
            assert within(Ruleset(scopes=SCOPES), lambda: os.kill(os.getpid(), 0)) == 0
            assert within(Ruleset(fs=READ), lambda: os.kill(parent, signal.SIGUSR1)) == 0
            assert within(Ruleset(fs=READ), call) == 0
        assert reached == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_domain_holds_across_exec_and_cannot_be_widened(tree: Path) -> None:
    closed = tree / "closed" / "file"
    ruleset = Ruleset(fs=READ, paths=SYSTEM)

    def widen() -> None:
        fd, _ = landlock.build(Ruleset(fs=READ, paths=(("/", READ),)))
        landlock.restrict(fd)
        closed.read_text()

    def other_program() -> None:
        done = subprocess.run(["/bin/cat", closed], capture_output=True, check=False)
        if done.returncode:
            raise PermissionError(EACCES, done.stderr.decode())

    assert within(ruleset, widen) == EACCES
    assert within(ruleset, other_program) == EACCES
    assert within(Ruleset(fs=READ, paths=(*SYSTEM, (str(tree), READ))), other_program) == 0


def test_a_missing_file_is_missing_inside_too(tree: Path) -> None:
    ruleset = Ruleset(fs=READ, paths=((str(tree / "open"), READ),))
    assert within(ruleset, (tree / "open" / "missing").read_text) == ENOENT
