"""What this machine can enforce, found out by doing: each probe uses its mechanism in a forked child and looks.

A probe never leaves anything behind and never changes the caller. ``asl doctor`` prints the findings; the tests'
``requires`` skips or fails by them.
"""

from __future__ import annotations

import _signal
import ctypes
import errno
import os
import select

from asl_hooks import bpf, cgroup, landlock, netns, ptrace, syscalls
from asl_hooks._abi import constants as k
from asl_hooks._abi import linux
from asl_hooks.errors import AslError, UnsupportedError
from asl_hooks.notify import Listener
from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_TIMEOUT_S = 10
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 1 << 5, 1 << 12, 1 << 14, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)

_NEWER = "Use Linux {} or later."
_USERNS = "Allow user namespaces: in a container, in its seccomp profile or with CAP_SYS_ADMIN; else by sysctl."
_SECCOMP = "Needs CONFIG_SECCOMP_FILTER, and no supervisor that listens above this process."


@value
class Finding:
    """What one probe wanted and found. ``level`` is a version where one exists (Landlock's ABI), else 1 or 0."""

    name: str
    wanted: str
    found: str
    ok: bool
    remedy: str = ""
    level: int = 0


class _Missing(Exception):
    """What a probe found instead, and what to do about it."""

    def __init__(self, found: str, remedy: str = "") -> None:
        super().__init__(found)
        self.remedy = remedy


def probe(name: str, without: Collection[str] = ()) -> Finding:
    """The finding on one mechanism of ``PROBES``. What is in *without* is reported as missing: for tests only."""
    wanted, look, remedy = PROBES[name]
    if name in without:
        return Finding(name, wanted, "taken away by ASL_WITHOUT", False, "Unset ASL_WITHOUT.")
    try:
        found, level = look()
    except _Missing as missing:
        return Finding(name, wanted, str(missing), False, missing.remedy or remedy)
    except UnsupportedError as error:
        return Finding(name, wanted, error.found, False, error.remedy or remedy)
    except AslError as error:
        return Finding(name, wanted, error.message.rstrip("."), False, error.remedy or remedy)
    except OSError as error:
        return Finding(name, wanted, (error.strerror or str(error)).lower(), False, remedy)
    return Finding(name, wanted, found, True, "", level)


def probes(without: Collection[str] = ()) -> tuple[Finding, ...]:
    """The findings on everything in ``PROBES``, in its order. Takes about a tenth of a second."""
    return tuple(probe(name, without) for name in PROBES)


def _in_child(act: Callable[[], str]) -> str:
    """What *act* returns, run in a forked child; what it raises comes back as ``_Missing`` or ``OSError``."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if not child:
        try:
            os.close(reader)
            answer = "=" + act()
        except _Missing as missing:
            answer = f"!{missing}\0{missing.remedy}"
        except AslError as error:
            answer = f"!{error.found if isinstance(error, UnsupportedError) else error.message}\0{error.remedy}"
        except OSError as error:
            answer = f"#{error.errno}"
        except BaseException as error:  # nothing may get out of a forked child
            answer = f"!{type(error).__name__}: {error}\0"
        os.write(writer, answer.encode("utf-8", "backslashreplace")[:4000])
        os._exit(0)
    os.close(writer)
    try:
        ready = select.select([reader], [], [], _TIMEOUT_S)[0]
        answer = os.read(reader, 4096).decode() if ready else "!no answer\0"
    finally:
        os.close(reader)
        _end(child)
    if answer.startswith("="):
        return answer[1:]
    if answer.startswith("#"):
        number = int(answer[1:])
        raise OSError(number, os.strerror(number))
    found, _, remedy = answer[1:].partition("\0")
    raise _Missing(found or "the probe died", remedy)


def _end(child: int) -> None:
    try:
        os.kill(child, _signal.SIGKILL)
    except ProcessLookupError:
        pass
    os.waitpid(child, 0)


# The machine


def _kernel() -> tuple[str, int]:
    release, machine = os.uname().release, os.uname().machine
    syscalls.native_arch()
    version = tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in release.split("-")[0].split(".")[:2])
    if version < (5, 9):
        raise _Missing(f"Linux {release} on {machine}", _NEWER.format("5.19"))
    return f"Linux {release} on {machine}", 1


def _user() -> tuple[str, int]:
    capabilities = _status("CapEff")
    who = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
    return f"{who}, capabilities {capabilities.lstrip('0') or 'none'}", 1


def _container() -> tuple[str, int]:
    hints = [path for path in ("/.dockerenv", "/run/.containerenv") if os.path.exists(path)]
    if os.environ.get("container"):  # noqa: SIM112  # systemd and podman spell it so
        hints.append("$container")
    if _status("Seccomp") == "2":
        hints.append("a seccomp filter already holds")
    return ", ".join(hints) if hints else "no sign of one", 1


def _status(field: str) -> str:
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            name, _, content = line.partition(":")
            if name == field:
                return content.strip()
    return ""


# Files


def _landlock() -> tuple[str, int]:
    abi = landlock.abi()
    if not abi:
        raise _Missing("none")

    def act() -> str:
        os.close(os.open("/", os.O_RDONLY))
        ruleset, _ = landlock.build(landlock.Ruleset(fs=landlock.READ))
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        landlock.restrict(ruleset)
        try:
            os.close(os.open("/", os.O_RDONLY))
        except PermissionError:
            return f"ABI {abi}"
        raise _Missing("a domain that bounds nothing")

    return _in_child(act), abi


def _mountns() -> tuple[str, int]:
    def act() -> str:
        _unshare(k.CLONE_NEWNS)
        _mount("none", "/", _MS_REC | _MS_PRIVATE)
        _mount("/etc", "/etc", _MS_BIND)
        _mount("none", "/etc", _MS_BIND | _MS_REMOUNT | _MS_RDONLY | os.statvfs("/etc").f_flag & ~_MS_RDONLY & 0xF)
        if not os.statvfs("/etc").f_flag & os.ST_RDONLY:
            raise _Missing("a bind mount stays writable")
        return "a path can be bound read-only"

    return _in_child(act), 1


def _mount(source: str, target: str, flags: int) -> None:
    if _libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None) < 0:
        _raise()


# Interception


def _notified(call: Callable[[], int], answer: Callable[[Listener], int], flags: int = 0) -> str:
    """Has a tracee make *call* (which must come to getppid or dup) under a filter, gives *answer*, and compares."""

    def act() -> str:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        rules = (bpf.Rule(("getppid", "dup"), bpf.NOTIFY),)
        program = bpf.assemble(bpf.Filter(syscalls.native_arch(), rules))
        listener = Listener(bpf.install(program, linux.SECCOMP_FILTER_FLAG_NEW_LISTENER | flags))
        reader, writer = os.pipe()
        tracee = os.fork()
        if not tracee:
            linux.prctl(linux.PR_SET_PDEATHSIG, _signal.SIGKILL, 0, 0, 0)
            listener.close()
            os.close(reader)
            try:
                os.write(writer, str(call()).encode())
            finally:
                os._exit(0)
        os.close(writer)
        try:
            if not select.select([listener.fileno()], [], [], _TIMEOUT_S / 2)[0]:
                raise _Missing("no notification came")
            wanted = answer(listener)
            os.set_blocking(reader, False)
            got = os.read(reader, 20).decode() if select.select([reader], [], [], _TIMEOUT_S / 2)[0] else "nothing"
            if got != str(wanted):
                raise _Missing(f"the answer {wanted} arrived as {got}")
        finally:
            _end(tracee)
        return "works"

    return _in_child(act)


def _notify() -> tuple[str, int]:
    def answer(listener: Listener) -> int:
        call = listener.receive()
        if call is None or not listener.valid(call) or not listener.give(call, 4242):
            raise _Missing("the call was gone")
        return 4242

    return _notified(os.getppid, answer), 1


def _addfd() -> tuple[str, int]:
    def answer(listener: Listener) -> int:
        call = listener.receive()
        with open("/dev/full", "wb", buffering=0) as full:
            if call is None or not listener.inject(call, full.fileno(), cloexec=False):
                raise _Missing("the call was gone")
        return os.stat("/dev/full").st_rdev

    return _notified(lambda: os.fstat(_libc.dup(0)).st_rdev, answer), 1


def _sync_wake_up() -> tuple[str, int]:
    from fcntl import ioctl

    def answer(listener: Listener) -> int:
        ioctl(listener.fileno(), linux.SECCOMP_IOCTL_NOTIF_SET_FLAGS, linux.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
        call = listener.receive()
        if call is None or not listener.give(call, 4242):
            raise _Missing("the call was gone")
        return 4242

    return _notified(os.getppid, answer), 1


def _wait_killable() -> tuple[str, int]:
    def answer(listener: Listener) -> int:
        call = listener.receive()
        if call is None or not listener.give(call, 4242):
            raise _Missing("the call was gone")
        return 4242

    return _notified(os.getppid, answer, linux.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV), 1


def _pidfd_getfd() -> tuple[str, int]:
    def act() -> str:
        reader, writer = os.pipe()
        stay, leave = os.pipe()
        child = os.fork()
        if not child:
            os.close(leave)
            os.read(stay, 1)
            os._exit(0)
        os.close(writer)
        try:
            pidfd = linux.pidfd_open(child, 0)
            os.write(linux.pidfd_getfd(pidfd, writer, 0), b"x")
        finally:
            _end(child)
        if os.read(reader, 1) != b"x":
            raise _Missing("another descriptor came")
        return "works"

    return _in_child(act), 1


def _ptrace() -> tuple[str, int]:
    def act() -> str:
        go, write = os.pipe()
        child = os.fork()
        if not child:
            os.close(write)
            os.read(go, 1)
            os.kill(os.getpid(), _signal.SIGUSR1)  # kills, unless the tracer takes it away
            os._exit(42)
        try:
            ptrace.seize(child)
            os.write(write, b"x")
            _, status = os.waitpid(child, linux.WALL)
            if not os.WIFSTOPPED(status):
                raise _Missing("a seized child did not stop")
            ptrace.detach(child)
            _, status = os.waitpid(child, 0)
        except BaseException:
            _end(child)
            raise
        if os.waitstatus_to_exitcode(status) != 42:
            raise _Missing("a detached child did not go on")
        return "an own child can be seized"

    return _in_child(act), 1


def _yama() -> tuple[str, int]:
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:
            scope = int(file.read())
    except FileNotFoundError:
        return "no Yama", 1
    found = f"ptrace_scope {scope}"
    if scope == 3 or (scope == 2 and os.geteuid() != 0):
        raise _Missing(found, "Set kernel.yama.ptrace_scope to 1.")
    return found, 1


# Namespaces


def _unshare(flags: int) -> None:
    """Into new namespaces, by way of a user namespace when this user needs one."""
    if _libc.unshare(flags) == 0:
        return
    if ctypes.get_errno() != errno.EPERM:
        _raise()
    _enter_user(flags)


def _enter_user(flags: int = 0) -> None:
    uid, gid = os.geteuid(), os.getegid()
    if _libc.unshare(k.CLONE_NEWUSER | flags) < 0:
        _raise()
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _userns() -> tuple[str, int]:
    def act() -> str:
        _enter_user()
        if _libc.unshare(k.CLONE_NEWUTS) < 0:  # some machines let it be made, without any capability in it
            raise _Missing("made, but without capabilities in it")
        return "works"

    return _in_child(act), 1


def _netns() -> tuple[str, int]:
    def act() -> str:
        return "by way of a user namespace" if netns.enter() else "works"

    return _in_child(act), 1


def _pidns() -> tuple[str, int]:
    def act() -> str:
        _unshare(k.CLONE_NEWPID)
        first = os.fork()
        if not first:
            os._exit(os.getpid())
        if os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) != 1:
            raise _Missing("its first process is not number 1")
        return "works"

    return _in_child(act), 1


def _raise() -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


# Limits on the whole tree


def _cgroup() -> tuple[str, int]:
    wanted = (cgroup.MEMORY, cgroup.PROCESSES, cgroup.CPU)
    try:
        subtree = cgroup.Subtree(f"asl-probe-{os.getpid()}", cgroup.places(), wanted)
    except OSError as error:
        raise _Missing(f"none can be made: {error.strerror}") from error
    try:
        held = ", ".join(f"{name} (version {subtree.version(name)})" for name in wanted if name in subtree.holds)
    finally:
        subtree.remove()
    if not held:
        raise _Missing("none of memory, pids and cpu can be limited")
    return f"limits on {held}", 1


# Each mechanism: what is wanted, the probe, what to do when it is missing.
PROBES: dict[str, tuple[str, Callable[[], tuple[str, int]], str]] = {
    "kernel": ("Linux 5.19 on x86-64 or aarch64; 5.9 does with ptrace", _kernel, _NEWER.format("5.19")),
    "user": ("any user", _user, ""),
    "container": ("none, or one that allows what follows", _container, ""),
    "notify": ("seccomp user notification", _notify, _SECCOMP),
    "addfd": ("descriptors injected with an answer (Linux 5.14)", _addfd, _SECCOMP),
    "wait_killable": ("calls that signals do not restart (Linux 5.19)", _wait_killable, _NEWER.format("5.19")),
    "sync_wake_up": ("synchronous wake-up (Linux 6.6)", _sync_wake_up, _NEWER.format("6.6") + " It is faster there."),
    "pidfd_getfd": ("descriptors fetched from a child", _pidfd_getfd, "Allow pidfd_getfd in the container's profile."),
    "ptrace": ("an own child traced", _ptrace, "Allow ptrace: kernel.yama.ptrace_scope, or the container's profile."),
    "yama": ("ptrace_scope 0 or 1", _yama, "Set kernel.yama.ptrace_scope to 1."),
    "landlock": (
        "Landlock, ABI 6 (Linux 6.12) for all of it",
        _landlock,
        "Use Linux 5.13 or later with landlock among the active security modules (lsm=landlock,...).",
    ),
    "userns": ("user namespaces", _userns, _USERNS),
    "netns": ("an empty network namespace", _netns, _USERNS),
    "mountns": ("a private mount namespace", _mountns, _USERNS),
    "pidns": ("a PID namespace", _pidns, _USERNS),
    "cgroup": (
        "a cgroup for the tree, with memory, pids and cpu",
        _cgroup,
        "Run under a delegated cgroup (systemd-run --user --scope -p Delegate=yes ...), or as root.",
    ),
}
