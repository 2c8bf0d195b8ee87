"""``sandbox=True``: calls in a forked child that the kernel confines, and what comes back of them."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_safety_layer import (
    NetworkBoundary,
    PathBoundary,
    Policy,
    PolicyError,
    ResourceBoundary,
    SafetyCheckResult,
    SafetyLayer,
    SafetyViolation,
    TimeBoundary,
    helper,
    load_policy,
)
from agent_safety_layer.errors import InternalError, UnsupportedError, UsageError
from agent_safety_layer.events import TraceEntry
from agent_safety_layer.plaindata import NotPlain, SandboxedError
from agent_safety_layer.sandbox import SandboxDied
from agent_safety_layer.violations import Crossed
from tests.kernel.supervised import ROOTS

pytestmark = pytest.mark.requires("notify", "landlock")
PATIENCE_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def _no_helper_is_left() -> Iterator[None]:
    yield
    helper.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    (tmp_path / "secret").write_text("s3cret")
    return made


@pytest.fixture
def safety(folder: Path) -> SafetyLayer:
    return SafetyLayer(boundaries=[PathBoundary([str(folder)])])


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_result_comes_back_and_memory_stays_as_it_is(safety: SafetyLayer, folder: Path) -> None:
    seen = []

    @safety.guard(sandbox=True)
    def work(numbers: list[int], *, name: str) -> dict[str, Any]:
        """Work."""
        seen.append(numbers)
        (folder / name).write_text("made")
        return {"pid": os.getpid(), "sum": sum(numbers), "set": {1}, "pair": (1, b"x")}

    back = work([1, 2], name="file")
    assert back.pop("pid") != os.getpid()
    assert back == {"sum": 3, "set": {1}, "pair": (1, b"x")}
    assert (folder / "file").read_text() == "made"
    assert seen == [], "the child is a copy"
    assert work.__doc__ == "Work."


def test_what_is_refused_raises_a_violation_that_names_it(safety: SafetyLayer, folder: Path) -> None:
    secret = str(folder.parent / "secret")
    heard: list[SafetyCheckResult] = []
    safety.on_violation = heard.append

    def read() -> str:
        return Path(secret).read_text()

    with pytest.raises(SafetyViolation, match=f"file.read {secret}") as raised:
        safety.guard(read, sandbox=True)()
    assert isinstance(raised.value.__cause__, PermissionError)
    assert raised.value.policy_result and raised.value.policy_result.metadata["object"] == secret
    assert [result.allowed for result in heard] == [False]
    safety.raise_on_violation = False
    assert safety.guard(read, sandbox=True)() is None
    assert SafetyLayer().guard(read, sandbox=True)() == "s3cret"
    assert read() == "s3cret"


def test_a_call_that_copes_with_a_refusal_returns(safety: SafetyLayer, folder: Path) -> None:
    def read() -> str:
        try:
            return (folder.parent / "secret").read_text()
        except PermissionError:
            return "refused"

    entries: list[TraceEntry] = []
    safety.subscribe(entries.append)
    with safety.session() as session:
        assert session.execute("read", read, sandbox=True) == "refused"
    assert [entry.event.path for entry in entries if entry.outcome.effective == "block"] == [
        str(folder.parent / "secret")
    ]


def test_what_it_starts_is_confined_too(safety: SafetyLayer, folder: Path) -> None:
    def start() -> str:
        found = subprocess.run(["cat", folder.parent / "secret"], capture_output=True, text=True, check=False)
        return found.stdout + found.stderr

    assert "Permission denied" in safety.guard(start, sandbox=True)()
    safety.add_policy(Policy.block_pattern(r"\bcat\b.*secret", "no secrets"))
    with pytest.raises(SafetyViolation, match="no secrets"):
        safety.guard(start, sandbox=True)()


def test_exceptions_come_back(safety: SafetyLayer) -> None:
    def divide() -> float:
        try:
            Path("/etc/shadow").read_text()
        except PermissionError:
            pass  # which has nothing to do with what follows
        return 1 / 0

    with pytest.raises(ZeroDivisionError, match="division by zero") as raised:
        safety.guard(divide, sandbox=True)()
    assert "in the sandbox" in raised.value.__notes__[0]
    with pytest.raises(SandboxedError, match="SystemExit"):
        safety.guard(sys.exit, sandbox=True)()


@dataclass
class Found:
    path: Path
    count: int


def test_objects_come_back_where_the_annotation_says_so(safety: SafetyLayer) -> None:
    def said() -> list[Found]:
        return [Found(Path("/x"), 1)]

    def unsaid():  # type: ignore[no-untyped-def]
        return Found(Path("/x"), 1)

    assert safety.guard(said, sandbox=True)() == [Found(Path("/x"), 1)]
    with pytest.raises(NotPlain, match="return annotation"):
        safety.guard(unsaid, sandbox=True)()
    with pytest.raises(NotPlain, match="no plain data"):
        safety.guard(lambda: print, sandbox=True)()


def test_a_hostile_child_gets_no_code_to_run_here(safety: SafetyLayer, folder: Path) -> None:
    """It holds the pipe that the result comes through, and sends what pickle would run."""
    proof = str(folder / "code-ran")

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (proof, "w")

    body = pickle.dumps(Hostile())
    with pickle.loads(body) as made:
        assert made.name == proof
    os.unlink(proof)

    def send() -> None:
        for fd in range(3, 1000):
            try:
                os.write(fd, (len(body) + 1).to_bytes(8, "little") + b"r" + body)
            except OSError:
                continue
        os._exit(0)

    with pytest.raises((NotPlain, SandboxDied)):
        safety.guard(send, sandbox=True)()
    assert not os.path.exists(proof)


def test_what_was_refused_is_not_the_childs_to_say(safety: SafetyLayer) -> None:
    def lie() -> None:
        raise Crossed([5])  # type: ignore[list-item]

    with pytest.raises(SandboxedError) as raised:
        safety.guard(lie, sandbox=True)()
    assert raised.value.kind == "Crossed"


def test_a_time_limit_really_ends_it(folder: Path) -> None:
    safety = SafetyLayer(boundaries=[PathBoundary([str(folder)]), TimeBoundary(0.5)])

    def stay() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL})
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        (folder / "pids").write_text(f"{os.getpid()} {child.pid}")
        while True:
            time.sleep(100)

    with pytest.raises(SafetyViolation, match="wall_time") as raised:
        safety.guard(stay, sandbox=True)()
    assert raised.value.is_boundary_violation
    pids = [int(word) for word in (folder / "pids").read_text().split()]
    assert len(pids) == 2 and all(map(gone, pids))


def test_what_it_left_running_ends_with_it(safety: SafetyLayer) -> None:
    def leave() -> int:
        return subprocess.Popen(["sleep", "600"], start_new_session=True).pid

    assert gone(safety.guard(leave, sandbox=True)())


def test_limits_of_resources(folder: Path) -> None:
    files = SafetyLayer(boundaries=[ResourceBoundary(max_open_files=100)])

    def many() -> int:
        held = []
        try:
            while len(held) < 1000:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            return len(held)
        return len(held)

    assert files.guard(many, sandbox=True)() < 100
    own = psutil.Process().memory_info().rss / 2**20
    memory = SafetyLayer(boundaries=[ResourceBoundary(max_memory_mb=own + 200)])
    assert memory.guard(lambda: len(bytes(10 << 20)), sandbox=True)() == 10 << 20
    with pytest.raises(SafetyViolation, match="memory"):
        memory.guard(lambda: bytes(range(256)) * (4 << 20) and time.sleep(PATIENCE_S), sandbox=True)()


def test_limits_of_one_operation(safety: SafetyLayer) -> None:
    stay = safety.guard(time.sleep, sandbox=True, limits={"wall_time": "300ms", "grace": "10ms"})
    with pytest.raises(SafetyViolation, match="wall_time"):
        stay(PATIENCE_S)
    assert stay(0) is None
    with safety.session() as session, pytest.raises(SafetyViolation, match="processes"):
        session.execute("fork", lambda: subprocess.run(["true"], check=True), sandbox=True, limits={"processes": 1})
    with pytest.raises(UsageError, match="sandbox"):
        safety.guard(time.sleep, limits={"wall_time": "1s"})
    with pytest.raises(PolicyError, match="wall_time"):
        safety.guard(time.sleep, sandbox=True, limits={"wall_tim": "1s"})(0)


def test_a_call_within_a_call_has_what_it_asks_for_or_does_not_begin(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret")
    (tmp_path / "no.yaml").write_text(f"version: 1\nfiles: {{block: ['{tmp_path}/secret']}}\n")
    safety = SafetyLayer()

    def read() -> str:
        return (tmp_path / "secret").read_text()

    assert safety.guard(safety.guard(read, sandbox=True), sandbox=True)() == "s3cret"
    for more in ({"sandbox": tmp_path / "no.yaml"}, {"sandbox": True, "limits": {"wall_time": "1h"}}):
        further = safety.guard(read, **more)  # type: ignore[call-overload]
        with pytest.raises(UnsupportedError, match="without this call's policy"):
            safety.guard(further, sandbox=True)()
    strict = safety.guard(read, sandbox=tmp_path / "no.yaml")
    with pytest.raises(SafetyViolation, match="secret"):
        safety.guard(strict, sandbox=tmp_path / "no.yaml")()
    assert safety.guard(further, **more)() == "s3cret"  # type: ignore[call-overload]


def test_the_network_is_confined(safety: SafetyLayer) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]

    def dial() -> str:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
            return connection.recv(2).decode()

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"hi")

    with server:
        safety.add_boundary(NetworkBoundary(allowed_hosts=["example.com"]))
        with pytest.raises(SafetyViolation, match=r"net\.connect"):
            safety.guard(dial, sandbox=True)()
        allowed = SafetyLayer(boundaries=[NetworkBoundary(["127.0.0.1"], allow_private_ips=True)])
        thread = threading.Thread(target=serve)
        thread.start()
        assert allowed.guard(dial, sandbox=True)() == "hi"
        thread.join()


def test_descriptors_of_the_program_are_not_the_childs(safety: SafetyLayer, folder: Path) -> None:
    held = (folder.parent / "held").open("w+")
    held.write("before")
    held.flush()

    def use() -> list[str]:
        found = []
        for act in (lambda: os.write(held.fileno(), b"x"), lambda: os.pread(held.fileno(), 6, 0)):
            try:
                act()
                found.append("done")
            except OSError as error:
                found.append(os.strerror(error.errno or 0))
        with (folder / "new").open("w") as new:
            found.append(str(new.fileno() != held.fileno()))
        return found

    with held:
        assert safety.guard(use, sandbox=True)() == ["Bad file descriptor", "Bad file descriptor", "True"]
        assert os.pread(held.fileno(), 10, 0) == b"before"


def test_shared_memory_is_not_shared_with_the_child(safety: SafetyLayer, folder: Path) -> None:
    """What is mapped is open already: no policy would be asked."""
    outside = folder.parent / "outside"
    outside.write_bytes(b"before" + bytes(10_000))
    number = multiprocessing.Value("i", 7)
    with outside.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:

        def write() -> tuple[bytes, int]:
            found = mapped[:6], number.value
            mapped[:6] = b"inside"
            number.value = 8
            return (*found, mapped[:6], number.value)  # type: ignore[return-value]

        assert safety.guard(write, sandbox=True)() == (b"before", 7, b"inside", 8)
        assert (mapped[:6], outside.read_bytes()[:6], number.value) == (b"before", b"before", 7)
        assert write() == (b"before", 7, b"inside", 8)  # type: ignore[comparison-overlap]
        assert outside.read_bytes()[:6] == b"inside"


def test_what_it_prints_comes_once(safety: SafetyLayer, capfd: pytest.CaptureFixture[str]) -> None:
    print("pending", end=" ")
    safety.guard(lambda: print("inside"), sandbox=True)()
    assert capfd.readouterr().out == "pending inside\n"


def test_a_child_that_dies_says_how(safety: SafetyLayer) -> None:
    with pytest.raises(SandboxDied, match="signal 11") as raised:
        safety.guard(lambda: ctypes.string_at(0), sandbox=True)()
    assert raised.value.report.outcome == "signaled"
    with pytest.raises(SandboxDied, match="exit status 3"):
        safety.guard(lambda: os._exit(3), sandbox=True)()


def test_async_functions_and_sessions(safety: SafetyLayer, folder: Path) -> None:
    @safety.guard(sandbox=True)
    async def work(name: str) -> int:
        await asyncio.sleep(0)
        (folder / name).touch()
        return os.getpid()

    async def main() -> None:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0)

        beating = asyncio.create_task(beat())
        pids = await asyncio.gather(work("a"), work("b"))
        async with safety.session() as session:
            pids.append(await session.execute("pid", pid, sandbox=True))
        beating.cancel()
        assert len({*pids, os.getpid()}) == 4 and beats > 2

        task = asyncio.create_task(safety.guard(forever, sandbox=True)())
        while not (folder / "pid").exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def pid() -> int:
        return os.getpid()

    async def forever() -> None:
        (folder / "pid.new").write_text(str(os.getpid()))
        (folder / "pid.new").rename(folder / "pid")
        await asyncio.sleep(600)

    asyncio.run(main())
    assert gone(int((folder / "pid").read_text()))


def test_generators_do_not_leave_a_sandbox(safety: SafetyLayer) -> None:
    def steps() -> Iterator[int]:
        yield 1

    with pytest.raises(UsageError, match="generator"):
        safety.guard(steps, sandbox=True)


def test_threads_call_at_once(safety: SafetyLayer) -> None:
    found: dict[int, int] = {}
    square = safety.guard(lambda number: number**2, sandbox=True)
    threads = [threading.Thread(target=lambda n=n: found.update({n: square(n)})) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: number**2 for number in range(6)}


def test_one_trace(safety: SafetyLayer, folder: Path) -> None:
    """Events in process and of the kernel: one order, and the span of the operation."""
    entries: list[TraceEntry] = []
    safety.subscribe(entries.append)
    with safety.session() as session:

        def inner() -> None:
            (folder / "outer").touch()
            with safety.session() as nested:
                nested.execute("nested", (folder / "inner").touch)

        session.execute("work", inner, sandbox=True)
    assert [entry.seq for entry in entries] == list(range(entries[0].seq, entries[0].seq + len(entries)))
    touched = {Path(entry.event.path).name: entry.event.span for entry in entries if entry.event.kind == "file.create"}
    span = session.tracer.trace.entries[0].id
    (nested,) = (entry.event.span for entry in entries if entry.event.op == "nested" and entry.event.kind == "op.call")
    assert touched == {"outer": span, "inner": nested} and span != nested
    assert (entries[-1].event.kind, entries[-1].event.span) == ("op.call", span)


def test_a_further_policy_holds_as_well(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    secret = folder.parent / "secret"
    assert SafetyLayer().guard(secret.read_text, sandbox=True)() == "s3cret"
    (folder.parent / "no.yaml").write_text(f"version: 1\nfiles: {{block: ['{secret}']}}\n")
    for policy in ("strict", folder.parent / "no.yaml", load_policy(folder.parent / "no.yaml")):
        with pytest.raises(SafetyViolation, match=r"file\.read"):
            SafetyLayer().guard(secret.read_text, sandbox=policy)()


def test_a_sandboxed_call_within_one(safety: SafetyLayer) -> None:
    inner = safety.guard(os.getpid, sandbox=True)
    mine, its = safety.guard(lambda: (os.getpid(), inner()), sandbox=True)()
    assert mine == its, "the same policy holds already"
    other = SafetyLayer(boundaries=[PathBoundary(["/"])]).guard(os.getpid, sandbox=True)
    with pytest.raises(UnsupportedError, match="another layer"):
        safety.guard(other, sandbox=True)()


def test_under_a_supervisor_there_is_no_second(folder: Path) -> None:
    code = f"""
import sys; sys.path[:0] = {ROOTS!r}
from agent_safety_layer import SafetyLayer
from agent_safety_layer.errors import UnsupportedError
try: SafetyLayer().guard(print, sandbox=True)()
except UnsupportedError as error: print(error)
"""
    done = SafetyLayer(boundaries=[PathBoundary([str(folder), *ROOTS])]).supervise(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert "runs under asl-supervise" in done.stdout, done


def test_supervise_holds_the_layers_boundaries(safety: SafetyLayer, folder: Path) -> None:
    done = safety.supervise(["cat", folder.parent / "secret"], capture_output=True, text=True)
    assert (done.stdout, [denied.object for denied in done.denials]) == ("", [str(folder.parent / "secret")])
    assert safety.supervise(["touch", folder / "made"], check=True).returncode == 0
    assert (folder / "made").exists()


def test_what_the_machine_cannot_enforce_does_not_start(
    safety: SafetyLayer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent_safety_layer import machine

    monkeypatch.setattr(machine.Machine, "missing", lambda *_, **__: ("something",))
    with pytest.raises(UnsupportedError, match="something"):
        safety.guard((folder / "made").touch, sandbox=True)()
    assert not (folder / "made").exists()


def test_a_failure_of_ours_is_told(safety: SafetyLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent_safety_layer import machine

    def fail(*_: object, **__: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(machine.Machine, "missing", fail)
    with pytest.raises(InternalError, match="KeyError"):
        safety.guard(lambda: None, sandbox=True)()


def test_no_child_is_left(safety: SafetyLayer) -> None:
    before = {child.pid for child in psutil.Process().children()}
    safety.guard(lambda: None, sandbox=True)()
    assert {child.pid for child in psutil.Process().children()} <= before


def test_a_secret_made_between_two_calls_is_one_in_the_second(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "deep").mkdir()
    (folder / "deep/notes").write_text("n0tes")
    safety = SafetyLayer()

    @safety.guard(sandbox=True)
    def read(name: str) -> str:
        return Path("deep", name).read_text()

    with pytest.raises(FileNotFoundError):
        read(".env2")
    assert [read("notes"), read("notes")] == ["n0tes", "n0tes"]
    (folder / "deep/.env").write_text("s3cret")
    with pytest.raises(SafetyViolation, match=r"file.read .*/deep/\.env"):
        read(".env")
    assert read("notes") == "n0tes"
    (folder / "deep/.env").unlink()
    (folder / "deep/.env2").write_text("plain")
    assert read(".env2") == "plain"


def test_each_call_has_an_empty_private_folder(safety: SafetyLayer, folder: Path) -> None:
    @safety.guard(sandbox=True)
    def fill() -> tuple[str, list[str]]:
        place = os.environ["TMPDIR"]
        found = [name for name in os.listdir(place) if name != ".denials.jsonl"]
        Path(place, "left").write_text("x")
        Path(place, "folder").mkdir(mode=0)
        return place, found

    places = []
    for _ in range(3):
        place, found = fill()
        assert found == []
        assert not os.path.lexists(place)
        places.append(place)
    os.mkdir(places[-1])  # somebody else's by now
    try:
        place, found = fill()
        assert found == [] and place != places[-1]
        assert os.listdir(places[-1]) == []
    finally:
        os.rmdir(places[-1])
    os.symlink(folder / "elsewhere", places[-1])
    try:
        place, found = fill()
        assert found == [] and place != places[-1] and "elsewhere" not in place
        assert not (folder / "elsewhere").exists()
    finally:
        os.unlink(places[-1])


CLOSED = """
import os, sys
from agent_safety_layer import SafetyLayer, PathBoundary

out = os.dup(1)
for place in (0, 1, 2):
    os.close(place)
safety = SafetyLayer(boundaries=[PathBoundary([os.getcwd()])])

@safety.guard(sandbox=True)
def places():
    found = {}
    for place in range(64):
        try:
            found[place] = os.readlink(f"/proc/self/fd/{place}")
        except OSError:
            pass
    return found

for _ in range(2):
    os.write(out, f"{places()}\\n".encode())
"""


def test_a_program_without_standard_descriptors_gives_the_call_none_of_its_own(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(ROOTS)}
    done = subprocess.run(
        [sys.executable, "-c", CLOSED], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    for line in (first, second):
        found: dict[int, str] = eval(line, {})
        assert not [path for path in found.values() if path.startswith("socket:")], "a way to the supervisor"
        assert set(found) & {0, 1, 2} == set()
