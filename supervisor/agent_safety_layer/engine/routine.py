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
from errno import EEXIST, ELOOP, ENOENT

from agent_safety_layer.engine.objects import FOLDER, signed
from agent_safety_layer.engine.opens import FLAGS, REOPEN, flags_text
from agent_safety_layer.engine.plans import is_plain
from agent_safety_layer.events import ALLOW, AUDIT, text_of
from asl_hooks import memory, syscalls
from asl_hooks._abi import linux
from asl_hooks.paths import is_special, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.engine.answers import Stopped
    from agent_safety_layer.engine.objects import Objects
    from agent_safety_layer.engine.plans import Plans
    from agent_safety_layer.engine.recorder import Recorder
    from agent_safety_layer.engine.view import View
    from agent_safety_layer.events import Decision
    from agent_safety_layer.policy import Varying
    from agent_safety_layer.tally import Slot
    from asl_hooks.backend import Backend

_FOLDERS = 4096  # whose verdicts are kept
_FRAMES = 1024  # kept per process
_TIMES_SIZE = 32
_PLAIN = bytes(c for c in range(0x20, 0x7F) if c not in b'"\\')  # what JSON writes as it is
_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
_UNUSUAL = os.O_PATH | os.O_TMPFILE & ~os.O_DIRECTORY
_CONTRARY = os.O_CREAT | os.O_DIRECTORY
_OBJECT = os.O_PATH | os.O_CLOEXEC
_SYSTEM = "/sys/"  # what its files tell can depend on who opens them
_WINDING = (b"/", b"/.", b"/..")


class Verdict:
    """What the policy says to events of one kind, those that make or change a file and may read it apart, about the
    files that no pattern is about, in folders that are alike: a decision, numbered, once there was such a file.
    ``about`` finds the others. ``bounded`` tells whether the kernel bounds such events there.
    """

    __slots__ = ("about", "bounded", "decision", "number")

    def __init__(self, varying: Varying, bounded: bool) -> None:
        self.about = varying.about
        self.bounded = bounded
        self.decision: Decision | None = None
        self.number = -1


class NotRoutine(Exception):
    """The call has to be looked at by itself; nothing was done."""


class Routine:
    """Serves the routine calls of one run."""

    def __init__(self, backend: Backend, view: View, recorder: Recorder, plans: Plans, objects: Objects) -> None:
        arch = syscalls.native_arch()
        self._backend = backend
        self._tells = backend.tells
        self._view = view
        self._recorder = recorder
        self._plans = plans
        self._objects = objects
        self.verdicts: dict[tuple[str, bool, bytes], Verdict | None] = {}
        self._alike: dict[tuple[str, bool, bool, Varying], Verdict] = {}
        self._numbers: dict[Decision, int] = {}
        # How each call is served, and where it has its folder descriptor (or -1) and its path.
        self._ways: dict[int, tuple[Callable[[Stopped, bytes, tuple[int, ...]], None], int, int]] = {}
        if not view.policy.stateful:
            for name, way, dir_at, path_at in (
                ("open", self._open, -1, 0),
                ("openat", self._open, 0, 1),
                ("mkdir", self._mkdir, -1, 0),
                ("mkdirat", self._mkdir, 0, 1),
                ("rmdir", self._rmdir, -1, 0),
                ("unlink", self._unlink, -1, 0),
                ("unlinkat", self._unlinkat, 0, 1),
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

    def serve(self, stopped: Stopped) -> bool:
        """Answer and record the call; False, with nothing done, when it is not routine."""
        call = stopped.call
        found = self._ways.get(call.nr)
        if found is None or self._recorder.listener is not None:
            return False
        way, dir_at, path_at = found
        args = call.args
        try:
            raw = self._plans.path_of(call, stopped.process) or memory.read_string(stopped.process.mem, args[path_at])
            path = self._objects.absolute(raw, call, signed(args[dir_at]) if dir_at >= 0 else linux.AT_FDCWD)
            if b"/proc" in path:
                return False
            way(stopped, path, args[path_at + 1 :])
        except (NotRoutine, OSError, ValueError, OverflowError):
            return False  # whatever it was, it comes up again where it is dealt with
        return True

    # -- the calls: each gets its path, absolute, and the arguments that come after it -------------------------------

    def _open(self, stopped: Stopped, path: bytes, rest: tuple[int, ...]) -> None:
        flags, mode = rest[0] & FLAGS, rest[1] & 0o7777
        if flags & _UNUSUAL or flags & _CONTRARY == _CONTRARY:
            raise NotRoutine
        if not flags & os.O_CREAT:
            self._open_there(stopped, path, flags)
        elif not self._create(stopped, path, flags, mode):
            if flags & os.O_EXCL:
                raise NotRoutine
            self._open_there(stopped, path, flags, mode)

    def _open_there(self, stopped: Stopped, path: bytes, flags: int, mode: int = -1) -> None:
        """Open what is there already."""
        held, name = _hold(path, _OBJECT | flags & os.O_NOFOLLOW)
        try:
            there = os.fstat(held)
            writes = flags & (_ACCESS | os.O_TRUNC)
            if is_plain(there) and writes != os.O_TRUNC:
                kind, again = "file.write" if writes else "file.read", name
            elif stat.S_ISDIR(there.st_mode) and not writes and not flags & os.O_CREAT:
                kind, again = "file.list", name + b"/"
            else:
                raise NotRoutine
            body, slot, bounded = self._framed(stopped, kind, name, path, flags, mode)
            if bounded:
                self._go_on(stopped, path, body, slot)
                return
            opened = os.open(b"/proc/self/fd/%d" % held, flags & REOPEN | os.O_CLOEXEC | os.O_NOCTTY)
            if self._give(stopped, opened, flags, body, slot):
                self._plans.keep(stopped.call, stopped.process, again, body, slot, path)
        finally:
            os.close(held)

    def _create(self, stopped: Stopped, path: bytes, flags: int, mode: int) -> bool:
        """Make a file; False when something is there."""
        parent, above, last = _parent(path)
        try:
            name = above + b"/" + last
            body, slot, bounded = self._framed(stopped, "file.create", name, path, flags, mode)
            if bounded:
                if _mode_of(parent, last):
                    return False
                self._go_on(stopped, path, body, slot)
                return True
            self._objects.as_creator(stopped.process)
            try:
                made = os.open(last, flags & ~os.O_TRUNC | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=parent)
            except FileExistsError:
                return False
            self._give(stopped, made, flags, body, slot)
            return True
        finally:
            os.close(parent)

    def _mkdir(self, stopped: Stopped, path: bytes, rest: tuple[int, ...]) -> None:
        mode = rest[0] & 0o7777
        parent, above, last = _parent(path)
        try:
            name = above + b"/" + last
            if name.startswith(b"/proc/"):
                raise NotRoutine  # what is there depends on who looks
            if _mode_of(parent, last):
                self._backend.fail(stopped.call, EEXIST)  # before anybody asks whether one may
                return
            body, slot, bounded = self._framed(stopped, "file.create", name, path, mode=mode)
            self._plans.epoch += 1  # it may have been a file that was opened
            if bounded:
                self._go_on(stopped, path, body, slot)
                return
            self._objects.as_creator(stopped.process)
            os.mkdir(last, mode, dir_fd=parent)
            self._succeed(stopped, body, slot)
        finally:
            os.close(parent)

    def _rmdir(self, stopped: Stopped, path: bytes, _rest: tuple[int, ...]) -> None:
        parent, above, last = _parent(path)
        try:
            if not stat.S_ISDIR(_mode_of(parent, last)):
                raise NotRoutine
            body, slot, bounded = self._framed(stopped, "file.delete", above + b"/" + last, path)
            self._plans.epoch += 1  # a file may take its place
            if bounded:
                self._go_on(stopped, path, body, slot)
                return
            os.rmdir(last, dir_fd=parent)
            self._succeed(stopped, body, slot)
        finally:
            os.close(parent)

    def _unlinkat(self, stopped: Stopped, path: bytes, rest: tuple[int, ...]) -> None:
        flags = rest[0] & 0xFFFFFFFF
        if flags & ~linux.AT_REMOVEDIR:
            raise NotRoutine
        (self._rmdir if flags else self._unlink)(stopped, path, rest)

    def _unlink(self, stopped: Stopped, path: bytes, _rest: tuple[int, ...]) -> None:
        parent, above, last = _parent(path)
        try:
            there = _mode_of(parent, last)
            if there and not stat.S_ISREG(there):
                raise NotRoutine  # without a link the paths of others lead elsewhere
            body, slot, bounded = self._framed(stopped, "file.delete", above + b"/" + last, path)
            if bounded:
                self._go_on(stopped, path, body, slot)
            elif there:
                os.unlink(last, dir_fd=parent)
                self._succeed(stopped, body, slot)
            elif self._backend.fail(stopped.call, ENOENT):
                self._recorder.repeat(body, slot, stopped.started, -ENOENT)
        finally:
            os.close(parent)

    def _chmod(self, stopped: Stopped, path: bytes, rest: tuple[int, ...]) -> None:
        mode = rest[0] & 0o7777
        self._change(stopped, path, 0, lambda at: os.chmod(at, mode), mode)

    def _utime(self, stopped: Stopped, path: bytes, rest: tuple[int, ...]) -> None:
        times_from, flags = rest[0], rest[1] & 0xFFFFFFFF
        if flags & ~linux.AT_SYMLINK_NOFOLLOW:
            raise NotRoutine
        times = memory.read(stopped.process.mem, times_from, _TIMES_SIZE) if times_from else None
        follow = os.O_NOFOLLOW if flags else 0
        self._change(stopped, path, follow, lambda at: linux.utimensat(linux.AT_FDCWD, at, times, 0))

    def _change(
        self, stopped: Stopped, path: bytes, follow: int, act: Callable[[bytes], object], mode: int = -1
    ) -> None:
        """Change what is known of a file or folder; *act* gets a path that leads to it and nothing else."""
        held, name = _hold(path, _OBJECT | follow)
        try:
            there = os.fstat(held)
            if not stat.S_ISDIR(there.st_mode) and not is_plain(there):
                raise NotRoutine
            body, slot, _ = self._framed(stopped, "file.meta", name, path, mode=mode)
            act(b"/proc/self/fd/%d" % held)
            self._succeed(stopped, body, slot)
        finally:
            os.close(held)

    # -- what they have in common --------------------------------------------------------------------------------------

    def _go_on(self, stopped: Stopped, path: bytes, body: bytes, slot: Slot) -> None:
        told = partial(self._recorder.repeat, body, slot, stopped.started) if self._tells else None
        if self._backend.proceed(stopped.call, told):
            if told is None:
                self._recorder.repeat(body, slot, stopped.started)
            self._plans.keep(stopped.call, stopped.process, b"", body, slot, path)

    def _succeed(self, stopped: Stopped, body: bytes, slot: Slot) -> None:
        if self._backend.give(stopped.call, 0):
            self._recorder.repeat(body, slot, stopped.started, 0 if self._tells else None)

    def _give(self, stopped: Stopped, fd: int, flags: int, body: bytes, slot: Slot) -> bool:
        """Hand in the descriptor, which is closed here; False when nobody waits for it any more."""
        told = partial(self._recorder.repeat, body, slot, stopped.started) if self._tells else None
        done = self._backend.inject(stopped.call, fd, bool(flags & os.O_CLOEXEC), told)
        os.close(fd)
        if done and told is None:
            self._recorder.repeat(body, slot, stopped.started)
        return done

    def _framed(
        self, stopped: Stopped, kind: str, name: bytes, path: bytes, flags: int = -1, mode: int = -1
    ) -> tuple[bytes, Slot, bool]:
        """The trace line's body of an event about *name*, which was spelled *path*, its count, and whether the kernel
        bounds it. ``NotRoutine`` when the policy may have something of its own to say about it.
        """
        folder, _, last = name.rpartition(b"/")
        if folder in (b"", b"/") or name[-10:] == b" (deleted)" or name.translate(None, _PLAIN):
            raise NotRoutine
        text = name.decode()
        if is_special(text) or text.startswith(_SYSTEM):
            raise NotRoutine
        both = flags != -1 and flags & _ACCESS != os.O_WRONLY and kind in ("file.write", "file.create")
        try:
            verdict = self.verdicts[kind, both, folder]
        except KeyError:
            verdict = self.verdict(kind, both, folder)
        if verdict is None or verdict.about(last.decode()):
            raise NotRoutine
        call, process = stopped.call, stopped.process
        frame: tuple[bytes, bytes, Slot] | None = None
        span = process.span_of(call.tid)
        key = (kind, verdict.number, call.nr, flags, mode, call.tid, span)
        if verdict.number >= 0:
            frame = process.cache.get(key)
        if frame is None:
            said = "" if flags == -1 else flags_text(flags)
            event = self._view.event(kind, call, process, path=text, flags=said, mode=mode)
            decision = verdict.decision
            if decision is None:
                decision = self._view.decide(event)
                if decision.action not in (ALLOW, AUDIT):
                    self.verdicts[kind, both, folder] = None
                    raise NotRoutine
                verdict.decision = decision
                verdict.number = self._numbers.setdefault(decision, len(self._numbers))
                key = (kind, verdict.number, call.nr, flags, mode, call.tid, span)
            if len(process.cache) > _FRAMES:
                process.cache.clear()
            frame = process.cache[key] = self._recorder.frame(event, decision)
        head, tail, slot = frame
        if not head:
            return b"", slot, verdict.bounded
        if path == name:
            return b"%b%b%b" % (head, name, tail), slot, verdict.bounded
        if path.translate(None, _PLAIN):
            raise NotRoutine
        return b'%b%b","spelled":"%b%b' % (head, name, path, tail), slot, verdict.bounded

    def verdict(self, kind: str, both: bool, folder: bytes) -> Verdict | None:
        """What there is to say in *folder*, from now on in ``verdicts``; None where nothing is routine."""
        from agent_safety_layer.policy import varying

        path = text_of(folder)
        found = varying(self._view.policy, kind, path)
        verdict = None
        if found is not None:
            key = kind, both, self._bounded(kind, both, path), found
            verdict = self._alike.get(key)
            if verdict is None:
                if len(self._alike) >= _FOLDERS:
                    self._alike.clear()
                verdict = self._alike[key] = Verdict(found, key[2])
        if len(self.verdicts) >= _FOLDERS:
            self.verdicts.clear()
        self.verdicts[kind, both, folder] = verdict
        return verdict

    def _bounded(self, kind: str, both: bool, folder: str) -> bool:
        reads, writes = self._view.reads_bounded, self._view.writes_bounded
        if kind in ("file.read", "file.list"):
            return reads(folder)
        return kind != "file.meta" and writes(folder) and (not both or reads(folder))


def _parent(path: bytes) -> tuple[int, bytes, bytes]:
    """A descriptor of the folder that *path* is a name in, the folder's canonical name, and the name."""
    folder, _, last = path.rpartition(b"/")
    if last in (b"", b".", b".."):
        raise NotRoutine
    return (*_hold(folder, FOLDER), last)


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


def _mode_of(parent: int, name: bytes) -> int:
    """Type and permissions of what is there, 0 for nothing."""
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0
