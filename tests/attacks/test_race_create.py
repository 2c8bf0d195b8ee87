"""Check, then use: a file is made for reading, and between the check and the use a link to a file is put there."""

from __future__ import annotations

import sys

from tests.attacks.scene import MARK, Scene

CODE = r"""
import os, sys, time
place, target, end = os.environ["TMPDIR"] + "/x", sys.argv[1], time.monotonic() + float(sys.argv[2])
def attempt(act, *args):
    try: return act(*args)
    except OSError: return None
racer = os.fork()
while not racer:
    attempt(os.symlink, target, place); attempt(os.unlink, place)
    if time.monotonic() > end: os._exit(0)
made = read = ran = 0
while time.monotonic() < end and not ran:
    child = os.fork()
    if not child:
        fd = attempt(os.open, place, os.O_RDONLY | os.O_CREAT, 0o600)
        if fd is None: os._exit(1)
        found = os.read(fd, 99)
        attempt(os.unlink, place)
        if found: attempt(os.execv, "/bin/echo", ["echo", found.decode()])
        os._exit(3 if found else 2)
    how = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ran, read, made = ran + (how == 0), read + (how == 3), made + (how == 2)
os.kill(racer, 9); os.waitpid(racer, 0); attempt(os.unlink, place)
print("made", made, "read", read)
"""
# The kernel bounds what is changed in ${TMP}, and nothing of what is read: what is read has to be known.
POLICY = """\
version: 1
name: after
files:
  read: ["/"]
  write: ["${WORKSPACE}", "${TMP}"]
rules:
  - {name: after, on: process.exec, after: {on: file.read, path: %s}, action: block}
"""


def test_a_link_where_a_file_was_to_be_made(scene: Scene) -> None:
    policy = scene.base / "after.yaml"
    policy.write_text(POLICY % scene.secret)
    done = scene.bound(sys.executable, "-c", CODE, scene.secret, 3, policy=policy)
    assert MARK not in done.stdout, "it was read, and nobody noticed"
    _, made, _, read = done.stdout.split()
    assert int(made) and int(read), "it was made, and the other file was read"
    assert MARK in scene.free(sys.executable, "-c", CODE, scene.secret, 10).stdout, "without a supervisor it works"
