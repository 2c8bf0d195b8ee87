"""The engine's view of a tree, as the describers of calls need it: implements ``Context``."""

from __future__ import annotations

import os
from errno import EBADF, EINVAL, ENXIO, ESRCH
from time import time

from agent_safety_layer.events import ASK, BLOCK, Decision, Event, strictest
from asl_hooks import syscalls
from asl_hooks._abi import linux
from asl_hooks.processes import Processes, read_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent_safety_layer.engine.aliases import Aliases
    from agent_safety_layer.engine.kernel import Kernel
    from agent_safety_layer.engine.terminals import Terminals
    from agent_safety_layer.policy import Bounds, Policy, State
    from asl_hooks.backend import Call
    from asl_hooks.processes import Process

_PAGE = Decision(BLOCK, "tree", "", "the page that answers questions is not for who asks them")
# What anybody may know of a process: what ps(1) shows.
_SHOWN = (b"stat", b"status", b"statm", b"cmdline", b"comm", b"cgroup")


class View:
    """One tree under one policy: its processes, the policy's state, what the kernel bounds.

    ``reads`` and ``writes`` are the parts of the Landlock domain, if there is a ``domain``; ``wave_reads`` tells
    whether the READ part has no holes.
    ``warden`` is the pid that every process of the tree descends from. ``now`` is the time of the call at hand.
    """

    def __init__(
        self,
        policy: Policy,
        reads: Bounds,
        writes: Bounds,
        *,
        wave_reads: bool,
        domain: bool,
        kernel: Kernel,
        warden: int,
    ) -> None:
        from agent_safety_layer.policy import State, advance, decide

        self._decide, self._advance = decide, advance
        self.policy = policy
        self.enforced = policy.enforced
        self.state: State = State()
        self.kernel = kernel
        self.warden = warden
        self.processes = Processes()
        self.now = 0.0
        self.serving = ""  # the folder that names the ports of such pages
        self.clock = time
        self._approved: set[tuple[str, int, str]] = set()
        self._reads = reads
        self._writes = writes
        self._wave_reads = wave_reads
        self._domain = domain
        self._aliases: Aliases | None = None
        self._terminals: Terminals | None = None

    def event(self, kind: str, call: Call, process: Process, **fields: Any) -> Event:
        """An event of *kind* by the calling process."""
        name = syscalls.name_of(call.nr, call.arch)
        span = process.span_of(call.tid)
        return Event(kind, process.pid, call.tid, process.ppid, process.exe, name, span=span, time=self.now, **fields)

    def decide(self, event: Event) -> Decision:
        """The policy's answer in the present state."""
        decision = self._decide(self.policy, self.state, event)
        return strictest(decision, _PAGE) if event.port and self._is_page(event) else decision

    def decide_enforced(self, event: Event) -> Decision:
        """The answer of those layers that do not merely observe."""
        decision = self._decide(self.enforced, self.state, event)
        return strictest(decision, _PAGE) if event.port and self._is_page(event) else decision

    def advance(self, event: Event, decision: Decision) -> None:
        """Let the event have happened."""
        self.state = self._advance(self.policy, self.state, event, decision)

    def _is_page(self, event: Event) -> bool:
        """Whether a page that answers questions (``asl approvals serve``) is at the other end."""
        if event.kind not in ("net.connect", "net.send") or not event.ip.startswith(("127.", "0.", "::")):
            return False
        if event.detail == "own" or not os.path.exists(f"{self.serving}/{event.port}"):
            return False
        from agent_safety_layer.approvals.bells import is_heard

        return is_heard(self.serving, str(event.port))

    def may_connect(self, ip: str, port: int) -> bool:
        """Whether the policy lets the tree connect to *port* of this machine."""
        event = Event("net.connect", host="localhost", ip=ip, port=port, proto="tcp", time=self.now)
        return self.decide_enforced(event).action not in (ASK, BLOCK)

    def approve(self, event: Event) -> None:
        """Remember that a person allowed a connection: what the egress process asks about it is answered by that."""
        if event.kind in ("net.connect", "net.send"):
            self._approved.add((event.host or event.ip, event.port, event.proto))

    def was_approved(self, event: Event) -> bool:
        """Whether a person allowed this connection. Where it asks as ``localhost``, the person saw the address."""
        names = (event.host, event.ip) if event.host == "localhost" else (event.host or event.ip,)
        return any((name, event.port, event.proto) in self._approved for name in names)

    def reads_bounded(self, path: str) -> bool:
        """Whether the READ part of the domain has no holes and covers *path*."""
        return self._wave_reads and self._reads.covers(path)

    def writes_bounded(self, path: str) -> bool:
        """Whether the WRITE part of the domain covers *path*."""
        return self._writes.covers(path)

    def kept_name(self, fd: int) -> str:
        """The blocked or protected name of a file with several."""
        if self._aliases is None:
            from agent_safety_layer.engine.aliases import Aliases

            self._aliases = Aliases(self.policy)
        return self._aliases.name_of(fd)

    def is_foreign_terminal(self, there: os.stat_result) -> bool:
        """Whether it is a pseudo-terminal neither given to the tree nor its own."""
        if not there.st_rdev:
            return False
        if self._terminals is None:
            from agent_safety_layer.engine.terminals import Terminals

            self._terminals = Terminals(self.warden)
        return self._terminals.is_foreign(there)

    def executable(self, path: str) -> bool:
        """Whether the kernel, within the domain, can execute *path*: it opens it itself."""
        return not self._domain or self._reads.covers(path)

    @property
    def bounds_truncate(self) -> bool:
        """Whether the domain knows truncate(2)."""
        return self.kernel.bounds_truncate

    def may_look_at(self, path: bytes, process: Process) -> bool:
        """Own process and those of the tree: all. Others: what ps(1) shows.

        The supervisor may see more than the tracee, so what is served from /proc needs this check.
        """
        parts = path.split(b"/", 4)
        if len(parts) < 4 or not parts[2].isdigit():
            return True
        pid = int(parts[2])
        return pid == process.pid or parts[3] in _SHOWN or self.is_ours(pid)

    def is_ours(self, pid: int) -> bool:
        """Whether process or thread *pid* is of the tree."""
        if self.processes.get(pid) is not None:
            return True
        try:
            pid = int(read_status(pid)[b"Tgid"])
            while pid > 1:
                pid = int(read_status(pid)[b"PPid"])
                if pid == self.warden:
                    return True
        except (OSError, KeyError):
            pass
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

    def copy_descriptor(self, call: Call, fd: int) -> int:
        """A copy of the tracee's descriptor *fd*."""
        process = self.processes.get(call.tid)
        if process is None or fd < 0:
            raise OSError(EBADF, "no such descriptor")
        if call.tid == process.pid:
            return linux.pidfd_getfd(process.pidfd, fd, 0)
        # A thread can have descriptors of its own (unshare(2)), or outlive the first, whose those of the process are.
        try:
            thread = linux.pidfd_open(call.tid, linux.PIDFD_THREAD)
        except OSError as error:
            if error.errno != EINVAL:
                raise
            return linux.pidfd_getfd(process.pidfd, fd, 0)  # before Linux 6.9
        try:
            if not os.path.exists(f"/proc/{process.pid}/task/{call.tid}"):
                raise OSError(ESRCH, "a thread that has gone")
            return linux.pidfd_getfd(thread, fd, 0)
        finally:
            os.close(thread)
