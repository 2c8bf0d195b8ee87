"""Signals: only within the tree. Targets are numbers in registers, so nothing can change them after the look; whom a
number means can.

Landlock's signal scope (ABI 6) bounds every signal, by whatever way it is sent; there the call is waved through.
Elsewhere only signals to oneself are, and the supervisor sends the others: to the process that was looked at, and of a
group to those of the tree.
"""

from __future__ import annotations

import os
from errno import EBADF, EINVAL, ESRCH

from agent_safety_layer.engine.operation import Operation
from asl_hooks import memory, syscalls
from asl_hooks._abi import linux
from asl_hooks._abi.constants import IOPRIO_WHO_PROCESS, PRIO_PROCESS
from asl_hooks.identity import Being
from asl_hooks.paths import name_of
from asl_hooks.processes import read_status
from asl_hooks.warden import descendants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.engine.view import View
    from asl_hooks.backend import Call
    from asl_hooks.processes import Process

_SIGINFO = 128


class Signals:
    """Describes calls that act on processes: signals, scheduling."""

    def __init__(self, view: View) -> None:
        self._view = view

    def kill(self, call: Call, process: Process, name: str) -> Operation:
        """kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal."""
        args = syscalls.spec(name).arguments(call.args)
        if name == "pidfd_send_signal":
            return self._by_pidfd(call, process, args[0], args[1], args[3])
        threads = name in ("tgkill", "rt_tgsigqueueinfo")
        group, target, number = args[:3] if threads else (0, *args[:2])
        view = self._view
        event = view.event("process.signal", call, process, target=target, signal=number)
        if target > 0:
            outside = target not in process.tids and not view.is_ours(target) and os.path.exists(f"/proc/{target}")
            if view.kernel.scopes_signals or outside:
                return Operation(event, None, bounded=True, outside=outside)
            if group == process.pid or target in (process.pid, call.tid):
                return Operation(event, None, bounded=True)  # ids that are taken for as long as the caller lives
            info = memory.read(process.mem, args[-1], _SIGINFO) if "queueinfo" in name else None
            single = threads or name == "tkill"
            return Operation(event, lambda: self._send(process, group, target, number, info, single=single))
        if view.kernel.scopes_signals:
            return Operation(event, None, bounded=True)
        return Operation(event, lambda: self._send_to_group(process.pid, target, number))

    def _by_pidfd(self, call: Call, process: Process, fd: int, number: int, flags: int) -> Operation:
        view = self._view
        held = view.copy_descriptor(call, fd)
        try:
            target = _pid_of(held)
        except BaseException:
            os.close(held)
            raise
        event = view.event("process.signal", call, process, target=target, signal=number)
        outside = not view.is_ours(target)
        if view.kernel.scopes_signals:
            return Operation(event, None, bounded=True, fds=(held,), outside=outside)

        def send() -> int:  # here: by the time that the kernel looks, the number could be another process's descriptor
            if flags:
                raise OSError(EINVAL, "only to the process: its group may hold others than the tree's")
            return linux.pidfd_send_signal(held, number, None, 0)

        return Operation(event, send, fds=(held,), outside=outside)

    def sched(self, call: Call, process: Process, name: str) -> Operation:
        """How tasks are scheduled and where their memory lies: of single tasks of the tree only."""
        args = syscalls.spec(name).arguments(call.args)
        target, single = args[0], True
        if name in ("setpriority", "ioprio_set"):
            single = args[0] == (PRIO_PROCESS if name == "setpriority" else IOPRIO_WHO_PROCESS)
            target = args[1]
        if single and (target == 0 or target in process.tids or self._view.is_ours(target)):
            return Operation(None, None, bounded=True)
        event = self._view.event("process.deny", call, process, target=target, detail="scheduling of others")
        return Operation(event, None, bounded=True, outside=True)

    def setown(self, call: Call, process: Process, name: str) -> Operation:
        """fcntl(F_SETOWN): who gets SIGIO, or any signal that F_SETSIG names."""
        target = call.args[2] & 0xFFFFFFFF
        target -= (target >> 31) << 32
        event = self._view.event("process.signal", call, process, target=target, detail="owner of SIGIO")
        return Operation(event, None, bounded=True, outside=target < 0 or not self._view.is_ours(target))

    def _send(self, process: Process, group: int, target: int, number: int, info: bytes | None, *, single: bool) -> int:
        """Signal *target*: the process, or the *single* thread, of *group* if that is given."""
        try:
            leader = int(read_status(target)[b"Tgid"])
            held = linux.pidfd_open(leader, 0)
        except OSError as error:
            raise OSError(ESRCH, "nobody there") from error
        try:
            if group not in (0, leader) or not self._view.is_ours(leader):
                raise OSError(ESRCH, "nobody of the tree there")
            linux.pidfd_send_signal(held, 0, None, 0)  # it is there still, so it is the one that was looked at

            def send() -> int:
                if not single:
                    return linux.pidfd_send_signal(held, number, info, 0)
                if info is None:
                    return linux.tgkill(leader, target, number)
                return linux.rt_tgsigqueueinfo(leader, target, number, info)

            if process.uid == os.geteuid():
                return send()
            with Being(process):
                return send()
        finally:
            os.close(held)

    def _send_to_group(self, sender: int, target: int, number: int) -> int:
        """Signal those of the tree that are in the group *target* means (0 the sender's own, -1 everybody)."""
        group = 0 if target == -1 else os.getpgid(sender) if target == 0 else -target
        reached = 0
        for pid in descendants(self._view.warden):
            if pid == sender and target == -1:
                continue
            try:
                if group in (0, os.getpgid(pid)):
                    os.kill(pid, number)
                    reached += 1
            except OSError:
                continue
        if not reached:
            raise OSError(ESRCH, "nobody of the tree there")
        return 0


def _pid_of(pidfd: int) -> int:
    """The process behind a pidfd, or behind an open ``/proc/<pid>``, which pidfd_send_signal(2) takes as well."""
    folder = name_of(pidfd).split(b"/")
    if folder[:2] == [b"", b"proc"] and len(folder) == 3 and folder[2].isdigit():
        return int(folder[2])
    with open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
        for line in file:
            if line.startswith(b"Pid:"):
                pid = int(line.split()[1])
                if pid <= 0:
                    raise OSError(ESRCH, "a process that has gone")
                return pid
    raise OSError(EBADF, "not the descriptor of a process")
