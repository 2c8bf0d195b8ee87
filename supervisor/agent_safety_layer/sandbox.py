"""Calls in a forked child that the kernel confines: what ``sandbox=True`` does.

    program ── fork ──► supervisor of the call ── warden ── child: runs the function, confined
       ▲  report, events ◄──┘                                 │
       └────────── result or exception, as plain data ◄───────┘

The child is a copy of this process: it has its memory, and nothing that it does there changes ours; shared memory is
copied, too, up to 64 MiB, and is not there beyond that. Of descriptors it has 0, 1 and 2; the numbers of all others are
taken, and using them fails with EBADF. What it sends back is data (see ``plaindata``): it may have been taken over by
what it worked on. It ends, with all that it started, when the function returns, when a limit is reached, and when this
process dies.
"""

from __future__ import annotations

import _signal
import asyncio
import gc
import io
import linecache
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any, NoReturn

from agent_safety_layer import forker, plaindata, spans
from agent_safety_layer.approvals.linked import PROGRAM, Answering
from agent_safety_layer.boundaries import BoundaryViolation
from agent_safety_layer.compiled import Sandbox, policy_of
from agent_safety_layer.errors import AslError, UnsupportedError
from agent_safety_layer.hosted import Hosted, run
from agent_safety_layer.limits import TIMES_OUT
from agent_safety_layer.link import Link, Message, rebuilt_error
from agent_safety_layer.outcome import Denied, Report
from agent_safety_layer.policies import PolicyAction, PolicyResult
from agent_safety_layer.policy import Policy as FilePolicies
from agent_safety_layer.policy.remembered import Plans
from agent_safety_layer.session import Session, Settings
from agent_safety_layer.state import new_run_id
from agent_safety_layer.violations import Crossed
from asl_hooks.mappings import privatise
from asl_hooks.stdio import out_of_places

if TYPE_CHECKING:
    from agent_safety_layer.layer import SafetyLayer

_LENGTH = struct.Struct("=Q")
_CHUNK = 1 << 16
_SHARED_BYTES = 64 << 20  # of memory shared with others that the child gets a copy of
_RETURNED, _RAISED, _REFUSED = "r", "x", "f"  # refused: it raised, and that can be because of a refusal
_LIMITS = ("memory", "output", "written", "operations")
_inside: SafetyLayer | None = None  # whose sandbox this process is
_holds: Sandbox = (True, None)  # what was asked for there, beside the layer's own


class SandboxDied(AslError):
    """The child of a sandboxed call ended without a result: by a signal, by ``os._exit``. ``report`` tells how."""

    def __init__(self, name: str, report: Report) -> None:
        how = f"signal {report.signal}" if report.signal else f"exit status {report.exit_code}"
        super().__init__(f"The sandboxed call of {name} ended with {how} and no result.")
        self.report = report


class Call:
    """One sandboxed call of *func*, named *name*, in the span of its operation.

    *sandbox* is a further policy and limits, ``expected`` what the function says it returns, None for plain data.
    ``report`` is there once it is over.
    """

    def __init__(
        self,
        layer: SafetyLayer,
        name: str,
        func: Callable[[], Any],
        sandbox: Sandbox,
        span: str,
        expected: Any = None,
    ) -> None:
        self.report: Report | None = None
        self._layer = layer
        self._name = name
        self._func = func
        self._sandbox = sandbox
        self._span = span
        self._expected = expected
        self._link: Link | None = None
        self._killed = False

    def run(self) -> Any:
        """What the function returns, or raises.

        Raises ``Crossed`` when the policy stopped it: a limit was reached, or it failed after something was refused.
        ``SandboxDied`` when it ended without a word; ``AslError`` when the policy cannot be enforced here.
        """
        if _inside is not None:
            asks_no_more = self._sandbox == _holds or (isinstance(self._sandbox[0], bool) and not self._sandbox[1])
            if _inside is self._layer and asks_no_more:  # it holds already
                return _awaited(self._func())
            wanted = "a sandboxed call needs a process that nobody supervises yet"
            other = "under another layer" if _inside is not self._layer else "without this call's policy and limits"
            raise UnsupportedError(wanted, f"this one is sandboxed {other}", "Call it outside.")
        if spans.supervised():
            wanted = "a sandboxed call needs a process that nobody supervises yet"
            raise UnsupportedError(wanted, "this one runs under asl-supervise", "Leave sandbox out: its policy holds.")
        policy = policy_of(self._layer, *self._sandbox)
        _warm()
        ours, theirs = (Link(socket.socket(fileno=out_of_places(end.detach()))) for end in socket.socketpair())
        ours.end_with_us()
        reader, writer = map(out_of_places, os.pipe2(os.O_CLOEXEC))
        pid = 0
        place = _places.pop() if _places else f"asl-call-{new_run_id()}"
        try:
            try:
                pid = self._start(policy, theirs, writer, place)
            finally:
                theirs.close()
                os.close(writer)
            self._link = ours
            ended, data = self._pump(ours, reader)
            if ended is not None:  # else the warden may be about to remove it
                _places.append(place)
            return self._result(ended, data)
        finally:
            ours.close()  # which ends it, should it still run
            os.close(reader)
            if pid:
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)

    async def arun(self) -> Any:
        """Like ``run``, while the event loop goes on. Cancelled, the call is ended first."""
        task = asyncio.ensure_future(asyncio.to_thread(self.run))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.kill()
            with suppress(Exception):
                await task
            raise

    def kill(self) -> None:
        """End the call."""
        self._killed = True
        self._say({"kill": int(signal.SIGKILL)})

    def _say(self, message: Message) -> None:
        if self._link is not None:
            with suppress(OSError, ValueError):  # it is over
                self._link.send(message)

    # -- here ----------------------------------------------------------------------------------------------------------

    def _pump(self, link: Link, reader: int) -> tuple[Message | None, bytes]:
        """The last word of the supervisor, and what the child has sent."""
        if self._killed:
            self.kill()
        os.set_blocking(reader, False)
        poll = select.poll()
        poll.register(link.fileno(), select.POLLIN)
        poll.register(reader, select.POLLIN)
        answering = Answering(self._layer.approval_gate, self._say)
        ended: Message | None = None
        data = bytearray()
        while True:
            ready = dict(poll.poll())
            if reader in ready and not _read_into(data, reader):
                poll.unregister(reader)
            if link.fileno() in ready:
                for message in link.arrived():
                    if not answering.heard(message) and message.keys() & {"ended", "failed"}:
                        ended = message
                if ended is not None or link.ended:
                    break
        while _read_into(data, reader, once=True):
            pass
        return ended, bytes(data)

    def _result(self, ended: Message | None, data: bytes) -> Any:
        if ended is None:
            raise AslError("The supervisor of a sandboxed call was killed; the call was ended.")
        if "failed" in ended:
            raise rebuilt_error(ended["failed"])
        report = self.report = Report.of(ended["ended"]["report"])
        self._tell()
        if report.outcome in TIMES_OUT or report.outcome in _LIMITS:
            raise Crossed([], [self._limit_reached(report)])
        kind, value = self._received(data)
        if kind == _RETURNED:
            return value
        if kind in (_RAISED, _REFUSED):
            error = plaindata.error_from(value)
            if isinstance(error, Crossed):  # that a line was crossed is what the supervisor says
                error = plaindata.SandboxedError(str(error), type(error).__qualname__)
            if report.blocked and kind == _REFUSED:
                raise Crossed([_refused(denied) for denied in report.denials if denied.effective == "block"]) from error
            raise error
        if report.blocked:
            raise Crossed([_refused(denied) for denied in report.denials])
        raise SandboxDied(self._name, report)

    def _received(self, data: bytes) -> tuple[str, Any]:
        """Whether it returned or raised, and what; neither when nothing whole came."""
        if len(data) < _LENGTH.size or len(data) - _LENGTH.size != _LENGTH.unpack_from(data)[0]:
            return "", None
        kind, body = data[_LENGTH.size : _LENGTH.size + 1].decode("latin-1"), data[_LENGTH.size + 1 :]
        return kind, plaindata.loads(body, self._expected if kind == _RETURNED else None)

    def _limit_reached(self, report: Report) -> BoundaryViolation:
        denied = next((each for each in report.denials if each.rule == f"limits.{report.outcome}"), None)
        reason = denied.reason if denied is not None else f"limit reached: {report.outcome}"
        kind = "time" if report.outcome in TIMES_OUT else "resource"
        return BoundaryViolation(kind, f"limits.{report.outcome}", f"limit.hit: {reason}", report.wall_seconds)

    def _tell(self) -> None:
        """Give the layer's sinks what the call did, in order and with its span."""
        if self._layer.sinks and self.report is not None and self.report.trace:
            from agent_safety_layer.operation import next_in_sequence
            from agent_safety_layer.trace.reader import TraceReader
            from asl_hooks.value import replace

            with TraceReader(self.report.trace) as reader:
                for entry in reader:
                    self._layer.tell(replace(entry, seq=next_in_sequence()))

    def _start(self, policy: FilePolicies, theirs: Link, writer: int, place: str) -> int:
        """Fork the supervisor, once all that can be prepared here is: a fork pays for each page that it touches."""
        collects = gc.isenabled()
        host = Hosted(theirs, self._span, lambda: self._work(writer, collects), (writer,), _plans, place)
        approve = "deny" if self._layer.approval_gate is None else PROGRAM
        session = Session(Settings(command=(self._name,), given=policy, verbosity=-1, approve=approve), host)
        session.prepare()
        pid = 0
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    with suppress(ValueError, OSError):
                        stream.flush()  # or the child would print it once more
            pid = _fork()
            if pid == 0:
                self._supervise(theirs, session, host)
        finally:
            session.hand_over(forked=pid != 0)
        return pid

    # -- in the fork ---------------------------------------------------------------------------------------------------

    def _supervise(self, link: Link, session: Session, host: Hosted) -> NoReturn:
        """Supervise the call, in a process that has nothing else to do."""
        try:
            gc.disable()
            gc.freeze()  # what is the program's stays untouched, and unlooked at
            privatise(_SHARED_BYTES)
            host.keep += _leave_behind({link.fileno(), *host.keep, *session.descriptors})
            run(link, session, host)
        finally:
            os._exit(70)

    def _work(self, writer: int, collects: bool) -> int:
        """In the child: call the function and send what comes of it."""
        global _inside, _holds
        if collects:
            gc.enable()
        _inside, _holds = self._layer, self._sandbox
        # What Python tries for its own sake is no violation of the function's.
        sys.dont_write_bytecode = True
        linecache.updatecache = _no_lines  # type: ignore[assignment]
        tempfile.tempdir = None
        spans.listened_to()
        try:
            kind, body = _RETURNED, plaindata.dumps(_awaited(self._func()))
        except BaseException as error:
            told = plaindata.plain_error(error)
            kind, body = _REFUSED if _may_be_by_refusal(error) else _RAISED, plaindata.dumps(told)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with suppress(ValueError, OSError):
                    stream.flush()
        data = memoryview(_LENGTH.pack(len(body) + 1) + kind.encode() + body)
        while data:
            data = data[os.write(writer, data[:_CHUNK]) :]
        return 0


_plans = Plans()
_places: list[str] = []  # names of private folders of calls that are over: a policy with the same one is the same
os.register_at_fork(after_in_child=_places.clear)


def _refused(denied: Denied) -> PolicyResult:
    """What was refused, as a policy's result that names the event."""
    reason = f"{denied.kind} {denied.object}: {denied.reason}" if denied.reason else f"{denied.kind} {denied.object}"
    about = {name: getattr(denied, name) for name in ("kind", "object", "rule", "where", "remedy", "count")}
    return PolicyResult(PolicyAction.BLOCK, denied.rule, reason, about)


def _awaited(value: Any) -> Any:
    return asyncio.run(value) if iscoroutine(value) else value


def _read_into(data: bytearray, reader: int, *, once: bool = False) -> bool:
    """Whether more may come; with *once*, whether something was there."""
    try:
        chunk = os.read(reader, _CHUNK)
    except BlockingIOError:
        return not once
    data += chunk
    if len(data) > plaindata.LARGEST_BYTES:
        raise plaindata.NotPlain(f"the result is larger than {plaindata.LARGEST_BYTES} bytes")
    return bool(chunk)


def _may_be_by_refusal(error: BaseException | None) -> bool:
    """Whether something that was refused can have led to the exception: it, or what it came from, is one that the
    system or a started program gives.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError | ImportError | subprocess.SubprocessError):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _no_lines(*_: object) -> list[str]:
    """In place of reading source files for a traceback."""
    return []


def _print_to_descriptors() -> None:
    """In the fork: have sys.stdout and sys.stderr be 1 and 2, where a notebook or a test runner has put others."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        try:
            same = stream is None or stream.fileno() == fd
        except (OSError, ValueError, AttributeError):
            same = False
        if not same:
            setattr(sys, name, io.TextIOWrapper(io.FileIO(fd, "w", closefd=False), "utf-8", write_through=True))


def _fork() -> int:
    with warnings.catch_warnings():
        # From Python 3.12 on a fork beside threads warns: the child may wait for a lock for ever. A time limit ends it.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _leave_behind(kept: set[int]) -> tuple[int, ...]:
    """In the fork: be rid of the program's signal handlers and descriptors. The numbers of these, which are returned,
    stay taken, or a file object of the program's would come to mean whatever is opened next.
    """
    _signal.set_wakeup_fd(-1)
    for number in range(1, 65):
        with suppress(OSError, ValueError):
            if callable(_signal.getsignal(number)):
                _signal.signal(number, lambda *_: None)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGCHLD, _signal.SIGALRM))
    null = os.open(os.devnull, os.O_PATH | os.O_CLOEXEC)
    taken = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd != null and fd not in kept:
            with suppress(OSError):  # the folder that was listed
                os.fstat(fd)
                os.dup2(null, fd, inheritable=False)
                taken.append(fd)
    os.close(null)
    _print_to_descriptors()
    return tuple(taken)


_is_warm = False


def _warm() -> None:
    """Import what the fork needs: another thread may be importing just then, and hold that module's lock for ever."""
    global _is_warm
    if not _is_warm:
        forker.warm()
        spans.channel()
        _is_warm = True


__all__ = ["Call", "SandboxDied"]
