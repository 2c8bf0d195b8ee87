"""Against the supervisor: it is root, and its tree makes itself somebody else. What is served must not be root's."""

from __future__ import annotations

import os
import sys

import pytest

from tests.attacks.scene import MARK, Scene

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the tree changes its identity")
CODE = r"""
import ctypes, os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
folder = sys.argv[1]
def attempt(act, *args):
    try: return act(*args)
    except OSError: return None
for name in ("closed/secret", "secret"):
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        fd = attempt(os.open, f"{folder}/{name}", flags)
        if fd is None: continue
        if flags == os.O_RDONLY: open("loot", "ab").write(os.pread(fd, 99, 0))
        else: os.write(fd, b"OWNED")
    attempt(os.chmod, f"{folder}/{name}", 0o777); attempt(os.chown, f"{folder}/{name}", 65534, 65534)
    attempt(os.utime, f"{folder}/{name}", (1, 1)); attempt(os.truncate, f"{folder}/{name}", 0)
    attempt(os.setxattr, f"{folder}/{name}", "user.x", b"1")
attempt(os.unlink, f"{folder}/closed/secret"); attempt(os.rename, f"{folder}/secret", f"{folder}/moved")
attempt(os.mkdir, f"{folder}/closed/made"); attempt(os.mkdir, f"{folder}/made")
print("tried", os.getuid())
"""


def test_served_as_the_tracee(scene: Scene) -> None:
    scene.base.chmod(0o755)
    scene.ws.chmod(0o777)
    for parent in scene.base.parents[:2]:
        parent.chmod(0o755)
    private = scene.ws / "roots"
    (private / "closed").mkdir(parents=True)
    (private / "closed").chmod(0o700)
    names = ("closed/secret", "secret")
    for name in names:
        (private / name).write_text(MARK)
        (private / name).chmod(0o600)
    before = {name: (private / name).stat() for name in names}
    done = scene.bound(sys.executable, "-c", CODE, private)
    assert "tried 65534" in done.stdout, done.stderr
    assert not scene.stolen
    for name in names:
        after = (private / name).stat()
        assert (private / name).read_text() == MARK
        assert (after.st_mode, after.st_uid, after.st_mtime) == (
            before[name].st_mode,
            before[name].st_uid,
            before[name].st_mtime,
        )
    assert sorted(os.listdir(private)) == ["closed", "secret"]
    # The control: as root, the tree may do all that.
    scene.bound(sys.executable, "-c", CODE.replace("os.setgid(65534); os.setuid(65534)", ""), private)
    assert scene.stolen


CAPABILITIES = r"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, act):
    try: print(name, act())
    except OSError as e: print(name, "refused")
def call(*args):
    if libc.syscall(*args) < 0: raise OSError(ctypes.get_errno(), "")
attempt("mknod", lambda: os.mknod("device", 0o20666, os.makedev(1, 3)))
attempt("fscaps", lambda: (open("tool", "w").close(), os.setxattr("tool", "security.capability",
    bytes.fromhex("0100000280000000000000000000000000000000")), "set"))
attempt("trusted", lambda: (os.setxattr(".", "trusted.x", b"1"), "set"))
attempt("kcore", lambda: os.open("/proc/kcore", os.O_RDONLY))
def nonzero(number):
    if not number: raise OSError(0, "hidden")
    return number
attempt("stack", lambda: open("/proc/self/stack").read())
attempt("symbols", lambda: nonzero(int(open("/proc/kallsyms").readline().split()[0], 16)))
attempt("frames", lambda: nonzero(int.from_bytes(os.pread(os.open("/proc/self/pagemap", os.O_RDONLY),
    8, (id(libc) >> 12) * 8)[:6], "little")))
attempt("messages", lambda: os.close(os.open("/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK)))
attempt("hostname", lambda: call(170, b"owned", 5))
attempt("netlink", lambda: __import__("socket").socket(16, 3, 0).sendto(
    bytes.fromhex("20000000100005000100000000000000") + bytes.fromhex("00000000010000000100000001000000"), (0, 0)) and
    "sent")
attempt("raw", lambda: __import__("socket").socket(2, 3, 1))
attempt("packet", lambda: __import__("socket").socket(17, 3, 768))
print("tried")
"""


def test_capabilities(scene: Scene) -> None:
    """In a network namespace of the test's own, should a link's flags be changed after all."""
    free = scene.free("unshare", "-n", sys.executable, "-c", CAPABILITIES.replace("hostname", "kcore"))
    assert "fscaps" in free.stdout
    (scene.ws / "tool").unlink(missing_ok=True)
    (scene.ws / "device").unlink(missing_ok=True)
    done = scene.free("unshare", "-n", *scene.command([sys.executable, "-c", CAPABILITIES]))
    assert "tried" in done.stdout, done.stderr
    assert not (scene.ws / "device").exists()
    for name in (
        *("mknod", "trusted", "hostname", "raw", "packet", "kcore", "fscaps"),
        *("stack", "symbols", "frames", "messages"),
    ):
        assert f"{name} refused" in done.stdout, done.stdout
    if (scene.ws / "tool").exists():
        assert "security.capability" not in os.listxattr(scene.ws / "tool")
