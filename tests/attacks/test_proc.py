"""Names that are not what they seem: other processes' memory, environment and descriptors by way of /proc."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.attacks.bystander import Bystander
from tests.attacks.scene import INTACT, MARK, Scene

# Tries to read everything that /proc shows of a process, and to write its memory.
SNOOP = r"""
import os, sys
pids = [int(sys.argv[1])] if sys.argv[1] != "ancestors" else []
pid = os.getpid()
while not pids or sys.argv[1] == "ancestors":
    with open(f"/proc/{pid}/status") as f:
        pid = int(next(line for line in f if line.startswith("PPid")).split()[1])
    if pid < 2 or len(pids) == 2: break
    pids.append(pid)
loot = os.open("loot", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
def steal(path):
    for flags in (os.O_RDONLY, os.O_RDWR):
        try: fd = os.open(path, flags | os.O_NONBLOCK)
        except OSError: continue
        print("opened", path, flags)
        if path.endswith("/mem"): os.write(loot, b"memory of another\n")
        else:
            try: os.write(loot, os.pread(fd, 4096, 0))
            except OSError: pass
        os.close(fd)
for pid in pids:
    for base in (f"/proc/{pid}", f"/proc/{pid}/task/{pid}", f"/proc/self/../{pid}", f"/proc/self/root/proc/{pid}"):
        for name in ("environ", "mem", "auxv", "stack", "fd/1", "fd/3"): steal(f"{base}/{name}")
        try: fds = os.listdir(f"{base}/fd")
        except OSError: fds = map(str, range(40))
        for fd in fds:
            steal(f"{base}/fd/{fd}")
print("tried", pids)
"""


def test_bystander(scene: Scene, bystander: Callable[..., Bystander]) -> None:
    other = bystander(scene.outside)
    done = scene.bound(sys.executable, "-c", SNOOP, other.pid)
    assert "tried" in done.stdout, done.stderr
    assert not scene.stolen
    assert not scene.loot.read_text(), done.stdout
    scene.free(sys.executable, "-c", SNOOP, other.pid)
    assert scene.stolen, "without a supervisor it works"
    other.told()


def test_supervisor_and_warden(scene: Scene) -> None:
    done = scene.bound(sys.executable, "-c", SNOOP, "ancestors", SECRET_TOKEN=MARK)
    assert "tried" in done.stdout, done.stderr
    assert not scene.loot.read_text(), done.stdout
    scene.free("/bin/sh", "-c", "sh -c \"$0 -c '$1' ancestors; true\"; true", sys.executable, SNOOP, SECRET_TOKEN=MARK)
    assert scene.stolen, "without a supervisor it works"


def test_supervisor_without_a_files_section(scene: Scene) -> None:
    policy = scene.base / "network-only.yaml"
    policy.write_text("version: 1\nname: network-only\nnetwork: {allow: []}\n")
    done = scene.bound(sys.executable, "-c", SNOOP, "ancestors", policy=policy, SECRET_TOKEN=MARK)
    assert "tried" in done.stdout, done.stderr
    assert not scene.loot.read_text(), done.stdout


WAYS = (
    "/proc/self/root{path}",
    "/proc/thread-self/root{path}",
    "/proc/self/cwd/../outside/{name}",
    "/proc/self/task/../cwd/../outside/{name}",
    "/dev/fd/../root{path}",
    "//proc//self/./root/{path}",
    "link/{name}",
    "link/../outside/{name}",
    "chain/{name}",
    "./" * 800 + "../outside/{name}",
)
OPEN = r"""
import os, sys
os.symlink("../outside", "link"); os.symlink("/proc/self/cwd/link", "chain")
for way in sys.argv[1:]:
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        try: fd = os.open(way, flags)
        except OSError as e: continue
        print("opened", way)
        if flags != os.O_WRONLY: os.write(os.open("loot", os.O_CREAT | os.O_WRONLY | os.O_APPEND), os.pread(fd, 99, 0))
        if flags != os.O_RDONLY: os.write(fd, b"OWNED")
    try: fd = os.open(way, os.O_PATH)
    except OSError: continue
    for again in (f"/proc/self/fd/{fd}", f"/dev/fd/{fd}", f"/proc/thread-self/fd/{fd}"):
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            try: other = os.open(again, flags)
            except OSError: continue
            print("reopened", way, again)
            if flags != os.O_WRONLY:
                os.write(os.open("loot", os.O_CREAT | os.O_WRONLY | os.O_APPEND), os.pread(other, 99, 0))
            if flags != os.O_RDONLY: os.write(other, b"OWNED")
print("tried")
"""


@pytest.mark.parametrize("target", ["secret", "victim"])
def test_detours(scene: Scene, target: str) -> None:
    path = scene.outside / target
    ways = [way.format(path=path, name=target) for way in WAYS]
    scene.free(sys.executable, "-c", OPEN, *ways)
    assert scene.stolen or path.read_text() != INTACT, "without a supervisor it works"
    scene.reset()
    scene.secret.write_text(MARK)
    (scene.ws / "link").unlink()
    (scene.ws / "chain").unlink()
    done = scene.bound(sys.executable, "-c", OPEN, *ways)
    assert "tried" in done.stdout, done.stderr
    assert "opened" not in done.stdout
    assert not scene.stolen
    assert not scene.changed


REOPEN = r"""
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
for again in (f"/proc/self/fd/{fd}", f"/dev/fd/{fd}", f"/proc/{os.getpid()}/fd/{fd}"):
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDONLY | os.O_TRUNC):
        try: os.write(os.open(again, flags), b"OWNED")
        except OSError: continue
for act in (os.ftruncate, os.fchmod):
    try: act(fd, 0)
    except OSError: pass
print("tried", os.pread(fd, 5, 0))
"""


def test_descriptor_for_reading_is_opened_for_writing(scene: Scene) -> None:
    readable = scene.base / "readable"
    readable.write_text(INTACT)
    done = scene.bound(sys.executable, "-c", REOPEN, readable)
    assert "tried b'as it'" in done.stdout, done.stderr
    assert readable.read_text() == INTACT
    assert readable.stat().st_mode & 0o777
    scene.free(sys.executable, "-c", REOPEN, readable)
    readable.chmod(0o600)
    assert readable.read_bytes() != INTACT.encode(), "without a supervisor it works"
