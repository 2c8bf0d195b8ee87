"""Both backends do the same with each kind of operation under each action, and tell the same of the same program: every
event with everything in it that does not vary by itself."""

from __future__ import annotations

import pathlib
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from itertools import zip_longest

import pytest

from tests.kernel.supervised import OPEN, SERVED, Result, run
from tests.requirements import missing

pytestmark = pytest.mark.requires("notify", "ptrace")

NETWORK = (
    OPEN
    + """
network:
  allow: ["127.0.0.1:*"]
  listen: ["127.0.0.1:*"]
"""
)

# -- each kind under each action ---------------------------------------------------------------------------------------

ACTIONS = ("allow", "audit", "warn", "require_approval", "block")
EACH_KIND = """
import errno, os, signal, socket

def tcp():
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

def kill():
    r, w = os.pipe()
    child = os.fork()
    if not child:
        os.close(w)
        os.read(r, 1)
        os._exit(0)
    try:
        os.kill(child, signal.SIGTERM)
    finally:
        os.close(w)
        os.waitpid(child, 0)

acts = {
    "file.read": lambda: os.close(os.open("marked-read", os.O_RDONLY)),
    "file.write": lambda: os.close(os.open("marked-write", os.O_WRONLY)),
    "file.create": lambda: os.close(os.open("marked-new", os.O_WRONLY | os.O_CREAT, 0o600)),
    "file.delete": lambda: os.unlink("marked-delete"),
    "file.rename": lambda: os.rename("marked-old", "marked-moved"),
    "file.link": lambda: os.link("plain", "marked-link"),
    "file.meta": lambda: os.chmod("marked-meta", 0o600),
    "file.list": lambda: os.listdir("marked-folder"),
    "net.connect": lambda: tcp().connect(("127.0.0.1", 9)),
    "net.bind": lambda: tcp().bind(("127.0.0.1", 0)),
    "net.send": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
    "net.unix": lambda: socket.socket(socket.AF_UNIX).connect("socket"),
    "process.exec": lambda: os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1]),
    "process.signal": kill,
}
for kind, act in acts.items():
    try:
        act()
        print(kind, "done")
    except OSError as error:
        print(kind, errno.errorcode[error.errno])
"""


def each_kind(action: str) -> str:
    """A policy with a rule for each kind that the program above does."""
    rules = ["rules:"]
    for kind in re.findall(r'"([a-z]+\.[a-z]+)":', EACH_KIND):
        path = ', path: "${WORKSPACE}/marked*"' if kind.startswith("file.") else ""
        argv = ', argv: "true"' if kind == "process.exec" else ""
        rules.append(f"  - {{name: on-{kind}, on: {kind}{path}{argv}, action: {action}, reason: on purpose}}")
    return "\n".join((NETWORK.rstrip(), '  unix: ["${WORKSPACE}"]', *rules)) + "\n"


@pytest.mark.parametrize("action", ACTIONS)
def test_both_backends_do_the_same_with_each_kind_under_each_action(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    argv = [sys.executable, "-I", "-S", "-c", EACH_KIND]
    refused = action in ("block", "require_approval")

    def prepared() -> pathlib.Path:
        ws = tmp_path / "ws"
        shutil.rmtree(ws, ignore_errors=True)
        (ws / "marked-folder").mkdir(parents=True)
        for name in ("plain", *(f"marked-{what}" for what in ("read", "write", "delete", "old", "meta"))):
            (ws / name).write_text("x")
        return ws

    def served() -> socket.socket:
        """Somebody outside who listens at a path of the workspace, which may be too long to be an address."""
        monkeypatch.chdir(prepared())
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("socket")
        listener.listen()
        return listener

    with served():
        free = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(free) == 14
    found = {}
    for backend in ("notify", "ptrace"):
        options = ("--backend", backend, "--approve", "deny")
        with served():
            found[backend] = run(argv, tmp_path, policy=each_kind(action), options=options)
        assert found[backend].code == 0, found[backend].err
        for line in free:
            kind = line.split()[0]
            events = [e for e in found[backend].events(kind) if e["decision"].get("rule") == f"on-{kind}"]
            if action == "allow":  # where others allow it as well, one of them is named
                events = found[backend].events(kind)
            assert events, (kind, found[backend].events(kind))
            assert {event["decision"]["action"] for event in events} == {action}
            assert {event.get("effective", action) == "block" for event in events} == {refused}
    notified, traced = found["notify"], found["ptrace"]
    assert notified.out == traced.out
    if refused:
        assert {line.split()[1] for line in traced.out.splitlines()} <= {"EACCES", "EPERM", "ECONNREFUSED"}
    else:
        assert traced.out.splitlines() == free
    assert_same(*apart(notified, traced))
    keys = ("kind", "action", "effective", "rule", "where", "reason", "count")
    one, other = ([[denial[key] for key in keys] for denial in each.report["denials"]] for each in (notified, traced))
    assert one == other
    assert len(one) == (len(free) if refused else 0)


# -- real programs -----------------------------------------------------------------------------------------------------

GIT = """
set -e
export HOME="$PWD" GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
export GIT_AUTHOR_DATE='2026-01-01 00:00 +0000' GIT_COMMITTER_DATE='2026-01-01 00:00 +0000' GIT_CONFIG_NOSYSTEM=1
git init -q -b main one; cd one; git config gc.auto 0
echo first > file; git add file; git commit -q -m first
cd ..; git clone -q one two; cd two
echo second > file; git commit -q -a -m second; git push -q origin HEAD:other
git log --oneline | wc -l
"""

PYTHON = """
import socket, subprocess, sys, tempfile, threading
with tempfile.TemporaryDirectory(dir=".") as folder:
    with open(f"{folder}/note", "w") as file:
        file.write("hello")
    said = subprocess.run(["/bin/cat", f"{folder}/note"], capture_output=True, text=True, check=True).stdout
listener = socket.create_server(("127.0.0.1", 0))
def serve():
    with listener.accept()[0] as peer:
        peer.sendall(said.encode())
thread = threading.Thread(target=serve)
thread.start()
with socket.create_connection(listener.getsockname()) as near:
    print(near.recv(100).decode())
thread.join()
"""

PIPELINE = """
set -e
mkdir d; for n in 1 2 3 4 5; do echo "line $n" > d/$n; done
cat d/* | sort -r | tee all | head -2 | sed s/line/LINE/
find d -name '[24]' -exec rm {} +
ls d | wc -l; cp all copy; mv copy d/; ln d/copy linked; chmod 600 linked; tar cf - d | tar tf - | sort
cat /nowhere/at/all 2>/dev/null || true
"""

MAKE = """
set -e
printf 'int one(void);\\nint main(void) { return one() - 1; }\\n' > main.c
printf 'int one(void) { return 1; }\\n' > one.c
printf 'prog: main.o one.o\\n\\tcc -o $@ $^\\n%%.o: %%.c\\n\\tcc -c -o $@ $<\\n' > Makefile
make -s -j1 && ./prog && echo built && make -s && rm prog main.o one.o
"""

THREADS = """
import os, threading
def work(n):
    for turn in range(20):
        with open(f"{n}.{turn}", "w") as file:
            file.write("x")
        os.rename(f"{n}.{turn}", f"{n}.moved")
    os.unlink(f"{n}.moved")
    if n == 0:
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("done")
"""

PROGRAMS = {
    "git": (("git",), ["/bin/sh", "-c", GIT], (OPEN, SERVED)),
    "python": ((), [sys.executable, "-I", "-c", PYTHON], (OPEN, NETWORK)),
    "pipeline": ((), ["/bin/sh", "-c", PIPELINE], (OPEN, SERVED)),
    "make": (("make", "cc"), ["/bin/sh", "-c", MAKE], (OPEN, SERVED)),
    "threads": ((), [sys.executable, "-I", "-c", THREADS], (OPEN, SERVED)),
}

_VARY = ("seq", "time", "us", "pid", "tid", "ppid", "result", "type")
_NAMES = (  # what programs make up anew in each run
    (re.compile(r"/proc/\d+"), "/proc/PID"),
    (re.compile(r"/cc\w{6}\b"), "/ccRANDOM"),
    (re.compile(r"(tmp_\w*?(?:-incoming-|_))\w{6}\b"), r"\1RANDOM"),
    (re.compile(r"/tmp\w{8}\b"), "/tmpRANDOM"),
    (re.compile(r"\.git/t\w{6}\b"), ".git/tRANDOM"),
    (re.compile(r"('target', )\d+"), r"\1PID"),
    (re.compile(r"('port', )\d+"), r"\1PORT"),
    (re.compile(r"\d{8}-\d{6}\.\d+-\w{6}"), "RUN"),
)


def told(found: Result) -> Counter[tuple[str, ...]]:
    """What each process did, in its order where it had one thread, without what differs from run to run."""
    events: dict[int, list[str]] = {}
    threads: dict[int, set[int]] = {}
    for entry in found.events():
        text = repr(sorted((key, what) for key, what in entry.items() if key not in _VARY))
        for pattern, name in _NAMES:
            text = pattern.sub(name, text)
        events.setdefault(entry["pid"], []).append(text)
        threads.setdefault(entry["pid"], set()).add(entry["tid"])
    return Counter(tuple(sorted(done) if len(threads[pid]) > 1 else done) for pid, done in events.items())


def apart(one: Result, other: Result) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """What only one of two runs tells, and only the other."""
    mine, theirs = told(one), told(other)
    return sorted((mine - theirs).elements()), sorted((theirs - mine).elements())


def assert_same(one: list[tuple[str, ...]], other: list[tuple[str, ...]]) -> None:
    """Fails with the first event that differs."""
    for mine, theirs in zip_longest(one, other, fillvalue=()):
        for event, instead in zip_longest(mine, theirs):
            assert event == instead


@pytest.mark.parametrize("name", PROGRAMS)
def test_both_backends_tell_the_same_of_real_programs(tmp_path: pathlib.Path, name: str) -> None:
    needed, argv, policies = PROGRAMS[name]
    for program in needed:
        if shutil.which(program) is None:
            missing(program, f"{program} is not installed")
    for policy in policies:
        found = {}
        for backend in ("notify", "ptrace"):
            shutil.rmtree(tmp_path / "ws", ignore_errors=True)
            found[backend] = run(argv, tmp_path, policy=policy, options=("--backend", backend))
            assert found[backend].code == 0, found[backend].err
            assert found[backend].trace[0]["backend"] == found[backend].report["backend"] == backend
        notified, traced = found["notify"], found["ptrace"]
        assert notified.out == traced.out != ""
        assert_same(*apart(notified, traced))
        assert notified.report["counts"] == traced.report["counts"]
        for entry in traced.events():
            assert "result" in entry or entry["kind"] in ("process.exit", "net.dns"), entry
