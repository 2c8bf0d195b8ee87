"""Names that are not what they seem: a forbidden folder, and processes outside, where they are mounted once more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.attacks.bystander import Bystander
from tests.attacks.scene import MARK, Scene
from tests.requirements import missing

CODE = """
import os, sys
from pathlib import Path
base, pid = Path(sys.argv[1]), sys.argv[2]
def attempt(act):
    try: return act()
    except OSError as error: return error.strerror
def keep(text):
    with open("loot", "a") as loot: loot.write(str(text) + "\\n")
for folder in (base / "mirror", base / "whole" / "outside"):
    keep(attempt(lambda: (folder / "secret").read_text())); keep(attempt(lambda: os.listdir(folder)))
    attempt(lambda: (folder / "victim").write_text("OWNED")); attempt(lambda: (folder / "new").touch())
    attempt(lambda: os.link(folder / "secret", "linked")); attempt(lambda: os.rename(folder / "victim", "moved"))
    attempt(lambda: os.chmod(folder / "victim", 0o777))
keep(attempt((base / "whole" / "ws" / ".env").read_text))
for proc in ("processes", "whole/processes"):
    keep(attempt((base / proc / pid / "environ").read_text))
print("tried")
"""
# As whoever may mount: root, or an ordinary user in a user namespace of its own.
MOUNTS = """
mount --bind "$1/outside" "$1/mirror" && mount --rbind /proc "$1/processes" && mount --rbind "$1" "$1/whole" || exit 9
shift; exec "$@"
"""


UNSHARE = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-rm")


def _may_mount() -> bool:
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


def _with_mounts(scene: Scene, argv: Sequence[object]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", MOUNTS, "sh", str(scene.base), *map(str, argv)],
        cwd=scene.ws,
        env=scene.environment({"WORD": MARK}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "tried" in done.stdout, done.stderr
    return done


@pytest.mark.parametrize("scene", ["waved", "served", "landlock", "userns"], indirect=True)
def test_second_views(scene: Scene, bystander: Callable[[Path], Bystander]) -> None:
    if not _may_mount():
        missing("userns", "nobody may mount anything here")
    for name in ("mirror", "processes", "whole"):
        (scene.base / name).mkdir()
    other = bystander(scene.base)
    (scene.ws / ".env").write_text(MARK if scene.served else "harmless")
    program = (sys.executable, "-c", CODE, scene.base, other.pid)
    _with_mounts(scene, scene.command(program))
    assert (scene.ws / "loot").exists()
    assert not scene.stolen, scene.loot.read_text()
    assert not scene.changed
    assert not (scene.ws / "linked").exists() and not (scene.ws / "moved").exists()
    scene.reset()
    _with_mounts(scene, program)
    assert scene.stolen and scene.changed, "without a supervisor the second view is as good as the first"
