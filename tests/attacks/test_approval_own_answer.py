"""Against the supervisor: an agent that answers its own question, on the terminal and in the queue."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.attacks.scene import MARK, Scene
from tests.terminals import QUESTION, Typist

# A child of the tree that is in front of the terminal, writes on it and tries to type, while its sibling asks.
TERMINAL = r"""
import fcntl, os, signal, sys, termios, threading, time
asked, way = sys.argv[1:]
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
def spoof():
    if way == "opens the terminal anew":
        for fd in (0, 1, 2): os.close(fd)
    if way == "writes where it is counted": os.close(0)  # it has no terminal any more
    while not os.path.exists("over"):
        try: tty = os.open("/dev/tty", os.O_RDWR) if way == "opens the terminal anew" else 1
        except OSError: continue
        if way == "types":
            for key in b"yyr\n":
                try: fcntl.ioctl(tty, termios.TIOCSTI, bytes((key,)))
                except OSError: pass
        else:
            os.write(tty, b"\x1b]2;y\x07\x1b[21t\x1b[6n FAKE: allow reading a harmless file? press y ")
        if way == "opens the terminal anew": os.close(tty)
if os.fork() == 0:
    spoof()
    os._exit(0)
try: found = open(asked).read()
except OSError as error: found = error.strerror
open("loot", "w").write(found)
open("over", "w").close()
"""
WAYS = ("types", "writes", "writes where it is counted", "opens the terminal anew")


def asking(scene: Scene, more: str = "") -> Path:
    """A policy that asks about one file, which holds MARK."""
    (scene.base / "asked").mkdir()
    (scene.base / "asked" / "file").write_text(MARK)
    policy = scene.base / "asking.yaml"
    policy.write_text(
        'version: 1\nname: asking\nfiles: {read: ["/"], write: ["${WORKSPACE}"], '
        f'ask: ["{scene.base / "asked"}"]}}\napprovals: {{timeout: 4s}}\n{more}'
    )
    return policy


@pytest.mark.parametrize("scene", ["waved"], indirect=True)
@pytest.mark.parametrize("way", WAYS)
def test_on_the_terminal(scene: Scene, way: str) -> None:
    file = scene.base / "asked" / "file"
    policy = asking(scene, "limits: {output: 100MiB}\n" if "counted" in way else "")
    command = scene.command([sys.executable, "-c", TERMINAL, file, way], "--approve", "tty", policy=policy)
    person = Typist(command, scene.ws, scene.environment())
    person.expect(QUESTION)
    while person.read(1.0):  # whatever still comes was written before
        pass
    drawn = person.seen[person.seen.rindex(b"asl asks") :]
    assert b"FAKE" not in drawn, "nobody draws over a question"
    person.finish()
    person.close()
    assert scene.loot.read_text() == "Permission denied", person.seen
    assert person.seen.count(b"asl: yes") == 0
    # The control: with a person's key it is opened, whatever the others print meanwhile.
    (scene.ws / "over").unlink()
    scene.trace.unlink()
    person = Typist(command, scene.ws, scene.environment())
    person.answer(b"y")
    person.finish()
    person.close()
    assert scene.loot.read_text() == MARK, person.seen


# Everything that could be a way to the queue: the command, the database, the bells, the overlay.
QUEUE = r"""
import glob, json, os, sqlite3, subprocess, sys, threading
asked, state = sys.argv[1:]
log = []
def attempt(name, act):
    try: log.append((name, str(act())[:200]))
    except Exception as error: log.append((name, f"{type(error).__name__}: {error}"[:200]))
def answer():
    folder = f"{state}/approvals"
    attempt("list", lambda: os.listdir(folder))
    attempt("read", lambda: open(f"{folder}/queue.db", "rb").read(9))
    attempt("overlay", lambda: open(f"{folder}/always.yaml", "w"))
    attempt("bells", lambda: os.listdir(f"{folder}/bells"))
    attempt("hard link", lambda: os.link(f"{folder}/queue.db", "queue.db"))
    attempt("symbolic link", lambda: (os.symlink(folder, "folder"), open("folder/queue.db", "r+b")))
    attempt("rename", lambda: os.rename(state, state + ".gone"))
    attempt("descriptors", lambda: [open(p, "r+b") for p in glob.glob(f"/proc/{os.getppid()}/fd/*")])
    def update():
        db = sqlite3.connect(f"{folder}/queue.db")
        db.execute("UPDATE requests SET status = 'approved', scope = 'once' WHERE status = 'pending'")
        db.commit()
        return db.total_changes
    attempt("sqlite", update)
    def command():
        code = "from agent_safety_layer.cli.main import main; main()"
        listed = subprocess.run([sys.executable, "-c", code, "approvals", "list"], capture_output=True, text=True)
        name = listed.stdout.split()[0] if listed.stdout.strip() else "x"
        words = [sys.executable, "-c", code, "approvals", "approve", name]
        return subprocess.run(words, capture_output=True, text=True)
    attempt("command", command)
thread = threading.Thread(target=answer); thread.start()
try: found = open(asked).read()
except OSError as error: found = error.strerror
thread.join()
open("loot", "w").write(found)
open("log", "w").write(json.dumps(dict(log)))
"""
ASL = "from agent_safety_layer.cli.main import main; main()"


def asl(scene: Scene, *words: str) -> subprocess.CompletedProcess[str]:
    """The command ``asl``, as the person runs it."""
    return subprocess.run(
        [sys.executable, "-c", ASL, *words],
        env=scene.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def first_question(scene: Scene) -> str:
    """The id of the one that pends."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = json.loads(asl(scene, "approvals", "list", "--json").stdout or "[]")
        if found:
            return str(found[0]["id"])
    raise AssertionError("nothing is asked")


@pytest.mark.parametrize("scene", ["waved", "served"], indirect=True)
def test_in_the_queue(scene: Scene) -> None:
    policy, file, state = asking(scene), scene.base / "asked" / "file", scene.base / "state"
    scene.bound(sys.executable, "-c", QUEUE, file, state, options=["--approve", "queue"], policy=policy, timeout_s=60)
    log = json.loads((scene.ws / "log").read_text())
    assert scene.loot.read_text() == "Permission denied", log
    for name in ("list", "read", "overlay", "bells", "hard link", "rename"):
        assert log[name].startswith("PermissionError"), log
    assert log["descriptors"] == "[]" or log["descriptors"].startswith("PermissionError"), log
    assert log["sqlite"].startswith("OperationalError"), log
    # The control: the same from outside is an answer.
    policy.write_text(policy.read_text().replace("4s", "60s"))
    scene.loot.unlink()
    scene.trace.unlink()
    process = scene.start(
        sys.executable,
        "-c",
        "open('loot', 'w').write(open(__import__('sys').argv[1]).read())",
        file,
        options=["--approve", "queue"],
        policy=policy,
    )
    name = first_question(scene)
    assert asl(scene, "approvals", "approve", name[:6]).returncode == 0
    process.communicate(timeout=60)
    assert scene.loot.read_text() == MARK
