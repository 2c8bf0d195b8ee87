"""Names that are not what they seem: terminals of other people, open before the run or since."""

from __future__ import annotations

import os
import pty
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.attacks.scene import MARK, Scene

POLICIES = {
    "default": "version: 1\nname: default\nextends: [workspace]\n",
    "everything": 'version: 1\nname: everything\nfiles: {read: ["/"], write: ["/"]}\n',
    "no files section": "version: 1\nname: open\nexec: {block: [sudo]}\n",
}
CODE = r"""
import os, pty, sys, time
open("ready", "w").close()
until = time.monotonic() + 20
while not os.path.exists("go") and time.monotonic() < until: time.sleep(0.02)
for name in (open("go").read(), sys.argv[1]):
    for path in (name, name.replace("/dev/pts", "/proc/self/root/dev/pts")):
        for flags in (os.O_RDWR, os.O_RDONLY, os.O_WRONLY):
            try: fd = os.open(path, flags | os.O_NOCTTY | os.O_NONBLOCK)
            except OSError: continue
            if flags: os.write(fd, b"injected\r\n")
            if flags != os.O_WRONLY:
                try: open("loot", "ab").write(os.read(fd, 99))
                except OSError: pass
        try: os.chmod(path, 0o666)
        except OSError: pass
# Its own: by name, from both sides, from a child.
ours, theirs = pty.openpty()
again = os.open(os.ttyname(theirs), os.O_RDWR | os.O_NOCTTY); os.write(again, b"own works\n")
assert b"own works" in os.read(ours, 99)
pid, ours = pty.fork()
if not pid:
    fd = os.open(os.ttyname(0), os.O_RDWR); os.write(fd, b"child works\n"); os.close(os.open("/dev/tty", os.O_RDWR))
    os._exit(0)
text = b""
try:
    while b"works" not in text: text += os.read(ours, 99)
except OSError: pass
print(text.decode(), "tried", flush=True)
"""


@contextmanager
def _terminal() -> Iterator[tuple[int, str]]:
    """Somebody's terminal, on which a secret has been typed: the other side, and its name."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, MARK.encode() + b"\n")
        yield ours, os.ttyname(theirs)
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("scene", ["waved", "landlock"], indirect=True)
@pytest.mark.parametrize("policy", POLICIES)
def test_terminals_of_others(scene: Scene, policy: str) -> None:
    file = scene.base / "policy.yaml"
    file.write_text(POLICIES[policy])
    for bound in (True, False):
        for name in ("go", "ready"):
            (scene.ws / name).unlink(missing_ok=True)
        with _terminal() as (early, early_name):
            argv = [sys.executable, "-c", CODE, early_name]
            run = scene.start(*argv, policy=file) if bound else scene.start_free(*argv)
            until = time.monotonic() + 20
            while not (scene.ws / "ready").exists() and time.monotonic() < until:
                time.sleep(0.02)
            with _terminal() as (late, late_name):
                (scene.ws / "next").write_text(late_name)
                (scene.ws / "next").rename(scene.ws / "go")
                out, err = run.communicate(timeout=60)
                assert "child works" in out and "tried" in out, err
                shown = [_shown(side) for side in (early, late)]
                modes = [os.stat(name).st_mode & 0o777 for name in (early_name, late_name)]
        if bound:
            assert not any(b"injected" in text for text in shown)
            assert not scene.stolen
            assert 0o666 not in modes
        else:
            assert all(b"injected" in text for text in shown), "without a supervisor it works"
            assert scene.stolen and modes == [0o666, 0o666]


def _shown(side: int) -> bytes:
    return os.read(side, 4096) if select.select([side], [], [], 0)[0] else b""
