"""Routine calls: on files that the policy cannot tell from their neighbours.

Programs that install, build or search touch thousands of names, each of them once, in few folders. What the policy
says to a name that none of its patterns is about, it says to every such name in that folder:

    call ─ path ─ held object or folder ─┬─ policy knows no such name there ─ the folder's verdict, a line from a frame
                                         └─ anything else ─► not routine: described and judged as always

Everything is looked up anew for each call and what is decided is the name of what is held, as in ``opens`` and
``entries``: only the judging and the writing down are remembered. A folder's verdict is kept if it lets go on and calls
for nothing but a line in the trace. Links, devices, files with several names, whatever fails in an unusual way: none of
it is routine.
"""

from __future__ import annotations

import os
import stat
from _functools import partial
from errno import ELOOP, ENOENT

from agent_safety_layer.engine.objects import FOLDER, signed
from agent_safety_layer.engine.opens import REOPEN, flags_text
from agent_safety_layer.events import ALLOW, AUDIT, text_of
from asl_hooks import memory, syscalls
from asl_hooks._abi import linux
from asl_hooks.paths import base_of, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.engine.objects import Objects
    from agent_safety_layer.engine.plans import Plans
    from agent_safety_layer.engine.recorder import Recorder
    from agent_safety_layer.engine.view import View
    from agent_safety_layer.events import Decision
    from agent_safety_layer.policy import Varying
    from agent_safety_layer.tally import Slot
    from asl_hooks.backend import Backend, Call
    from asl_hooks.processes import Process

_FOLDERS = 4096  # whose verdicts are kept
_FRAMES = 1024  # kept per process
_TIMES_SIZE = 32
_PLAIN = bytes(c for c in range(0x20, 0x7F) if c not in b'"\\')  # what JSON writes as it is
_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
_UNUSUAL = os.O_PATH | os.O_TMPFILE & ~os.O_DIRECTORY
_CONTRARY = os.O_CREAT | os.O_DIRECTORY
_OBJECT = os.O_PATH | os.O_CLOEXEC
_ELSEWHERE = (b"/proc/", b"/dev/", b"/sys/")  # names there mean something else to each process, or are more than files
_WINDING = (b"/", b"/.", b"/..")
_IN_MEMORY = b"/dev/shm/"


class Verdict:
    """What the policy says to events of one kind, opens for reading and writing apart, about the files in one folder
    that no pattern is about: a decision, numbered, once there was such a file. ``about`` finds the others.
    """

    __slots__ = ("about", "decision", "number")

    def __init__(self, varying: Varying) -> None:
        self.about = varying.about
        self.decision: Decision | None = None
        self.number = -1


class Routine:
    """Serves the routine calls of one run."""

    def __init__(self, backend: Backend, view: View, recorder: Recorder, plans: Plans, objects: Callable[[], Objects]):
        arch = syscalls.native_arch()
        self._backend = backend
        self._tells = backend.tells
        self._view = view
        self._recorder = recorder
        self._plans = plans
        self._objects = objects
        self._verdicts: dict[tuple[str, bool, bytes], Verdict | None] = {}
        self._numbers: dict[Decision, int] = {}
        # How each call is served, where it has its folder descriptor (or -1) and its path; flags come next.
        self._ways: dict[int, tuple[Callable[[Call, Process, float, int, int], bool], int, int]] = {}
        if not view.policy.stateful:
            for name, way, dir_at, path_at in (
                ("open", self._open, -1, 0),
                ("openat", self._open, 0, 1),
                ("mkdir", self._mkdir, -1, 0),
                ("mkdirat", self._mkdir, 0, 1),
                ("unlink", self._unlink, -1, 0),
                ("unlinkat", self._unlink, 0, 1),
                ("chmod", self._chmod, -1, 0),
                ("fchmodat", self._chmod, 0, 1),
                ("utimensat", self._utime, 0, 1),
            ):
                number = syscalls.number(name, arch)
                if number is not None:
                    self._ways[number] = way, dir_at, path_at

    def stop(self) -> None:
        """From now on nothing is routine."""
        self._ways.clear()

    def serve(self, call: Call, process: Process, started: float) -> bool:
        """Answer and record the call; False, with nothing done, when it is not routine."""
        found = self._ways.get(call.nr)
        if found is None or self._recorder.listener is not None:
            return False
        way, dir_at, path_at = found
        try:
            return way(call, process, started, dir_at, path_at)
        except OSError:
            return False  # whatever it was, it comes up again where it is dealt with

    # -- the calls -----------------------------------------------------------------------------------------------------

    def _open(self, call: Call, process: Process, started: float, dir_at: int, path_at: int) -> bool:
        flags = call.args[path_at + 1] & 0xFFFFFFFF
        if flags & _UNUSUAL or flags & _CONTRARY == _CONTRARY:
            return False
        plans = self._plans
        path = plans.path if plans.looked == call.id else memory.read_string(process.mem, call.args[path_at])
        if path[:1] != b"/":
            if not path:
                return False
            base = plans.base = base_of(call.tid, signed(call.args[dir_at]) if dir_at >= 0 else linux.AT_FDCWD)
            path = base + b"/" + path
        if b"/proc" in path:
            return False
        if flags & os.O_CREAT:
            return self._create(call, process, started, path, flags, call.args[path_at + 2] & 0o7777)
        return self._open_there(call, process, started, path, flags)

    def _open_there(
        self, call: Call, process: Process, started: float, path: bytes, flags: int, mode: int = -1
    ) -> bool:
        """Open what is there already."""
        held, name = _hold(path, _OBJECT | flags & os.O_NOFOLLOW)
        try:
            there = os.fstat(held)
            writes = flags & (_ACCESS | os.O_TRUNC)
            if stat.S_ISREG(there.st_mode):
                if there.st_nlink != 1 or writes == os.O_TRUNC:
                    return False
                kind, again = "file.write" if writes else "file.read", name
            elif stat.S_ISDIR(there.st_mode) and not writes and not flags & os.O_CREAT:
                kind, again = "file.list", name + b"/"
            else:
                return False
            framed = self._framed(call, process, kind, name, path, flags, mode)
            if framed is None:
                return False
            body, slot = framed
            if self._bounded(name.decode(), flags if writes else -1):
                return self._go_on(call, process, started, body, slot)
            how = flags & REOPEN | os.O_CLOEXEC | os.O_NOCTTY
            opened = os.open(b"/proc/self/fd/%d" % held, how)
            return self._give(call, process, started, opened, flags, again, body, slot)
        finally:
            os.close(held)

    def _create(self, call: Call, process: Process, started: float, path: bytes, flags: int, mode: int) -> bool:
        folder, _, last = path.rpartition(b"/")
        if last in (b"", b".", b".."):
            return False
        parent, above = _hold(folder, FOLDER)
        try:
            name = above + b"/" + last
            framed = self._framed(call, process, "file.create", name, path, flags, mode)
            if framed is None:
                return False
            body, slot = framed
            if self._bounded(name.decode(), flags):
                if not _is_there(parent, last):
                    return self._go_on(call, process, started, body, slot)
            else:
                self._objects().as_creator(process)
                try:
                    made = os.open(last, flags & ~os.O_TRUNC | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=parent)
                    return self._give(call, process, started, made, flags, b"", body, slot)
                except FileExistsError:
                    pass
        finally:
            os.close(parent)
        return not flags & os.O_EXCL and self._open_there(call, process, started, path, flags, mode)

    def _mkdir(self, call: Call, process: Process, started: float, dir_at: int, path_at: int) -> bool:
        mode = call.args[path_at + 1] & 0o7777
        path = _path(call, process, dir_at, path_at)
        folder, _, last = path.rpartition(b"/")
        if last in (b"", b".", b".."):
            return False
        parent, above = _hold(folder, FOLDER)
        try:
            framed = self._framed(call, process, "file.create", above + b"/" + last, path, mode=mode)
            if framed is None or _is_there(parent, last):
                return False
            self._plans.epoch += 1  # it may have been a file that was opened
            if self._view.writes_bounded(above.decode()):
                return self._go_on(call, process, started, *framed)
            self._objects().as_creator(process)
            os.mkdir(last, mode, dir_fd=parent)
            return self._succeed(call, started, *framed)
        finally:
            os.close(parent)

    def _chmod(self, call: Call, process: Process, started: float, dir_at: int, path_at: int) -> bool:
        mode = call.args[path_at + 1] & 0o7777
        path = _path(call, process, dir_at, path_at)
        return self._change(call, process, started, path, 0, lambda at: os.chmod(at, mode), mode)

    def _utime(self, call: Call, process: Process, started: float, dir_at: int, path_at: int) -> bool:
        _, path_from, times_from, flags, *_ = call.args
        flags &= 0xFFFFFFFF
        if not path_from or flags & ~linux.AT_SYMLINK_NOFOLLOW:
            return False
        path = _path(call, process, dir_at, path_at)
        times = memory.read(process.mem, times_from, _TIMES_SIZE) if times_from else None
        follow = os.O_NOFOLLOW if flags else 0
        return self._change(
            call, process, started, path, follow, lambda at: linux.utimensat(linux.AT_FDCWD, at, times, 0)
        )

    def _change(
        self,
        call: Call,
        process: Process,
        started: float,
        path: bytes,
        follow: int,
        act: Callable[[bytes], object],
        mode: int = -1,
    ) -> bool:
        """Change what is known of a file or folder; *act* gets a path that leads to it and nothing else."""
        if not path:
            return False
        held, name = _hold(path, _OBJECT | follow)
        try:
            there = os.fstat(held)
            if not stat.S_ISDIR(there.st_mode) and not (stat.S_ISREG(there.st_mode) and there.st_nlink == 1):
                return False
            framed = self._framed(call, process, "file.meta", name, path, mode=mode)
            if framed is None:
                return False
            act(b"/proc/self/fd/%d" % held)
            return self._succeed(call, started, *framed)
        finally:
            os.close(held)

    def _unlink(self, call: Call, process: Process, started: float, dir_at: int, path_at: int) -> bool:
        if dir_at >= 0 and call.args[path_at + 1] & 0xFFFFFFFF:
            return False  # a folder
        path = _path(call, process, dir_at, path_at)
        folder, _, last = path.rpartition(b"/")
        if last in (b"", b".", b".."):
            return False
        parent, above = _hold(folder, FOLDER)
        try:
            errno = 0
            try:
                # Without a link the paths of others lead elsewhere.
                if not stat.S_ISREG(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode):
                    return False
            except FileNotFoundError:
                errno = ENOENT
            framed = self._framed(call, process, "file.delete", above + b"/" + last, path)
            if framed is None:
                return False
            body, slot = framed
            if self._view.writes_bounded(above.decode()):
                return self._go_on(call, process, started, body, slot)
            if not errno:
                os.unlink(last, dir_fd=parent)
                return self._succeed(call, started, body, slot)
            if self._backend.fail(call, errno):
                self._recorder.repeat(body, slot, started, -errno)
            return True
        finally:
            os.close(parent)

    # -- what they have in common --------------------------------------------------------------------------------------

    def _bounded(self, name: str, flags: int) -> bool:
        """Whether the kernel bounds an open for writing with these *flags*, or for reading where there are none."""
        view = self._view
        if flags == -1:
            return view.reads_bounded(name)
        return view.writes_bounded(name) and (flags & _ACCESS != os.O_RDWR or view.reads_bounded(name))

    def _go_on(self, call: Call, process: Process, started: float, body: bytes, slot: Slot) -> bool:
        told = partial(self._recorder.repeat, body, slot, started) if self._tells else None
        if self._backend.proceed(call, told):
            if told is None:
                self._recorder.repeat(body, slot, started)
            self._plans.keep(call, process, b"", body, slot)
        return True

    def _succeed(self, call: Call, started: float, body: bytes, slot: Slot) -> bool:
        if self._backend.give(call, 0):
            self._recorder.repeat(body, slot, started, 0 if self._tells else None)
        return True

    def _give(
        self, call: Call, process: Process, started: float, fd: int, flags: int, again: bytes, body: bytes, slot: Slot
    ) -> bool:
        told = partial(self._recorder.repeat, body, slot, started) if self._tells else None
        done = self._backend.inject(call, fd, bool(flags & os.O_CLOEXEC), told)
        os.close(fd)
        if done and told is None:
            self._recorder.repeat(body, slot, started)
        if done and again:
            self._plans.keep(call, process, again, body, slot)
        return True

    def _framed(
        self, call: Call, process: Process, kind: str, name: bytes, path: bytes, flags: int = -1, mode: int = -1
    ) -> tuple[bytes, Slot] | None:
        """The trace line's body of an event about *name*, which was spelled *path*, and its count; None when the policy
        may have something of its own to say about it.
        """
        folder, _, last = name.rpartition(b"/")
        if folder in (b"", b"/") or name[-10:] == b" (deleted)" or name.translate(None, _PLAIN):
            return None
        if name.startswith(_ELSEWHERE) and not name.startswith(_IN_MEMORY):
            return None
        both = flags & _ACCESS == os.O_RDWR and kind == "file.write"
        try:
            verdict = self._verdicts[kind, both, folder]
        except KeyError:
            verdict = self._verdict(kind, both, folder)
        if verdict is None or verdict.about(last.decode()):
            return None
        frame: tuple[bytes, bytes, Slot] | None = None
        span = process.span_of(call.tid)
        key = (kind, verdict.number, call.nr, flags, mode, call.tid, span)
        if verdict.number >= 0:
            frame = process.cache.get(key)
        if frame is None:
            said = "" if flags == -1 else flags_text(flags)
            event = self._view.event(kind, call, process, path=name.decode(), flags=said, mode=mode)
            decision = verdict.decision
            if decision is None:
                decision = self._view.decide(event)
                if decision.action not in (ALLOW, AUDIT):
                    self._verdicts[kind, both, folder] = None
                    return None
                verdict.decision = decision
                verdict.number = self._numbers.setdefault(decision, len(self._numbers))
                key = (kind, verdict.number, call.nr, flags, mode, call.tid, span)
            if len(process.cache) > _FRAMES:
                process.cache.clear()
            frame = process.cache[key] = self._recorder.frame(event, decision)
        head, tail, slot = frame
        if not head:
            return b"", slot
        if path == name:
            return b"%b%b%b" % (head, name, tail), slot
        if path.translate(None, _PLAIN):
            return None
        return b'%b%b","spelled":"%b%b' % (head, name, path, tail), slot

    def _verdict(self, kind: str, both: bool, folder: bytes) -> Verdict | None:
        from agent_safety_layer.policy import varying

        found = varying(self._view.policy, kind, text_of(folder))
        if len(self._verdicts) >= _FOLDERS:
            self._verdicts.clear()
        verdict = self._verdicts[kind, both, folder] = None if found is None else Verdict(found)
        return verdict


def _path(call: Call, process: Process, dir_at: int, path_at: int) -> bytes:
    """The path argument made absolute; empty for one that is not routine."""
    path = memory.read_string(process.mem, call.args[path_at])
    if path[:1] != b"/":
        if not path:
            return b""
        path = base_of(call.tid, signed(call.args[dir_at]) if dir_at >= 0 else linux.AT_FDCWD) + b"/" + path
    return b"" if b"/proc" in path else path


def _hold(path: bytes, how: int) -> tuple[int, bytes]:
    """A descriptor of what the absolute *path* names, and its canonical name."""
    detours = b"//" in path or b"/./" in path or b"/../" in path or path.endswith(_WINDING)
    if not detours:
        try:  # what no link is followed for is its own canonical name
            return linux.openat2(linux.AT_FDCWD, path, how, 0, linux.RESOLVE_NO_SYMLINKS), path
        except OSError as error:
            if error.errno != ELOOP:
                raise
    fd = linux.openat2(linux.AT_FDCWD, path, how, 0, linux.RESOLVE_NO_MAGICLINKS)
    try:
        return fd, name_of(fd)
    except OSError:
        os.close(fd)
        raise


def _is_there(parent: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
