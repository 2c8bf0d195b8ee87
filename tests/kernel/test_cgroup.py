"""A cgroup of the run's own: found, limited, killed, removed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asl_hooks import cgroup
from asl_hooks.cgroup import Place, Subtree


def test_version_2_only() -> None:
    mounts = ["30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"]
    own = ["0::/user.slice/user-1000.slice/session-2.scope\n"]
    found = cgroup.parse_own(own, cgroup.parse_mounts(mounts))
    assert found == (Place("/sys/fs/cgroup/user.slice/user-1000.slice/session-2.scope", 2, frozenset()),)


def test_version_1_with_joined_controllers_and_a_version_2_tree_beside() -> None:
    mounts = [
        "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n",
        "34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        "41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n",
    ]
    own = ["4:memory:/job/17\n", "3:cpu,cpuacct:/\n", "2:name=systemd:/\n", "0::/\n"]
    assert cgroup.parse_own(own, cgroup.parse_mounts(mounts)) == (
        Place("/sys/fs/cgroup/memory/job/17", 1, frozenset(("memory",))),
        Place("/sys/fs/cgroup/cpu,cpuacct", 1, frozenset(("cpu", "cpuacct"))),
        Place("/sys/fs/cgroup/unified", 2, frozenset()),
    )


def test_in_a_container_the_mount_shows_only_a_part_of_the_tree() -> None:
    mounts = ["30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n"]
    inside = cgroup.parse_own(["0::/docker/abc/init\n"], cgroup.parse_mounts(mounts))
    outside = cgroup.parse_own(["0::/docker/abcd\n"], cgroup.parse_mounts(mounts))
    assert [place.path for place in inside] == ["/sys/fs/cgroup/init"]
    assert outside == ()


def test_version_2_limits_are_written_into_its_files(tmp_path: Path) -> None:
    """The layout of a version 2 folder, without a kernel behind it."""
    for name, text in {
        "cgroup.subtree_control": "cpu memory pids",
        "memory.stat": "",
        "cgroup.procs": "",
    }.items():
        (tmp_path / name).write_text(text)
    place = Place(str(tmp_path), 2, frozenset(("cpu", "memory", "pids")))
    own = tmp_path / "asl-x"
    with pytest.raises(FileNotFoundError):  # nobody makes cgroup.procs in it
        Subtree("asl-x", [place], ("memory",))
    own.mkdir()
    for name in ("cgroup.procs", "memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max"):
        (own / name).write_text("")
    subtree = Subtree.__new__(Subtree)
    subtree._folders = dict.fromkeys(("", "memory", "pids", "cpu"), str(own))
    subtree._versions = dict.fromkeys(subtree._folders, 2)
    assert subtree.holds == {"memory", "pids", "cpu"}
    subtree.limit_memory(1 << 20)
    subtree.limit_processes(7)
    subtree.limit_cpu(150)
    said = {name: (own / name).read_text() for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max")}
    assert said == {"memory.max": "1048576", "memory.swap.max": "0", "pids.max": "7", "cpu.max": "150000 100000"}
    (own / "memory.stat").write_text("anon 100\nfile 5000\nshmem 20\n")
    (own / "memory.peak").write_text("9000\n")
    (own / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    (own / "pids.events").write_text("max 3\n")
    (own / "cpu.stat").write_text("usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\n")
    assert subtree.usage() == cgroup.Usage(120, 9000, 2.0, 1.0, 2, 3)


@pytest.fixture
def subtree() -> Iterator[Subtree]:
    """A real one; skips where none can be had."""
    found = Subtree(f"asl-test-{os.getpid()}", cgroup.places(), ("memory", "pids", "cpu"))
    try:
        if not found.enter:
            pytest.skip("no cgroup of our own here")
        yield found
    finally:
        found.remove()


def inside(subtree: Subtree) -> int:
    """A process that spends its time in the subtree."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        for fd in subtree.enter:
            os.write(fd, b"0")
        os.write(writer, b"x")
        while True:
            signal.pause()
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    return pid


def test_who_enters_is_counted_and_killed_at_one_write(subtree: Subtree) -> None:
    pid = inside(subtree)
    try:
        assert "asl-test-" in Path(f"/proc/{pid}/cgroup").read_text()
        if subtree.kill_all < 0:
            pytest.skip("no cgroup.kill here (Linux 5.14)")
        os.write(subtree.kill_all, b"1")
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        pid = 0
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_it_is_gone_without_a_trace(subtree: Subtree) -> None:
    made = list(subtree._made)
    assert all(Path(folder).is_dir() for folder in made)
    pid = inside(subtree)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    began = time.monotonic()
    subtree.remove()
    assert not any(Path(folder).exists() for folder in made)
    assert time.monotonic() - began < 1
