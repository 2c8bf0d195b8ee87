"""The tracer's own promises, with a task of which the test answers the calls."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EACCES, ENOENT

import pytest

from asl_hooks import bpf, memory, syscalls
from asl_hooks._abi import linux
from asl_hooks.backend import Call
from asl_hooks.launch import Launched, LaunchSpec, abandon, launch
from asl_hooks.tracer import Tracer
from asl_hooks.warden import STATUS

pytestmark = pytest.mark.requires("ptrace")
NUMBERS = syscalls.numbers(syscalls.native_arch())
ASKED = bpf.assemble(bpf.Filter(syscalls.native_arch(), (bpf.Rule(("openat", "execve"), bpf.trace(bpf.ASKED)),)))


class Traced:
    """A Python program of which opens and execs are stopped. ``became`` are the threads that have execed."""

    def __init__(self, code: str, tells: bool, early: int) -> None:
        argv = (sys.executable, "-I", "-S", "-c", code)
        self.launched: Launched = launch(LaunchSpec(argv, (), ASKED, traced=True))
        self.pid = self.launched.pid
        if early:
            os.kill(self.pid, early)
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT | linux.WALL)
        self.became: list[tuple[int, int]] = []
        self.exited: list[int] = []
        self.tracer = Tracer(self.pid, tells=tells)
        self.tracer.follow(lambda former, pid: not self.became.append((former, pid)), self.exited.append)
        os.write(self.launched.go, b"g")

    def until(self, condition: Callable[[], object], keep: Callable[[Call], bool] = lambda _: False) -> list[Call]:
        """Serve until the condition holds; the calls to keep come back and wait, all others go on."""
        kept: list[Call] = []
        poll = select.poll()
        poll.register(self.tracer.fileno(), select.POLLIN)
        while not condition():
            if not self.tracer.pending:
                assert poll.poll(60_000), "it waits for what has stopped already"
            call = self.tracer.receive()
            if call is None:
                continue
            if keep(call):
                kept.append(call)
            else:
                self.tracer.proceed(call)
        return kept

    def status(self) -> int:
        """The exit status of the program, which has ended."""
        return os.waitstatus_to_exitcode(STATUS.unpack(os.read(self.launched.status, STATUS.size))[0])

    def path(self, call: Call) -> bytes:
        """Its path, of those that the program makes up."""
        fd = os.open(f"/proc/{call.tid}/mem", os.O_RDONLY)
        try:
            return memory.read_string(fd, call.args[0 if call.nr == NUMBERS["execve"] else 1])
        finally:
            os.close(fd)


@contextmanager
def traced(code: str, *, tells: bool = True, early: int = 0) -> Iterator[Traced]:
    """*early*: a signal that it gets before it has its tracer."""
    found = Traced(code, tells, early)
    try:
        yield found
    finally:
        abandon(found.launched)
        found.tracer.close()
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)  # other tests leave orphans, which are not ours


def test_a_signal_that_comes_before_the_tracer_does_not_stop_it_for_ever() -> None:
    with traced("import os; os._exit(5)", early=signal.SIGURG) as run:
        run.until(lambda: run.pid in run.exited)
        assert run.status() == 5


@pytest.mark.parametrize("answer", ["give", "inject"])
def test_a_call_that_follows_a_return_is_told_once(answer: str) -> None:
    """It is taken without waiting for its stop, of which the kernel tells later, and which is no other."""
    code = "import os\nfor _ in range(6): fd = os.open('/dev/null', os.O_RDONLY)\nos._exit(fd)"
    with traced(code) as run, open("/etc/hosts") as file:
        returned: list[int | None] = []
        waiting: list[Call] = []

        def keep(call: Call) -> bool:
            if run.path(call) != b"/dev/null":
                return False
            if len(returned) < 5:
                assert run.tracer.proceed(call, returned.append)
            else:
                waiting.append(call)
            return True

        run.until(lambda: waiting, keep)
        for _ in range(20):
            assert run.tracer.receive() is None
        assert run.tracer.valid(waiting[0])
        if answer == "give":
            assert run.tracer.give(waiting[0], 77)
        else:
            assert run.tracer.inject(waiting[0], file.fileno(), True)
        run.until(lambda: run.pid in run.exited)
        assert run.status() == 77 if answer == "give" else 3 <= run.status() < 77


TWO = """
import ctypes, os, threading
argv = (ctypes.c_char_p * 2)(b"true", None)
threading.Thread(target=ctypes.CDLL(None).execv, args=({path!r}, argv)).start()  # while the other thread goes on, too
os._exit(os.open("/dev/null", os.O_RDONLY))
"""


def both(run: Traced, program: bytes) -> tuple[Call, Call]:
    """The open of the first thread and the exec of the second, both stopped."""
    found: dict[int, Call] = {}

    def keep(call: Call) -> bool:
        if run.path(call) in (b"/dev/null", program) and run.became:
            found[call.nr] = call
            return True
        return False

    run.until(lambda: len(found) == 2, keep)
    return found[NUMBERS["openat"]], found[NUMBERS["execve"]]


@pytest.mark.parametrize("answer", ["proceed", "fail", "inject"])
def test_an_answer_for_the_first_thread_does_not_reach_what_another_has_become(answer: str) -> None:
    """Its id is theirs from one moment to the next, and what goes on by that id would run before it was looked at."""
    with traced(TWO.format(path=b"/bin/true")) as run, open("/etc/hosts") as file:
        opened, execed = both(run, b"/bin/true")
        run.became.clear()
        told: list[int | None] = []
        assert run.tracer.proceed(execed)
        os.waitid(os.P_PID, run.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | linux.WALL)  # at its exec stop
        assert os.path.realpath(f"/proc/{run.pid}/exe") == os.path.realpath("/bin/true")
        {
            "proceed": lambda: run.tracer.proceed(opened, told.append),
            "fail": lambda: run.tracer.fail(opened, EACCES),
            "inject": lambda: run.tracer.inject(opened, file.fileno(), True, told.append),
        }[answer]()
        assert not run.became
        run.until(lambda: run.became)
        assert run.became == [(execed.tid, run.pid)]
        assert not run.tracer.valid(opened)
        run.until(lambda: run.pid in run.exited)
        assert told == ([] if answer == "fail" else [None])


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("answer", ["proceed", "give", "inject"])
def test_it_is_given_when_the_exec_has_failed(answer: str, tells: bool) -> None:
    with traced(TWO.format(path=b"/nowhere/true"), tells=tells) as run, open("/etc/hosts") as file:
        opened, execed = both(run, b"/nowhere/true")
        told: list[int | None] = []
        assert run.tracer.proceed(execed, told.append if tells else None)
        assert {
            "proceed": lambda: run.tracer.proceed(opened),
            "give": lambda: run.tracer.give(opened, 77),
            "inject": lambda: run.tracer.inject(opened, file.fileno(), True),
        }[answer]()
        run.until(lambda: run.pid in run.exited)
        assert told == ([-ENOENT] if tells else [])
        assert run.status() == 77 if answer == "give" else 3 <= run.status() < 77
