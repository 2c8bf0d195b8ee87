"""Guards, sandboxed calls and runs inside of programs that have the main thread, the signals, the children and the
standard streams for themselves: test runners, notebooks, servers with workers, executors.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.kernel.supervised import ROOTS

pytestmark = pytest.mark.requires("notify", "landlock")
PATIENCE_S = 120.0

# What each program guards: ``both`` does something that is allowed and something that is not, in the kernel's eyes.
GUARDED = """
import asyncio, os, sys
from agent_safety_layer import PathBoundary, Policy, SafetyLayer, SafetyViolation, Supervisor

HERE = os.path.dirname(os.path.abspath(__file__))
WORK = os.path.join(HERE, "work")
safety = SafetyLayer([Policy.block_pattern("forbidden", "no")], [PathBoundary([WORK])])

@safety.guard
def plain(word):
    return word

@safety.guard(sandbox=True)
def note(number):
    print("noted", number)
    with open(os.path.join(WORK, str(number)), "w") as file:
        file.write(str(os.getpid()))
    return number, os.getpid()

@safety.guard(sandbox=True)
async def anote(number):
    await asyncio.sleep(0)
    return note(number)

@safety.guard(sandbox=True)
def steal():
    return open(os.path.join(HERE, "secret")).read()

def refused(call, *args):
    try:
        call(*args)
    except SafetyViolation:
        return True
    return False

def both(number):
    assert plain("word") == "word" and refused(plain, "forbidden")
    told, pid = note(number)
    assert pid != os.getpid()
    assert refused(steal)
    return told

async def aboth(number):
    told, pid = await anote(number)
    assert pid != os.getpid()
    try:
        await asyncio.to_thread(steal)
    except SafetyViolation:
        return told
"""


class Program:
    """A folder with a program in it, beside a secret."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "work").mkdir()
        (folder / "secret").write_text("s3cret")
        (folder / "guarded.py").write_text(GUARDED)

    def command(self, code: str) -> list[str]:
        """Python with the code. That a fork beside threads may hang (Python 3.12 and later) is the program's affair."""
        (self.folder / "program.py").write_text(code)
        return [sys.executable, "-W", "ignore::DeprecationWarning", str(self.folder / "program.py")]

    @property
    def environment(self) -> dict[str, str]:
        state = {"ASL_STATE": str(self.folder / "state")}
        return {**os.environ, **state, "PYTHONPATH": os.pathsep.join(ROOTS), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(self, code: str) -> str:
        """What the program printed; it must have ended well."""
        return self.done(self.command(code))

    def done(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def noted(self) -> set[int]:
        """The numbers of the calls that were made; nothing of those lives."""
        pids = {int(path.name): int(path.read_text()) for path in (self.folder / "work").iterdir()}
        assert not [pid for pid in pids.values() if psutil.pid_exists(pid)]
        return set(pids)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_a_test_runner(program: Program) -> None:
    (program.folder / "test_of_a_user.py").write_text(
        """
import asyncio, sys, threading, warnings
import pytest
from guarded import *

@pytest.fixture(scope="session")
def before():
    return both(1)

def test_guard(before, capfd):
    warnings.simplefilter("error")
    assert both(2) == 2
    out, err = capfd.readouterr()
    assert "noted 2" in out and err == ""

def test_async():
    assert asyncio.run(aboth(3)) == 3

def test_thread(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = []
    thread = threading.Thread(target=lambda: found.append(both(4)))
    thread.start()
    thread.join()
    assert found == [4]

def test_run():
    done = Supervisor("offline").run(["sh", "-c", "echo run; cat /etc/shadow"], capture_output=True, text=True)
    assert done.stdout == "run\\n" and done.denials
"""
    )
    said = program.done([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_of_a_user.py"])
    assert "4 passed" in said
    assert program.noted() == {1, 2, 3, 4}


def test_a_notebook(program: Program) -> None:
    """Its kernel runs cells in a running event loop, some in other threads, and has streams of its own."""
    said = program.run(
        """
import io, threading
from guarded import *

class Stream(io.TextIOBase):  # as ipykernel's: no descriptor of its own
    def write(self, text): return len(text)
    def fileno(self): raise io.UnsupportedOperation("fileno")

async def cells(first):
    assert both(first) == first  # a cell that blocks the loop
    assert await aboth(first + 1) == first + 1
    told = await asyncio.gather(aboth(first + 2), asyncio.to_thread(both, first + 3))
    assert told == [first + 2, first + 3]
    done = await Supervisor("offline").arun(["sh", "-c", "echo cell"], capture_output=True, text=True)
    assert done.stdout == "cell\\n"

real, sys.stdout = sys.stdout, Stream()
asyncio.run(cells(1))
failed = []
def aside():
    try:
        asyncio.run(cells(11))
    except BaseException as error:
        failed.append(error)
thread = threading.Thread(target=aside)
thread.start()
thread.join()
print(failed, file=real)
"""
    )
    assert said.splitlines()[-1] == "[]"
    assert program.noted() == {1, 2, 3, 4, 11, 12, 13, 14}


SERVER = """
import multiprocessing, signal, socket, threading
from guarded import *

class Worker:
    def __init__(self, port):
        self.port = port

    async def answer(self, reader, writer):
        number = int(await reader.readline())
        told = await aboth(number)  # and what a framework runs in its threads
        told += await asyncio.to_thread(both, number + 1)
        done = await asyncio.to_thread(Supervisor("offline").run, ["true"])
        writer.write(f"{os.getpid()} {told} {done.returncode}\\n".encode())
        writer.close()

    async def serve(self):
        over = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
        server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        self.port.send(server.sockets[0].getsockname()[1])
        await over.wait()
        server.close()
        await server.wait_closed()

def work(port):
    asyncio.run(Worker(port).serve())

if __name__ == "__main__":
    assert both(1) == 1  # before the workers are made: they have its helper and what it remembers
    if sys.argv[1] != "spawn":
        assert Supervisor("offline").run(["true"]).returncode == 0
    context = multiprocessing.get_context(sys.argv[1])
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    workers = []
    for _ in range(2):
        ours, theirs = context.Pipe()
        worker = context.Process(target=work, args=(theirs,))
        worker.start()
        workers.append(worker)
        print(ours.recv(), flush=True)
    while not over.wait(0.1):
        pass
    assert both(2) == 2
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()
    print([worker.exitcode for worker in workers], flush=True)
"""


def ask(port: int, *numbers: int) -> Iterator[tuple[int, int, int]]:
    """The worker's pid, the sum of the two numbers noted, and the status of its run; all asked for at once."""
    asking = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) for _ in numbers]
    for connection, number in zip(asking, numbers, strict=True):
        connection.sendall(f"{number}\n".encode())
    for connection in asking:
        with connection, connection.makefile() as answer:
            pid, told, status = map(int, answer.readline().split())
            yield pid, told, status


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_server_with_workers(program: Program, method: str) -> None:
    command = [*program.command(SERVER), method]
    with subprocess.Popen(
        command, cwd=program.folder, env=program.environment, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            lines = filter(str.isdigit, map(str.strip, server.stdout))
            ports = [int(next(lines)) for _ in range(2)]
            answers = [answer for i, port in enumerate(ports) for answer in ask(port, 10 + 20 * i, 20 + 20 * i)]
            server.send_signal(signal.SIGTERM)
            assert server.stdout.read().splitlines()[-1] == "[0, 0]"
            assert server.wait(PATIENCE_S) == 0
        finally:
            server.kill()
    assert [told for _, told, _ in answers] == [21, 41, 61, 81]
    assert [status for _, _, status in answers] == [0] * 4
    assert len({pid for pid, _, _ in answers} | {server.pid}) == 3
    assert program.noted() == {1, 2, 10, 11, 20, 21, 30, 31, 40, 41}


@pytest.mark.parametrize("kind", ["threads", "fork", "spawn"])
def test_an_executor(program: Program, kind: str) -> None:
    said = program.run(
        f"""
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from guarded import *

if __name__ == "__main__":
    kind = {kind!r}
    if kind == "threads":
        made = ThreadPoolExecutor(3)
    else:
        made = ProcessPoolExecutor(3, mp_context=multiprocessing.get_context(kind))
    with made as executor:
        told = list(executor.map(both, range(6)))
    assert both(6) == 6
    print(told)
"""
    )
    assert said.splitlines()[-1] == str([0, 1, 2, 3, 4, 5])
    assert program.noted() == set(range(7))


def test_a_worker_that_is_forked_during_a_call_does_not_keep_the_call_alive(program: Program) -> None:
    """A call ends with the program; a worker that outlives that has no copy of its end of the line."""
    command = program.command(
        """
import threading, time
from guarded import *

@safety.guard(sandbox=True)
def sleep_for_ever():
    note(1)
    time.sleep(3600)

threading.Thread(target=sleep_for_ever, daemon=True).start()
while not os.path.exists(os.path.join(WORK, "1")) or not os.path.getsize(os.path.join(WORK, "1")):
    time.sleep(0.01)
worker = os.fork()
if worker == 0:
    time.sleep(3600)
print(worker, flush=True)
time.sleep(3600)
"""
    )
    with subprocess.Popen(
        command, cwd=program.folder, env=program.environment, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            worker = psutil.Process(int(next(line for line in map(str.strip, running.stdout) if line.isdigit())))
            call = psutil.Process(int((program.folder / "work/1").read_text()))
            assert call.is_running()
        finally:
            running.kill()
            running.wait()
        try:
            call.wait(PATIENCE_S)
            assert worker.is_running()
        finally:
            worker.kill()
