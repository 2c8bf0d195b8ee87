"""The ptrace backend: chosen, handed descriptors, signals and threads, and the same events as with a listener."""

from __future__ import annotations

import ctypes
import mmap
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

from asl_hooks import handover
from tests.kernel.supervised import OPEN, SERVED, Result, environment, prepare, python, run
from tests.requirements import named_in

pytestmark = pytest.mark.requires("ptrace")
TRACED = ("--backend", "ptrace")


def served(code: str, tmp: pathlib.Path, **how: Any) -> Result:
    """Python *code* on the ptrace backend, with every open served."""
    return python(code, tmp, policy=SERVED, options=TRACED, **how)


# -- which backend ----------------------------------------------------------------------------------------------------


@pytest.mark.requires("notify")
def test_the_backend_is_named_in_the_trace(tmp_path: pathlib.Path) -> None:
    for name in ("ptrace", "notify"):
        found = run(["/bin/true"], tmp_path, options=("--backend", name))
        assert (found.code, found.trace[0]["backend"]) == (0, name)
        assert "is traced" in found.trace[0]["enforced"].get("ptrace", "") or name == "notify"


def test_without_a_listener_ptrace_is_used_and_said(tmp_path: pathlib.Path) -> None:
    (tmp_path / "policy.yaml").write_text(OPEN)
    main = "from agent_safety_layer.cli.supervise import main; main(frozenset({'notify'}))"
    for quiet, said in ((False, True), (True, False)):
        found = subprocess.run(
            [sys.executable, "-c", main, *(["-q"] if quiet else []), "-p", tmp_path / "policy.yaml", "/bin/echo", "hi"],
            env=environment(tmp_path / "state"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (found.returncode, found.stdout) == (0, "hi\n"), found.stderr
        assert ("intercepted with ptrace" in found.stderr) == said


# Lets every call go on that it listens for: a container's manager, or another supervisor.
ABOVE = """
import os, select, socket, sys
from asl_hooks import bpf, syscalls
from asl_hooks._abi import linux
from asl_hooks.notify import Listener
ours, theirs = socket.socketpair()
child = os.fork()
if not child:
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    rules = (bpf.Rule(tuple(sys.argv[1].split()), bpf.NOTIFY),)
    listener = bpf.install(bpf.assemble(bpf.Filter(syscalls.native_arch(), rules)), 8)
    theirs.send(b"%d" % listener)
    theirs.recv(1)
    os.close(listener)
    os.execv(sys.argv[2], sys.argv[2:])
above = Listener(linux.pidfd_getfd(linux.pidfd_open(child, 0), int(ours.recv(10)), 0))
ours.send(b"g")
poll = select.poll()
poll.register(above.fileno(), select.POLLIN)
while not poll.poll()[0][1] & select.POLLHUP:
    if call := above.receive():
        above.proceed(call)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.requires("notify")
@pytest.mark.parametrize("heard", ["openat execve", "openat", "unlink"])
def test_below_a_listener_that_lets_everything_go_on_the_policy_holds(tmp_path: pathlib.Path, heard: str) -> None:
    """It answers before a tracer is asked, so calls are stopped before that: from the first exec on."""
    ws = tmp_path / "ws"
    prepare(ws, SERVED)
    (tmp_path / "policy.yaml").write_text(SERVED + 'exec: {block: ["id"]}\n')
    command = ["/bin/sh", "-c", "id; cat .env; echo lived"]
    supervise = [sys.executable, "-m", "agent_safety_layer.cli.supervise", "-p", str(tmp_path / "policy.yaml"), "--"]
    told = []
    for argv in (command, [*supervise, *command]):
        found = subprocess.run(
            [sys.executable, "-c", ABOVE, heard, *argv],
            env=environment(tmp_path / "state"),
            cwd=ws,
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0 and found.stdout.endswith("lived\n"), found.stderr
        told.append(found)
    free, bound = told
    assert "uid=" in free.stdout and "SECRET" in free.stdout
    assert bound.stdout == "lived\n"
    assert "calls are intercepted with ptrace" in bound.stderr
    assert ".env: Permission denied" in bound.stderr


def test_without_ptrace_it_is_refused_at_the_start(tmp_path: pathlib.Path) -> None:
    main = "from agent_safety_layer.cli.supervise import main; main(frozenset({'ptrace'}))"
    found = subprocess.run(
        [sys.executable, "-c", main, *TRACED, "--best-effort", "/bin/echo", "hi"],
        env=environment(tmp_path / "state"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (125, "")
    assert "ptrace is not to be had here" in found.stderr


# -- results ----------------------------------------------------------------------------------------------------------

CALLS = """
import os
fd = os.open("/etc/hostname", os.O_RDONLY)
os.close(os.open("made", os.O_CREAT | os.O_WRONLY, 0o640))
for act in (lambda: os.open("/nowhere/x", os.O_RDONLY), lambda: os.mkdir("made")):
    try:
        act()
    except OSError:
        pass
os.rename("made", "moved")
os.unlink("moved")
print(fd)
"""


@pytest.mark.parametrize("policy", [OPEN, SERVED], ids=["waved", "served"])
def test_what_calls_returned_is_recorded(tmp_path: pathlib.Path, policy: str) -> None:
    found = python(CALLS, tmp_path, policy=policy, options=TRACED)
    assert found.code == 0, found.err
    ws = str((tmp_path / "ws").resolve())
    (opened,) = found.events("file.read", path="/etc/hostname")
    assert opened["result"] == found.out.strip()
    (made,) = found.events("file.create", path=f"{ws}/made", syscall="openat")
    assert (made["result"], made["mode"]) == (found.out.strip()[:-1] + str(int(found.out) + 1), 0o640)
    assert [entry["result"] for entry in found.events("file.read", path="/nowhere/x")] == ["ENOENT"]
    assert {entry["result"] for entry in found.events("file.rename")} == {"0"}
    assert {entry["result"] for entry in found.events("file.delete")} == {"0"}
    assert {entry["result"] for entry in found.events("process.exec")} == {"0"}


def test_a_repeated_call_has_the_result_of_its_own(tmp_path: pathlib.Path) -> None:
    code = """
import os
def attempt():
    try:
        os.close(os.open("late", os.O_RDONLY))
    except FileNotFoundError:
        pass
for _ in range(3): attempt()
os.close(os.open("late", os.O_WRONLY | os.O_CREAT))
held = [os.open("late", os.O_RDONLY) for _ in range(3)]
print(*held)
"""
    found = python(code, tmp_path, options=TRACED)
    assert found.code == 0, found.err
    results = [entry["result"] for entry in found.events("file.read", path=str((tmp_path / "ws").resolve() / "late"))]
    assert results == [*["ENOENT"] * (len(results) - 3), *found.out.split()]
    for line in (tmp_path / "trace.jsonl").read_text().splitlines():
        assert line.count('"result":') <= 1, line


# -- descriptors ------------------------------------------------------------------------------------------------------


def test_descriptors_are_handed_over_as_open_gives_them(tmp_path: pathlib.Path) -> None:
    """The lowest free number, close-on-exec as asked, also when everything was closed, after fork, and in threads."""
    code = """
import os, threading
def content(path, flags=os.O_RDONLY):
    fd = os.open(path, flags)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)
lowest = os.open("/dev/null", os.O_RDONLY)
for gap in (0, lowest + 1, lowest + 2):
    os.dup2(lowest, gap) if gap else None
os.close(lowest)
assert os.open("/etc/passwd", os.O_RDONLY) == lowest
assert not os.get_inheritable(lowest)  # os.open asks for it
for wanted in (0, os.O_CLOEXEC):
    import ctypes
    fd = ctypes.CDLL(None).open(b"/etc/passwd", wanted)
    assert os.get_inheritable(fd) == (not wanted), wanted
    os.close(fd)
hosts, passwd = content("/etc/hosts"), content("/etc/passwd")
assert hosts != passwd
os.closerange(3, 4096)  # what the backend keeps there, too
assert content("/etc/hosts") == hosts
assert sorted(map(int, os.listdir("/proc/self/fd"))) == [0, 1, 2, 3]
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        for _ in range(50):
            assert content("/etc/passwd") == passwd
        os._exit(7)
    children.append(child)
wrong = []
def loop(path, expected):
    for _ in range(50):
        if content(path) != expected:
            wrong.append(path)
threads = [threading.Thread(target=loop, args=pair) for pair in (("/etc/hosts", hosts), ("/etc/passwd", passwd)) * 2]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not wrong
assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [7, 7, 7]
"""
    found = served(code, tmp_path)
    assert found.code == 0, found.err


def test_where_no_descriptor_is_left_that_is_said(tmp_path: pathlib.Path) -> None:
    code = """
import errno, os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
held = []
try:
    while True:
        held.append(os.open("/etc/hosts", os.O_RDONLY))
except OSError as error:
    assert error.errno == errno.EMFILE, error
assert len(held) > 20, held
os.close(held.pop())
os.close(os.open("/etc/hosts", os.O_RDONLY))
"""
    found = served(code, tmp_path)
    assert found.code == 0, found.err


def test_tampering_with_the_handover_gains_nothing(tmp_path: pathlib.Path) -> None:
    """Threads that overwrite the page, swap the socket and close what they find, while others open files."""
    code = """
import ctypes, os, threading, time
libc = ctypes.CDLL(None)
os.close(os.open("/etc/hosts", os.O_RDONLY))
sockets = [int(n) for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}") is False
           and "socket" in os.readlink(f"/proc/self/fd/{n}")]
stop = False
reader, writer = os.pipe()
def swap():
    while not stop:
        for number in (*sockets, 240):
            libc.dup2(reader, number)
            libc.close(number)
def close():
    while not stop:
        for number in range(8, 16):
            libc.close(number)
threads = [threading.Thread(target=swap), threading.Thread(target=close)]
[thread.start() for thread in threads]
got, until = 0, time.monotonic() + 1
while time.monotonic() < until:
    try:
        fd = os.open("/etc/hosts", os.O_RDONLY)
        got += 1
        os.close(fd)
    except OSError:
        pass
    try:
        fd = os.open(".env", os.O_RDONLY)
        if b"SECRET" in os.read(fd, 100):
            print("SECRET")
    except OSError:
        pass
stop = True
[thread.join() for thread in threads]
print("lived")
"""
    found = served(code, tmp_path)
    assert "SECRET" not in found.out
    assert found.report["outcome"] in ("exited", "signaled"), found.err
    assert 'Traceback (most recent call last):\n  File "/' not in found.err or "agent_safety_layer" not in found.err
    assert found.events("file.read", path="/etc/hosts")


def test_a_task_that_ends_on_the_way_of_a_descriptor_is_no_failure_of_ours() -> None:
    """An address space that has gone reads as nothing at all, which is no error. Once it was the end of the run."""
    channel = handover.Channel()
    with (
        subprocess.Popen(["sleep", "600"]) as child,
        mmap.mmap(-1, mmap.PAGESIZE) as page,
        open("/etc/hosts") as file,
    ):
        channel.join(child.pid)
        at = ctypes.addressof(ctypes.c_char.from_buffer(page))
        calls = channel.hand_over(child.pid, file.fileno(), False)
        assert next(calls)[1][1] == mmap.PAGESIZE
        _, given = calls.send(at)
        assert given[-1] == at, "two descriptors are to be written there"
        child.kill()
        child.wait()
        with pytest.raises(OSError, match="unreadable memory"):
            calls.send(0)
        assert channel.broken
        channel.leave(child.pid)


# -- signals, threads --------------------------------------------------------------------------------------------------


def test_signals_reach_their_handlers_whatever_is_going_on(tmp_path: pathlib.Path) -> None:
    code = """
import os, signal
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
for n in range(300):
    with open("/etc/hosts") as file:
        assert file.read()
signal.setitimer(signal.ITIMER_REAL, 0)
assert seen
info = []
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.kill(os.getpid(), signal.SIGUSR1)
assert signal.sigwaitinfo([signal.SIGUSR1]).si_pid == os.getpid()
"""
    found = served(code, tmp_path)
    assert found.code == 0, found.err


def test_a_signal_that_looks_like_a_stopped_call_is_a_signal(tmp_path: pathlib.Path) -> None:
    """Who sends itself one chooses its si_code, which is what PTRACE_GET_SYSCALL_INFO goes by."""
    code = """
import ctypes, os, signal
libc = ctypes.CDLL(None)
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
number = {"x86_64": 129}.get(os.uname().machine, 138)  # rt_sigqueueinfo
for looks_like in (signal.SIGTRAP | 0x80, signal.SIGTRAP | 7 << 8):
    info = (ctypes.c_int * 32)(signal.SIGUSR1, 0, looks_like)
    for _ in range(50):
        fd = os.open("/etc/hosts", os.O_RDONLY)
        assert libc.syscall(number, os.getpid(), signal.SIGUSR1, info) == 0
        os.close(fd)
assert len(seen) == 100, len(seen)
"""
    for policy in (OPEN, SERVED):
        found = python(code, tmp_path, policy=policy, options=TRACED)
        assert found.code == 0, found.err
        assert len(found.events("file.read", path="/etc/hosts")) == 100


def test_stopped_and_continued_children_are_seen_by_their_parents(tmp_path: pathlib.Path) -> None:
    code = """
import os, signal, threading, time
child = os.fork()
if not child:
    threading.Thread(target=lambda: [open("/etc/hosts").read() for _ in range(10**9)], daemon=True).start()
    while True:
        open("/etc/passwd").read()
for turn in range(5):
    time.sleep(0.01)
    os.kill(child, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    with open(f"/proc/{child}/stat") as file:
        assert file.read().rpartition(")")[2].split()[0] in "Tt"
    os.kill(child, signal.SIGCONT)
    assert os.WIFCONTINUED(os.waitpid(child, os.WCONTINUED)[1])
os.kill(child, signal.SIGTERM)
assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
"""
    for policy in (OPEN, SERVED):
        found = python(code, tmp_path, policy=policy, options=TRACED)
        assert found.code == 0, found.err


def test_an_exec_by_another_thread_than_the_first(tmp_path: pathlib.Path) -> None:
    code = """
import os, threading, time
threading.Thread(target=lambda: [open("/etc/hosts").read() for _ in range(10**9)], daemon=True).start()
threading.Thread(target=os.execv, args=("/bin/echo", ["echo", str(os.getpid())])).start()
time.sleep(60)
"""
    for policy in (OPEN, SERVED):
        found = python(code, tmp_path, policy=policy, options=TRACED)
        assert found.code == 0, found.err
        echo = found.events("process.exec", argv=["echo", found.out.strip()])
        assert len(echo) == 1
        assert echo[0]["pid"] != echo[0]["tid"]
        assert not found.blocked()


def test_a_child_that_would_not_be_traced_is_refused(tmp_path: pathlib.Path) -> None:
    """CLONE_UNTRACED fails, where the same clone without it works; clone3 is not there."""
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for flags, wanted in ((17, 0), (17 | 0x00800000, 1)):
    child = libc.syscall({"x86_64": 56}.get(os.uname().machine, 220), flags, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    assert (child < 0) == bool(wanted), (flags, child)
    assert child < 0 and ctypes.get_errno() == 1 or os.waitpid(child, 0)[1] == 0
assert libc.syscall(435, 0, 0) == -1 and ctypes.get_errno() == 38
"""
    found = python(code, tmp_path, options=TRACED)
    assert found.code == 0, found.err


# -- the same events ---------------------------------------------------------------------------------------------------

SCRIPT = """
set -e
mkdir d; echo one > d/f; cat d/f | tr a-z A-Z; mv d/f d/g; ln -s g d/l; cat d/l >/dev/null; chmod 600 d/g
cat /nowhere 2>/dev/null || true
cat .env 2>/dev/null || true
(exit 3) || true
/bin/sh -c 'true; exec /bin/echo done'
rm -r d
"""
_VARY = ("seq", "time", "us", "pid", "tid", "ppid", "result", "type")


def told(found: Result) -> list[tuple[str, ...]]:
    """The events of a run but for what differs from run to run, by process in the order of their beginnings."""
    order: dict[int, list[str]] = {}
    for entry in found.events():
        kept = {key: what for key, what in entry.items() if key not in _VARY}
        text = re.sub(r"/proc/\d+", "/proc/PID", repr(sorted(kept.items())))
        order.setdefault(entry["pid"], []).append(text)
    return sorted(map(tuple, order.values()))


@pytest.mark.requires("notify")
@pytest.mark.parametrize("policy", [OPEN, SERVED], ids=["waved", "served"])
def test_both_backends_tell_the_same_of_a_program(tmp_path: pathlib.Path, policy: str) -> None:
    found = {}
    for backend in ("notify", "ptrace"):
        found[backend] = run(["/bin/sh", "-c", SCRIPT], tmp_path, policy=policy, options=("--backend", backend))
        assert (found[backend].code, found[backend].out.split()[0]) == (0, "ONE")
    assert found["notify"].out == found["ptrace"].out
    assert told(found["notify"]) == told(found["ptrace"])
    assert len(told(found["ptrace"])) > 5
    allowed = [entry for entry in found["ptrace"].events() if entry not in found["ptrace"].blocked()]
    assert all("result" in entry for entry in allowed if entry["kind"] != "process.exit")


# -- as strace tells it ------------------------------------------------------------------------------------------------

_CALL = re.compile(r"^(?:\d+ +)?(?:[\d.]+ )?(\w+)\((.*)\) += (\S+)(?: ([A-Z]+))?")
_COMPARED = ("openat", "open", "creat", "mkdir", "unlink", "unlinkat", "rename", "chmod", "execve", "link")
_PROGRAM = """
import os
base = os.getcwd()
fd = os.open(f"{base}/f", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o640)
for act in (lambda: os.open(f"{base}/f", os.O_CREAT | os.O_EXCL), lambda: os.mkdir(f"{base}/f"),
            lambda: os.open("/nowhere/at/all", os.O_RDONLY), lambda: os.unlink(f"{base}/none")):
    try:
        act()
    except OSError:
        pass
os.chmod(f"{base}/f", 0o600)
os.mkdir(f"{base}/d", 0o700)
os.rename(f"{base}/f", f"{base}/d/a \\\\n\\tname\\xe9")
os.open(f"{base}/d", os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK)
os.truncate(f"{base}/d/a \\\\n\\tname\\xe9", 100)
os.unlink(f"{base}/d/a \\\\n\\tname\\xe9")
os.rmdir(f"{base}/d")
os.execv("/bin/echo", ["/bin/echo", "x y"])
"""


def calls(text: str) -> list[tuple[str, ...]]:
    """Names, arguments and results of the compared calls of a strace."""
    found = []
    for line in text.splitlines():
        match = _CALL.match(line)
        if match and match[1] in _COMPARED:
            arguments = re.sub(r", 0x[0-9a-f]+ /\* \d+ vars \*/", "", match[2])
            found.append((match[1], arguments, match[3], match[4] or ""))
    return found


def test_a_trace_reads_as_strace_tells_it(tmp_path: pathlib.Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        message = "strace is not installed"
        pytest.fail(message) if "strace" in named_in("ASL_MUST_WORK") else pytest.skip(message)
    argv = [sys.executable, "-I", "-S", "-c", _PROGRAM]
    ours = run(argv, tmp_path, options=TRACED)
    assert ours.code == 0, ours.err
    shown = subprocess.run(
        [sys.executable, "-m", "agent_safety_layer.cli.main", "trace", "show", "--strace", tmp_path / "trace.jsonl"],
        env=environment(tmp_path / "state"),
        capture_output=True,
        text=True,
        check=True,
    )
    done = subprocess.run(
        [strace, "-f", "-s", "10000", "-o", tmp_path / "strace", *argv],
        cwd=tmp_path / "ws",
        env=environment(tmp_path / "state"),
        check=True,
        stdout=subprocess.PIPE,
    )
    assert done.stdout.decode() == ours.out == "x y\n"
    theirs = calls((tmp_path / "strace").read_text())
    mine = calls(shown.stdout)
    assert {call[0] for call in mine} >= {"openat", "mkdir", "rename", "execve", "chmod", "unlink"}
    recorded = {call[:2] for call in mine}
    assert mine == [call for call in theirs if call[:2] in recorded]
    missed = [call for call in theirs if call[:2] not in recorded]
    assert all(call[3] in ("ENOENT", "EEXIST") for call in missed), missed  # what can only fail is no event
