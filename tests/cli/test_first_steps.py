"""What somebody runs into who uses it for the first time."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.requires("notify"), pytest.mark.requires("landlock")]


def supervise(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent_safety_layer.cli.supervise", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_agent_reads_why_it_was_denied(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    script = 'echo x > ../outside; echo y > inside; cat "$ASL_DENIALS"'
    done = supervise(work, "sh", "-c", script)
    assert (work / "inside").read_text() == "y\n"
    assert not (tmp_path / "outside").exists()
    denials = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(denial["kind"], denial["object"]) for denial in denials] == [("file.create", str(tmp_path / "outside"))]
    assert denials[0]["remedy"] == f"--allow-write {tmp_path / 'outside'}"


@pytest.mark.requires("ptrace")
def test_a_denial_is_told_before_the_program_says_what_it_met(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    command = [sys.executable, "-m", "agent_safety_layer.cli.supervise", "--block-path=secret"]
    program = "import sys\ntry: open('secret')\nexcept OSError: sys.stderr.write('refused\\n')"
    for how in ("notify", "ptrace"):
        words = [*command, f"--backend={how}", sys.executable, "-c", program]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        first, second, *_ = done.stderr.splitlines()
        assert first.startswith("asl: blocked file.read: ")
        assert second == "refused"


@pytest.mark.parametrize("name", [b"\xff", b"a\nb", "–".encode(), b"{a,b}*[c]", b"a\\b ${HOME}"])
def test_a_working_directory_with_an_odd_name(tmp_path: Path, name: bytes) -> None:
    work = tmp_path / os.fsdecode(name)
    work.mkdir()
    done = supervise(work, "sh", "-c", "echo a > b && mkdir c && echo d > c/d && cat b c/d && rm -r c && ! echo > ../e")
    assert (done.returncode, done.stdout) == (0, "a\nd\n")
    assert [path.name for path in work.iterdir()] == ["b"]
    assert not (tmp_path / "e").exists()


def limited(what: str, most: int, *words: str) -> list[str]:
    """The command, with a resource limit."""
    code = f"import os, resource, sys; resource.setrlimit(resource.{what}, ({most}, {most})); "
    code += "os.execv(sys.executable, [sys.executable, '-m', 'agent_safety_layer.cli.supervise', *sys.argv[1:]])"
    return [sys.executable, "-c", code, *words]


def test_no_descriptors_are_left_for_us(tmp_path: Path) -> None:
    done = subprocess.run(
        limited("RLIMIT_NOFILE", 10, "true"), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert "Too many open files" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("files", [20, 2000])  # found at the end, and while it runs
def test_a_trace_that_cannot_be_written_on_ends_the_run(tmp_path: Path, files: int) -> None:
    supervise(tmp_path, "-o", "probe.jsonl", "true")
    room = (tmp_path / "probe.jsonl").stat().st_size + 2000
    code = f"import sys, os\nfor n in range({files}): os.close(os.open(str(n), os.O_CREAT | os.O_WRONLY))"
    words = limited("RLIMIT_FSIZE", room, "-o", "t.jsonl", "--report", "r.json", sys.executable, "-c", code)
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 125, done.stderr
    assert "t.jsonl: Cannot write the trace: File too large. Make room there" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Internal error" not in done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["outcome"] == "trace_full"


def test_a_home_that_cannot_be_made_says_what_it_is_for(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = {key: found for key, found in os.environ.items() if key not in ("ASL_STATE", "XDG_STATE_HOME")}
    done = subprocess.run(
        [sys.executable, "-m", "agent_safety_layer.cli.supervise", "true"],
        cwd=tmp_path,
        env={**environment, "HOME": str(tmp_path / "file")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 125
    assert f"State folder {tmp_path}/file/.local/state/asl: " in done.stderr
    assert "Set ASL_STATE to a folder of your own." in done.stderr


def test_what_no_policy_speaks_of_is_told(tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text("version: 1\nexec: {block: [sudo]}\n")
    done = supervise(tmp_path, "-p", "some.yaml", "true")
    assert done.returncode == 0
    assert "no policy speaks of files and network" in done.stderr
    assert "no policy speaks" not in supervise(tmp_path, "-q", "-p", "some.yaml", "true").stderr
    assert "no policy speaks" not in supervise(tmp_path, "-v", "true").stderr


def test_a_server_of_the_host_is_out_of_reach_until_it_is_named(tmp_path: Path) -> None:
    code = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1]))); print('connected')"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        refused = supervise(tmp_path, sys.executable, "-c", code, port)
        assert "connected" not in refused.stdout
        assert f"--allow-host 127.0.0.1:{port}" in refused.stderr
        allowed = supervise(tmp_path, f"--allow-host=localhost:{port}", sys.executable, "-c", code, port)
        assert allowed.stdout == "connected\n"


def test_a_server_of_its_own_needs_no_permission(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "client = socket.create_connection(server.getsockname())\n"
        "client.sendall(b'x'); print(server.accept()[0].recv(1))"
    )
    done = supervise(tmp_path, sys.executable, "-c", code)
    assert (done.stdout, done.stderr) == ("b'x'\n", "")


def test_a_working_directory_that_was_deleted(tmp_path: Path) -> None:
    script = f"mkdir gone && cd gone && rmdir ../gone && exec {sys.executable} -m agent_safety_layer.cli.supervise true"
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 125
    assert "working directory was deleted" in done.stderr
    assert "Traceback" not in done.stderr
    for words in ("policy show", "policy explain file.read x", "report -o x"):
        script = (
            f"mkdir gone && cd gone && rmdir ../gone && exec {sys.executable} -m agent_safety_layer.cli.main {words}"
        )
        done = subprocess.run(
            ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert "Traceback" not in done.stderr


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_git_works_in_strict_beside_a_home_with_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, home = tmp_path / "work", tmp_path / "home"
    (home / ".config" / "git").mkdir(parents=True)
    (home / ".gitconfig").write_text("[user]\nname = from home\n")
    (home / ".config" / "git" / "ignore").write_text("*.o\n")
    subprocess.run(["git", "init", "-q", str(work)], check=True, timeout=60)
    for name in ("a.c", "a.o"):
        (work / name).touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    done = supervise(work, "-p", "strict", "git", "status", "--short")
    assert (done.returncode, done.stdout, done.stderr) == (0, "?? a.c\n", "")
    assert "from home" not in supervise(work, "-p", "strict", "cat", str(home / ".gitconfig")).stdout


def test_doctor_inside_a_run_says_that_it_cannot_tell(tmp_path: Path) -> None:
    done = supervise(tmp_path, sys.executable, "-m", "agent_safety_layer.cli.main", "doctor")
    assert (done.returncode, done.stdout) == (125, "")
    assert "this process is supervised by run 2" in done.stderr
    assert "asl: blocked" not in done.stderr


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path) -> None:
    os.environ["TMPDIR"] = str(tmp_path)
    try:
        done = supervise(tmp_path, "sh", "-c", 'mkdir -p "$TMPDIR/a/b"; touch "$TMPDIR/a/b/c"; chmod 0 "$TMPDIR/a"')
    finally:
        del os.environ["TMPDIR"]
    assert done.returncode == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("asl-")] == []
