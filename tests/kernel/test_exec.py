"""Exec: judged by what will really run, whatever it is called by; what may run, runs as it would outside."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.kernel.supervised import OPEN, Result, python, run

pytestmark = pytest.mark.requires("notify", "landlock", "ptrace")

# Nobody may run `id`, in whatever way; `echo` stands for what everybody may.
NO_ID = (
    OPEN
    + """
exec:
  block: ["id", "echo blocked*"]
"""
)
LOADER = next((str(path) for path in pathlib.Path("/lib64").glob("ld-linux*")), "") or next(
    (str(path) for path in pathlib.Path("/lib").glob("ld-linux*")), ""
)


def script(folder: pathlib.Path, name: str, *lines: str) -> str:
    """An executable script."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)
    return f"./{name}"


def ran(result: Result) -> bool:
    """Whether `id` got to print."""
    return "uid=" in result.out


WAYS = {
    "by name": ["id"],
    "by path": [shutil.which("id") or "/usr/bin/id"],
    "env": ["env", "id"],
    "env -S": ["env", "-S", "id"],
    "nohup": ["nohup", "id"],
    "sh -c": ["sh", "-c", "id"],
    "sh -c among others": ["sh", "-c", "true && (id; echo there)"],
    "sh -c exec": ["sh", "-c", "exec id"],
    "xargs": ["sh", "-c", "xargs id < /dev/null"],
    "find -exec": ["find", ".", "-maxdepth", "0", "-exec", "id", ";"],
    "timeout": ["timeout", "9", "id"],
    "nice": ["nice", "id"],
    "python os.system": [sys.executable, "-ISc", "import os; os.system('id')"],
    "python posix_spawn": [
        sys.executable,
        "-ISc",
        "import os; os.waitpid(os.posix_spawnp('id', ['harmless'], os.environ), 0)",
    ],
    "another argv[0]": [sys.executable, "-ISc", "import os; os.execvp('id', ['harmless'])"],
    "descriptor": [sys.executable, "-ISc", "import os; os.execve(os.open('/usr/bin/id', os.O_PATH), ['x'], {})"],
    "loader": [LOADER, "/usr/bin/id"],
    "loader with options": [LOADER, "--argv0", "harmless", "--library-path", "/nowhere", "/usr/bin/id"],
    "script": ["./script"],
    "script of a script": ["./outer"],
    "link": ["./link"],
    "link to a script": ["./script-link"],
    "loader by script": ["./loading"],
}


@pytest.fixture
def scene(tmp_path: pathlib.Path) -> pathlib.Path:
    """Scripts and links that lead to `id`."""
    ws = tmp_path / "ws"
    script(ws, "script", "#!/usr/bin/id")
    script(ws, "outer", "#!" + str(ws / "script"))
    script(ws, "loading", f"#!{LOADER} /usr/bin/id")
    (ws / "link").symlink_to("/usr/bin/id")
    (ws / "script-link").symlink_to("script")
    return tmp_path


@pytest.mark.parametrize("way", WAYS)
def test_what_may_not_run_does_not_run_by_any_way(way: str, scene: pathlib.Path) -> None:
    if way.startswith("loader") and not LOADER:
        pytest.skip("no dynamic loader of a known name")
    outside = subprocess.run(WAYS[way], cwd=scene / "ws", capture_output=True, text=True, check=False, timeout=30)
    assert "uid=" in outside.stdout or "script" in way or "loading" in str(WAYS[way])
    inside = run(WAYS[way], scene, policy=NO_ID)
    assert not ran(inside)
    blocked = inside.blocked("process.exec")
    assert blocked
    assert blocked[0]["decision"]["rule"] == "exec.block"
    assert blocked[0]["result"] == "EACCES", "refused at the call, not killed after it"


def test_what_may_run_says_the_same_as_outside(tmp_path: pathlib.Path) -> None:
    ws = tmp_path / "ws"
    script(ws, "script", "#!/bin/echo first  second ", "no code")
    script(ws, "nested", f"#!{ws}/script x")
    script(ws, "env-script", "#!/usr/bin/env -S sh -e", "echo env $0 $@")
    script(ws, "relative", "#!./script")
    script(ws, "no-shebang", "echo none $@")
    script(ws, "no-interpreter", "#!/nowhere/at/all")
    script(ws, "empty-shebang", "#!")
    lines = (
        *("./script 1 2", "./nested 1 2", "./env-script 1 2", "./relative 1 2", "./no-shebang 1 2"),
        *("./no-interpreter", "./empty-shebang", "./missing", ".", "./script/below", "''", "nowhere-at-all"),
        *(f"{LOADER} /bin/echo by loader", "env -i /bin/echo x", "exec -a other sh -c 'echo $0'"),
        "cp /bin/echo here; ./here copied; cd /; echo $PWD; exec env echo replaced",
    )
    for line in lines:
        argv = ["bash", "-c", f"{line}; echo status $?"]
        outside = subprocess.run(argv, cwd=ws, capture_output=True, text=True, check=False, timeout=30)
        (ws / "here").unlink(missing_ok=True)
        inside = run(argv, tmp_path, policy=NO_ID)
        (ws / "here").unlink(missing_ok=True)
        assert inside.out == outside.stdout, line
        assert inside.code == outside.returncode


def test_nothing_that_the_kernel_would_not_run_makes_an_event(tmp_path: pathlib.Path) -> None:
    found = run(["bash", "-c", "PATH=/nowhere:/etc:/usr/bin:/bin; true; uname"], tmp_path)
    paths = [entry["path"] for entry in found.events("process.exec")]
    assert any(path.endswith("uname") for path in paths)
    assert not any(path.startswith(("/nowhere", "/etc")) for path in paths)


def test_a_script_is_told_with_what_runs_for_it(tmp_path: pathlib.Path) -> None:
    name = script(tmp_path / "ws", "script", "#!/bin/echo said")
    result = run([name, "x"], tmp_path)
    assert result.out == "said ./script x\n"
    first, second = result.events("process.exec")
    assert first["path"].endswith("/ws/script")
    assert first["argv"] == ["./script", "x"]
    assert second["path"].endswith("/echo")
    assert second["argv"] == ["/bin/echo", "said", "./script", "x"]


MEMFD = """
import os, sys
fd = os.memfd_create("tool", 0)
with open(sys.argv[1], "rb") as program:
    os.write(fd, program.read())
os.execve(fd, ["echo", *sys.argv[2:]], {})
"""


def test_a_memfd_runs_when_its_argv_may(tmp_path: pathlib.Path) -> None:
    argv = [sys.executable, "-ISc", MEMFD, "/bin/echo"]
    allowed = run([*argv, "from memory"], tmp_path, policy=NO_ID)
    assert allowed.out == "from memory\n"
    assert allowed.events("process.exec")[-1]["path"].startswith("/memfd:tool")
    blocked = run([*argv, "blocked"], tmp_path, policy=NO_ID)
    assert blocked.out == ""
    assert blocked.blocked("process.exec")[0]["argv"] == ["echo", "blocked"]


def test_a_thread_that_is_not_the_leader_may_exec(tmp_path: pathlib.Path) -> None:
    code = """
import os, threading
thread = threading.Thread(target=lambda: os.execv("/bin/echo", ["echo", "from a thread", str(os.getpid())]))
print(os.getpid(), flush=True)
thread.start()
thread.join()
"""
    result = python(code, tmp_path, policy=NO_ID)
    pid, said = result.out.splitlines()
    assert said == f"from a thread {pid}"
    assert result.code == 0
    assert result.report["outcome"] == "exited"


def test_many_threads_may_exec_at_once(tmp_path: pathlib.Path) -> None:
    code = """
import os, threading
barrier = threading.Barrier(8)
def go(number):
    barrier.wait()
    os.execv("/bin/echo", ["echo", "thread", str(number)])
for number in range(7):
    threading.Thread(target=go, args=(number,), daemon=True).start()
go(7)
"""
    for _ in range(5):
        result = python(code, tmp_path, policy=NO_ID)
        assert result.out.startswith("thread ")
        assert len(result.out.splitlines()) == 1
        assert result.code == 0


def test_arguments_without_number_and_of_every_length(tmp_path: pathlib.Path) -> None:
    code = """
import os, subprocess, sys
def total(*words):
    program = "import sys; print(len(sys.argv) - 1, sum(map(len, sys.argv[1:])))"
    try:
        subprocess.run([sys.executable, "-ISc", program, *words], check=True)
    except OSError as error:
        print(error.strerror, flush=True)
total()
total("", "a", "")
total("x" * 131071)
total("x" * 131072)
total(*["word"] * 100_000)
total(*["x" * 100_000] * 30)
total("new\\nline", "\\x1b[31m", "ünï")
sys.stdout.flush()
"""
    argv = [sys.executable, "-IS", "-c", code]
    outside = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    inside = run(argv, tmp_path)
    assert inside.out == outside.stdout
    assert "Argument list too long" in inside.out
    assert "100000 400000" in inside.out


def test_a_failed_exec_leaves_the_process_as_it_was(tmp_path: pathlib.Path) -> None:
    code = """
import os, signal
open("text", "w").write("no program")
os.chmod("text", 0o755)
for path in ("text", "id", "/usr/bin/id"):
    try:
        os.execv(path, [path])
    except OSError as error:
        print(error.strerror)
got = []
signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
os.kill(os.getpid(), signal.SIGUSR1)
print(got, flush=True)
child = os.fork()
if not child:
    os.execv("/bin/echo", ["echo", "after failures"])
print(os.waitpid(child, 0)[1], flush=True)
os.kill(os.getpid(), signal.SIGTERM)
"""
    result = python(code, tmp_path, policy=NO_ID)
    assert result.out.splitlines() == [
        *("Exec format error", "No such file or directory", "Permission denied"),
        *("[1]", "after failures", "0"),
    ]
    assert result.code == -15


def test_a_stopped_child_goes_on_after_a_failed_exec(tmp_path: pathlib.Path) -> None:
    code = """
import os, signal
open("text", "w").write("no program")
os.chmod("text", 0o755)
child = os.fork()
if not child:
    try:
        os.execv("text", ["text"])
    except OSError:
        pass
    os.kill(os.getpid(), signal.SIGSTOP)
    os.execv("/bin/echo", ["echo", "continued"])
pid, status = os.waitpid(child, os.WUNTRACED)
print(os.WIFSTOPPED(status), flush=True)
os.kill(child, signal.SIGCONT)
print(os.waitpid(child, 0)[1])
"""
    result = python(code, tmp_path)
    assert result.out.splitlines() == ["True", "continued", "0"]


RACE = r"""
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char path[64], word[64];
static volatile int going = 1;

static void *swap(void *nothing) {
    while (going) {
        memcpy(path, "/bin/echo\0\0\0", 12);
        memcpy(word, "harmless", 9);
        memcpy(path, "/usr/bin/id", 12);
        memcpy(word, "blocked1", 9);
    }
    return nothing;
}

int main(int argc, char **argv) {
    int turns = 0;
    sscanf(argv[1], "%d", &turns);
    while (turns--) {
        pid_t child = fork();
        if (!child) {
            pthread_t thread;
            char *words[] = {"echo", word, NULL};
            pthread_create(&thread, NULL, swap, NULL);
            for (int i = 0; i < 200; i++)
                execv(path, words);
            going = 0;
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
    return argc > 9;
}
"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_a_thread_that_swaps_path_and_argv_gains_nothing(tmp_path: pathlib.Path) -> None:
    source, program = tmp_path / "race.c", tmp_path / "race"
    source.write_text(RACE)
    subprocess.run(["gcc", "-O0", "-pthread", "-o", str(program), str(source)], check=True, timeout=60)
    # `echo`, so that argv[0] never tells: only the executable and the word do.
    for _ in range(20):
        outside = subprocess.run([str(program), "60"], capture_output=True, text=True, check=False, timeout=60)
        if "blocked1" in outside.stdout:
            break
    assert "blocked1" in outside.stdout, "the race is one"
    inside = run([str(program), "60"], tmp_path, policy=NO_ID)
    assert "harmless" in inside.out
    assert "blocked1" not in inside.out
    assert not ran(inside)
    assert inside.events("process.exec", result="EACCES") or inside.events("process.exec", result="SIGKILL")


def test_a_person_is_asked_about_the_interpreter_of_a_script(tmp_path: pathlib.Path) -> None:
    policy = OPEN + '\nexec: {ask: ["echo asked*"]}\n'
    name = script(tmp_path / "ws", "script", "#!/bin/echo asked")
    refused = run([name], tmp_path, policy=policy)
    assert refused.out == ""
    assert refused.code == 126
    (event,) = refused.events("process.exec")
    assert event["decision"]["action"] == "require_approval"
    assert event["argv"] == ["/bin/echo", "asked", "./script"]


def test_vfork_and_spawn_and_pipes_of_a_shell(tmp_path: pathlib.Path) -> None:
    code = """
import subprocess, os
print(subprocess.run(["bash", "-c", "echo a | cat | tr a b; exit 7"], capture_output=True, close_fds=False))
print(os.waitstatus_to_exitcode(os.system("exit 3")), os.popen("echo popen").read())
for _ in range(20):
    subprocess.run(["true"], check=True)
"""
    result = run([sys.executable, "-I", "-c", code], tmp_path)
    assert result.code == 0, result.err
    assert "returncode=7, stdout=b'b\\n'" in result.out
    assert "3 popen" in result.out
    assert sum(entry["path"].endswith("/true") for entry in result.events("process.exec")) == 20


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_an_ordinary_child_of_root_may_run_what_it_may_read(tmp_path: pathlib.Path) -> None:
    code = """
import os
os.setgroups([]); os.setresgid(12345, 12345, 12345); os.setresuid(12345, 12345, 12345)
for path in ("/root-only", "/bin/true"):
    try:
        os.execv(PRIVATE if path == "/root-only" else path, ["x"])
    except OSError as error:
        print(error.strerror, flush=True)
"""
    tool = tmp_path / "tool"
    shutil.copy("/bin/true", tool)
    tool.chmod(0o700)
    result = python(f"PRIVATE = {str(tool)!r}\n" + code, tmp_path)
    assert result.out == "Permission denied\n"
    assert result.code == 0
