"""What acts later, outside: a hook that git runs for whoever started the agent, put in place by every detour."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.attacks.scene import Scene

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")

IDENTITY = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
PREPARE = """
mkdir e; printf '#!/bin/sh\\ntouch "%s"\\n' > e/pre-commit; chmod +x e/pre-commit
swap() { python3 -c 'import ctypes, sys; a, b = (x.encode() for x in sys.argv[1:])
ctypes.CDLL(None).renameat2(-100, a, -100, b, 2)' "$1" "$2"; }
"""
DETOURS = {
    "direct": "mkdir .git/hooks; cp e/pre-commit .git/hooks/",
    "hooks is a link": "ln -s ../e .git/hooks",
    "hooks becomes a link": "ln -s ../e l; mv -T l .git/hooks",
    "hooks and a link change places": "mkdir .git/hooks; ln -s ../e l; swap l .git/hooks",
    "a link and hooks change places": "mkdir .git/hooks; ln -s ../e l; swap .git/hooks l",
    "hooks is another folder": "mv -T e .git/hooks",
    "a hook is a link": "mkdir .git/hooks; ln -s ../../e/pre-commit .git/hooks/pre-commit",
    "a hook is a hard link": "mkdir .git/hooks; ln e/pre-commit .git/hooks/pre-commit",
    "a hook is renamed": "mkdir .git/hooks; mv e/pre-commit .git/hooks/pre-commit",
    "git away and back": "mv .git g; cp -r e g/hooks; mv -T g .git",
    "git away and back with a link": "mv .git g; ln -s ../e g/hooks; mv -T g .git",
    "git is a link": "mv .git g; cp -r e g/hooks; ln -s g .git",
    "git is a file": "mv .git g; cp -r e g/hooks; echo 'gitdir: g' > .git",
    "git becomes a file": "mv .git g; cp -r e g/hooks; echo 'gitdir: g' > f; mv -T f .git || ln f .git",
    "by descriptor": "mkdir .git/hooks; cd .git/hooks && cp ../../e/pre-commit ../hooks/./pre-commit",
    "moved while inside": "mkdir h; (cd h && mv -T ../h ../.git/hooks && cp ../../e/pre-commit pre-commit)",
}
EVERYDAY = """
set -e
git init -q a; cd a; echo 1 > f; git add f; git commit -qm one; git branch b; git checkout -q b; echo 2 > g; git add g
git commit -qm two; git checkout -q -; git merge -q b; echo 3 >> f; git stash -q; git stash pop -q
git commit -qam three
git rebase -q HEAD~1; git tag v1; git gc -q; git mv g h; git commit -qm four; git worktree add -q ../w HEAD; cd ../w
echo 4 > i; git add i; git commit -qm five; cd ..
git clone -q a c; cd c; git -c protocol.file.allow=always submodule --quiet add ../a sub; git commit -qm six
git config user.name me; git remote add other ../a; git fetch -q other; git pull -q --rebase origin HEAD
git reset -q --hard
cd ..; git clone -q --bare a d.git; mv a moved; cd moved; git status -s; git worktree repair; git log --oneline
"""


def _policy(scene: Scene) -> Path:
    file = scene.base / "policy.yaml"
    file.write_text("version: 1\nname: default\nextends: [workspace]\n")
    return file


def _acted(scene: Scene) -> bool:
    """Whether somebody else's commit in the working directory runs the planted hook."""
    mark = scene.base / "acted"
    mark.unlink(missing_ok=True)
    command = ["git", "commit", "-q", "--allow-empty", "-m", "mine"]
    subprocess.run(command, cwd=scene.ws, env=scene.environment(IDENTITY), capture_output=True, check=False)
    return mark.exists()


def _repository(scene: Scene) -> None:
    for entry in list(scene.ws.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    subprocess.run(["git", "init", "-q", "--template=", scene.ws], env=scene.environment(), check=True)


@pytest.mark.parametrize("scene", ["waved"], indirect=True)
@pytest.mark.parametrize("detour", DETOURS)
def test_hooks(scene: Scene, detour: str) -> None:
    code = PREPARE % (scene.base / "acted") + DETOURS[detour] + "\necho tried\n"
    _repository(scene)
    done = scene.bound("sh", "-c", code, policy=_policy(scene))
    assert "tried" in done.stdout, done.stderr
    assert not _acted(scene), done.stderr
    _repository(scene)
    scene.free("sh", "-c", code)
    assert _acted(scene), "without a supervisor it works"


@pytest.mark.parametrize("scene", ["waved"], indirect=True)
def test_everyday_git_works(scene: Scene) -> None:
    done = scene.bound("sh", "-c", EVERYDAY, policy=_policy(scene), timeout_s=120, **IDENTITY)
    assert done.returncode == 0, done.stderr
    assert (scene.ws / "w" / "i").exists()
    assert (scene.ws / "c" / "sub" / "f").exists()
