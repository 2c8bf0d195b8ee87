"""Names that are not what they seem: a blocked file under another name, linked or renamed during the run."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from tests.attacks.conftest import KINDS
from tests.attacks.scene import MARK, Scene

CODE = r"""
import os, sys
def attempt(act, *args):
    try: return act(*args)
    except OSError: return None
loot = open("loot", "ab")
def steal(path):
    for flags in (os.O_RDONLY, os.O_RDWR):
        fd = attempt(os.open, path, flags)
        if fd is not None: loot.write(os.read(fd, 99)); os.close(fd)
for k, path in enumerate(sys.argv[1:]):
    fd = attempt(os.open, path, os.O_PATH)
    attempt(os.link, path, f"l{k}"); attempt(os.rename, path, f"r{k}"); attempt(os.symlink, path, f"s{k}")
    if fd is not None: attempt(os.link, f"/proc/self/fd/{fd}", f"p{k}")
    for name in (f"l{k}", f"r{k}", f"s{k}", f"p{k}"): steal(name)
    os.mkdir(f"d{k}"); attempt(os.rename, os.path.dirname(path), f"d{k}"); steal(f"d{k}/" + os.path.basename(path))
    attempt(os.rename, os.path.dirname(path), f"e{k}"); steal(f"e{k}/" + os.path.basename(path))
    tmp = os.environ["TMPDIR"] + f"/t{k}"  # where the kernel bounds changes by itself
    attempt(os.rename, os.path.dirname(path), tmp); steal(tmp + "/" + os.path.basename(path))
    attempt(os.link, path, tmp + "l"); steal(tmp + "l")
# A folder becomes one under whose name a file is blocked, and back.
os.mkdir("plain"); open("plain/.env", "w").close() if False else None
print("tried")
"""


def test_blocked_file_under_another_name(scene: Scene) -> None:
    (scene.ws / "sub").mkdir()
    blocked = scene.ws / "sub" / ".env"
    blocked.write_text(MARK)
    targets = [scene.secret, blocked] if scene.served else [scene.secret]
    done = scene.bound(sys.executable, "-c", CODE, *targets)
    assert "tried" in done.stdout, done.stderr
    assert not scene.stolen
    assert blocked.exists()
    assert not scene.changed
    for name in os.listdir(scene.ws):
        if len(name) == 2 and (scene.ws / name).is_dir():
            (scene.ws / name).rmdir()
        elif len(name) == 2:
            (scene.ws / name).unlink()
    (scene.ws / "plain").rmdir()
    scene.free(sys.executable, "-c", CODE, *targets)
    assert scene.stolen, "without a supervisor it works"


OLD = r"""
import os, sys
def attempt(act, *args):
    try: return act(*args)
    except OSError: return None
for name in ("alias", "inside"):
    fd = attempt(os.open, name, os.O_RDONLY)
    if fd is not None: open("loot", "ab").write(os.read(fd, 99))
    attempt(os.truncate, name, 0); attempt(os.chmod, name, 0o644)
    fd = attempt(os.open, name, os.O_WRONLY)
    if fd is not None: os.write(fd, b"FORGED")
print(open("several").read(), "tried")
"""


@pytest.mark.parametrize("scene", [*KINDS, "unseen"], indirect=True)
def test_a_name_that_was_there_before(scene: Scene) -> None:
    """A hard link from before the run is judged by the blocked name, of a file named in the policy or in a folder."""
    other = scene.base / "home" / "token"
    other.write_text(MARK)
    policy = scene.policy(block=[str(other)])
    os.link(other, scene.ws / "alias")
    os.link(scene.victim, scene.ws / "inside")
    (scene.ws / "several").write_text("mine")
    os.link(scene.ws / "several", scene.ws / "again")
    done = scene.bound(sys.executable, "-c", OLD, policy=policy)
    assert "mine tried" in done.stdout, done.stderr
    assert not scene.stolen
    assert not scene.changed
    assert other.read_text() == MARK
    scene.free(sys.executable, "-c", OLD)
    assert scene.stolen and scene.changed, "without a supervisor it works"


PUT = r"""
import os, subprocess, sys
def attempt(act, *args):
    try: return act(*args)
    except OSError: return None
def steal(flags):
    fd = attempt(os.open, os.path.abspath("put"), flags)
    if fd is None: return
    if flags: os.write(fd, b"FORGED")
    else: open("loot", "ab").write(os.read(fd, 99))
    os.close(fd)
for name, flags in (("alias", os.O_RDONLY), ("inside", os.O_WRONLY)):
    open("put", "w").write("mine")
    for _ in range(5): steal(flags)  # what was opened a moment ago is opened again
    os.unlink("put"); attempt(os.link, name, "put"); steal(flags); attempt(os.unlink, "put")
print("tried")
"""


@pytest.mark.parametrize("scene", KINDS, indirect=True)
def test_a_name_that_was_there_before_put_where_another_was_opened(scene: Scene) -> None:
    policy = scene.policy(block=[str(scene.secret)])
    os.link(scene.secret, scene.ws / "alias")
    os.link(scene.victim, scene.ws / "inside")
    done = scene.bound(sys.executable, "-c", PUT, policy=policy)
    assert "tried" in done.stdout, done.stderr
    assert (scene.ws / "loot").read_text().startswith("mine"), "what is the program's own is opened"
    assert not scene.stolen
    assert not scene.changed
    scene.free(sys.executable, "-c", PUT)
    assert scene.stolen and scene.changed, "without a supervisor it works"


RUN = r"""
import os, subprocess
os.chmod("script", 0o755)
for argv in (["./alias", "ran"], ["./script"], ["./several", "mine"]):
    try: print(subprocess.run(argv, capture_output=True, text=True).stdout.strip())
    except OSError as error: print(type(error).__name__)
"""


@pytest.mark.parametrize("scene", KINDS, indirect=True)
def test_a_program_that_was_there_before_under_another_name(scene: Scene) -> None:
    """What may not be read under its name may not be run under another."""
    kept, several = scene.base / "home" / "kept", scene.ws / "several"
    for path in (kept, several):
        shutil.copy("/bin/echo", path)
    os.link(kept, scene.ws / "alias")
    os.link(several, scene.ws / "again")
    (scene.ws / "script").write_text(f"#!{scene.ws}/alias interpreted\n")
    policy = scene.policy(block=[str(kept)])
    done = scene.bound(sys.executable, "-c", RUN, policy=policy)
    assert done.stdout.split() == ["PermissionError", "PermissionError", "mine"], done.stderr
    free = scene.free(sys.executable, "-c", RUN).stdout.split()
    assert free == ["ran", "interpreted", "./script", "mine"], "without a supervisor it works"
