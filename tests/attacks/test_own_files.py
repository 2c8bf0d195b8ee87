"""Against the supervisor: its trace, policy, cached policies, report and state, under policies that forget them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.attacks.scene import INTACT, Scene

POLICIES = {
    "no files section": "version: 1\nname: open\nnetwork: {allow: []}\n",
    "writes everywhere": 'version: 1\nname: open\nfiles: {read: ["/"], write: ["/"]}\n',
    "the workspace": 'version: 1\nname: open\nfiles: {read: ["/"], write: ["${WORKSPACE}"]}\n',
}
CODE = r"""
import os, sys
def attempt(act, *args):
    try: return act(*args)
    except OSError: return None
def ruin(path):
    for flags in (os.O_WRONLY, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_APPEND):
        fd = attempt(os.open, path, flags)
        if fd is not None: os.write(fd, b"FORGED\n")
    attempt(os.truncate, path, 0); attempt(os.chmod, path, 0o777); attempt(os.rename, path, path + ".gone")
    attempt(os.link, path, "alias"); attempt(os.unlink, path)
    attempt(os.symlink, os.path.abspath("../outside/victim"), path)
for path in sys.argv[1:]:
    if os.path.isdir(path):
        for folder, _, files in os.walk(path):
            for name in files: ruin(os.path.join(folder, name))
            attempt(os.close, attempt(os.open, folder + "/planted", os.O_CREAT | os.O_WRONLY) or -1)
        attempt(os.rename, path, path + ".gone")
    else:
        ruin(path)
attempt(os.rename, os.getcwd(), os.getcwd() + ".gone")
open("wrote", "w").close()
print("tried")
"""


@pytest.mark.parametrize("scene", ["waved", "landlock"], indirect=True)
@pytest.mark.parametrize("policy", POLICIES)
def test_own_files(scene: Scene, policy: str) -> None:
    file = scene.ws / "policy.yaml"
    file.write_text(POLICIES[policy])
    scene.trace, report = scene.ws / "trace.jsonl", scene.ws / "report.json"
    state = scene.base / "state"
    done = scene.bound(
        sys.executable, "-c", CODE, file, scene.trace, report, state, policy=file, options=["--report", report]
    )
    assert "tried" in done.stdout, done.stderr
    assert (scene.ws / "wrote").exists(), "the tree may write there"
    assert file.read_text() == POLICIES[policy]
    assert not scene.trace.is_symlink() and not report.is_symlink()
    lines = scene.trace.read_text().splitlines()
    assert all(json.loads(line) for line in lines)
    assert json.loads(report.read_text())["outcome"] == "exited"
    assert scene.victim.read_text() == INTACT
    assert not _planted(state)
    scene.free(sys.executable, "-c", CODE, file, scene.trace, report, state)
    assert not file.exists() or file.is_symlink() or file.read_text() != POLICIES[policy], "without a supervisor"


@pytest.mark.parametrize("scene", ["waved", "landlock"], indirect=True)
def test_own_files_in_memory(scene: Scene) -> None:
    policy = scene.base / "everything.yaml"
    policy.write_text(POLICIES["writes everywhere"])
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        scene.trace, report, other = (Path(folder) / name for name in ("trace.jsonl", "report.json", "other"))
        other.write_text("x")
        done = scene.bound(
            sys.executable, "-c", CODE, scene.trace, report, other, policy=policy, options=["--report", report]
        )
        assert "tried" in done.stdout, done.stderr
        assert other.is_symlink(), "the tree may change what is there"
        assert all(json.loads(line) for line in scene.trace.read_text().splitlines())
        assert json.loads(report.read_text())["outcome"] == "exited"


def _planted(state: Path) -> list[str]:
    return [name for _, _, names in os.walk(state) for name in names if name == "planted" or name.endswith(".gone")]


@pytest.mark.parametrize("scene", ["waved", "served"], indirect=True)
@pytest.mark.parametrize("place", ["state", "home", "link"])
def test_signing_key(scene: Scene, place: str) -> None:
    """Whoever can read the key can sign a forged trace: it is read by nobody of the tree, whatever a policy says."""
    pytest.importorskip("cryptography")
    from agent_safety_layer.trace.signing import generate

    folder = scene.base / ("state" if place == "state" else "home")
    folder.mkdir(mode=0o700, exist_ok=True)
    key = folder / "trace.key"
    generate(str(key))
    names, more = [key], {}
    if place == "link":
        names.append(scene.base / "link.key")
        names[1].symlink_to(key)
    if place != "state":
        more["ASL_TRACE_KEY"] = str(names[-1])
    code = 'for f in "$@"; do cat "$f" >> loot; cp "$f" . ; done; ln "$1" alias && cat alias >> loot; echo tried'
    done = scene.bound("sh", "-c", code, "sh", *names, **more)
    assert "tried" in done.stdout, done.stderr
    assert "PRIVATE" not in scene.loot.read_text()
    assert '"signed_by":""' not in scene.trace.read_text().splitlines()[0]
    scene.free("sh", "-c", code, "sh", *names)
    assert "PRIVATE" in scene.loot.read_text()


DIVERT = r"""
import os
os.rename("link", "gone"); os.symlink("../outside", "link")
for number in range(600):
    os.path.exists("/etc/hosts") and open("/etc/hosts").close()
print("tried")
"""


@pytest.mark.parametrize("scene", ["waved", "served"], indirect=True)
def test_a_trace_goes_on_where_it_began(scene: Scene) -> None:
    """The folder that it was given by is a link, which the tree may turn; the next part comes after that."""
    (scene.ws / "real").mkdir()
    (scene.ws / "link").symlink_to("real")
    scene.trace = scene.ws / "link" / "trace.jsonl"
    command = scene.command([sys.executable, "-c", DIVERT], "--trace-split", "1KiB")
    done = subprocess.run(
        command, cwd=scene.ws, env=scene.environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert "tried" in done.stdout, done.stderr
    assert (scene.ws / "link").samefile(scene.outside), "that was the tree's to do"
    assert not scene.changed
    assert (scene.ws / "real" / "trace.part2.jsonl").exists()
