"""The warden: the parent of the supervised tree, whose only job is that the tree never outlives the supervisor.

    supervisor (subreaper) ──fork── warden (subreaper) ──fork── child ── … everything it starts

Orphans of the tree become the warden's children, so it can always reach them all. It ends the tree when the
supervisor says so (a byte on the control pipe) and when the supervisor dies (its pidfd). It runs no policy and holds
no listener; nothing of the tree may signal it (the domain's signal scope, or the supervisor's judgement of ``kill``).
It stands in a process group of its own, so a SIGKILL to the supervisor's group, as ``timeout -s KILL`` and CI runners
send it, leaves it to do its work. Where the supervisor's group is orphaned (setpgid(2)) it stands in a session of its
own: a parent of the same session in another group would make that group one whose stopped members somebody might
continue, so that SIGTSTP stopped it for ever, and would hang it up, caller and all, when the warden is killed.

Why ending is certain: every fork of the tree is a stopped call. Once the supervisor is gone, or no longer answers, no
fork can succeed (a closed listener makes them ENOSYS), so what is killed is not replaced; and as long as anything of
the tree lives, the first of its line is a child of the warden, so ``ECHILD`` means that nothing does. If the warden
itself is killed, the kernel kills the first child (PDEATHSIG), the rest become the supervisor's children, and it ends
them (``end_strays``). Only killing both at once leaves processes behind, and a cgroup, where there is one, does not
make that certain either.
"""

from __future__ import annotations

import _signal
import os
import select
import struct
from errno import ESRCH
from time import clock_gettime, sleep

from asl_hooks._abi import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from resource import struct_rusage

# Wait status, pid, user and system seconds, peak resident bytes of the largest process, bytes read and written: of the
# child alone when it has ended, of the whole tree (and pid 0) at the end.
STATUS = struct.Struct("=iIddQQQ")
_CPUCLOCK_SCHED = 2
_NOT_TO_IGNORE = (_signal.SIGKILL, _signal.SIGSTOP, _signal.SIGCHLD, 32, 33)  # 32 and 33 are the C library's own


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


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, _signal.SIGKILL)
        except OSError as error:
            if error.errno != ESRCH:
                raise


def end_tree() -> None:
    """Kill everything below this process and reap it. Postcondition: this process has no descendants.

    A killed process can no longer fork, so each pass is final for what it sees, and passes repeat until there is
    nothing to wait for.
    """
    me = os.getpid()
    while True:
        victims = descendants(me)
        _kill(victims)
        try:
            # A pass can miss a child whose sibling exits meanwhile; then there may be nobody who is about to die.
            os.waitpid(-1, 0 if victims else os.WNOHANG)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def end_strays(dying: int, collect: Callable[[], None] = lambda: None) -> None:
    """Kill and reap what the *dying* warden leaves to this process: its children, and theirs, under more seccomp
    filters than this process is. Other children are left alone. Postcondition: there are no such children; the warden
    is dead, and still to be reaped.

    *collect* takes what has become of those that this process traces: they cannot be reaped as children before that.
    """
    os.waitid(os.P_PID, dying, os.WEXITED | os.WNOWAIT)  # its pipes close before its children are left to us
    me = os.getpid()
    own = _filters(me)
    while True:
        strays: list[int] = []
        for children in (_children, _children_by_scan):  # the first can miss one whose sibling exits meanwhile
            strays = strays or [pid for pid in children(me) if _filters(pid) > own]
        if not strays:
            return
        for pid in strays:
            _kill((pid, *descendants(pid)))
        pause_s = 0.0005
        for pid in strays:
            try:
                while not os.waitpid(pid, os.WNOHANG)[0]:
                    collect()
                    sleep(pause_s)
                    pause_s = min(pause_s * 2, 0.02)
            except ChildProcessError:
                pass  # reaped as a tracee


def parent_of(pid: int) -> int:
    """The parent of process *pid*; 0 when it has gone."""
    return _field(pid, b"PPid:")


def _children_by_scan(pid: int) -> list[int]:
    return [child for child in _descendants_by_scan(pid) if parent_of(child) == pid]


def _children(pid: int) -> list[int]:
    return [child for child in descendants(pid) if parent_of(child) == pid]


def _filters(pid: int) -> int:
    return _field(pid, b"Seccomp_filters:")


def _field(pid: int, name: bytes) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(name):
                    return int(line[len(name) :])
    except OSError:
        pass
    return 0


def stand_apart() -> None:
    """A process group of its own, and deaf to every signal that can be ignored: only its pipes move the warden."""
    if _orphaned():
        os.setsid()
    else:
        os.setpgid(0, 0)
    for number in range(1, 65):
        if number not in _NOT_TO_IGNORE:
            _signal.signal(number, _signal.SIG_IGN)
    _signal.signal(_signal.SIGCHLD, lambda *_: None)


def _orphaned() -> bool:
    """Whether no ancestor of this process is of its session but outside of its process group, as a shell is that
    controls jobs: nobody would continue that group, so SIGTSTP, SIGTTIN and SIGTTOU do not stop it.
    """
    group, session = os.getpgrp(), os.getsid(0)
    pid = os.getppid()
    while pid:
        try:
            if os.getpgid(pid) != group:
                return os.getsid(pid) != session
        except ProcessLookupError:
            break
        pid = parent_of(pid)
    return True


def run(
    child: int,
    control: int,
    status: int,
    supervisor: int,
    kill_all: int = -1,
    folders: tuple[str, ...] = (),
    scratch: str = "",
) -> None:
    """Watch over *child* until told to end the tree; report the child's status once on *status*, and what the tree
    used at the end. Never returns.

    *supervisor* is a pidfd, readable once that process is dead. *kill_all* is an open ``cgroup.kill``, or -1;
    *folders* are cgroups to remove if the supervisor is dead, *scratch* a folder of the tree's own.
    """
    linux.prctl(linux.PR_SET_NAME, _name_address(b"asl-warden"), 0, 0, 0)
    read_before, written_before = _transferred()
    _cpu_of(child), descendants(os.getpid())  # what the end takes: the first time is slow, and nobody waits for it now
    wake_r, wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    _signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    poll = select.poll()
    for fd in (control, supervisor, wake_r):
        poll.register(fd, select.POLLIN)
    reported = False
    while True:
        while pid := _ended():
            if pid != child or reported:
                os.wait4(pid, 0)
                continue
            reported = True
            cpu_s, before = _cpu_of(pid), _transferred()
            _, wait_status, usage = os.wait4(pid, 0)
            # What the dead transferred only root may ask; the kernel has just added it to ours.
            read, written = (now - then for now, then in zip(_transferred(), before, strict=True))
            _tell(status, wait_status, pid, *cpu_s, usage.ru_maxrss * 1024, max(read, 0), max(written, 0))
        ready = [fd for fd, _ in poll.poll()]
        if supervisor in ready or control in ready:
            orphaned = supervisor in ready or not os.read(control, 1)
            if kill_all >= 0:
                try:
                    os.write(kill_all, b"1")
                except OSError:
                    pass  # the passes below are as certain, only slower
            end_tree()
            if orphaned:
                if folders:
                    from asl_hooks.cgroup import remove_folders

                    remove_folders(folders)
                if scratch:
                    from asl_hooks.scratch import remove

                    remove(scratch)
                _say(b"asl-supervise: the supervisor died; everything it had started was ended.\n")
            usage = _used()
            read, written = _transferred()
            _tell(
                status,
                -1,
                0,
                usage.ru_utime,
                usage.ru_stime,
                usage.ru_maxrss * 1024,
                max(read - read_before, 0),
                max(written - written_before, 0),
            )
            os._exit(0)
        try:
            os.read(wake_r, 4096)
        except BlockingIOError:
            pass


def _ended() -> int:
    """A child that has ended and is not waited for yet, or 0."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return found.si_pid if found is not None else 0


def _cpu_of(pid: int) -> tuple[float, float]:
    try:
        return cpu_times(pid)
    except OSError:
        return 0.0, 0.0


def cpu_times(pid: int) -> tuple[float, float]:
    """User and system CPU seconds of a process and all its threads, those that have ended included; not of children.

    Their sum is the process's CPU clock, to the nanosecond (clock_getcpuclockid(3)), divided as the kernel divides it.
    Raises ``OSError`` once the process has been waited for.
    """
    total_s = clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    with open(f"/proc/{pid}/stat", "rb") as file:
        user, system = map(int, file.read().rpartition(b")")[2].split()[11:13])
    user_s = total_s * user / (user + system) if user + system else total_s
    return user_s, total_s - user_s


def _tell(status: int, *fields: float) -> None:
    try:
        os.write(status, STATUS.pack(*fields))
    except OSError:
        pass  # the supervisor is gone; its pidfd says so


def _say(text: bytes) -> None:
    """Onto stderr if that takes it at once: a full pipe must not keep the warden."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    try:
        if any(event & select.POLLOUT for _, event in poll.poll(0)):
            os.write(2, text)
    except OSError:
        pass


def _used() -> struct_rusage:
    """What all that has been waited for has used, and all that they had waited for."""
    from resource import RUSAGE_CHILDREN, getrusage

    return getrusage(RUSAGE_CHILDREN)


def _transferred() -> tuple[int, int]:
    try:
        return transferred(os.getpid())
    except OSError:
        return 0, 0


def transferred(pid: int) -> tuple[int, int]:
    """Bytes that a process has read and written, to whatever; of the children that it has waited for, too, as the
    kernel counts (proc_pid_io(5)). Raises ``OSError`` when it has gone or may not be looked at.
    """
    with open(f"/proc/{pid}/io", "rb") as file:
        fields = dict(line.split(b": ") for line in file.read().splitlines())
    return int(fields[b"rchar"]), int(fields[b"wchar"])


_names: list[object] = []


def _name_address(name: bytes) -> int:
    from asl_hooks._abi.ctypes import addressof, create_string_buffer

    buffer = create_string_buffer(name)
    _names.append(buffer)  # kept alive
    return addressof(buffer)
