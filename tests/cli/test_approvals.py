"""``--approve queue`` and ``asl approvals``: asked in one place, answered in another, and done as it was shown."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.supervised import SUPERVISE, environment
from tests.terminals import QUESTION, Typist

ASL = [sys.executable, "-c", "from agent_safety_layer.cli.main import main; main()"]
POLICY = """\
version: 1
name: asking
files: {read: ["/"], write: ["${WORKSPACE}"], ask: ["%s"]}
network: {ask: ["*"], private_ips: true}
approvals: {timeout: %s}
"""
MOST_S = 60


class Runs:
    """Supervised commands that ask, and a person with another terminal."""

    def __init__(self, tmp: Path) -> None:
        self.tmp, self.ws, self.asked = tmp, tmp / "ws", tmp / "asked"
        self.state = tmp / "state"
        for folder in (self.ws, self.asked):
            folder.mkdir()
        (self.asked / "file").write_text("content")
        self.environment = environment(self.state)
        self.started: list[subprocess.Popen[str]] = []

    def policy(self, timeout: str = "60s") -> Path:
        path = self.tmp / "policy.yaml"
        path.write_text(POLICY % (self.asked, timeout))
        return path

    def start(self, *argv: str, how: str = "queue", timeout: str = "60s", name: str = "t") -> subprocess.Popen[str]:
        """A run that was started, with its trace at ``trace(name)``."""
        options = ["-p", str(self.policy(timeout)), "-o", str(self.trace_path(name)), "--approve", how, "--name", name]
        process = subprocess.Popen(
            [*SUPERVISE, *options, "--", *argv],
            cwd=self.ws,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def python(self, code: str, *args: str, **how: Any) -> subprocess.Popen[str]:
        return self.start(sys.executable, "-ISc", code, *args, **how)

    def trace_path(self, name: str = "t") -> Path:
        return self.tmp / f"{name}.jsonl"

    def events(self, *kinds: str, name: str = "t") -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.trace_path(name).read_text().splitlines()]
        return [line for line in lines if line.get("kind") in kinds]

    def asl(self, *words: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ASL, "approvals", *words],
            env=self.environment,
            cwd=self.tmp,
            input=input,
            capture_output=True,
            text=True,
            check=False,
            timeout=MOST_S,
        )

    def pending(self, count: int = 1) -> list[dict[str, Any]]:
        """The questions, once there are so many."""
        until = time.monotonic() + MOST_S
        while True:
            listed = self.asl("list", "--json")
            found: list[dict[str, Any]] = json.loads(listed.stdout)
            if len(found) == count:
                return found
            assert time.monotonic() < until, (found, listed.stderr)

    def answer(self, *words: str) -> str:
        """Answer the question that pends: ``approve`` or ``deny`` and options."""
        (asked,) = self.pending()
        done = self.asl(words[0], *words[1:], asked["id"])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    runs = Runs(tmp_path)
    yield runs
    runs.close()


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    return process.communicate(timeout=MOST_S)


def test_a_file_is_read_after_a_yes_from_elsewhere(runs: Runs) -> None:
    process = runs.python("import sys; print(open(sys.argv[1]).read())", str(runs.asked / "file"))
    (asked,) = runs.pending()
    shown = runs.asl("list").stdout
    for part in (asked["id"], "file.read", str(runs.asked / "file"), "policy.yaml:3", "once, run, program, always"):
        assert part in shown, shown
    assert "approved once by" in runs.answer("approve", "-m", "go on")
    assert end(process)[0] == "content\n"
    told, answered = runs.events("approval.asked", "approval.answered")
    assert asked["id"] in told["detail"] and "approved once by" in answered["detail"] and "go on" in answered["detail"]
    assert answered["time"] > told["time"] and answered["path"] == str(runs.asked / "file")
    assert runs.asl("list").stdout == "Nothing is asked.\n" and asked["id"] in runs.asl("list", "--all").stdout
    assert runs.asl("deny", asked["id"]).returncode == 125, "answered is answered"


def test_a_no_with_a_message_reaches_the_agent(runs: Runs) -> None:
    code = "import os, sys\ntry: open(sys.argv[1])\nexcept OSError as e: print(e.strerror)\n"
    process = runs.python(code + "print(open(os.environ['ASL_DENIALS']).read())", str(runs.asked / "file"))
    assert "use staging" in runs.answer("deny", "-m", "use staging")
    said, _, told = end(process)[0].partition("\n")
    assert said == "Permission denied"
    denial = json.loads(told)
    assert denial["message"] == "use staging" and denial["object"] == str(runs.asked / "file")


def test_answers_hold_as_far_as_they_say(runs: Runs) -> None:
    code = "import sys\nfor _ in range(3): print(open(sys.argv[1]).read())"
    process = runs.python(code, str(runs.asked / "file"))
    runs.answer("approve", "--scope", "run")
    assert end(process)[0] == "content\n" * 3
    process = runs.start(
        "sh", "-c", f"cat {runs.asked}/file; cat {runs.asked}/file; head -c 3 {runs.asked}/file", name="u"
    )
    runs.answer("approve", "--scope", "program")
    (asked,) = runs.pending()
    assert asked["metadata"]["who"]["argv"][0] == "head", "another program is asked about anew"
    runs.answer("deny")
    assert end(process)[0] == "content" * 2


def test_always_shows_its_line_and_holds_from_then_on(runs: Runs) -> None:
    code = "import sys; print(open(sys.argv[1]).read())"
    process = runs.python(code, str(runs.asked / "file"))
    (asked,) = runs.pending()
    shown = runs.asl("approve", "--scope", "always", asked["id"], input="n\n")
    overlay = runs.state / "approvals" / "always.yaml"
    assert shown.returncode == 1 and str(overlay) in shown.stdout and "on: file.read" in shown.stdout
    assert not overlay.exists() and len(runs.pending()) == 1
    assert runs.asl("approve", "--scope", "always", asked["id"], input="y\n").returncode == 0
    assert end(process)[0] == "content\n"
    assert shown.stdout.splitlines()[1].strip() in overlay.read_text()
    for how in ("queue", "deny"):
        assert end(runs.python(code, str(runs.asked / "file"), how=how, name=how))[0] == "content\n"
        assert not runs.events("approval.asked", name=how)


def test_a_program_that_was_asked_about_runs(runs: Runs) -> None:
    """Also one of a folder that the kernel was not told of, and a script, which is asked about once."""
    program, script = runs.asked / "tool", runs.asked / "script"
    program.write_bytes(Path("/bin/echo").read_bytes())
    script.write_text('#!/bin/sh\necho "$0" "$@"\n')
    for path in (program, script):
        path.chmod(0o755)
    process = runs.start("sh", "-c", f"{program} one; {script} two")
    (asked,) = runs.pending()
    assert (asked["operation"], asked["context"]["argv"]) == ("process.exec", [str(program), "one"])
    runs.answer("approve")
    runs.answer("approve")
    assert end(process)[0] == f"one\n{script} two\n"
    assert len(runs.events("approval.asked")) == 2
    process = runs.start("sh", "-c", f"{program} one", name="no")
    runs.answer("deny")
    assert end(process)[0] == "" and process.returncode == 126


@pytest.mark.parametrize("way", ["content", "another file"])
def test_a_program_that_changes_while_the_question_waits_does_not_run(runs: Runs, way: str) -> None:
    script = runs.asked / "script"
    script.write_text("#!/bin/sh\necho harmless\n")
    script.chmod(0o755)
    process = runs.start(str(script))
    runs.pending()
    if way == "content":
        script.write_text("#!/bin/sh\necho harmful!\n")
    else:
        other = runs.asked / "other"
        other.write_text("#!/bin/sh\necho harmful!\n")
        other.chmod(0o755)
        other.rename(script)
    runs.answer("approve")
    assert end(process)[0] == "" and process.returncode == 126
    (event,) = [event for event in runs.events("process.exec") if event["path"] == str(script)]
    assert "has changed since" in event["detail"]


def test_what_was_shown_is_what_is_removed_and_made(runs: Runs) -> None:
    """Links and folders that change on the way, while the question waits, lead nowhere else."""
    victim = runs.ws / "victim"
    victim.write_text("keep")
    code = """
import os, sys
asked = sys.argv[1]
os.symlink(asked + "/file", "link")
print(len(os.read(os.open("link", os.O_RDONLY), 99)))
os.unlink(asked + "/file")
with open(asked + "/made", "w") as file: file.write("x")
"""
    process = runs.python(code, str(runs.asked))
    (asked,) = runs.pending()
    assert asked["context"]["path"] == str(runs.asked / "file") and asked["context"]["spelled"].endswith("/link")
    (runs.ws / "link").unlink()
    (runs.ws / "link").symlink_to(victim)
    runs.answer("approve")
    (asked,) = runs.pending()
    assert asked["operation"] == "file.delete"
    runs.answer("approve")
    (asked,) = runs.pending()
    assert asked["operation"] == "file.create"
    runs.answer("approve")
    out, err = end(process)
    assert out == "7\n", err
    assert not (runs.asked / "file").exists() and (runs.asked / "made").read_text() == "x"
    assert victim.read_text() == "keep"


def test_a_connection_goes_where_it_was_shown_to_go(runs: Runs) -> None:
    """A second thread rewrites the address while the question waits."""
    address = _own_address()
    shown, other = socket.create_server((address, 0)), socket.create_server((address, 0))
    taken: list[str] = []

    def accept(server: socket.socket, name: str) -> None:
        try:
            server.accept()[0].close()
            taken.append(name)
        except OSError:
            return

    threads = [threading.Thread(target=accept, args=each, daemon=True) for each in ((shown, "shown"), (other, "other"))]
    for thread in threads:
        thread.start()
    code = """
import ctypes, os, socket, struct, sys, threading
host, port, other = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
def to(port): return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)
raw = ctypes.create_string_buffer(to(port), 16)
def rewrite():
    while not os.path.exists("asked"): pass
    raw[:] = to(other)
    open("rewritten", "w").close()
sock = socket.socket()
threading.Thread(target=rewrite).start()
print(libc.connect(sock.fileno(), raw, 16), flush=True)
"""
    process = runs.python(code, address, str(shown.getsockname()[1]), str(other.getsockname()[1]))
    (asked,) = runs.pending()
    assert (asked["operation"], asked["context"]["port"]) == ("net.connect", shown.getsockname()[1])
    (runs.ws / "asked").touch()
    until = time.monotonic() + MOST_S
    while not (runs.ws / "rewritten").exists():
        assert time.monotonic() < until
    runs.answer("approve")
    out, err = end(process)
    assert out == "0\n", err
    threads[0].join(MOST_S)
    assert taken == ["shown"]
    other.close()
    shown.close()


def _own_address() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        found: str = probe.getsockname()[0]
    if found.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    return found


def test_identical_questions_are_asked_once_and_others_go_on_meanwhile(runs: Runs) -> None:
    code = """
import sys, threading
def read(): found.append(open(sys.argv[1]).read())
found = []
threads = [threading.Thread(target=read) for _ in range(8)]
for thread in threads: thread.start()
open("free", "w").write("others do not wait")
for thread in threads: thread.join()
print(*found)
"""
    process = runs.python(code, str(runs.asked / "file"))
    runs.pending()
    until = time.monotonic() + MOST_S
    while not (runs.ws / "free").exists() or not (runs.ws / "free").read_text():
        assert time.monotonic() < until
    runs.answer("approve", "--scope", "run")
    assert end(process)[0] == " ".join(["content"] * 8) + "\n"
    assert len(runs.events("approval.asked")) == 1


def test_silence_and_death_are_a_no(runs: Runs) -> None:
    code = "import sys\ntry: open(sys.argv[1])\nexcept OSError as e: print(e.strerror)"
    process = runs.python(code, str(runs.asked / "file"), timeout="500ms")
    assert end(process)[0] == "Permission denied\n"
    assert "nobody answered in time" in runs.events("approval.answered")[0]["detail"]
    process = runs.python(code, str(runs.asked / "file"), name="killed")
    (asked,) = runs.pending()
    process.kill()
    process.wait()
    assert runs.pending(0) == []
    assert runs.asl("approve", asked["id"]).returncode == 125, "nobody waits for it any more"


def test_two_watch_and_one_answers(runs: Runs) -> None:
    environ = {**runs.environment, "TERM": "xterm"}
    watchers = [Typist([*ASL, "approvals", "watch"], runs.tmp, environ) for _ in range(2)]
    follower = subprocess.Popen(
        [*ASL, "approvals", "watch"], env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    for watcher in watchers:
        watcher.expect(b"Waiting for questions")
    process = runs.python("import sys; print(open(sys.argv[1]).read())", str(runs.asked / "file"))
    for watcher in watchers:
        watcher.expect(QUESTION)
    watchers[1].press(b"y")
    watchers[0].expect(b"no longer asked")
    assert end(process)[0] == "content\n"
    assert follower.stdout is not None
    lines = [follower.stdout.readline()]
    while "approved once by" not in lines[-1]:
        assert lines[-1], lines
        lines.append(follower.stdout.readline())
    follower.kill()
    follower.communicate()
    for watcher in watchers:
        watcher.type(b"\x03")
        assert watcher.finish() == 0
        watcher.close()


def test_the_terminal_of_a_shell_with_jobs_is_given_back(runs: Runs) -> None:
    """The shell in the tree has put its job in front; its terminal settings are its own afterwards."""
    command = [*SUPERVISE, "-p", str(runs.policy()), "--approve", "tty", "--", "sh", "-ic"]
    script = f"stty -echo; cat {runs.asked}/file; stty -a; echo over"
    person = Typist([*command, script], runs.ws, {**runs.environment, "PS1": "$ "})
    shown = person.answer(b"y")
    assert b"file.read" in shown
    person.finish()
    person.close()
    assert b"content" in person.seen and b" -echo " in person.seen and b" icanon " in person.seen, person.seen


def test_without_questions_nothing_of_this_is_imported(runs: Runs) -> None:
    code = (
        "import atexit, os, sys\n"
        "from agent_safety_layer.cli import supervise\n"
        "end = os._exit\n"
        "def look(status):\n"
        "    sys.stderr.write(' '.join(sorted(name for name in sys.modules if 'approval' in name)) + '|seen')\n"
        "    sys.stderr.flush()\n"
        "    end(status)\n"
        "os._exit = look\n"
        "sys.argv = ['asl-supervise', 'true']\n"
        "supervise.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=runs.environment, capture_output=True, text=True, check=False, timeout=MOST_S
    )
    assert done.stderr.endswith("|seen") and "approval" not in done.stderr, done.stderr


def test_mistakes_are_told(runs: Runs) -> None:
    for words, said in (
        (("approve", "nothing"), "There is no request 'nothing'"),
        (("list", "--queue", "redis://x"), "names no queue"),
    ):
        done = runs.asl(*words)
        assert done.returncode == 125 and said in done.stderr, done.stderr
    overlay = runs.state / "approvals" / "always.yaml"
    overlay.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    overlay.write_text("rules: 7\n")
    process = runs.start("true")
    assert "always.yaml" in end(process)[1] and process.returncode == 125
