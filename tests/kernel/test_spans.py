"""One trace: operations of a supervised process, and every system call with the operation in which it was made."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent_safety_layer import Supervisor, helper
from agent_safety_layer.events import TraceEntry
from tests.kernel.supervised import OPEN, ROOTS

pytestmark = pytest.mark.requires("notify", "landlock")
HEAD = f"import sys; sys.path[:0] = {ROOTS!r}\nimport asyncio, os, subprocess, threading\n"
HEAD += "from agent_safety_layer import SafetyLayer, SafetyViolation\nsafety = SafetyLayer()\n"
HEAD += "def touch(name): open(name, 'w').close()\n"


@pytest.fixture(scope="module", autouse=True)
def _no_helper_is_left() -> Iterator[None]:
    yield
    helper.close()


class Traced:
    """A run's events, and in which operation each file was touched."""

    def __init__(self, tmp_path: Path, code: str, policy: str = OPEN) -> None:
        folder = tmp_path / "work"
        folder.mkdir()
        (tmp_path / "policy.yaml").write_text(policy)
        (tmp_path / "agent.py").write_text(HEAD + code)
        supervisor = Supervisor(tmp_path / "policy.yaml")
        self.done = supervisor.run(
            [sys.executable, "-B", tmp_path / "agent.py"], cwd=folder, capture_output=True, text=True
        )
        assert self.done.stderr == "" and self.done.returncode == 0
        self.entries: list[TraceEntry] = list(self.done.events())
        self.names = {entry.event.span: entry.event.op for entry in self.entries if entry.event.kind == "op.call"}

    def where(self) -> dict[str, list[str]]:
        """File name: the operations in which it was touched."""
        found: dict[str, list[str]] = {}
        for entry in self.entries:
            event = entry.event
            if event.kind in ("file.write", "file.create") and "/work/" in event.path:
                found.setdefault(Path(event.path).name, []).append(self.names.get(event.span, event.span))
        return found

    def logged(self) -> list[tuple[str, str]]:
        return [(entry.event.op, entry.event.detail) for entry in self.entries if entry.event.kind == "op.log"]


def test_calls_carry_the_operation_in_which_they_were_made(tmp_path: Path) -> None:
    traced = Traced(
        tmp_path,
        """
with safety.session("s") as session:
    touch("before")
    session.execute("outer", lambda: (touch("out1"), session.execute("inner", lambda: touch("in")), touch("out2")))
    session.log("between")
    touch("after")
@safety.guard
def write(path): touch(path)
write("guarded")
print(*[entry.id for entry in session.tracer.trace.entries if entry.operation == "outer"])
""",
    )
    assert traced.where() == {
        "before": [""],
        "out1": ["outer"],
        "in": ["inner"],
        "out2": ["outer"],
        "after": [""],
        "guarded": ["write"],
    }
    (outer,) = (span for span, name in traced.names.items() if name == "outer")
    assert traced.done.stdout.strip() == outer, "ids are those of the trace in process"
    expected = [("inner", "completed"), ("outer", "completed"), ("info", "between"), ("write", "completed")]
    assert traced.logged() == expected


def test_the_same_open_again_in_another_operation_is_recorded_there(tmp_path: Path) -> None:
    code = """
session = safety.session("s")
def look():
    for _ in range(3): open("/etc/passwd").close()
look(); session.execute("one", look); session.execute("two", look); look()
"""
    traced = Traced(tmp_path, code)
    reads = [traced.names.get(e.event.span, "") for e in traced.entries if e.event.path == "/etc/passwd"]
    assert reads[-12:] == ["", "", "", "one", "one", "one", "two", "two", "two", "", "", ""]


def test_what_an_operation_starts_belongs_to_it_also_when_that_ends_later(tmp_path: Path) -> None:
    code = """
session = safety.session("s")
read, write = os.pipe()
def start():
    subprocess.run(["sh", "-c", "echo x > program"], check=True)
    if os.fork() == 0:
        os.read(read, 1)  # until the operation is over
        touch("late")
        os._exit(0)
session.execute("starts", start)
os.write(write, b"g")
os.wait()
touch("after")
"""
    assert Traced(tmp_path, code).where() == {"program": ["starts"], "late": ["starts"], "after": [""]}


def test_threads_and_tasks_are_not_mixed_up(tmp_path: Path) -> None:
    code = """
session = safety.session("s")
barrier = threading.Barrier(2)
def work(name):
    barrier.wait(); touch(name); barrier.wait()
threads = [threading.Thread(target=lambda n=n: session.execute("T" + n, lambda: work("t" + n))) for n in "12"]
for thread in threads: thread.start()
for thread in threads: thread.join()
async def steps(name):
    for number in range(2):
        touch(f"{name}{number}"); await asyncio.sleep(0)
async def main():
    await asyncio.gather(*(session.execute(n.upper(), lambda n=n: steps(n)) for n in "ab"))
    await session.execute("aside", lambda: asyncio.to_thread(touch, "thread"))
asyncio.run(main())
"""
    assert Traced(tmp_path, code).where() == {
        "t1": ["T1"],
        "t2": ["T2"],
        "a0": ["A"],
        "b0": ["B"],
        "a1": ["A"],
        "b1": ["B"],
        "thread": ["aside"],
    }


def test_what_is_blocked_and_what_fails_is_told(tmp_path: Path) -> None:
    code = """
from agent_safety_layer import Policy
safety.add_policy(Policy.block_pattern("rm", "no removing"))
session = safety.session("s")
for name, work in (("rm", print), ("divide", lambda: 1 / 0)):
    try: session.execute(name, work)
    except (SafetyViolation, ZeroDivisionError): pass
"""
    assert Traced(tmp_path, code).logged() == [("rm", "blocked: no removing"), ("divide", "failed: ZeroDivisionError")]


def test_the_supervisors_policy_judges_operations_and_what_is_told_allows_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    policy = (
        OPEN
        + f"""  block: ["{secret}"]
rules:
  - {{name: no-payments, on: op.call, match: "pay", action: block}}
"""
    )
    code = f"""
session = safety.session("s")
def read():
    try: return open({str(secret)!r}).read()
    except PermissionError: return "refused"
print(session.execute("read", read))
try: session.execute("pay", lambda: touch("paid"))
except SafetyViolation as violation: print(violation)
session.execute("play", lambda: touch("played"))
"""
    traced = Traced(tmp_path, code, policy)
    assert traced.done.stdout == "refused\nthe supervisor's policy forbids the operation\n"
    assert traced.where() == {"played": ["play"]}
    assert {(denied.kind, denied.rule) for denied in traced.done.denials} == {
        ("file.read", "files.block"),
        ("op.call", "no-payments"),
    }


def test_nonsense_on_the_channel_is_refused_and_harms_nobody(tmp_path: Path) -> None:
    code = """
import ctypes
prctl = ctypes.CDLL(None, use_errno=True).prctl
prctl.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
def tell(address, size):
    return prctl(0x41534c01, address, size, 0, 0), ctypes.get_errno()
good = ctypes.create_string_buffer(b"now\\0a\\0b\\0c\\0d")
print(tell(None, 10), tell(good, 0), tell(good, 5000), tell(good, 4), tell(good, 11), tell(good, 2**40))
wild = ctypes.create_string_buffer(b"call\\0\\xff\\0\\x1b[2J\\0" + b"x" * 300 + b"\\0}")
print(tell(wild, len(wild) - 1))
for number in range(3000):
    each = ctypes.create_string_buffer(b"call\\0%d\\0%d\\0x\\0" % (number, number))
    tell(each, len(each) - 1)
touch("on")
"""
    traced = Traced(tmp_path, code)
    assert traced.done.stdout == "(-1, 14) (-1, 22) (-1, 22) (-1, 22) (0, 22) (-1, 22)\n(0, 22)\n"
    assert traced.where() == {"on": ["x"]}
    assert traced.done.report.counts["op.call"] == {"allow": 3001}


def test_without_a_supervisor_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from agent_safety_layer import SafetyLayer, spans

    monkeypatch.setenv("ASL_RUN_ID", "left over from somewhere")
    monkeypatch.setattr(spans, "_looked", False)
    assert SafetyLayer().guard(lambda: 1)() == 1
    assert not spans.supervised(), "nobody listens"


@pytest.fixture
def counting() -> Iterator[int]:
    """The port of a server, TCP and UDP, that takes what comes and says as many bytes back."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket(type=socket.SOCK_DGRAM) as bound:
        port = int(listening.getsockname()[1])
        bound.bind(("127.0.0.1", port))

        def streams() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    threading.Thread(target=stream, args=(client,), daemon=True).start()

        def stream(client: socket.socket) -> None:
            with client:
                size = 0
                while data := client.recv(65536):
                    size += len(data)
                client.sendall(b"x" * size)

        def datagrams() -> None:
            while (got := bound.recvfrom(65536))[0]:
                bound.sendto(*got)

        threads = [threading.Thread(target=each, daemon=True) for each in (streams, datagrams)]
        for thread in threads:
            thread.start()
        yield port
        listening.shutdown(socket.SHUT_RDWR)
        bound.sendto(b"", bound.getsockname())
        for thread in threads:
            thread.join()


@pytest.mark.requires("netns")
def test_bytes_are_counted_in_the_operation_that_sent_them(tmp_path: Path, counting: int) -> None:
    policy = OPEN + f'network:\n  allow: ["localhost:{counting}"]\n'
    traced = Traced(
        tmp_path,
        f"""
import socket
HERE = ("127.0.0.1", {counting})
meet = threading.Barrier(2)
def talk(size):
    with socket.create_connection(HERE) as talking:
        meet.wait()  # both are open at once
        talking.sendall(b"y" * size)
        talking.shutdown(socket.SHUT_WR)
        while talking.recv(65536): pass
def ask(size, connects):
    with socket.socket(type=socket.SOCK_DGRAM) as asking:
        if connects:
            asking.connect(HERE)
            asking.send(b"z" * size)
        else:
            asking.sendto(b"z" * size, HERE)
        asking.recv(65536)
def in_operation(name, call, *args):
    with safety.session("s") as session:
        session.execute(name, lambda: call(*args))
threads = [threading.Thread(target=in_operation, args=(f"talk {{size}}", talk, size)) for size in (100, 2000)]
for thread in threads: thread.start()
for thread in threads: thread.join()
in_operation("ask 30", ask, 30, True)
in_operation("ask 40", ask, 40, False)
""",
        policy,
    )
    counted = {
        entry.event.detail: traced.names.get(entry.event.span, entry.event.span)
        for entry in traced.entries
        if entry.event.kind in ("net.connect", "net.send") and "received" in entry.event.detail
    }
    assert counted == {
        "100 bytes sent, 100 received": "talk 100",
        "2000 bytes sent, 2000 received": "talk 2000",
        "30 bytes sent, 30 received": "ask 30",
        "40 bytes sent, 40 received": "ask 40",
    }


@pytest.mark.requires("netns")
def test_what_is_sent_just_before_the_end_arrives_and_is_counted(tmp_path: Path, counting: int) -> None:
    size = 12 << 20
    received: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def take() -> None:
            client, _ = listening.accept()
            with client:
                received.append(sum(len(data) for data in iter(lambda: client.recv(65536), b"")))

        taker = threading.Thread(target=take)
        taker.start()
        port = listening.getsockname()[1]
        traced = Traced(
            tmp_path,
            f"""
import socket
def upload():
    talking = socket.create_connection(("127.0.0.1", {port}))
    talking.sendall(b"y" * {size})
    asking = socket.socket(type=socket.SOCK_DGRAM)
    asking.sendto(b"bye", ("127.0.0.1", {counting}))
    os._exit(0)
with safety.session("s") as session:
    session.execute("upload", upload)
""",
            OPEN + f'network:\n  allow: ["localhost:{port}", "localhost:{counting}"]\n',
        )
        taker.join()
    assert received == [size]
    counted = {
        (entry.event.kind, entry.event.detail.partition(" bytes sent")[0], traced.names.get(entry.event.span))
        for entry in traced.entries
        if " bytes sent" in entry.event.detail
    }
    assert counted == {("net.connect", str(size), "upload"), ("net.send", "3", "upload")}
