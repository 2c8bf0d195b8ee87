"""Signals: only within the tree. Targets are numbers in registers, so nothing can change them after the look.

Landlock's signal scope (ABI 6) bounds every signal, by whatever way it is sent; there the call is waved through.
Elsewhere a signal to a group reaches only those of the tree: the supervisor sends it to each of them.
"""

from __future__ import annotations

import os
from errno import ESRCH

from agent_safety_layer.engine.operation import Operation
from asl_hooks import syscalls
from asl_hooks.processes import read_status
from asl_hooks.warden import descendants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.engine.context import Context
    from asl_hooks.backend import Call
    from asl_hooks.processes import Process

F_SETOWN = 8


class Signals:
    """Describes calls that send signals. ``scoped``: the kernel bounds them; ``warden`` is the tree's root."""

    def __init__(self, context: Context, *, scoped: bool, warden: int) -> None:
        self._context = context
        self._scoped = scoped
        self._warden = warden

    def kill(self, call: Call, process: Process, name: str) -> Operation:
        """kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal."""
        args = syscalls.spec(name).arguments(call.args)
        if name == "pidfd_send_signal":
            held = self._context.copy_descriptor(call, args[0])
            try:
                target = _pid_of(held)
            finally:
                os.close(held)
        else:
            target = args[1] if name in ("tgkill", "rt_tgsigqueueinfo") else args[0]
        number = args[2] if name in ("tgkill", "rt_tgsigqueueinfo") else args[1]
        return self._operation(call, process, target, number)

    def setown(self, call: Call, process: Process, name: str) -> Operation:
        """fcntl(F_SETOWN): who gets SIGIO, or any signal that F_SETSIG names."""
        target = call.args[2] & 0xFFFFFFFF
        target -= (target >> 31) << 32
        return Operation(
            self._context.event("process.signal", call, process, target=target, detail="owner of SIGIO"),
            None,
            bounded=True,
        )

    def _operation(self, call: Call, process: Process, target: int, number: int) -> Operation:
        event = self._context.event("process.signal", call, process, target=target, signal=number)
        if target > 0 or self._scoped:
            return Operation(event, None, bounded=True)

        def perform() -> int:
            group = -target if target < -1 else 0 if target == -1 else _group_of(process.pid)
            reached = 0
            for pid in descendants(self._warden):
                if pid == process.pid and target == -1:
                    continue
                try:
                    if group in (0, _group_of(pid)):
                        os.kill(pid, number)
                        reached += 1
                except OSError:
                    continue
            if not reached:
                raise OSError(ESRCH, "nobody of the tree there")
            return 0

        return Operation(event, perform)

    def allows(self, target: int, process: Process) -> bool:
        """Whether *target* (a pid, a tid, a negative group, 0, -1) means only the tree, or is narrowed to it here or
        by the kernel.
        """
        if target == process.pid or target in process.tids:
            return True
        if target > 0:
            return self._is_ours(target)
        return True

    def _is_ours(self, pid: int) -> bool:
        try:
            pid = int(read_status(pid)[b"Tgid"])
            while pid > 1:
                pid = int(read_status(pid)[b"PPid"])
                if pid == self._warden:
                    return True
        except (OSError, KeyError):
            return True  # nobody is there: the kernel says so
        return False


def _group_of(pid: int) -> int:
    return os.getpgid(pid)


def _pid_of(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
        for line in file:
            if line.startswith(b"Pid:"):
                return int(line.split()[1])
    raise OSError(ESRCH, "not the descriptor of a process")
