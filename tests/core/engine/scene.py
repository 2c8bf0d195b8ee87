"""Calls as the engine meets them, without a kernel that stops any: this process is the tracee, its own memory holds the
arguments, and a fake backend notes the answers.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import queue
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agent_safety_layer.engine.answers import Answers, Stopped
from agent_safety_layer.engine.describers import Describers
from agent_safety_layer.engine.execs import ExecCheck
from agent_safety_layer.engine.gate import Answer
from agent_safety_layer.engine.kernel import Kernel
from agent_safety_layer.engine.operation import Operation
from agent_safety_layer.engine.plans import Plans
from agent_safety_layer.engine.view import View
from agent_safety_layer.events import Decision, Event
from agent_safety_layer.policy import Bounds, load_text
from agent_safety_layer.tally import Tally
from asl_hooks import syscalls
from asl_hooks.backend import Call
from asl_hooks.processes import Process

ARCH = syscalls.native_arch()
AT_FDCWD = -100


@dataclass
class FakeBackend:
    """Answers are noted; an injected descriptor is kept, as the tracee would get it."""

    name: str = "fake"
    traces: bool = False
    tells: bool = False
    pending: bool = False
    answers: list[tuple[Any, ...]] = field(default_factory=list)
    injected: list[int] = field(default_factory=list)
    alive: bool = True

    def fileno(self) -> int:
        return -1

    def receive(self) -> Call | None:
        return None

    def guard(self) -> None:
        return

    def valid(self, call: Call) -> bool:
        return self.alive

    def _note(self, *answer: Any) -> bool:
        self.answers.append(answer)
        return self.alive

    def follow(self, became: object, exited: object) -> None:
        return

    def child(self) -> None:
        return

    def collect(self) -> None:
        return

    def proceed(self, call: Call, told: object = None) -> bool:
        return self._note("proceed")

    def fail(self, call: Call, errno: int) -> bool:
        return self._note("fail", errno)

    def give(self, call: Call, result: int) -> bool:
        return self._note("give", result)

    def inject(self, call: Call, fd: int, cloexec: bool, told: object = None) -> bool:
        if self.alive:
            self.injected.append(os.dup(fd))
        return self._note("inject", cloexec)

    def close(self) -> None:
        for fd in self.injected:
            os.close(fd)
        self.injected.clear()


@dataclass
class FakeGate:
    """Keeps the questions."""

    asked: list[tuple[Event, Decision, Callable[[Answer], None]]] = field(default_factory=list)

    def ask(self, event: Event, decision: Decision, answered: Callable[[Answer], None]) -> None:
        self.asked.append((event, decision, answered))

    def withdraw(self, pid: int) -> None:
        return

    def close(self) -> None:
        self.asked.clear()


@dataclass
class FakeRecorder:
    """Keeps what is recorded: event, decision, what was done, result."""

    entries: list[tuple[Event, Decision, str, str]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def record(
        self,
        event: Event,
        decision: Decision,
        effective: str,
        result: str,
        started: float,
        answer: Answer | None = None,
    ) -> tuple[bytes, Any]:
        self.entries.append((event, decision, effective, result))
        return event.path.encode(), self.tally.add(event, decision, effective)


class NoEgress:
    """Nobody to ask about names."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"nothing here should reach for the network ({name})")


class Scene:
    """A workspace, a policy about it, and a tracee in it. ``bounded`` is what the kernel is said to bound."""

    def __init__(
        self, workspace: pathlib.Path, policy: str, *, reads: tuple[str, ...] = (), writes: tuple[str, ...] = ()
    ) -> None:
        self.workspace = workspace
        variables = {
            name: str(workspace if name == "WORKSPACE" else workspace.parent / name.lower())
            for name in ("WORKSPACE", "HOME", "TMP", "USER", "STATE")
        }
        self.policy = load_text(policy, variables=variables)
        kernel = Kernel(frozenset(), scopes_signals=True, bounds_truncate=True)
        self.view = View(
            self.policy, Bounds(reads), Bounds(writes), wave_reads=bool(reads), domain=False, kernel=kernel, warden=0
        )
        self.process: Process = self.view.processes.find(os.getpid())[0]
        self.backend, self.gate, self.recorder, self.plans = FakeBackend(), FakeGate(), FakeRecorder(), Plans()
        self._later: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        execs = ExecCheck(self.backend, self.view, self.recorder, verify=False)  # type: ignore[arg-type]
        self.answers = Answers(
            self.backend,
            self.view,
            self.recorder,  # type: ignore[arg-type]
            self.plans,
            execs,
            self.gate,
            self._later.put,
        )
        self._describers = Describers(self.view, NoEgress())  # type: ignore[arg-type]
        self._kept: list[Any] = []
        self._calls = 0

    def close(self) -> None:
        """Let go of everything."""
        self.backend.close()
        self.view.processes.close()

    # -- making calls ----------------------------------------------------------------------------------------------

    def address(self, content: bytes) -> int:
        """Where *content* and a NUL lie in the tracee's memory."""
        buffer = ctypes.create_string_buffer(content)
        self._kept.append(buffer)
        return ctypes.addressof(buffer)

    def argv(self, *words: bytes) -> int:
        """Where an argv of *words* lies."""
        array = (ctypes.c_uint64 * (len(words) + 1))(*(self.address(word) for word in words), 0)
        self._kept.append(array)
        return ctypes.addressof(array)

    def call(self, name: str, *args: int | bytes | str) -> Call:
        """A stopped call; bytes and text are put into memory, negative numbers become registers."""
        self._calls += 1
        registers = []
        for arg in args:
            registers.append(arg & (2**64 - 1) if isinstance(arg, int) else self.address(os.fsencode(arg)))
        registers += [0] * (6 - len(registers))
        number = syscalls.number(name, ARCH)
        assert number is not None, f"no {name} here"
        a, b, c, d, e, f = registers
        return Call(self._calls, os.getpid(), ARCH, number, (a, b, c, d, e, f))

    def describe(self, name: str, *args: int | bytes | str) -> Operation:
        """The operation that a call is described as. ``OSError`` when it fails before there is any."""
        call = self.call(name, *args)
        describe = self._describers.find(call.nr)
        assert describe is not None
        return describe(call, self.process)

    def event(self, name: str, *args: int | bytes | str) -> Event:
        """The event of a call; its operation is let go of."""
        operation = self.describe(name, *args)
        operation.close()
        assert operation.event is not None
        return operation.event

    def make(self, name: str, *args: int | bytes | str) -> tuple[Any, ...]:
        """The answer that a call gets: ("fail", errno), ("inject", cloexec), ("give", n), ("proceed",), or () when it
        waits.
        """
        call = self.call(name, *args)
        describe = self._describers.find(call.nr)
        assert describe is not None
        before = len(self.backend.answers)
        try:
            operation = describe(call, self.process)
        except OSError as error:
            return ("fail", error.errno)
        self.answers.judge(Stopped(call, self.process, 0.0), operation)
        return self.backend.answers[before] if len(self.backend.answers) > before else ()

    def settle(self) -> tuple[Any, ...]:
        """The next answer from a thread that waited for others, or from whoever asked for a turn of the loop."""
        before = len(self.backend.answers)
        self._later.get(timeout=30)()
        return self.backend.answers[before] if len(self.backend.answers) > before else ()

    def opened(self) -> str:
        """The path of the descriptor that was injected last, relative to the workspace if it is below."""
        path = os.readlink(f"/proc/self/fd/{self.backend.injected[-1]}")
        return os.path.relpath(path, self.workspace) if path.startswith(str(self.workspace)) else path


def descriptors() -> int:
    """How many descriptors this process has open: nothing described may leak one."""
    return len(os.listdir("/proc/self/fd"))


def mode(path: str | pathlib.Path) -> int:
    """Permission bits."""
    return stat.S_IMODE(os.stat(path).st_mode)
