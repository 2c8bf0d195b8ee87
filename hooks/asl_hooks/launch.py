"""Launching: a child that is bounded before its first instruction, under a warden that ends it.

    supervisor                    warden                         child
        │ fork ──────────────────► │ subreaper                     │
        │                          │ fork ───────────────────────► │ limits, no_new_privs
        │                          │ waits                         │ Landlock domain
        │ ◄───────────────────── "ready, listener is N" ────────── │ seccomp filter, listener N
        │ pidfd_getfd(N)           │                               │
        │ ─────────────────────── "go" ──────────────────────────► │ close N, execve  ──► first call that is judged

If the supervisor dies at any point, the child reads end-of-file instead of "go" and exits, or the warden kills it.
If the warden dies, the child dies with it (PDEATHSIG), and the rest of the tree is handed to the supervisor.
"""

from __future__ import annotations

import _signal
import os
import struct
from errno import EACCES, ENOENT, ENOEXEC, EPERM

from asl_hooks import bpf, landlock, warden
from asl_hooks._abi import ctypes, linux
from asl_hooks.errors import BackendError, UnsupportedError
from asl_hooks.identity import drop_capabilities
from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from ctypes import Array, _NamedFuncPointer

_LISTENER = linux.SECCOMP_FILTER_FLAG_NEW_LISTENER | linux.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
_NETWORK, _IPC = b"network", b"ipc"  # what the child has of its own
# What a traced child is seized with: it dies with this process, and so does all that it starts, which is traced too.
TRACED = (
    linux.PTRACE_O_EXITKILL
    | linux.PTRACE_O_TRACESYSGOOD
    | linux.PTRACE_O_TRACESECCOMP
    | linux.PTRACE_O_TRACEEXEC
    | linux.PTRACE_O_TRACEFORK
    | linux.PTRACE_O_TRACEVFORK
    | linux.PTRACE_O_TRACECLONE
)
_READY = struct.Struct("=ii16s")  # listener or -1, errno, the step that failed or what is isolated


@value
class LaunchSpec:
    """What to start and within which bounds.

    ``filter`` is an assembled seccomp program; ``ruleset`` an open Landlock ruleset or -1; ``limits`` triples of
    ``(RLIMIT_*, soft, hard)``; ``keep`` descriptors that stay open above 2. ``closed`` are those of 0, 1, 2 that the
    program shall find closed, ``stdio`` pairs of a descriptor and the one of 0, 1, 2 that it becomes. ``groups`` are
    open ``cgroup.procs`` files that the child writes itself into, ``kill_all`` an open ``cgroup.kill`` for the warden;
    ``folders`` are the cgroups and ``scratch`` the folder that it removes if the supervisor cannot. ``network``: put
    the child into an empty network namespace, ``ipc``: into an IPC namespace, where the machine has one to give. An
    ordinary user gets the second only along with the first. ``shared`` gives the filter for a child that has to stay in
    the IPC namespace of all, in place of ``filter``. ``call`` is called in place of the program, with ``environment``
    as its own; what it returns is the exit status. ``traced``: the filter asks
    a ptrace(2) tracer, not a listener.
    """

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    filter: bytes
    ruleset: int = -1
    ruleset_log: int = 0
    limits: tuple[tuple[int, int, int], ...] = ()
    keep: tuple[int, ...] = ()
    closed: tuple[int, ...] = ()
    stdio: tuple[tuple[int, int], ...] = ()
    groups: tuple[int, ...] = ()
    kill_all: int = -1
    folders: tuple[str, ...] = ()
    scratch: str = ""
    network: bool = False
    ipc: bool = False
    shared: Callable[[], bytes] | None = None
    call: Callable[[], int] | None = None
    traced: bool = False


@value
class Launched:
    """A child that waits for ``go``: its pid and pidfd, the listener (-1: this thread traces it), the warden's pipes.

    ``network`` is its own network namespace, -1 where it has none; ``ipc`` tells whether it has an IPC namespace.
    """

    pid: int
    pidfd: int
    listener: int
    warden: int
    control: int
    status: int
    go: int
    network: int = -1
    ipc: bool = False


def launch(spec: LaunchSpec) -> Launched:
    """Fork the warden, which forks the child, which bounds itself: the child, with its listener. It execs once a byte
    is written to ``go``.

    Establishes: no_new_privs, few capabilities, limits, Landlock domain and seccomp filter hold in the child; only
    0, 1, 2 and ``keep`` are open in it when it execs. Raises ``UnsupportedError`` or ``BackendError`` naming the
    step that the kernel refused; nothing is left running.
    """
    # What the children would do, each in its own copy of the memory, is done once, here.
    execute = _execution(spec) if spec.call is None else None
    if spec.network:
        from asl_hooks import netns  # noqa: F401

    control_r, control = os.pipe2(os.O_CLOEXEC)
    status, status_w = os.pipe2(os.O_CLOEXEC)
    ready, ready_w = os.pipe2(os.O_CLOEXEC)
    go_r, go = os.pipe2(os.O_CLOEXEC)
    supervisor = linux.pidfd_open(os.getpid(), 0)
    # Should the warden be killed, what it leaves comes to us.
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    warden_pid = os.fork()
    if warden_pid == 0:
        try:
            linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            for fd in (control, status, ready, go):
                os.close(fd)
            me = os.getpid()
            child = os.fork()
            if child == 0:
                _become(spec, execute, ready_w, go_r, me)
            warden.stand_apart()
            _close_all_but(
                {0, 1, 2, control_r, status_w, supervisor, *((spec.kill_all,) if spec.kill_all >= 0 else ())}
            )
            os.write(status_w, warden.STATUS.pack(0, child, 0.0, 0.0, 0, 0, 0))
            warden.run(child, control_r, status_w, supervisor, spec.kill_all, spec.folders, spec.scratch)
        finally:
            os._exit(70)
    for fd in (supervisor, control_r, status_w, ready_w, go_r):
        os.close(fd)
    first = os.read(status, warden.STATUS.size)
    answer = os.read(ready, _READY.size)
    if len(answer) != _READY.size or len(first) != warden.STATUS.size:
        _abandon(warden_pid, control, ready, status, go)
        raise BackendError("launch", EPERM, remedy="The child died before it could be bounded.")
    listener_there, errno, step = _READY.unpack(answer)
    pid = warden.STATUS.unpack(first)[1]
    if errno:
        _abandon(warden_pid, control, ready, status, go)
        raise _refused(step.rstrip(b"\0").decode(), errno)
    step_here = "pidfd_getfd"
    try:
        pidfd = linux.pidfd_open(pid, 0)
        if spec.traced:
            step_here = "ptrace"
            linux.ptrace(linux.PTRACE_SEIZE, pid, None, TRACED)
        listener = linux.pidfd_getfd(pidfd, listener_there, 0) if listener_there >= 0 else -1
        network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC) if _NETWORK in step else -1
    except OSError as error:
        _abandon(warden_pid, control, ready, status, go, traced=pid if spec.traced else 0)
        raise _refused(step_here, error.errno or EPERM) from error
    os.close(ready)
    return Launched(pid, pidfd, listener, warden_pid, control, status, go, network, _IPC in step)


def abandon(launched: Launched) -> None:
    """End a child that was not told to go, with its warden, and give up its descriptors."""
    for fd in (launched.listener, launched.pidfd, launched.network):
        if fd >= 0:
            os.close(fd)
    traced = launched.pid if launched.listener < 0 else 0
    _abandon(launched.warden, launched.control, launched.status, launched.go, traced=traced)


def _abandon(warden_pid: int, control: int, *fds: int, traced: int = 0) -> None:
    try:
        os.write(control, b"e")
    except BrokenPipeError:
        pass
    for fd in (control, *fds):
        os.close(fd)
    if traced:  # it is not dead for the warden before its tracer has seen it
        try:
            while os.WIFSTOPPED(os.waitpid(traced, linux.WALL)[1]):
                pass
        except ChildProcessError:
            pass
    os.waitpid(warden_pid, 0)


_REMEDIES = {
    "listener": "Needs Linux 5.19, and no other listener above this process; or run with --backend ptrace.",
    "ptrace": "Needs permission to trace own children (see kernel.yama.ptrace_scope), and no other tracer.",
    "seccomp": "Needs a kernel with CONFIG_SECCOMP_FILTER.",
    "landlock": "Needs Linux 5.13 with Landlock among the active security modules (lsm=landlock,…).",
    "pidfd_getfd": "Needs Linux 5.6 and permission to trace own children (see kernel.yama.ptrace_scope).",
    "no_new_privs": "",
    "cgroup": "The run's cgroup could not be entered; run it where the cgroup is delegated to this user.",
    "limits": "A limit is above what this process may set; lower it or run with a higher hard limit.",
}


class NoListenerError(UnsupportedError):
    """The kernel refused a seccomp listener; ``errno`` is EBUSY where another supervisor has one above this process."""

    errno = 0


def _refused(step: str, errno: int) -> UnsupportedError:
    if step == "listener":
        error = NoListenerError("a seccomp listener", f"the kernel answered: {os.strerror(errno)}", _REMEDIES[step])
        error.errno = errno
        return error
    return UnsupportedError(
        f"{step} is needed to bound the child", f"the kernel answered: {os.strerror(errno)}", _REMEDIES.get(step, "")
    )


def _close_all_but(keep: set[int]) -> None:
    start = 0
    for fd in sorted(keep):
        if fd > start:
            linux.close_range(start, fd - 1, 0)
        start = fd + 1
    linux.close_range(start, 0xFFFFFFFF, 0)


def _become(spec: LaunchSpec, execute: Callable[[], int] | None, ready: int, go: int, parent: int) -> None:
    """In the child: bound this process, hand over the listener, wait for the word, *execute*, or make the spec's call.
    Never returns.
    """
    step = b"signals"
    try:
        linux.prctl(linux.PR_SET_PDEATHSIG, _signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before that
            os._exit(125)
        _signal.set_wakeup_fd(-1)
        for number in range(1, 32):
            # What the caller ignores (nohup, a background job) stays ignored; what Python itself set at start does not.
            if callable(_signal.getsignal(number)) or number in (_signal.SIGPIPE, _signal.SIGXFSZ):
                _signal.signal(number, _signal.SIG_DFL)
        step = b"cgroup"
        for group in spec.groups:
            os.write(group, b"0")
        step = b"stdio"
        for fd, place in spec.stdio:
            os.dup2(fd, place)
        step = b"limits"
        if spec.limits:
            from resource import setrlimit

            for which, soft, hard in spec.limits:
                setrlimit(which, (soft, hard))
        network, ipc = _isolate(spec.network, spec.ipc)
        step = b"no_new_privs"
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        step = b"capabilities"
        drop_capabilities()
        step = b"landlock"
        if spec.ruleset >= 0:
            landlock.restrict(spec.ruleset, spec.ruleset_log)
        program = spec.filter if ipc or spec.shared is None else spec.shared()
        # From the filter on, only calls that it does not notify: nobody answers yet.
        _close_all_but({0, 1, 2, ready, go, *spec.keep}.difference(spec.closed))
        step = b"seccomp" if spec.traced else b"listener"
        listener = -1
        if spec.traced:
            bpf.install(program)
        else:
            listener = bpf.install(program, _LISTENER)
        os.write(ready, _READY.pack(listener, 0, _NETWORK * network + _IPC * ipc))
        os.close(ready)
        if not os.read(go, 1):
            os._exit(125)
        if listener >= 0:
            os.close(listener)
        os.close(go)
        if execute is not None:
            os._exit(execute())
        assert spec.call is not None
        os.environ.clear()
        os.environ.update(spec.environment)
        os._exit(spec.call())
    except BaseException as error:  # whatever it was, the parent must hear of it
        errno = getattr(error, "errno", None) or EPERM
        try:
            os.write(ready, _READY.pack(-1, errno, step))
        finally:
            os._exit(125)


def _isolate(network: bool, ipc: bool) -> tuple[bool, bool]:
    """Whether this process now is in a network and in an IPC namespace of its own, of those that are wanted."""
    has_ipc = False
    if ipc:
        try:
            linux.unshare(linux.CLONE_NEWIPC)
            has_ipc = True
        except OSError as error:
            ipc = error.errno == EPERM  # else this kernel has none
    if not network:
        return False, has_ipc
    from asl_hooks import netns

    try:
        owned = netns.enter(linux.CLONE_NEWIPC if ipc and not has_ipc else 0)
    except UnsupportedError:
        return False, has_ipc
    # A new user namespace resets both.
    linux.prctl(linux.PR_SET_DUMPABLE, 1, 0, 0, 0)
    linux.prctl(linux.PR_SET_PDEATHSIG, _signal.SIGKILL, 0, 0, 0)
    return True, has_ipc or (owned and ipc)


def _execution(spec: LaunchSpec) -> Callable[[], int]:
    """What executes the program, with everything looked up: it returns the exit status when it cannot be executed."""
    encode = os.fsencode
    argv = [encode(word) for word in spec.argv]
    environment = [encode(f"{name}={content}") for name, content in spec.environment]
    strings = ctypes.c_char_p * (len(argv) + 1)
    variables = ctypes.c_char_p * (len(environment) + 1)
    paths = candidates(spec.argv[0], dict(spec.environment))
    execve = ctypes.CDLL(None, use_errno=True).execve
    given = strings(*argv, None), variables(*environment, None)
    return lambda: _exec(execve, *given, paths, spec.argv[0])


def candidates(program: str, environment: Mapping[str, str]) -> list[bytes]:
    """The paths at which execvp(3) would look for *program*, in order."""
    encoded = os.fsencode(program)
    if not encoded:
        return []
    if b"/" in encoded:
        return [encoded]
    path = os.fsencode(environment.get("PATH", os.defpath))
    every = [os.path.join(folder or b".", encoded) for folder in path.split(b":")]
    # Each try is a stopped call. Where nothing is now, only the error of the last one is of interest.
    return [found for found in every if os.path.lexists(found)] or every[-1:]


def _exec(
    execve: _NamedFuncPointer,
    argv: Array[ctypes.c_char_p],
    environment: Array[ctypes.c_char_p],
    paths: Sequence[bytes],
    name: str,
) -> int:
    """Exec the first path that works; the exit status for the shell's convention when none does."""
    denied = 0
    errno = ENOENT
    for path in paths:
        execve(path, argv, environment)
        errno = ctypes.get_errno()
        if errno == EACCES:
            denied = errno
    errno = denied or errno
    os.write(2, f"asl-supervise: {name}: {_why_not(name, errno)}\n".encode("utf-8", "backslashreplace"))
    return 127 if errno == ENOENT else 126


def _why_not(name: str, errno: int) -> str:
    if errno == ENOENT:
        if "/" in name and os.path.exists(name):
            return "the interpreter that it names is not there"
        line = "; a shell's command line goes with sh -c" if " " in name else ""
        return "no such program" + ("" if "/" in name else " on PATH") + line
    if errno == ENOEXEC:
        return "not a program, and no script: its first line names no interpreter (#!/bin/sh)"
    if "/" in name and os.path.isdir(name):
        return "a folder, not a program"
    if errno == EACCES and "/" in name and os.path.exists(name) and not os.access(name, os.X_OK):
        return "not executable; chmod +x makes it so"
    return os.strerror(errno)
