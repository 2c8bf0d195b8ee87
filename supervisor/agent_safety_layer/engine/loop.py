"""The run loop: stopped calls in, answers and trace lines out.

    poll ─┬─ listener: receive ─ describe ─ decide ─┬─ refuse ────────────── fail
          │                                         ├─ bounded by the kernel  proceed
          │                                         ├─ otherwise              perform here, give or inject
          │                                         └─ a person decides       park; the answer comes back below
          ├─ wake:     signals (SIGCHLD: exec stops), answers of threads and people
          ├─ pidfds:   a process of the tree has gone
          └─ timers:   flush, limits, questions that ran out of time

What one repeated bounded call costs: poll, RECV, one read of memory, SEND, and an append to the trace's buffer. Its
plan (the trace line and that it is bounded) is found by the bytes of the path in the process's cache. A stale plan is
never unsafe, because bounded calls are confined by the kernel whatever is written down about them; so that the record
stays right, everything that can make a path lead elsewhere renews the ``epoch``, and so does every second.
"""

from __future__ import annotations

import _signal
import _thread
import os
import select
import stat
from _collections import deque
from errno import EACCES, EAGAIN, EBADF, ENOSYS, ENXIO, EPERM, ESRCH
from time import time

from agent_safety_layer.engine.execs import Execs
from agent_safety_layer.engine.files import Files
from agent_safety_layer.engine.network import Network
from agent_safety_layer.engine.operation import Injected, Operation
from agent_safety_layer.engine.signals import Signals
from agent_safety_layer.events import ALLOW, ASK, AUDIT, BLOCK, Decision, Event, strictest
from asl_hooks import memory, ptrace, syscalls
from asl_hooks._abi import linux
from asl_hooks._abi.constants import SECCOMP_RET_ERRNO
from asl_hooks.processes import Process, Processes, read_status
from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent_safety_layer.policy.plan import Bounds, Plan

    from agent_safety_layer.engine.gate import Gate
    from agent_safety_layer.engine.names import Names
    from agent_safety_layer.engine.recorder import Recorder
    from agent_safety_layer.policy import Policy
    from agent_safety_layer.tally import Slot
    from asl_hooks.backend import Backend, Call
    from asl_hooks.bpf import Filter

_EPOCH_S = 1.0
_TURN_S = 0.2  # timers are looked at this often, and the trace is flushed
_MOST_PLANS = 1024  # kept per process
_AT_FDCWD = 0xFFFFFF9C
_KEPT_FLAGS = 0xFFFFFFFF & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC)
_ERRNO = {"file": EACCES, "net": EACCES, "process": EPERM}
_ALLOWED = Decision(ALLOW)
_OUTSIDE = Decision(BLOCK, "tree", "", "signals reach only processes of this run")
_SAFE_TO_SEE = (b"stat", b"status", b"statm", b"cmdline", b"comm", b"uptime", b"cgroup")

# Which describer answers which group of calls (tags of ``asl_hooks.syscalls``).
FILE_TAGS = (
    *("open", "mkdir", "mknod", "unlink", "rename", "link", "symlink", "truncate"),
    *("chmod", "chown", "utime", "xattr", "fd_meta"),
)
NETWORK_TAGS = ("connect", "bind", "listen", "send", "sendmsg")
SIGNAL_TAGS = ("kill", "setown")
OTHER_TAGS = ("exec", "umask", "fork")


@value
class Kernel:
    """What the kernel holds for this run. ``refused`` is the filter as it would be if refusals were not reported."""

    refused: Filter
    scopes_signals: bool = False
    bounds_truncate: bool = False

    def refusal(self, call: Call) -> int:
        """The errno with which the filter refuses *call*, 0 when it does not."""
        verdict = self.refused.verdict(call.nr, call.args)
        return verdict & 0xFFFF if verdict & 0xFFFF0000 == SECCOMP_RET_ERRNO else 0

    def refusals(self) -> frozenset[int]:
        """The numbers of calls that are refused, always or with some arguments."""
        return frozenset(
            number
            for number, rules in self.refused.by_number().items()
            if any(rule.verdict & 0xFFFF0000 == SECCOMP_RET_ERRNO for rule in rules)
        )


@value
class _Planned:
    """How an open was answered: waved through, or opened anew by its canonical path ``reopen``; and its line in the
    trace."""

    epoch: int
    base: bytes
    reopen: bytes
    body: bytes
    slot: Slot


class Exited(Exception):
    """The loop is over: nothing of the tree is left that could make a call."""


class Engine:
    """Answers the calls of one tree until it is gone. Implements ``Context`` for the describers.

    ``warden`` is the pid that every process of the tree descends from.
    """

    def __init__(
        self,
        backend: Backend,
        policy: Policy,
        plan: Plan,
        bounds: tuple[Bounds, Bounds],
        recorder: Recorder,
        gate: Gate,
        names: Names,
        *,
        warden: int,
        verify_exec: bool,
        kernel: Kernel,
        max_processes: int = 0,
    ) -> None:
        self._backend = backend
        self._policy = policy
        self._reads, self._writes = bounds
        self._wave_reads = plan.wave_reads
        self._recorder = recorder
        self._gate = gate
        self._warden = warden
        self._lenient = policy.enforced is not policy  # some layer only observes
        self._verify_exec = verify_exec
        self._max_processes = max_processes
        self._forks_left = max_processes
        from agent_safety_layer.policy import State, advance, decide

        self._decide, self._advance = decide, advance
        self._state = State()
        self._stateful = policy.stateful
        self.processes = Processes()
        self._epoch = 0
        self._watched: dict[int, tuple[int, Event]] = {}  # seized thread: its process and what was judged
        self._ready: deque[Callable[[], None]] = deque()  # what threads leave for the loop to do
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.epoll()
        self._poll.register(backend.fileno(), select.EPOLLIN)
        self._poll.register(self._wake_r, select.EPOLLIN)
        self._kills = policy.on_violation == "kill"
        self._now = 0.0
        self.on_signal: Callable[[int], None] = lambda _: None
        self.on_violation: Callable[[], None] = lambda: None
        self.closing = False
        self._kernel = kernel
        self._refusals = kernel.refusals()
        self._signals = Signals(self, scoped=kernel.scopes_signals, warden=warden)
        self._handlers = self._dispatch(
            (Files(self), FILE_TAGS),
            (Network(self, names), NETWORK_TAGS),
            (Execs(self), ("exec",)),
            (self._signals, SIGNAL_TAGS),
        )

    def _dispatch(self, *describers: tuple[object, tuple[str, ...]]) -> dict[int, tuple[Callable[..., Any], str]]:
        arch = syscalls.native_arch()
        handlers: dict[int, tuple[Callable[..., Any], str]] = {}
        for describer, tags in describers:
            for tag in tags:
                method = getattr(describer, tag)
                for name in syscalls.tagged(tag):
                    number = syscalls.number(name, arch)
                    if number is not None:
                        handlers[number] = (method, name)
        self._open_paths = {
            number: shape
            for name, shape in (("open", (-1, 0, 1)), ("openat", (0, 1, 2)))
            if (number := syscalls.number(name, arch)) is not None
        }
        self._umask_nr = syscalls.number("umask", arch)
        self._fork_nrs = {syscalls.number(name, arch) for name in ("clone", "fork", "vfork")}
        self._arch = arch
        return handlers

    # -- the loop --------------------------------------------------------------------------------------------------

    @property
    def wake_fd(self) -> int:
        """Write a signal's number here (``signal.set_wakeup_fd``) to have it handled; 0 only wakes the loop."""
        return self._wake_w

    def watch(self, fd: int) -> None:
        """Also wake up when *fd* polls readable; ``turn`` returns it."""
        self._poll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """No longer."""
        self._poll.unregister(fd)

    def turn(self, timeout_s: float) -> list[int]:
        """Wait at most *timeout_s* (for ever when negative) and handle what is there, for at most ``_TURN_S`` while
        calls keep coming. Watched descriptors that are ready come back. Raises ``Exited`` once no tracee is left.
        """
        listener = self._backend.fileno()
        poll, serve = self._poll.poll, self._serve
        until = 0.0
        while True:
            ready = poll(timeout_s)
            if len(ready) != 1 or ready[0][0] != listener or ready[0][1] != select.EPOLLIN:
                return self._handle(ready, listener)
            serve()
            if not until:
                until = self._now + _TURN_S
                timeout_s = _TURN_S if timeout_s < 0 else min(timeout_s, _TURN_S)
            elif self._now >= until:
                return []

    def _handle(self, ready: list[tuple[int, int]], listener: int) -> list[int]:
        """Handle a mix of readiness: those who have gone first, so that a call never meets an entry of a dead
        process.
        """
        others: list[int] = []
        calls = 0
        for fd, what in ready:
            if fd == listener:
                calls = what
            elif fd == self._wake_r:
                self._woken()
            else:
                process = self.processes.by_pidfd(fd)
                if process is None:
                    others.append(fd)
                else:
                    self._gone(process)
        if calls & select.EPOLLIN:
            self._serve()
        elif calls & (select.EPOLLHUP | select.EPOLLERR):
            self._poll.unregister(listener)
            raise Exited
        return others

    def tick(self, now: float) -> None:
        """What a second's passing means: paths may lead elsewhere by others' doing, threads may have gone. Flush when
        due.
        """
        if self._recorder.due(now):
            self._recorder.flush()
        if now >= self._next_epoch:
            self._next_epoch = now + _EPOCH_S
            self._epoch += 1
            self.processes.forget_threads()

    _next_epoch = 0.0

    def _woken(self) -> None:
        try:
            numbers = os.read(self._wake_r, 4096)
        except BlockingIOError:
            return
        for number in set(numbers):
            if number == _signal.SIGCHLD:
                self._exec_stops()
            elif number:
                self.on_signal(number)
        while self._ready:
            self._ready.popleft()()

    def later(self, action: Callable[[], None]) -> None:
        """Have the loop call *action*; the one thing here that other threads may call."""
        self._ready.append(action)
        try:
            os.write(self._wake_w, b"\0")
        except BlockingIOError:
            pass  # it is awake

    # -- one call --------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        backend = self._backend
        started = self._now = time()
        call = backend.receive()
        if call is None:
            return
        try:
            process, new = self.processes.find(call.tid)
            if new:
                self._poll.register(process.pidfd, select.EPOLLIN)
        except (OSError, KeyError):
            # It died, or cannot be looked at: what cannot be read is not allowed.
            backend.fail(call, EACCES)
            return
        shape = self._open_paths.get(call.nr)
        if shape is not None and self._serve_planned(call, process, shape, started):
            return
        self._describe(call, process, started)

    def _serve_planned(self, call: Call, process: Process, shape: tuple[int, int, int], started: float) -> bool:
        """Answer an open by the plan of an earlier one of the same path and flags. False when there is none."""
        dir_at, path_at, flags_at = shape
        try:
            path = memory.read_string(process.mem, call.args[path_at])
        except OSError:
            return False
        flags = call.args[flags_at]
        key = (path, flags) if path[:1] == b"/" else (path, flags, call.args[dir_at] if dir_at >= 0 else -100, call.tid)
        plan = process.cache.get(key)
        if plan is None or plan.epoch != self._epoch or (len(key) == 4 and plan.base != _base_of(call, dir_at)):
            process.cache[None] = key
            return False
        if plan.reopen:
            fd = _open_again(plan.reopen, flags)
            if fd < 0:
                return False
            done = self._backend.inject(call, fd, bool(flags & os.O_CLOEXEC))
            os.close(fd)
        else:
            done = self._backend.proceed(call)
        if done:
            self._recorder.repeat(plan.body, plan.slot, started)
        return True

    def _describe(self, call: Call, process: Process, started: float) -> None:
        if call.nr in self._refusals and (errno := self._kernel.refusal(call)):
            self._deny(call, process, errno, started)
            return
        handler = self._handlers.get(call.nr)
        if handler is None:
            self._bookkeeping(call, process, started)
            return
        method, name = handler
        try:
            operation = method(call, process, name)
        except OSError as error:
            self._backend.fail(call, error.errno or EPERM)
            return
        except RecursionError:
            self._backend.fail(call, EACCES)
            return
        self._judge(call, process, operation, started)

    def _bookkeeping(self, call: Call, process: Process, started: float) -> None:
        backend = self._backend
        if call.nr == self._umask_nr:
            process.umask = call.args[0] & 0o777
            backend.proceed(call)
        elif call.nr in self._fork_nrs:
            self._fork(call, process, started)
        else:
            self._deny(call, process, EPERM, started)

    def _deny(self, call: Call, process: Process, errno: int, started: float) -> None:
        """Refuse a call that the filter would have refused, so that it is on record."""
        event = self.event("process.deny", call, process)
        decision = Decision(BLOCK, "filter", "", "no agent needs this system call")
        self._backend.fail(call, errno)
        self._recorder.record(event, decision, BLOCK, _errno_name(errno), started)

    def _fork(self, call: Call, process: Process, started: float) -> None:
        if self.closing:
            self._backend.fail(call, EAGAIN)
            return
        if self._max_processes:
            self._forks_left -= 1
            if self._forks_left <= 0:
                from asl_hooks.warden import descendants

                living = len(descendants(self._warden))
                self._forks_left = (self._max_processes - living + 1) // 2
                if living >= self._max_processes:
                    self._forks_left = 0
                    event = self.event(
                        "limit.hit", call, process, detail=f"processes: {living} of {self._max_processes}"
                    )
                    self._backend.fail(call, EAGAIN)
                    decision = Decision(BLOCK, "limits.processes", "", "the tree has as many processes as it may")
                    self._recorder.record(event, decision, BLOCK, "EAGAIN", started)
                    return
        self._backend.proceed(call)

    def _judge(self, call: Call, process: Process, operation: Operation, started: float) -> None:
        event = operation.event
        if event is None:
            self._apply(call, process, operation, _ALLOWED, ALLOW, started)
            return
        decision = self.decide(event)
        if event.kind == "process.signal" and not self._signals.allows(event.target, process):
            decision = strictest(decision, _OUTSIDE)
        if self._stateful:
            self._state = self._advance(self._policy, self._state, event, decision)
        action = decision.action
        if self._lenient and action in (BLOCK, ASK):
            action = self._decide(self._policy.enforced, self._state, event).action
            if action not in (BLOCK, ASK):
                action = AUDIT
        if action == BLOCK:
            self._refuse(call, operation, decision, started)
        elif action == ASK:
            self._park(call, process, operation, decision, started)
        else:
            self._apply(call, process, operation, decision, action, started)

    def _refuse(self, call: Call, operation: Operation, decision: Decision, started: float, why: str = "") -> None:
        event = operation.event
        assert event is not None
        operation.close()
        errno = _ERRNO.get(event.kind.partition(".")[0], EPERM)
        if event.kind == "process.exec":
            errno = EACCES
        self._backend.fail(call, errno)
        result = "EACCES" if errno == EACCES else "EPERM"
        self._recorder.record(event, decision, BLOCK, result, started, why)
        if self._kills and not self.closing:
            self.later(self.on_violation)

    def _park(self, call: Call, process: Process, operation: Operation, decision: Decision, started: float) -> None:
        """Put the question to a person; the call waits, the loop does not."""
        event = operation.event
        assert event is not None

        def answered(allowed: bool, by: str) -> None:
            if not self._backend.valid(call):
                operation.close()
                return
            if allowed:
                self._apply(call, process, operation, decision, ALLOW, started)
            else:
                self._refuse(call, operation, decision, started, by)

        self._gate.ask(event, decision, answered)

    def _apply(
        self, call: Call, process: Process, operation: Operation, decision: Decision, effective: str, started: float
    ) -> None:
        event = operation.event
        if event is not None and event.kind == "process.exec":
            self._let_exec(call, process, operation, decision, effective, started)
            return
        if operation.bounded:
            operation.close()
            going = self._backend.proceed(call)
            if event is None or (event.kind == "file.meta" and operation.perform is None):
                return
            if operation.mutates:
                self._epoch += 1
            if going:
                body, slot = self._recorder.record(event, decision, effective, "", started)
                self._plan(call, process, b"", body, slot)
            return
        if operation.blocking:
            _thread.start_new_thread(self._perform_aside, (call, process, operation, decision, effective, started))
            return
        self._finish(call, process, operation, decision, effective, started, *_attempt(operation))

    def _plan(self, call: Call, process: Process, reopen: bytes, body: bytes, slot: Slot) -> None:
        """Remember how this open was answered, if the same one again can be answered the same way."""
        key = process.cache.pop(None, None)
        shape = self._open_paths.get(call.nr)
        if key is None or shape is None or self._stateful:
            return
        if b"/proc" in key[0] or b"/dev" in key[0] or key[1] & (os.O_CREAT | os.O_TRUNC):
            return  # names that mean something else to each process; opens that may find a file or make one
        if len(process.cache) > _MOST_PLANS:
            process.cache.clear()
        base = _base_of(call, shape[0]) if len(key) == 4 else b""
        process.cache[key] = _Planned(self._epoch, base, reopen, body, slot)

    def _perform_aside(
        self, call: Call, process: Process, operation: Operation, decision: Decision, effective: str, started: float
    ) -> None:
        result, errno = _attempt(operation)
        self.later(lambda: self._finish(call, process, operation, decision, effective, started, result, errno))

    def _finish(
        self,
        call: Call,
        process: Process,
        operation: Operation,
        decision: Decision,
        effective: str,
        started: float,
        result: int | Injected,
        errno: int,
    ) -> None:
        backend = self._backend
        if errno:
            done = backend.fail(call, errno)
        elif isinstance(result, Injected):
            done = backend.inject(call, result.fd, result.cloexec)
            os.close(result.fd)
        else:
            done = backend.give(call, result)
        operation.close()
        if operation.mutates:
            self._epoch += 1
        if operation.event is not None and done:
            body, slot = self._recorder.record(operation.event, decision, effective, _errno_name(errno), started)
            if operation.reopen and not errno:
                self._plan(call, process, operation.reopen, body, slot)

    # -- exec ------------------------------------------------------------------------------------------------------

    def _let_exec(
        self, call: Call, process: Process, operation: Operation, decision: Decision, effective: str, started: float
    ) -> None:
        event = operation.event
        assert event is not None
        operation.close()
        process.exec_pending = True
        process.cache.clear()
        if self._verify_exec:
            if call.tid not in self._watched:
                try:
                    ptrace.seize(call.tid)
                except OSError as error:
                    self._backend.fail(call, EACCES if error.errno != ESRCH else ESRCH)
                    unverified = Decision(BLOCK, "exec", "", f"it could not be traced to be verified: {error.strerror}")
                    self._recorder.record(event, unverified, BLOCK, "EACCES", started)
                    return
            self._watched[call.tid] = (process.pid, event)
        if self._backend.proceed(call):
            self._recorder.record(event, decision, effective, "", started)

    def _exec_stops(self) -> None:
        for stop in ptrace.stops({tid: pid for tid, (pid, _) in self._watched.items()}):
            pid, judged = self._watched[stop.tid]
            if stop.gone:
                del self._watched[stop.tid]
            elif not stop.exec:
                del self._watched[stop.tid]
                ptrace.detach(stop.stopped, stop.signal)
            else:
                del self._watched[stop.tid]
                self._verify(pid, stop.stopped, judged)

    def _verify(self, pid: int, stopped: int, judged: Event) -> None:
        from agent_safety_layer.engine.execs import real

        started = time()
        known = self.processes.get(pid)
        try:
            actual = real(pid, judged)
            if known is not None:
                known.refresh()
        except OSError as error:
            _kill(pid)
            unread = Decision(BLOCK, "exec", "", f"what really runs could not be read: {error.strerror}")
            self._recorder.record(judged, unread, BLOCK, "SIGKILL", started)
            return
        if actual is not None:
            decision = self.decide(actual)
            if decision.action in (BLOCK, ASK):
                _kill(pid)
                self._recorder.record(actual, decision, BLOCK, "SIGKILL", started)
                return
            self._recorder.record(actual, decision, decision.action, "", started)
        ptrace.detach(stopped)

    def _gone(self, process: Process) -> None:
        self._poll.unregister(process.pidfd)
        now = time()
        event = Event("process.exit", process.pid, process.pid, process.ppid, process.exe, time=now)
        self.processes.remove(process)
        if self._stateful:
            self._state = self._advance(self._policy, self._state, event, _ALLOWED)
        self._recorder.record(event, _ALLOWED, ALLOW, "", now)

    # -- Context ---------------------------------------------------------------------------------------------------

    def event(self, kind: str, call: Call, process: Process, **fields: Any) -> Event:
        """An event of *kind* by the calling process."""
        name = syscalls.name_of(call.nr, call.arch)
        return Event(kind, process.pid, call.tid, process.ppid, process.exe, name, time=self._now, **fields)

    def decide(self, event: Event) -> Decision:
        """The policy's answer in the present state."""
        return self._decide(self._policy, self._state, event)

    def reads_bounded(self, path: str) -> bool:
        """Whether the READ part of the domain has no holes and covers *path*."""
        return self._wave_reads and self._reads.covers(path)

    def writes_bounded(self, path: str) -> bool:
        """Whether the WRITE part of the domain covers *path*."""
        return self._writes.covers(path)

    def may_look_at(self, path: bytes, process: Process) -> bool:
        """Own process and those of the tree, all; others, what ps(1) shows. The supervisor may see more than the
        tracee,
        so what is served from /proc needs this check; what is waved through meets the kernel's own."""
        parts = path.split(b"/", 4)
        if len(parts) < 4 or not parts[2].isdigit() or self._wave_reads:
            return True
        pid = int(parts[2])
        return pid == process.pid or parts[3] in _SAFE_TO_SEE or self._in_tree(pid)

    def _in_tree(self, pid: int) -> bool:
        if self.processes.get(pid) is not None:
            return True
        while pid > 1:
            try:
                pid = int(read_status(pid)[b"PPid"])
            except (OSError, KeyError):
                return False
            if pid == self._warden:
                return True
        return False

    def terminal_of(self, process: Process) -> bytes:
        """The terminal that controls *process*."""
        with open(f"/proc/{process.pid}/stat", "rb") as file:
            device = int(file.read().rpartition(b")")[2].split()[4])
        major, minor = os.major(device), os.minor(device)
        if 136 <= major <= 143:
            return b"/dev/pts/%d" % (minor + (major - 136) * 256)
        if device:
            return b"/dev/tty"
        raise OSError(ENXIO, "no terminal")

    @property
    def bounds_truncate(self) -> bool:
        """Whether the domain knows truncate(2)."""
        return self._kernel.bounds_truncate

    def copy_descriptor(self, call: Call, fd: int) -> int:
        """A copy of the tracee's descriptor *fd*."""
        process = self.processes.get(call.tid)
        if process is None or fd < 0:
            raise OSError(EBADF, "no such descriptor")
        return linux.pidfd_getfd(process.pidfd, fd, 0)

    def close(self) -> None:
        """Let go of everything."""
        self.processes.close()
        self._backend.close()
        self._poll.close()
        os.close(self._wake_r)
        os.close(self._wake_w)


def _base_of(call: Call, dir_at: int) -> bytes:
    """The folder that a relative open starts from, as text."""
    dir_fd = call.args[dir_at] & 0xFFFFFFFF if dir_at >= 0 else _AT_FDCWD
    try:
        if dir_fd == _AT_FDCWD:
            return os.readlink(b"/proc/%d/cwd" % call.tid)
        return os.readlink(b"/proc/%d/fd/%d" % (call.tid, dir_fd))
    except OSError:
        return b""


def _open_again(path: bytes, flags: int) -> int:
    """Open the canonical *path*, through no link, if it still is a plain file or folder; -1 when not.

    O_NONBLOCK, so that a FIFO put in its place cannot stop the loop.
    """
    how = flags & _KEPT_FLAGS | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        fd = linux.openat2(linux.AT_FDCWD, path, how, 0, linux.RESOLVE_NO_SYMLINKS)
    except OSError:
        return -1
    if stat.S_IFMT(os.fstat(fd).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        os.close(fd)
        return -1
    if not flags & os.O_NONBLOCK:
        os.set_blocking(fd, True)
    return fd


def _attempt(operation: Operation) -> tuple[int | Injected, int]:
    """The result of performing an operation, and the errno that stopped it (0 for none)."""
    assert operation.perform is not None
    try:
        return operation.perform(), 0
    except OSError as error:
        return 0, error.errno or EPERM
    except (ValueError, OverflowError):  # an argument that Python's own wrappers refuse, such as a NUL or a huge number
        return 0, 22


def _kill(pid: int) -> None:
    try:
        os.kill(pid, _signal.SIGKILL)
    except ProcessLookupError:
        pass


_errno_names: dict[int, str] = {0: "", ENOSYS: "ENOSYS"}


def _errno_name(errno: int) -> str:
    name = _errno_names.get(errno)
    if name is None:
        from errno import errorcode

        name = _errno_names[errno] = errorcode.get(errno, str(errno))
    return name
