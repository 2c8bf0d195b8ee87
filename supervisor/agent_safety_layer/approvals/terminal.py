"""The run's own terminal as the one who answers (``--approve tty``).

The tree shares the terminal: it could draw over a question, or read the key that answers it. So while one stands, the
processes of the tree that hold the terminal are stopped, and who opens it waits until it is free. The filter refuses
TIOCSTI, with which a program could type.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections import deque
from time import monotonic, sleep
from typing import TYPE_CHECKING

from agent_safety_layer.approval import InMemoryApprovalQueue
from agent_safety_layer.approvals.exchange import Local
from agent_safety_layer.approvals.prompt import Hangup, Interrupt, Prompt
from agent_safety_layer.approvals.question import Answered, user
from agent_safety_layer.engine.gate import Answer
from asl_hooks.processes import read_status
from asl_hooks.warden import descendants

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent_safety_layer.approval import ApprovalRequest
    from agent_safety_layer.approvals.desk import Desk
    from agent_safety_layer.engine.gate import Answered as Callback
    from agent_safety_layer.events import Decision, Event
    from agent_safety_layer.terminal import Stderr

_STOPS_S = 0.15
_RUNNING = -1


def own_terminal() -> str:
    """The path of the terminal that controls this process. ``OSError`` when there is none."""
    fd = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        with open("/proc/self/stat", "rb") as file:
            device = int(file.read().rpartition(b")")[2].split()[4])
        for path in (os.readlink(f"/proc/self/fd/{fd}"), *(f"/dev/pts/{name}" for name in os.listdir("/dev/pts"))):
            if path != "/dev/tty" and os.path.exists(path) and os.stat(path).st_rdev == device:
                return path
    finally:
        os.close(fd)
    return "/dev/tty"


class TerminalQueue(Local):
    """An exchange whose questions are put on the terminal, one after the other, by a thread of its own."""

    def __init__(self, path: str, warden: int, stderr: Stderr) -> None:
        self._memory = InMemoryApprovalQueue()
        super().__init__(self._memory)
        self._tty = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
        self._stderr = stderr
        self._holders = Holders(warden, {os.stat(path).st_rdev, os.stat("/dev/tty").st_rdev})
        self._news = threading.Event()
        self._settled = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = False
        self._busy = threading.Lock()  # guards what follows
        self._showing = False
        self._waiting: deque[Callable[[], None]] = deque()
        self._thread = threading.Thread(target=self._work, name="asl-terminal", daemon=True)
        self._thread.start()

    def submit_all(self, requests: Sequence[ApprovalRequest]) -> None:
        """See ``Exchange``."""
        super().submit_all(requests)
        self._news.set()

    def close(self) -> None:
        """See ``Exchange``. Postcondition: the terminal is as it was found."""
        self._closing = True
        self._news.set()
        os.eventfd_write(self._settled, 1)
        self._thread.join(2.0)
        super().close()

    def when_free(self, action: Callable[[], None]) -> None:
        """Call *action*, in whichever thread, at once or when no question stands any more."""
        with self._busy:
            if self._showing:
                self._waiting.append(action)
                return
        action()

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU, signal.SIGTTIN))
        while not self._closing:
            pending = self._memory.get_pending()
            if not pending:
                self._news.wait()
                self._news.clear()
                continue
            answer = self._put(pending[0])
            if answer is not None:
                self._memory.respond(answer)

    def _put(self, request: ApprovalRequest) -> Answered | None:
        def is_open() -> bool:
            return not self._closing and self._memory.seconds_left(request.id) is not None

        self._memory.watch(request.id, lambda: os.eventfd_write(self._settled, 1))
        with self._busy:
            self._showing = True
        before = 0
        try:
            before = self._take_front()
            if not before:
                return _nobody(request, "the run is in the background, so nobody could be asked")
            self._stderr.muted = True
            prompt = Prompt(
                self._tty,
                f"{user()} (terminal)",
                wake=self._settled,
                hush=lambda: os.eventfd_read(self._settled),
                undisturbed=self._holders.sweep,
            )
            return prompt.put(request, is_open)
        except Interrupt:
            return Answered(request.id, False, f"{user()} (terminal)", "interrupted")
        except (OSError, Hangup) as error:
            return _nobody(
                request, f"the terminal could not be asked: {getattr(error, 'strerror', '') or 'it is gone'}"
            )
        finally:
            self._stderr.muted = False
            if before and before != os.getpgrp():
                try:
                    os.tcsetpgrp(self._tty, before)
                except OSError:
                    pass  # that group is gone
            self._holders.release()
            with self._busy:
                self._showing = False
                waiting, self._waiting = self._waiting, deque()
            for action in waiting:
                action()

    def _take_front(self) -> int:
        """The process group that was in front, ours now; 0 when that is none of this run."""
        before = os.tcgetpgrp(self._tty)
        if before != os.getpgrp():
            if not any(_group_of(pid) == before for pid in self._holders.tree()):
                return 0
            os.tcsetpgrp(self._tty, os.getpgrp())
        return before


def _nobody(request: ApprovalRequest, why: str) -> Answered:
    return Answered(request.id, False, None, why)


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


class Holders:
    """The processes of a tree that have one of *devices* open, or a socket by which they can be handed it, stopped from
    the first ``sweep`` to ``release``.

    A stopped process can be made to go on, by SIGCONT of another or of a timer of its own, and be stopped again after
    what it wanted to do. So what counts is whether it has run, which the kernel's context switches tell.
    """

    def __init__(self, warden: int, devices: set[int]) -> None:
        self._warden = warden
        self._devices = devices
        self._stopped: list[int] = []
        self._runs: dict[int, int] = {}  # of each that holds it, when it was last looked at

    def tree(self) -> list[int]:
        """The processes of the tree, parents first."""
        return descendants(self._warden)

    def sweep(self) -> bool:
        """Stop every process that holds the terminal; whether none of them has run since the last time."""
        now = {pid: _runs(pid) for pid in self.tree() if pid in self._runs or self._holds(pid)}
        moved = [pid for pid, runs in now.items() if runs == _RUNNING or runs != self._runs.get(pid)]
        fresh = [pid for pid in moved if not _is_stopped(pid) and _signal(pid, signal.SIGSTOP)]
        self._stopped += [pid for pid in fresh if pid not in self._stopped]
        until = monotonic() + _STOPS_S
        while monotonic() < until and not all(_is_stopped(pid) for pid in fresh):
            # Nothing tells when somebody else's child has stopped; one that waits for its answer never does.
            sleep(0.002)
        self._runs = now | {pid: _runs(pid) for pid in moved}
        return not moved

    def _holds(self, pid: int) -> bool:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except FileNotFoundError:
            return False
        except PermissionError:  # it may
            return True
        for name in names:
            try:
                there = os.stat(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if there.st_rdev in self._devices or stat.S_ISSOCK(there.st_mode):
                return True
        return False

    def release(self) -> None:
        """Let them go on: children first, so that no parent sees a stopped one."""
        stopped, self._stopped = self._stopped, []
        self._runs.clear()
        for pid in reversed(stopped):
            _signal(pid, signal.SIGCONT)


def _runs(pid: int) -> int:
    """How often the process's threads have run and come to rest; ``_RUNNING`` while one of them runs."""
    found = 0
    try:
        for tid in os.listdir(f"/proc/{pid}/task"):
            status = read_status(int(tid))
            if status[b"State"].startswith(b"R"):
                return _RUNNING
            found += int(status[b"voluntary_ctxt_switches"]) + int(status[b"nonvoluntary_ctxt_switches"])
    except (OSError, KeyError):
        return _RUNNING  # a thread has just ended
    return found


def _is_stopped(pid: int) -> bool:
    """Whether it is stopped, or gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"Z", b"X")
    except OSError:
        return True


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class TerminalGate:
    """A desk whose questions stand on the run's own terminal: who opens that waits while one does."""

    def __init__(
        self, desk: Desk, queue: TerminalQueue, asked: tuple[str, ...], later: Callable[[Callable[[], None]], None]
    ) -> None:
        self._desk = desk
        self._queue = queue
        self._asked = asked
        self._later = later

    def ask(self, event: Event, decision: Decision, answered: Callback) -> None:
        """Put a question, or have the opening of the terminal wait for the one that stands."""
        if event.path in self._asked and decision.where == "built-in":
            self._queue.when_free(lambda: self._later(lambda: answered(Answer(True))))
        else:
            self._desk.ask(event, decision, answered)

    def withdraw(self, pid: int) -> None:
        """See ``Gate``."""
        self._desk.withdraw(pid)

    def close(self) -> None:
        """See ``Gate``."""
        self._desk.close()
