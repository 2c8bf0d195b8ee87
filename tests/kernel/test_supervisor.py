"""``Supervisor``: commands run from a program, whatever thread, loop or process it calls from."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_safety_layer import AslError, Completed, PolicyError, RunFailed, Supervisor, helper, load_policy
from agent_safety_layer.errors import UnsupportedError, UsageError
from agent_safety_layer.link import Link
from tests.kernel.supervised import OPEN, ROOTS

pytestmark = pytest.mark.requires("notify", "landlock")
PATIENCE_S = 60.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def supervisor(folder: Path, tmp_path: Path) -> Supervisor:
    (tmp_path / "open.yaml").write_text(OPEN)
    return Supervisor(tmp_path / "open.yaml")


@pytest.fixture(scope="module", autouse=True)
def _no_helper_is_left() -> Iterator[None]:
    yield
    helper.close()


def eventually(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_run_comes_back_with_output_status_and_report(supervisor: Supervisor, folder: Path) -> None:
    done = supervisor.run(["sh", "-c", "echo out; echo err >&2; echo x > made; exit 3"], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode, done.outcome) == ("out\n", "err\n", 3, "exited")
    assert (folder / "made").read_text() == "x\n"
    assert done.args == done.report.command == ("sh", "-c", "echo out; echo err >&2; echo x > made; exit 3")
    assert done.report.raw["exit_code"] == 3 and done.report.cwd == str(folder)
    assert any(entry.event.path == str(folder / "made") for entry in done.events())


def test_what_the_policy_refuses_is_in_the_report(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    readable = Supervisor().run(["cat", secret], capture_output=True)
    blocked = Supervisor(extra={"files": {"block": [str(secret)]}}).run(["cat", secret], capture_output=True)
    observed = Supervisor(extra={"files": {"block": [str(secret)]}}, observe=True).run(
        ["cat", secret], capture_output=True
    )
    assert (readable.stdout, readable.denials) == (b"s3cret", ())
    assert (blocked.stdout, blocked.returncode) == (b"", 1)
    (denied,) = blocked.denials
    assert (denied.kind, denied.object, denied.effective, denied.count) == ("file.read", str(secret), "block", 1)
    assert (observed.stdout, observed.report.would_block) == (b"s3cret", 1)


def test_layers_must_all_agree_whether_loaded_or_named(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    (tmp_path / "no.yaml").write_text(f"version: 1\nname: no\nfiles: {{block: ['{secret}']}}\n")
    (tmp_path / "open.yaml").write_text(OPEN)
    loaded = load_policy(tmp_path / "no.yaml", workspace=folder)
    for policy in ([tmp_path / "open.yaml", tmp_path / "no.yaml"], [tmp_path / "open.yaml", loaded], loaded):
        done = Supervisor(policy).run(["cat", secret], capture_output=True)
        assert (done.stdout, len(done.denials)) == (b"", 1)
    assert Supervisor(tmp_path / "open.yaml").run(["cat", secret], capture_output=True).stdout == b"s3cret"


@pytest.mark.parametrize("loaded", [False, True])
def test_secrets_of_the_environment_are_stripped(folder: Path, *, loaded: bool) -> None:
    given = {"PATH": os.environ["PATH"], "MY_API_KEY": "k", "PLAIN": "p"}
    done = Supervisor(load_policy() if loaded else ()).run(["env"], env=given, capture_output=True, text=True)
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert "PLAIN" in names and "MY_API_KEY" not in names and "HOME" not in names


def test_input_and_text(supervisor: Supervisor) -> None:
    big = "ü" * 300_000
    assert supervisor.run("cat", input=big, text=True, capture_output=True).stdout == big
    assert supervisor.run("true", input=b"x" * 300_000).returncode == 0, "nobody reads it, and that is no error"
    with pytest.raises(UsageError, match="text=True"):
        supervisor.run("cat", input="x")  # type: ignore[call-overload]


def test_an_argument_that_there_is_not_is_a_mistake(supervisor: Supervisor) -> None:
    with pytest.raises(TypeError, match="no argument 'timout'"):
        supervisor.run("true", timout=5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"write \['sh', '-c', line\]"):
        supervisor.popen("true | true", shell=True)  # type: ignore[call-overload]


def test_a_failed_run_raises_when_asked_to(supervisor: Supervisor) -> None:
    with pytest.raises(RunFailed, match=r"sh ended with exit status 4 \(exited\)") as raised:
        supervisor.run(["sh", "-c", "exit 4"], check=True)
    assert (raised.value.completed.returncode, raised.value.exit_code) == (4, 4)
    assert supervisor.run("true", check=True).returncode == 0


def test_what_cannot_start_raises_what_it_would_here(supervisor: Supervisor, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("version: 1\nfiels: {}\n")
    with pytest.raises(PolicyError, match="files"):
        Supervisor(tmp_path / "bad.yaml").run("true")
    with pytest.raises(UsageError, match="No command"):
        supervisor.run([])
    with pytest.raises(AslError, match="Cannot run in /nowhere"):
        supervisor.run("true", cwd="/nowhere")
    (tmp_path / "exec.yaml").write_text("version: 1\nexec: {block: [sudo]}\n")
    unverified = Supervisor(tmp_path / "exec.yaml")
    unverified._without = frozenset({"ptrace"})
    with pytest.raises(UnsupportedError, match="exec rules") as raised:
        unverified.run("true")
    assert raised.value.found == "nothing was started"
    assert supervisor.run("/no/such/program", capture_output=True).returncode == 127
    assert supervisor.run("true").returncode == 0


def test_limits_end_a_run(folder: Path) -> None:
    timed = Supervisor(limits={"grace": "10ms"}).run(["sleep", "60"], timeout=0.2)
    assert (timed.outcome, timed.returncode) == ("wall_time", 124)
    shorter = Supervisor(limits={"wall_time": "100ms", "grace": "10ms"}).run(["sleep", "60"], timeout=50)
    assert shorter.outcome == "wall_time"
    assert Supervisor(limits={"wall_time": "1m"}).run("true").outcome == "exited"
    with pytest.raises(PolicyError, match="wall_time"):
        Supervisor(limits={"wall_tim": "1m"})


def test_a_conversation_over_pipes(supervisor: Supervisor) -> None:
    with supervisor.popen("cat", text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdin and run.stdout and run.poll() is None and psutil.pid_exists(run.pid)
        run.stdin.write("hello\n")
        run.stdin.flush()
        assert run.stdout.readline() == "hello\n"
        run.stdin.close()
    assert run.poll() == 0


def test_events_come_while_the_run_goes_on(supervisor: Supervisor, folder: Path) -> None:
    with supervisor.popen(["sh", "-c", "echo x > first; read line"], stdin=subprocess.PIPE) as run:
        events = run.events()
        assert any(entry.event.path == str(folder / "first") for entry in events)
        assert run.poll() is None
        assert run.stdin
        run.stdin.write(b"go\n")
        run.stdin.close()
        rest = [entry.event.kind for entry in events]
    assert rest[-1] == "process.exit"
    assert len(list(run.events())) == run.wait().report.events


def test_signals_and_killing(supervisor: Supervisor) -> None:
    for end, expected in (
        (lambda run: run.terminate(), -signal.SIGTERM),
        (lambda run: run.send_signal(signal.SIGUSR1), -signal.SIGUSR1),
        (lambda run: run.kill(), -signal.SIGKILL),
    ):
        run = supervisor.popen(["sh", "-c", "echo up; sleep 60 & wait"], stdout=subprocess.PIPE)
        with run:
            assert run.stdout and run.stdout.readline() == b"up\n"
            with pytest.raises(TimeoutError):
                run.wait(0.01)
            end(run)
            assert run.wait(PATIENCE_S).returncode == expected
        run.kill()  # too late is no error


def test_an_exception_in_the_with_block_ends_the_run(supervisor: Supervisor) -> None:
    with pytest.raises(ZeroDivisionError), supervisor.popen(["sleep", "60"]) as run:
        raise ZeroDivisionError
    assert run.poll() == -signal.SIGKILL


def test_many_threads_run_at_once(supervisor: Supervisor) -> None:
    found: dict[int, str] = {}

    def work(number: int) -> None:
        found[number] = supervisor.run(["echo", str(number)], capture_output=True, text=True).stdout

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: f"{number}\n" for number in range(6)}


def test_in_an_event_loop(supervisor: Supervisor) -> None:
    async def work() -> tuple[list[Completed[str]], list[int]]:
        going = asyncio.Event()
        beats: list[int] = []

        async def beat() -> None:
            while not going.is_set():
                beats.append(1)
                await asyncio.sleep(0)

        beating = asyncio.create_task(beat())
        done = await asyncio.gather(
            *(supervisor.arun(["echo", word], capture_output=True, text=True) for word in ("a", "b"))
        )
        going.set()
        await beating
        return list(done), beats

    done, beats = asyncio.run(work())
    assert [each.stdout for each in done] == ["a\n", "b\n"]
    assert len(beats) > 2, "the loop went on"


def test_cancelled_it_ends_the_tree_first(supervisor: Supervisor, folder: Path) -> None:
    async def work() -> None:
        task = asyncio.create_task(supervisor.arun(["sh", "-c", "echo $$ > pid.new; mv pid.new pid; sleep 60"]))
        while not (folder / "pid").exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert gone(int((folder / "pid").read_text()))


def forked(policy: str, connection: Any) -> None:
    with connection:
        done = Supervisor(policy).run(["echo", "child"], capture_output=True)
        connection.send((done.stdout, os.getpid()))
    helper.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_other_processes(supervisor: Supervisor, tmp_path: Path, method: str) -> None:
    assert supervisor.run("true").returncode == 0  # the helper is there, and is this process's
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=forked, args=(str(tmp_path / "open.yaml"), theirs))
    process.start()
    theirs.close()
    assert ours.poll(PATIENCE_S)
    assert ours.recv()[0] == b"child\n"
    process.join()
    assert process.exitcode == 0
    assert supervisor.run("true").returncode == 0


PROGRAM = """
import os, sys
from agent_safety_layer import Supervisor
run = Supervisor(sys.argv[1]).popen(["sh", "-c", "sleep 600 & echo $! $$; wait"])
print("waiting", flush=True)
run.wait()
"""


def test_when_the_program_is_killed_so_is_the_tree(supervisor: Supervisor, tmp_path: Path) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path / "open.yaml"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(ROOTS)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        assert program.stdout
        said = {program.stdout.readline().strip(), program.stdout.readline().strip()}
        tree = [int(word) for words in said - {"waiting"} for word in words.split()]
        assert len(tree) == 2 and not any(map(gone, tree))
        program.kill()
    eventually(lambda: all(map(gone, tree)))


def test_when_the_runs_supervisor_is_killed_that_is_told(supervisor: Supervisor) -> None:
    with supervisor.popen(["sleep", "600"]) as run:
        warden = psutil.Process(run.pid).parent()
        above = warden and warden.parent()
        assert above is not None
        above.kill()
        with pytest.raises(AslError, match="was killed"):
            run.wait(PATIENCE_S)
        eventually(lambda: gone(run.pid))
        run._error = None
        run._completed = supervisor.run("true")  # so that leaving the block finds an end
    assert not [entry for entry in run.events() if entry.event.kind == "process.exit"]


def test_when_the_helper_is_killed_the_next_run_gets_another(supervisor: Supervisor) -> None:
    assert supervisor.run("true").returncode == 0
    with supervisor.popen("cat", stdin=subprocess.PIPE) as run:
        assert helper._helper is not None
        killed = helper._helper._process.pid
        os.kill(killed, signal.SIGKILL)
        assert supervisor.run("true").returncode == 0
        assert helper._helper is not None and helper._helper._process.pid != killed
        assert run.poll() is None, "a run that goes on is none of the helper's business"
    assert run.poll() == 0


def test_nothing_of_ours_reaches_the_child(supervisor: Supervisor) -> None:
    done = supervisor.run(["ls", "/proc/self/fd"], capture_output=True, text=True)
    assert done.stdout.split() == ["0", "1", "2", "3"], "the last one is the folder that is listed"


def test_closed_descriptors_stay_closed(tmp_path: Path, supervisor: Supervisor) -> None:
    program = (
        "import os, sys; from agent_safety_layer import Supervisor; os.close(0); "
        "print(Supervisor(sys.argv[1]).run(['sh', '-c', '[ -e /proc/self/fd/0 ]']).returncode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "open.yaml"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(ROOTS)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_an_agents_module_in_the_working_directory_is_not_the_helpers(supervisor: Supervisor, folder: Path) -> None:
    helper.close()
    for name in ("json", "socket", "agent_safety_layer"):
        (folder / f"{name}.py").write_text("open('taken', 'w')")
    assert supervisor.run("true").returncode == 0
    assert not (folder / "taken").exists()


def test_the_examples_in_docstrings(folder: Path) -> None:
    module = importlib.import_module("agent_safety_layer.supervisor")
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


def test_a_warm_run_imports_next_to_nothing(supervisor: Supervisor) -> None:
    """What is not loaded in the helper is loaded again by each run. A module that is new costs a millisecond."""
    code = (
        "import sys, os; from agent_safety_layer import forker; forker.warm(); "
        "from agent_safety_layer.session import Session, Settings; before = set(sys.modules); "
        "Session(Settings(command=('true',), policies=('offline',), verbosity=-1)).run(); "
        "import json; print(json.dumps([sorted(set(sys.modules) - before), sorted(before)]))"
    )
    for _ in range(2):  # the first one reads the policy's YAML and keeps what became of it
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(ROOTS)},
            capture_output=True,
            text=True,
            check=True,
        )
    new, before = json.loads(done.stdout)
    assert len(new) < 6, new
    assert "threading" not in before, "what it does in each forked process takes half a millisecond"


def test_who_has_heard_all_and_is_gone_was_told() -> None:
    ours, theirs = (Link(end) for end in socket.socketpair())
    reader, writer = os.pipe()
    real = socket.send_fds

    def send_and_hang_up(*args: Any) -> int:
        sent = real(*args)
        assert theirs.receive() == {"run": 1}
        theirs.close()
        return sent

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "send_fds", send_and_hang_up)
        ours.send({"run": 1}, (writer,))
    with pytest.raises(BrokenPipeError):
        ours.send({"run": 2})
    for fd in (reader, writer):
        os.close(fd)
    ours.close()
