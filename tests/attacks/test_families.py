"""Getting past the interception: every member of each family, raw, with garbage in the high halves of its arguments."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.attacks.scene import Scene

CODE = r"""
import ctypes, os, struct, sys
from asl_hooks import syscalls
libc = ctypes.CDLL(None, use_errno=True); raw = libc.syscall; raw.restype = ctypes.c_long
numbers = syscalls.numbers(syscalls.native_arch())
folder = os.fsencode(sys.argv[1]); only = sys.argv[2:]
GARBAGE = 0x5A5A5A5A00000000
AT = -100 & 0xFFFFFFFF
keep = []
def text(data):
    keep.append(ctypes.create_string_buffer(data)); return ctypes.addressof(keep[-1])
def call(name, *args):
    if name not in numbers: return
    if only and name not in only: return
    for garbage in (0, GARBAGE):
        words = [ctypes.c_ulong((a | garbage) if isinstance(a, int) and 0 <= a < 2**32 and not big else a)
                 for a, big in ((a if isinstance(a, tuple) else (a, False)) for a in args)]
        got = raw(ctypes.c_long(numbers[name]), *words)
        if got >= 0 and name in ("open", "openat", "openat2", "creat"):
            os.write(got, b"OWNED"); os.close(got)
def p(name): return (text(folder + b"/" + name), True)
def big(value): return (value, True)
victim, new = p(b"victim"), p(b"new")
mine = (text(b"mine"), True); open("mine", "w").close()
held = os.open(folder, os.O_PATH)
times = (text(struct.pack("=4q", 1, 0, 1, 0)), True); old = (text(struct.pack("=2q", 1, 1)), True)
attribute, value = (text(b"user.asl"), True), (text(b"x"), True)
how = (text(struct.pack("=3Q", os.O_WRONLY, 0, 0)), True)
call("open", victim, os.O_WRONLY, 0); call("open", new, os.O_CREAT | os.O_WRONLY, 0o600)
call("creat", victim, 0o600); call("creat", new, 0o600)
for at, v, n in ((AT, victim, new), (held, (text(b"victim"), True), (text(b"new"), True))):
    call("openat", at, v, os.O_WRONLY | os.O_TRUNC, 0); call("openat", at, n, os.O_CREAT | os.O_WRONLY, 0o600)
    call("openat2", at, v, how, big(24)); call("mkdirat", at, n, 0o700); call("mknodat", at, n, 0o100600, 0)
    call("symlinkat", mine, at, n); call("linkat", AT, mine, at, n, 0)
    call("linkat", at, v, AT, (text(b"alias"), True), 0)
    call("fchmodat", at, v, 0o777); call("fchmodat2", at, v, 0o777, 0); call("fchownat", at, v, 65534, 65534, 0)
    call("utimensat", at, v, times, 0); call("futimesat", at, v, old); call("unlinkat", at, v, 0)
    call("renameat", at, v, at, n); call("renameat2", at, v, at, n, 0); call("renameat", AT, mine, at, v)
    call("renameat2", AT, mine, at, v, 2)
call("truncate", victim, big(0)); call("mkdir", new, 0o700); call("mknod", new, 0o10600, 0); call("link", mine, new)
call("link", victim, (text(b"alias2"), True)); call("symlink", mine, new); call("chmod", victim, 0o777)
call("chown", victim, 65534, 65534); call("lchown", victim, 65534, 65534); call("utime", victim, old)
call("utimes", victim, times); call("setxattr", victim, attribute, value, big(1), 0)
call("lsetxattr", victim, attribute, value, big(1), 0)
call("rename", victim, new); call("rename", mine, victim); call("unlink", victim); call("rmdir", p(b""))
def native(name, *args): return raw(ctypes.c_long(numbers[name]), *map(ctypes.c_ulong, args))
fd = native("openat", AT, p(b"")[0], os.O_TMPFILE | os.O_RDWR, 0o600)
if fd >= 0 and (not only or "openat" in only):
    native("linkat", fd, text(b""), AT, new[0], 0x1000)
handle, mount = text(struct.pack("=Ii", 128, 0) + bytes(128)), text(bytes(8))
if native("name_to_handle_at", AT, victim[0], handle, mount, 0) == 0:
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    got = native("open_by_handle_at", root, handle, os.O_WRONLY)
    if got >= 0: os.write(got, b"OWNED")
print("tried")
"""


def _state(folder: Path) -> dict[str, object]:
    return {
        path.name: (
            path.read_text(),
            found.st_mode,
            found.st_uid,
            found.st_nlink,
            found.st_mtime,
            os.listxattr(path),
        )
        for path in sorted(folder.iterdir())
        if (found := path.stat())
    }


CONTROLS = ("open", "creat", "openat", "openat2", "truncate", "chmod", "utimes", "rename", "unlink", "link", "mkdirat")


@pytest.mark.parametrize("scene", ["waved", "served", "unseen", "landlock=1", "landlock"], indirect=True)
def test_every_member(scene: Scene) -> None:
    before = _state(scene.outside)
    done = scene.bound(sys.executable, "-c", CODE, scene.outside)
    assert "tried" in done.stdout, done.stdout + done.stderr
    assert _state(scene.outside) == before
    assert not (scene.ws / "alias").exists() and not (scene.ws / "alias2").exists()
    if scene.served or scene.without:
        return
    for name in CONTROLS:
        before = {**_names(scene), **_state_of_victim(scene)}
        scene.free(sys.executable, "-c", CODE, scene.outside, name)
        assert {**_names(scene), **_state_of_victim(scene)} != before, f"without a supervisor {name} works"
        for path in scene.outside.iterdir():
            if path.is_dir():
                path.rmdir()
            elif path.name != "secret":
                path.unlink()
        for alias in scene.ws.glob("alias*"):
            alias.unlink()
        scene.reset()


def _names(scene: Scene) -> dict[str, object]:
    return {path.name: path.lstat().st_mode for path in scene.outside.iterdir()}


def _state_of_victim(scene: Scene) -> dict[str, object]:
    if not scene.victim.is_file():
        return {"victim": None}
    found = scene.victim.stat()
    return {"victim": (found.st_mode, found.st_nlink, found.st_mtime_ns, scene.victim.read_bytes())}
