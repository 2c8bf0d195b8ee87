"""Exec: judged at the call with all that it should become, and compared with what really runs before that begins.

What is called may only be the first of several: the interpreter of a ``#!`` script runs in its place, and ld.so loads
the program that is its argument. Each is an event, and the strictest decision about any of them is the answer.

The kernel reads path, argv and script after the supervisor has, so that judgement alone could be fooled by a second
thread, a link swapped in time, or a script that becomes another. So the thread is seized, and at the exec stop
(``asl_hooks.ptrace``) the real executable and argv are looked at; when they are none of those that were judged, they
are judged there, and killed if they may not run.
"""

from __future__ import annotations

import _signal
import os
import stat
from errno import EACCES, ELOOP, ENOENT, ESRCH
from time import time

from agent_safety_layer.engine.objects import signed
from agent_safety_layer.engine.operation import Operation
from agent_safety_layer.engine.recorder import result_text
from agent_safety_layer.events import ALLOW, ASK, BLOCK, RANK, Decision, Event, text_of
from asl_hooks import memory, ptrace
from asl_hooks._abi import linux
from asl_hooks.paths import Located, base_of, locate, name_of
from asl_hooks.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.engine.answers import Stopped
    from agent_safety_layer.engine.custom import Custom
    from agent_safety_layer.engine.recorder import Recorder
    from agent_safety_layer.engine.view import View
    from asl_hooks.backend import Backend, Call
    from asl_hooks.processes import Process

    _Looks = tuple[tuple[int, ...], ...]

_SHORT_CMDLINE, _LONGEST_CMDLINE = 8192, 6 << 20
_SCRIPT_HEAD = 256  # BINPRM_BUF_SIZE
_MOST_ASKED = 1024
_SETTLED_S = 2.0  # a file that changed just now may change again within the same tick of its clock
_SCRIPTS = 5  # scripts that are interpreted by scripts: the kernel gives up with ELOOP
# ld.so PROGRAM: the loader's own names, and those of its options that take a value.
_LOADERS = (b"ld-linux", b"ld-musl-", b"ld.so", b"ld64.so", b"ld-2.")
_LOADER_VALUES = (
    *(b"--library-path", b"--inhibit-rpath", b"--audit", b"--preload", b"--argv0"),
    *(b"--glibc-hwcaps-prepend", b"--glibc-hwcaps-mask"),
)


class Execs:
    """Describes exec calls."""

    def __init__(self, view: View) -> None:
        self._view = view
        # What the first line of each file that was run asks for, by what the file was. A look that comes too late for
        # a change makes nothing run that may not: see ``ExecCheck``.
        self._asked: dict[tuple[int, ...], list[bytes]] = {}

    def exec(self, call: Call, process: Process, name: str) -> Operation:
        """execve, execveat.

        ``OSError`` where the kernel would fail it anyway, so that a search along PATH makes no events.
        """
        args = call.args
        dir_fd, at, flags = linux.AT_FDCWD, 0, 0
        if name == "execveat":
            dir_fd, at, flags = signed(args[0]), 1, args[4] & 0xFFFFFFFF
        raw = memory.read_string(process.mem, args[at])
        if not raw and flags & linux.AT_EMPTY_PATH:
            held = self._view.copy_descriptor(call, dir_fd)
            found, given = Located(name_of(held), held), b"/dev/fd/%d" % dir_fd
        else:
            if not raw:
                raise OSError(ENOENT, "nothing to execute")
            here = raw.startswith(b"/") or dir_fd == linux.AT_FDCWD
            path = raw if raw.startswith(b"/") else base_of(call.tid, dir_fd) + b"/" + raw
            given = raw if here else b"/dev/fd/%d/%s" % (dir_fd, raw)
            found = locate(path, process.pid, call.tid, not flags & linux.AT_SYMLINK_NOFOLLOW)
        if found.fd < 0:
            raise OSError(found.errno, "nothing to execute")
        try:
            look = _look(found.fd)
            if look not in self._asked:
                _check_executable(found.fd)
            argv = memory.read_strings(process.mem, args[at + 1]) or [b""]
            steps = [*self._named(found, argv), *self._becomes(found, look, given, argv, call, process)]
        finally:
            os.close(found.fd)
        canonical, spelled = text_of(found.path), text_of(raw)
        event = self._view.event(
            "process.exec",
            call,
            process,
            path=canonical,
            spelled=spelled if spelled != canonical else "",
            argv=_texts(argv),
            cwd=_cwd(call.tid),
        )
        events = [event, *(_instead(event, text_of(path), _texts(words)) for path, words in steps[1:])]
        process.execs[call.tid] = tuple(events)
        if len(events) > 1:
            event = max(events, key=lambda event: RANK[self._view.decide(event).action])
        return Operation(event, None, bounded=True)

    def _named(self, found: Located, argv: list[bytes]) -> list[tuple[bytes, list[bytes]]]:
        """What is executed, by its path and by the other name under which the policy keeps it from the tree."""
        kept = self._view.kept_name(found.fd) if found.fd >= 0 else ""
        return [(path, argv) for path in (found.path, os.fsencode(kept)) if path]

    def _becomes(
        self, found: Located, look: tuple[int, ...], given: bytes, argv: list[bytes], call: Call, process: Process
    ) -> list[tuple[bytes, list[bytes]]]:
        """The executables and argvs that the kernel, or ld.so, will make of it one after the other."""
        steps: list[tuple[bytes, list[bytes]]] = []
        held = [found]
        try:
            while len(steps) < _SCRIPTS:
                interpreter = self._interpreter(held[-1].fd, look)
                if not interpreter:
                    break
                argv = [*interpreter, given, *argv[1:]]
                given = interpreter[0]
                held.append(self._locate(given, call, process))
                steps += self._named(held[-1], argv)
                look = _look(held[-1].fd)
                if not look:
                    break
                _check_executable(held[-1].fd)
            if held[-1].path.rpartition(b"/")[2].startswith(_LOADERS):
                words = _after_loader(argv)
                if words:
                    held.append(self._locate(words[0], call, process))
                    steps += self._named(held[-1], words)
        finally:
            for extra in held[1:]:
                if extra.fd >= 0:
                    os.close(extra.fd)
        return steps

    def _interpreter(self, held: int, look: tuple[int, ...]) -> list[bytes]:
        asked = self._asked.get(look)
        if asked is None:
            asked = _interpreter(held)
            if look and look[-1] < (time() - _SETTLED_S) * 1e9:
                if len(self._asked) >= _MOST_ASKED:
                    self._asked.clear()
                self._asked[look] = asked
        return asked

    @staticmethod
    def _locate(path: bytes, call: Call, process: Process) -> Located:
        if not path.startswith(b"/"):
            path = base_of(call.tid, linux.AT_FDCWD) + b"/" + path
        return locate(path, process.pid, call.tid, True)


class ExecCheck:
    """Lets execs go and checks what they became."""

    def __init__(
        self, backend: Backend, view: View, recorder: Recorder, *, verify: bool, custom: Custom | None = None
    ) -> None:
        self._custom = custom
        self._backend = backend
        self._view = view
        self._recorder = recorder
        self._verify = verify
        # Thread: its process, what was judged, and what that was like when a person was asked.
        self._seized: dict[int, tuple[int, tuple[Event, ...], _Looks]] = {}
        self._shown: dict[int, _Looks] = {}  # call: what a person was shown
        self._scripts: dict[int, dict[str, tuple[int, ...]]] = {}  # process: what its interpreter reads for that

    def show(self, stopped: Stopped) -> None:
        """A person is asked about this exec: remember what would run."""
        self._shown[stopped.call.id] = _looks(stopped.process.execs.get(stopped.call.tid, ()))

    def changed(self, stopped: Stopped) -> bool:
        """Whether what would run is no longer what was shown: another file, or another content."""
        return self._shown.get(stopped.call.id) != _looks(stopped.process.execs.get(stopped.call.tid, ()))

    def forget(self, stopped: Stopped) -> None:
        """It will not run."""
        self._shown.pop(stopped.call.id, None)

    def reads_script(self, event: Event, fd: int) -> bool:
        """Whether the process opens, for the first time, the very script that a person let it run: *fd* holds it."""
        shown = self._scripts.get(event.pid, {}).pop(event.path, None)
        return shown is not None and shown == _look(f"/proc/self/fd/{fd}")

    def gone(self, pid: int) -> None:
        """The process has ended."""
        self._scripts.pop(pid, None)

    def let_go(self, stopped: Stopped, event: Event, decision: Decision, effective: str) -> None:
        """Let the kernel run an exec that was judged, to be stopped again before the new program begins."""
        call, process = stopped.call, stopped.process
        process.exec_pending = True
        process.cache.clear()
        judged = process.execs.pop(call.tid, (event,))
        shown = self._shown.pop(call.id, ())
        path = judged[0].path
        # An executable without a name, such as a memfd, is no business of Landlock.
        if path.startswith("/") and not path.startswith("/memfd:") and not self._view.executable(path):
            self._deny(stopped, event, "it lies outside of what the kernel was told at the start may be executed")
            return
        if self._verify:
            if call.tid not in self._seized and not self._backend.traces:
                try:
                    ptrace.seize(call.tid)
                except OSError as error:
                    if error.errno == ESRCH:
                        self._backend.fail(call, ESRCH)
                        self._withdrawn(stopped, event, decision)
                    else:
                        self._deny(stopped, event, f"it could not be traced to be verified: {error.strerror}")
                    return
            self._seized[call.tid] = (process.pid, judged, shown)

        def record(result: int | None) -> None:
            self._recorder.record(event, decision, effective, result_text(result), stopped.started)

        told = record if self._backend.tells else None
        if not self._backend.proceed(call, told):
            self._withdrawn(stopped, event, decision)
        elif told is None:
            record(None)

    def _withdrawn(self, stopped: Stopped, event: Event, decision: Decision) -> None:
        if self._view.policy.stateful:  # see ``answers``
            self._recorder.record(event, decision, ALLOW, "EINTR", stopped.started)

    def _deny(self, stopped: Stopped, event: Event, reason: str) -> None:
        self._recorder.record(event, Decision(BLOCK, "exec", "", reason), BLOCK, "EACCES", stopped.started)
        self._backend.fail(stopped.call, EACCES)

    def became(self, tid: int, pid: int) -> bool:
        """Whether what process *pid* has become by an exec of its thread *tid* may run. For a backend that traces."""
        _, judged, shown = self._seized.pop(tid, (pid, (), ()))
        return bool(judged) and self._may_run(pid, judged, shown)

    def stops(self) -> None:
        """Look at the threads that were seized; SIGCHLD says when."""
        if self._backend.traces:
            return
        for stop in ptrace.stops({tid: pid for tid, (pid, *_) in self._seized.items()}):
            _, judged, shown = self._seized.pop(stop.tid)
            if stop.exec:
                if self._may_run(stop.stopped, judged, shown):
                    ptrace.detach(stop.stopped)
                else:
                    self._kill(stop.stopped)
            elif not stop.gone:
                ptrace.detach(stop.stopped, stop.signal)

    def _may_run(self, pid: int, judged: tuple[Event, ...], shown: _Looks) -> bool:
        """Whether what runs in *pid* now is what was judged, or may run as well; what it is, is recorded."""
        started = time()
        process = self._view.processes.get(pid)
        try:
            actual = real(pid, judged)
            if process is not None:
                process.refresh(actual.path)
            actual = self._kept(pid, judged, actual)
        except OSError as error:
            self._view.advance(judged[0], self._view.decide(judged[0]))
            decision = Decision(BLOCK, "exec", "", f"what really runs could not be read: {error.strerror}")
            self._recorder.record(judged[0], decision, BLOCK, "SIGKILL", started)
            return False
        if actual is judged[0] and not shown:  # what was asked for runs, and it was decided and recorded at the call
            self._scripts.pop(pid, None)
            return True
        decision = self._view.decide(actual)
        enforced = self._view.decide_enforced(actual).action
        if actual is not judged[0]:
            self._view.advance(actual, decision)
        foreign = not any(actual is event for event in judged)
        changed = shown and (shown != _looks(judged) or _look(f"/proc/{pid}/exe") not in shown)
        if changed:
            decision = Decision(BLOCK, "exec", "", "it has changed since a person allowed it")
            self._recorder.record(actual, decision, BLOCK, "SIGKILL", started)
            return False
        if foreign and self._custom is not None and self._custom.binding:
            reason = "what really runs is not what the Python policies were asked about"
            self._recorder.record(actual, Decision(BLOCK, "exec", "", reason), BLOCK, "SIGKILL", started)
            return False
        if foreign and enforced in (BLOCK, ASK):
            self._recorder.record(actual, decision, BLOCK, "SIGKILL", started)
            return False
        if actual is not judged[0]:
            if enforced in (BLOCK, ASK):
                enforced = ALLOW  # asked about, or observed only, as a part of the call
            self._recorder.record(actual, decision, enforced, "", started)
        self._scripts.pop(pid, None)
        if len(shown) > 1:
            looks = zip(judged, shown, strict=True)
            self._scripts[pid] = {event.path: look for event, look in looks if event is not actual}
        return True

    def _kept(self, pid: int, judged: tuple[Event, ...], actual: Event) -> Event:
        """*actual*, or what runs in *pid* by the name under which the policy keeps that, if this was not judged."""
        exe = f"/proc/{pid}/exe"
        if os.stat(exe).st_nlink < 2:
            return actual
        held = os.open(exe, os.O_PATH | os.O_CLOEXEC)
        try:
            kept = self._view.kept_name(held)
        finally:
            os.close(held)
        known = not kept or any(event.path == kept and event.argv == actual.argv for event in judged)
        return actual if known else _instead(judged[0], kept, actual.argv)

    def _kill(self, pid: int) -> None:
        try:
            os.kill(pid, _signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._seized[pid] = (pid, (), ())  # its end is told to its tracer first: ``stops`` hands it on to its parent


def _looks(judged: tuple[Event, ...]) -> _Looks:
    """What each file that is to run is, and when it was last changed; nothing for one without a name."""
    return tuple(_look(event.path) for event in judged)


def _look(path: str | int) -> tuple[int, ...]:
    try:
        at = os.stat(path)
    except OSError:
        return ()
    return (at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns)


def real(pid: int, judged: tuple[Event, ...]) -> Event:
    """What runs in *pid* now: the very event of *judged* that says so, or else a new one.

    ``OSError`` when it cannot be read: then it must not run.
    """
    exe = text_of(os.readlink(b"/proc/%d/exe" % pid))
    argv = _texts(_cmdline(pid).split(b"\0")[:-1])
    for event in judged:
        if exe == event.path and argv == event.argv:
            return event
    return _instead(judged[0], exe, argv)


def _cmdline(pid: int) -> bytes:
    """The argv of *pid*, each word with a NUL behind it."""
    fd = os.open(b"/proc/%d/cmdline" % pid, os.O_RDONLY | os.O_CLOEXEC)
    try:
        words = os.read(fd, _SHORT_CMDLINE)
        if len(words) == _SHORT_CMDLINE:
            with open(fd, "rb", closefd=False) as file:
                words += file.read(_LONGEST_CMDLINE)
        return words
    finally:
        os.close(fd)


def _instead(event: Event, path: str, argv: tuple[str, ...]) -> Event:
    return replace(event, path=path, argv=argv, spelled="", detail="what runs for it")


def _texts(words: list[bytes]) -> tuple[str, ...]:
    return tuple(text_of(word) for word in words)


def _check_executable(held: int) -> None:
    """``OSError`` as the kernel fails it, for what cannot be executed."""
    mode = os.fstat(held).st_mode
    if stat.S_ISLNK(mode):
        raise OSError(ELOOP, "a symbolic link")
    if not stat.S_ISREG(mode) or not os.access(b"/proc/self/fd/%d" % held, os.X_OK):
        raise OSError(EACCES, "not executable")


def _interpreter(held: int) -> list[bytes]:
    """The interpreter that the first line of a ``#!`` script names, with its one argument; empty for no script, and
    for what cannot be read here (the exec stop will show what it was).
    """
    try:
        fd = os.open(b"/proc/self/fd/%d" % held, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return []
    try:
        head = os.pread(fd, _SCRIPT_HEAD, 0)
    except OSError:
        return []
    finally:
        os.close(fd)
    if not head.startswith(b"#!"):
        return []
    line = head[2:].split(b"\n", 1)[0].split(b"\0", 1)[0].strip(b" \t")
    name = line.replace(b"\t", b" ").partition(b" ")[0]
    argument = line[len(name) :].strip(b" \t")
    return [word for word in (name, argument) if word]


def _after_loader(argv: list[bytes]) -> list[bytes]:
    """The program that ld.so, called with *argv*, is to load, and its arguments."""
    words = argv[1:]
    while words and words[0].startswith(b"--"):
        if words[0] in _LOADER_VALUES:
            words = words[1:]
        words = words[1:]
    return words


def _cwd(tid: int) -> str:
    try:
        return text_of(os.readlink(b"/proc/%d/cwd" % tid))
    except OSError:
        return ""
