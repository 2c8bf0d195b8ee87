"""The ptrace backend: calls stop for the tracer (SECCOMP_RET_TRACE), and are answered with the task's registers.

    supervisor                                  task
        │                                         │ a call that the filter asks about: stops
        │ ◄──────────── SIGCHLD, by signalfd ─────│
        │ waitpid, GET_SYSCALL_INFO               │
        │ proceed: CONT ────────────────────────► │ the kernel runs the call as it stands
        │ fail, give: number -1, the result, CONT │ returns without running it
        │ inject: see ``handover``                │

Everything that the tree starts is traced from birth (FORK, VFORK, CLONE; the filter refuses CLONE_UNTRACED), and killed
with the supervisor (EXITKILL); until then a call that would stop fails with ENOSYS. All requests come from the thread
that attached, which is the loop's.

Why this is no weaker than a listener: the number and the arguments in registers are those of the stopped task, which
nobody else can change. What they point to can change at any time, so the same rule holds: only what the kernel itself
bounds goes on as it stands, everything else is done by the supervisor with what it has copied. A call that was turned
into another one is judged by the filter once more (seccomp_unotify(2), SECCOMP_RET_TRACE). An id is not used again
before its task has been waited for, which only the tracer can do.

When a thread that is not the first of its process execs, the first one's id names what the process has become from one
moment to the next. Until it is known how that went, nothing is asked of the first one: what it is owed is kept.

Stops that are no calls: signals are handed on; a stop of the whole process by a signal is left as it is (LISTEN) until
SIGCONT; after an exec the task has the process's id, and what it became is looked at before it runs; new tasks go on.

A listener above this run answers the calls that it listens for before a tracer is asked (USER_NOTIF outranks TRACE).
There, ``every`` call is stopped on its way in, which comes before any filter, and looked up in ours.
"""

from __future__ import annotations

import _signal
import ctypes
import os
import struct
import sys
from _collections import deque
from errno import EIO

from asl_hooks import bpf, handover, syscalls
from asl_hooks._abi import linux
from asl_hooks.backend import Call
from asl_hooks.processes import read_status
from asl_hooks.registers import Registers, restart, skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from asl_hooks.handover import Calls, Channel

_BIRTHS = (linux.PTRACE_EVENT_FORK, linux.PTRACE_EVENT_VFORK, linux.PTRACE_EVENT_CLONE)
_ASKED = linux.PTRACE_EVENT_SECCOMP << 16 | _signal.SIGTRAP << 8 | 0x7F  # as wait(2) tells it
_IN_CALL = (_signal.SIGTRAP | 0x80) << 8 | 0x7F  # on its way in or out
_ERESTARTSYS = 512  # and above: codes that no program sees
_AT_ONCE = 64  # stops taken before timers get a turn
_IN_A_ROW, _IN_A_ROW_OF_MANY, _MANY = 32, 4, 32  # stops of one task, while others wait
_TRIES = 3
_INFO_BYTES = 88  # of ptrace_syscall_info: op arch ip sp; nr args, or rval
_INFO = struct.Struct("=B3xI16x7Q")  # op arch; nr args
_result = struct.Struct("=q").unpack_from
_WORD = struct.Struct("=Q")
_ALL_SIGNALS = b"\xff" * 8
_ALL = (1 << 64) - 1
_TURN = -1, ()  # no call: the errand waits for its turn
_EXECED = linux.PTRACE_EVENT_EXEC << 16 | _signal.SIGTRAP << 8 | 0x7F
_EXECS = frozenset(syscalls.numbers(syscalls.native_arch())[name] for name in ("execve", "execveat"))
_TRACEES = linux.WCLONE | os.WNOHANG  # they are waited for, children of ours are not
_THIS = linux.WALL | os.WNOHANG
_new: Callable[..., Call] = tuple.__new__
_ptrace, _NULL, _SIZE = linux.ptrace_fast, linux.NULL, ctypes.c_void_p(_INFO_BYTES)
_DESCRIBE, _SYSCALL = linux.PTRACE_GET_SYSCALL_INFO, linux.PTRACE_SYSCALL
_EXIT, _SECCOMP = linux.PTRACE_SYSCALL_INFO_EXIT, linux.PTRACE_SYSCALL_INFO_SECCOMP
_OURS = bpf.ASKED.to_bytes(4, sys.byteorder)
_yield, _waitpid = os.sched_yield, os.waitpid


class _Errand:
    """Calls that a stopped task makes for us, between its own and the next instruction of its program."""

    __slots__ = ("calls", "entering", "held", "mask", "registers", "stop_again")

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.registers: Registers | None = None  # as they were when it stopped; None before the first call
        self.entering: tuple[int, ...] | None = None  # the call on whose way in it will stop next
        self.mask = b""  # of signals, as it was
        self.held = False  # a SIGSTOP came meanwhile
        self.stop_again = False  # the process was stopped meanwhile


class _Kept:
    """Something to do for a task, once that may be done: ``act`` is called with ``fd``, a descriptor of ours."""

    __slots__ = ("act", "fd", "told")

    def __init__(self, act: Callable[[int], object], fd: int = -1, told: Callable[[None], None] | None = None) -> None:
        self.act = act
        self.fd = fd
        self.told = told

    def do(self) -> None:
        try:
            self.act(self.fd)
        finally:
            self._close()

    def drop(self) -> None:
        """It never comes to that."""
        self._close()
        if self.told is not None:
            self.told(None)

    def _close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class _Task:
    """A traced thread. ``call`` is the id of the call that it is stopped in, 0 when none waits for an answer.

    ``execs`` counts the other threads of its process that may take its id by an exec; while there are any, ``held`` is
    what ``call`` was, and ``kept`` what it is owed: an answer, or a look at its stop.
    """

    __slots__ = (
        *("call", "errand", "execs", "first", "heir", "held", "kept", "number", "pid", "restart", "tid"),
        "told",
    )

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self.pid = 0  # of its process, once that was asked for
        self.call = 0
        self.number = 0
        self.first: _Task | None = None  # whose id it may take
        self.execs = 0
        self.held = 0
        self.kept: list[_Kept] = []
        self.errand: _Errand | None = None
        self.heir: Channel | None = None  # what it has from the process that forked it
        self.restart = 0
        self.told: Callable[[int | None], None] | None = None


class Tracer:
    """A ``Backend`` on ptrace(2), for the tree that begins with *pid*, which ``launch`` has seized.

    ``tells``: it is told what the calls that went on returned. ``asks`` tells of a call whether the filter asks about
    it, where ``every`` one stops (see above); else None.
    """

    name = "ptrace"
    traces = True

    def __init__(self, pid: int, *, tells: bool, asks: Callable[[int, tuple[int, ...]], bool] | None = None) -> None:
        self.tells = tells
        self.pending = True  # a signal may have stopped it already, of which nobody was told before SIGCHLD was blocked
        self._became: Callable[[int, int], bool] = lambda *_: False
        self._exited: Callable[[int], None] = lambda _: None
        self._asks = asks
        self._resuming = linux.PTRACE_SYSCALL if asks is not None else linux.PTRACE_CONT
        self._tasks = {pid: _Task(pid)}
        self._channels: dict[int, Channel] = {}
        self._calls: deque[Call] = deque()
        self._count = 0
        self._latest = pid  # of the tasks that have gone on
        self._in_a_row = 0
        self._info = bytearray(_INFO_BYTES)
        at, self._info_kept = _address(self._info)
        self._info_at = ctypes.c_void_p(at)
        # From the beginning: every thread that is started later blocks it, too, and leaves it to the descriptor.
        self._mask: set[int] = _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGCHLD,))
        self._wake = linux.signalfd4(-1, _WORD.pack(1 << (_signal.SIGCHLD - 1)), 8, os.O_CLOEXEC | os.O_NONBLOCK)
        if asks is not None:  # it waits for the word to go; from then on each call stops, its first exec for a start
            linux.ptrace(linux.PTRACE_INTERRUPT, pid, None, None)

    def fileno(self) -> int:
        """Polls readable when a task may have stopped; ``pending`` tells what that does not."""
        return self._wake

    def guard(self) -> None:
        """Nothing to do: ``receive`` waits for nothing."""

    def follow(self, became: Callable[[int, int], bool], exited: Callable[[int], None]) -> None:
        """Ask *became* whether what a process has become may run; tell *exited* of each task that has."""
        self._became, self._exited = became, exited

    def child(self) -> None:
        """A SIGCHLD went another way, to a thread that does not block it: look for what has stopped."""
        self.pending = True

    # -- stops ---------------------------------------------------------------------------------------------------------

    def receive(self) -> Call | None:
        """The next stopped call; None when there is none. Waits for nothing.

        After one stop another comes soon, mostly of the same task. That is looked at alone, which costs the same with a
        thousand tasks, and on one CPU it has stopped again as soon as it has had its turn, which costs half of what
        sleeping until it wakes us does. After some such stops in a row it is the turn of the next one.
        """
        if self.pending and (call := self._soon()) is not None:
            return call
        if not self._calls:
            try:
                os.read(self._wake, 1024)
            except BlockingIOError:
                pass
            self.pending = self._look()
            if not self._calls:
                return None
        self._in_a_row = 0
        next_one: Call = self._calls.popleft()
        return next_one

    def _soon(self) -> Call | None:
        """The next call of the task that went on last, unless that does not come at once or others have their turn."""
        tid = self._latest
        task = self._tasks.get(tid)
        if task is None or task.execs:
            return None
        info, at = self._info, self._info_at
        most = _IN_A_ROW if len(self._calls) < _MANY else _IN_A_ROW_OF_MANY
        returned = False
        while self._in_a_row < most and tid == self._latest:
            self._in_a_row += 1
            told = task.told
            if returned or (told is not None and task.errand is None):
                # Asked at once, as only a task that has stopped can answer, and left before anybody waits for it, so
                # that most of these stops are never told. At a signal its sender could make it look like a call
                # (rt_sigqueueinfo(2)). None comes between a call and its return, and after that the message tells.
                if _ptrace(_DESCRIBE, tid, _SIZE, at) < 0:
                    if self._calls:
                        return None
                    _yield()
                    if _ptrace(_DESCRIBE, tid, _SIZE, at) < 0:
                        return None
                if told is not None and info[0] == _EXIT:
                    if task.first is None:
                        task.told = None
                        _ptrace(self._resuming, tid, _NULL, _NULL)
                        told(_result(info, 24)[0])
                    else:
                        self._leave(task, _result(info, 24)[0])
                    returned = True
                    continue
                if returned and info[0] == _SECCOMP and info[80:84] == _OURS and self._asks is None:
                    said = _INFO.unpack_from(info)
                    self._count = id_ = task.call = self._count + 1
                    task.number = number = said[2] & 0xFFFFFFFF
                    return _new(Call, (id_, tid, said[1], number, said[3:]))
            returned = False
            try:
                found, status = _waitpid(tid, _THIS)
                if not found and not self._calls:
                    _yield()
                    found, status = _waitpid(tid, _THIS)
            except ChildProcessError:
                return None
            if not found:
                return None
            self._stopped(tid, status)
            if self._calls and self._calls[-1].tid == tid:
                call: Call = self._calls.pop()
                return call
        return None

    def _look(self) -> bool:
        """Take what has stopped. Whether something had: then more may follow soon."""
        self._in_a_row = 0
        tasks = self._tasks
        for taken in range(max(_AT_ONCE, len(tasks))):
            try:
                tid, status = _waitpid(-1, _TRACEES)
            except ChildProcessError:
                return False
            if not tid:
                return taken > 0
            alone = len(tasks) == 1
            self._stopped(tid, status)
            if alone and len(tasks) == 1:
                break  # nobody else who could have stopped; if it goes on, it says so
        return True

    def collect(self) -> None:
        """Take what has become of the tasks and let none of them go on: they are being killed."""
        while True:
            try:
                tid, status = os.waitpid(-1, linux.WCLONE | os.WNOHANG)
            except ChildProcessError:
                return
            if not tid:
                return
            if status & 0xFF != 0x7F:
                self._gone(tid)

    def _stopped(self, tid: int, status: int) -> None:
        if status & 0xFF != 0x7F:
            self._gone(tid)
            return
        task = self._tasks.get(tid)
        if task is None:
            task = self._tasks[tid] = _Task(tid)
        errand = task.errand
        waits = errand is not None and errand.registers is None
        if status == _ASKED and (task.call or task.held or waits):
            return  # it has been taken, before this was told, and has not gone on since
        if task.execs and status != _EXECED:
            task.kept.append(_Kept(lambda _: self._stopped(tid, status)))
            return
        try:
            if status == _ASKED and self._asks is None and errand is None:
                self._take(task, self._describe(tid))
            elif status == _IN_CALL:
                self._in_call(task)
            else:
                self._handle(task, status >> 8 & 0xFF, status >> 16)
        except ProcessLookupError:
            pass  # killed while it was looked at: its end is told next

    def _handle(self, task: _Task, signal: int, event: int) -> None:
        if event == linux.PTRACE_EVENT_SECCOMP:
            self._resume(task)  # it was judged on its way in, or is ours
        elif event == linux.PTRACE_EVENT_EXEC:
            self._executed(task)
        elif event in _BIRTHS:
            self._born(task)
        elif event == linux.PTRACE_EVENT_STOP and signal != _signal.SIGTRAP:
            if task.errand is None:
                linux.ptrace(linux.PTRACE_LISTEN, task.tid, None, None)
            else:
                task.errand.stop_again = True
                self._resume(task)
        elif event:
            self._resume(task)
        elif task.errand is None:
            self._resume(task, signal)
        elif signal == _signal.SIGSTOP:
            task.errand.held = True
            self._resume(task)
        else:
            self._kill(task)  # all others are blocked: this one is from code that is not the call we sent it to

    def _describe(self, tid: int) -> tuple[int, ...]:
        if _ptrace(_DESCRIBE, tid, _SIZE, self._info_at) < 0:
            linux.ptrace(_DESCRIBE, tid, _INFO_BYTES, self._info_at)
        return _INFO.unpack_from(self._info)

    def _take(self, task: _Task, info: tuple[int, ...]) -> None:
        self._count = task.call = self._count + 1
        task.number = info[2] & 0xFFFFFFFF
        self._calls.append(_new(Call, (self._count, task.tid, info[1], task.number, info[3:])))

    def _in_call(self, task: _Task) -> None:
        errand = task.errand
        expected = errand.entering if errand is not None else None
        if errand is not None and expected is None:
            self._go_on(task, Registers(task.tid).result)
            return
        info = self._describe(task.tid)
        if errand is not None and expected is not None:
            if info[0] != linux.PTRACE_SYSCALL_INFO_ENTRY or info[2 : 2 + len(expected)] != expected:
                self._kill(task)
                return
            errand.entering = None
            self._resume(task)
        elif info[0] == linux.PTRACE_SYSCALL_INFO_ENTRY:
            if self._asks is not None and self._asks(info[2] & 0xFFFFFFFF, info[3:]):
                self._take(task, info)
            else:
                self._resume(task)
        else:
            self._leave(task, info[2] - (1 << 64) if info[2] >> 63 else info[2])

    def _leave(self, task: _Task, result: int) -> None:
        """The task, on its way out of a call that returns *result*, goes on, if it was not killed meanwhile."""
        told, task.told = task.told, None
        self._latest = task.tid
        if task.first is not None:
            self._decided(task)
        if task.restart:
            code, task.restart = task.restart, 0
            restart(task.tid, task.number, code)
        _ptrace(self._resuming, task.tid, _NULL, _NULL)
        if told is not None:
            told(result)

    def _resume(self, task: _Task, signal: int = 0) -> None:
        request = _SYSCALL if task.told or task.restart or task.errand or task.first else self._resuming
        self._latest = task.tid
        if signal or _ptrace(request, task.tid, _NULL, _NULL) < 0:
            linux.ptrace(request, task.tid, None, signal)

    def _block(self, tid: int) -> bytes:
        """Block all signals of a stopped task; the mask that it had."""
        mask = bytearray(8)
        linux.ptrace(linux.PTRACE_GETSIGMASK, tid, 8, _address(mask)[0])
        linux.ptrace(linux.PTRACE_SETSIGMASK, tid, 8, _ALL_SIGNALS)
        return bytes(mask)

    def _kill(self, task: _Task) -> None:
        try:
            os.kill(task.pid or task.tid, _signal.SIGKILL)
        except ProcessLookupError:
            pass

    def _born(self, task: _Task) -> None:
        tid = self._message(task.tid)
        child = self._tasks.get(tid)
        if child is None:
            child = self._tasks[tid] = _Task(tid)
        child.heir = self._channels.get(task.pid)
        self._resume(task)

    def _message(self, tid: int) -> int:
        buffer = bytearray(8)
        linux.ptrace(linux.PTRACE_GETEVENTMSG, tid, None, _address(buffer)[0])
        return int(_WORD.unpack(buffer)[0])

    def _executed(self, task: _Task) -> None:
        pid, former = task.tid, self._message(task.tid)
        if former != pid:  # its process's id is its own now, and the task that had it has gone
            self._forget(task)
            task = self._tasks[pid] = self._tasks.pop(former, task)
            task.tid, task.first = pid, None
        self._leave_channel(pid)
        task.heir = None
        told, task.told = task.told, None
        if told is not None:
            told(0)
        if not self._became(former, pid):
            self._kill(task)
        self._resume(task)

    def _gone(self, tid: int) -> None:
        task = self._tasks.pop(tid, None)
        if task is not None:
            self._forget(task)
        if tid == self._latest:
            self._latest = 0
        self._leave_channel(tid)
        self._exited(tid)

    def _forget(self, task: _Task) -> None:
        task.call = task.held = 0
        owed, task.kept = task.kept, []
        for kept in owed:
            kept.drop()
        if task.first is not None:
            self._decided(task)
        errand, task.errand = task.errand, None
        if errand is not None:
            errand.calls.close()
        told, task.told = task.told, None
        if told is not None:
            told(None)

    def _contend(self, task: _Task) -> None:
        """The task goes on into an exec: leave the first of its process alone, if that is another, until it is decided.

        Raises ``OSError`` if it was killed.
        """
        if not task.pid:
            task.pid = _process_of(task.tid)
        first = self._tasks.get(task.pid)
        if first is not None and first is not task:
            task.first = first
            if not first.execs:
                first.held, first.call = first.call, 0
            first.execs += 1

    def _decided(self, task: _Task) -> None:
        """Its exec has failed, or it was killed: the first of its process is what it was."""
        first, task.first = task.first, None
        assert first is not None
        first.execs -= 1
        if first.execs or self._tasks.get(first.tid) is not first:
            return
        first.call, first.held = first.held, 0
        owed, first.kept = first.kept, []
        for kept in owed:
            kept.do()

    def _keep(
        self,
        call: Call,
        answer: Callable[[int], object],
        told: Callable[[int | None], None] | None = None,
        fd: int = -1,
    ) -> bool:
        """Keep an answer, which is given a copy of *fd*, for a call that waits for it, but cannot be answered now.

        False when there is no such call.
        """
        task = self._tasks.get(call.tid)
        if task is None or task.held != call.id:
            return False
        task.kept.append(_Kept(answer, os.dup(fd) if fd >= 0 else -1, told))
        return True

    # -- answers -------------------------------------------------------------------------------------------------------

    def _claim(self, call: Call) -> _Task | None:
        task = self._tasks.get(call.tid)
        if task is None or task.call != call.id:
            return None
        task.call = 0
        return task

    def valid(self, call: Call) -> bool:
        """Whether the call still waits for its answer."""
        task = self._tasks.get(call.tid)
        return task is not None and call.id in (task.call, task.held)

    def proceed(self, call: Call, told: Callable[[int | None], None] | None = None) -> bool:
        """Let the kernel run the call as it stands: only ever for what the kernel itself bounds."""
        task = self._tasks.get(call.tid)
        if task is None or task.call != call.id:
            return self._keep(call, lambda _: self.proceed(call, told), told)
        task.call = 0
        try:
            if task.number in _EXECS:
                self._contend(task)
            task.told = told
            self._latest = task.tid
            request = _SYSCALL if told is not None or task.first is not None else self._resuming
            if _ptrace(request, task.tid, _NULL, _NULL) < 0:
                self._resume(task)
        except (ProcessLookupError, FileNotFoundError):  # it was killed
            task.told = None
            return False
        return True

    def fail(self, call: Call, errno: int) -> bool:
        """The call returns ``-errno``."""
        return self.give(call, -errno)

    def give(self, call: Call, result: int) -> bool:
        """The call returns *result*."""
        task = self._claim(call)
        if task is None:
            return self._keep(call, lambda _: self.give(call, result))
        try:
            skip(task.tid, result)
            if result <= -_ERESTARTSYS and result > -4096:
                task.restart = result
            self._resume(task)
        except ProcessLookupError:
            return False
        return True

    def inject(self, call: Call, fd: int, cloexec: bool, told: Callable[[int | None], None] | None = None) -> bool:
        """Have the task receive a copy of *fd*, lowest free number, and make the call return that number."""
        task = self._tasks.get(call.tid)
        try:
            if task is not None and not task.pid:
                task.pid = _process_of(task.tid)
        except OSError:
            return False  # it was killed
        task = self._claim(call)
        if task is None:
            return self._keep(call, lambda copy: self.inject(call, copy, cloexec, told), told, fd)
        task.errand = _Errand(self._hand_over(task, os.dup(fd), cloexec))
        task.told = told
        try:
            self._go_on(task, None)
        except ProcessLookupError:
            return False
        return True

    # -- errands -------------------------------------------------------------------------------------------------------

    def _go_on(self, task: _Task, result: int | None) -> None:
        """Give an errand the result of its call (None: it begins, or its turn has come) and have the next one made."""
        errand = task.errand
        assert errand is not None
        try:
            call = errand.calls.send(result)  # type: ignore[arg-type]  # None to begin
        except StopIteration as stop:
            self._done(task, errand, stop.value)
            return
        if call is _TURN:
            return
        number, args = call
        if errand.registers is None:
            errand.registers = Registers(task.tid)
            errand.registers.substitute(number, args)
        else:
            if not errand.mask:
                errand.mask = self._block(task.tid)
            errand.entering = (number, *(arg & _ALL for arg in args))
            errand.registers.again(number, args)
        self._resume(task)

    def _done(self, task: _Task, errand: _Errand, result: int) -> None:
        task.errand = None
        told, task.told = task.told, None
        if errand.registers is None:
            skip(task.tid, result)
        else:
            errand.registers.leave(result)
        if errand.mask:
            linux.ptrace(linux.PTRACE_SETSIGMASK, task.tid, 8, errand.mask)
        if errand.held:
            linux.tgkill(task.pid, task.tid, _signal.SIGSTOP)
        if errand.stop_again:
            linux.ptrace(linux.PTRACE_INTERRUPT, task.tid, None, None)
        self._resume(task)
        if told is not None:
            told(result)

    def _hand_over(self, task: _Task, fd: int, cloexec: bool) -> Calls:
        """The calls that hand *fd*, which is closed, to the task."""
        result = -EIO
        try:
            for _ in range(_TRIES):
                channel = self._channel(task)
                while channel.busy or channel.broken:
                    if channel.busy:
                        channel.waiting.append((task, task.errand))
                        yield _TURN
                    else:
                        self._drop(task.pid, channel)
                    channel = self._channel(task)
                channel.busy = True
                try:
                    result = yield from channel.hand_over(task.pid, fd, cloexec)
                    if not channel.broken:
                        if result >= 0 and handover.lists_descriptors(fd):
                            yield from channel.withdraw()
                            self._drop(task.pid, channel)
                        return result
                except OSError as error:
                    result = -(error.errno or EIO)
                finally:
                    channel.busy = False
                    if channel.broken:
                        self._drop(task.pid, channel)
                    self._next(channel)
            return result
        finally:
            os.close(fd)

    def _channel(self, task: _Task) -> Channel:
        channel = self._channels.get(task.pid)
        if channel is None:
            channel, task.heir = task.heir, None
            if channel is None or task.pid != task.tid or (channel.broken and not channel.busy):
                channel = handover.Channel()
            channel.join(task.pid)
            self._channels[task.pid] = channel
        return channel

    def _drop(self, pid: int, channel: Channel) -> None:
        if self._channels.get(pid) is channel:
            self._leave_channel(pid)

    def _leave_channel(self, pid: int) -> None:
        channel = self._channels.pop(pid, None)
        if channel is not None:
            channel.leave(pid)

    def _next(self, channel: Channel) -> None:
        """Let those who still wait for the channel have their turn, until one takes it."""
        while channel.waiting and not channel.busy:
            task, errand = channel.waiting.pop(0)
            found = self._tasks.get(task.tid)
            if found is not None and found is task and found.errand is errand:
                self._take_turn(found)

    def _take_turn(self, task: _Task) -> None:
        if task.execs:
            task.kept.append(_Kept(lambda _: self._take_turn(task)))
            return
        try:
            self._go_on(task, None)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        """Take no more calls. Whatever of the tree is left dies with this process."""
        for pid in tuple(self._channels):
            self._leave_channel(pid)
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self._mask)


def _process_of(tid: int) -> int:
    """The process that task *tid* belongs to; ``OSError`` when it has gone."""
    return int(read_status(tid)[b"Tgid"])


def listener_above() -> bool:
    """Whether a seccomp listener stands above this process: then calls that it listens for never reach a tracer.

    Found out by trying to have one too, in a forked child, as there is one at most. Whatever else keeps us from having
    one, a filter that says so for example, is no proof that there is none.
    """
    from asl_hooks import bpf, syscalls
    from asl_hooks.errors import BackendError

    if read_status(os.getpid()).get(b"Seccomp") == b"0":
        return False
    child = os.fork()
    if not child:
        errno = 0
        try:
            linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            nothing = bpf.assemble(bpf.Filter(syscalls.native_arch(), ()))
            bpf.install(nothing, linux.SECCOMP_FILTER_FLAG_NEW_LISTENER)
        except BackendError as error:
            errno = error.errno
        finally:
            os._exit(errno)
    return os.waitpid(child, 0)[1] != 0


def _address(buffer: bytearray) -> tuple[int, object]:
    """Where the buffer lies, for as long as the second object does."""
    array = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    return ctypes.addressof(array), array
