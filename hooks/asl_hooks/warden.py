"""The warden: the parent of the supervised tree, whose only job is that the tree never outlives the supervisor.

    supervisor ──fork── warden (subreaper) ──fork── child ── … everything it starts

Orphans of the tree become the warden's children, so it can always reach them all. It ends the tree when the
supervisor says so (a byte on the control pipe) and when the supervisor dies (the pipe hangs up). It runs no policy
and holds no listener; nothing of the tree may signal it (the domain's signal scope, or the supervisor's judgement of
``kill``).
"""

from __future__ import annotations

import _signal
import os
import select
import struct
from errno import ECHILD, ESRCH

from asl_hooks._abi import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from resource import struct_rusage

STATUS = struct.Struct(
    "=iIddQ"
)  # wait status, pid, user seconds, system seconds, peak resident bytes of the largest process
_KEPT = (_signal.SIGKILL, _signal.SIGSTOP, _signal.SIGTSTP, _signal.SIGCONT, _signal.SIGTTIN, _signal.SIGTTOU)


def descendants(pid: int) -> list[int]:
    """Every living process below *pid*, parents before children. Complete when nobody forks meanwhile."""
    found: list[int] = []
    queue = [pid]
    while queue:
        parent = queue.pop()
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for tid in threads:
            try:
                with open(f"/proc/{parent}/task/{tid}/children", "rb") as file:
                    children = [int(child) for child in file.read().split()]
            except FileNotFoundError:
                if os.path.exists("/proc/self/task/" + str(os.getpid()) + "/children"):
                    continue
                return _descendants_by_scan(pid)  # a kernel without CONFIG_PROC_CHILDREN
            except OSError:
                continue
            found += children
            queue += children
    return found


def _descendants_by_scan(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _reap() -> list[tuple[int, int, struct_rusage]]:
    done = []
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            break
        done.append((pid, status, usage))
    return done


def end_tree() -> None:
    """Kill everything below this process and reap it. Postcondition: this process has no descendants.

    Stopping a process first would make it visible to its tracer; a killed process can no longer fork, so each pass is
    final for what it sees, and passes repeat until there is nothing to see.
    """
    me = os.getpid()
    while True:
        victims = descendants(me)
        for pid in victims:
            try:
                os.kill(pid, _signal.SIGKILL)
            except OSError as error:
                if error.errno != ESRCH:
                    raise
        try:
            pid, _ = os.waitpid(-1, 0 if victims else os.WNOHANG)
        except OSError as error:
            if error.errno == ECHILD:
                if not descendants(me):
                    return
                continue
            raise
        _reap()


def run(child: int, control: int, status: int) -> None:
    """Watch over *child* until told to end the tree; report the child's status once on *status*. Never returns.

    *control* hangs up when the supervisor dies.
    """
    linux.prctl(linux.PR_SET_NAME, _name_address(b"asl-warden"), 0, 0, 0)
    wake_r, wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    for number in range(1, 65):
        if number in _KEPT or number in (32, 33):
            continue
        try:
            _signal.signal(number, _signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    _signal.signal(_signal.SIGCHLD, lambda *_: None)
    _signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake_r, select.POLLIN)
    reported = False
    while True:
        for pid, wait_status, usage in _reap():
            if pid == child and not reported:
                reported = True
                user, system, peak = usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024
                try:
                    os.write(status, STATUS.pack(wait_status, pid, user, system, peak))
                except OSError:
                    pass  # the supervisor is gone; the control pipe says so below
        for fd, _ in poll.poll():
            if fd == wake_r:
                try:
                    os.read(wake_r, 4096)
                except BlockingIOError:
                    pass
            else:
                orphaned = not os.read(control, 1)
                end_tree()
                if orphaned:
                    try:
                        os.write(2, b"asl-supervise: the supervisor died; everything it had started was ended.\n")
                    except OSError:
                        pass
                usage = os.times()
                try:
                    os.write(status, STATUS.pack(-1, 0, usage.children_user, usage.children_system, _peak()))
                except OSError:
                    pass
                os._exit(0)


def _peak() -> int:
    from resource import RUSAGE_CHILDREN, getrusage

    return getrusage(RUSAGE_CHILDREN).ru_maxrss * 1024


_names: list[object] = []


def _name_address(name: bytes) -> int:
    from ctypes import addressof, create_string_buffer

    buffer = create_string_buffer(name)
    _names.append(buffer)  # kept alive
    return addressof(buffer)
