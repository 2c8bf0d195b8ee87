"""The seccomp backend: user notifications, received and answered on one listener descriptor (seccomp_unotify(2)).

What one call costs here: RECV and SEND ioctls (ADDFD between them), each on a buffer that is reused. The wake-up of
the tracee is synchronous (SYNC_WAKE_UP, Linux 6.6), so that supervisor and tracee can take turns on one CPU without
waking an idle one.
"""

from __future__ import annotations

import _signal
import os
import struct
from errno import EBADF, EINPROGRESS, EINTR, EMFILE, ENFILE, ENOENT
from fcntl import ioctl
from time import monotonic

from asl_hooks._abi import linux
from asl_hooks.backend import Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NOTIF = struct.Struct("=QII iI Q 6Q")  # seccomp_notif: id pid flags; seccomp_data: nr arch ip args
_RESP = struct.Struct("=Qqi I")  # seccomp_notif_resp: id val error flags
_ADDFD = struct.Struct("=QIIII")  # seccomp_notif_addfd: id flags srcfd newfd newfd_flags
_ID = struct.Struct("=Q")
_PATIENCE_S = 0.5
_FAR_S = 20e-6  # so long only a wake-up of an idle CPU takes
_FAR_CALLS = 32
_CONTINUE = linux.SECCOMP_USER_NOTIF_FLAG_CONTINUE
_new: Any = tuple.__new__  # makes a Call from its fields in a third of the time that Call(...) takes
_ZERO = bytes(_NOTIF.size)
_RECV, _SEND, _ADD, _VALID = (
    linux.SECCOMP_IOCTL_NOTIF_RECV,
    linux.SECCOMP_IOCTL_NOTIF_SEND,
    linux.SECCOMP_IOCTL_NOTIF_ADDFD,
    linux.SECCOMP_IOCTL_NOTIF_ID_VALID,
)


class Listener:
    """A ``Backend`` on a seccomp listener descriptor, which it owns."""

    name = "notify"
    traces = tells = pending = False

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._guarded = self._waiting = False
        self._alarmed = 0.0
        self._notif = bytearray(_NOTIF.size)
        self._resp = bytearray(_RESP.size)
        self._addfd = bytearray(_ADDFD.size)
        self._latest = 0  # thread that a descriptor was installed for
        self._far = 0  # how many more times it is to be kept near for that
        try:
            ioctl(fd, linux.SECCOMP_IOCTL_NOTIF_SET_FLAGS, linux.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
        except OSError:
            pass  # before Linux 6.6: the same answers, slower across CPUs

    def fileno(self) -> int:
        """The listener; polls readable when a call waits, hangs up when no tracee is left."""
        return self._fd

    def guard(self) -> None:
        """Establishes: ``receive`` never waits for longer than ``_PATIENCE_S``. Takes SIGALRM; main thread only.

        tracee      call ──► waits ── a signal ──► handler, and perhaps never a call again
        supervisor        poll: readable ─────────────── RECV: waits for a call, and hears nothing else
        """
        _signal.signal(_signal.SIGALRM, self._alarm)
        self._guarded = True

    def _alarm(self, *_: object) -> None:
        if self._waiting:
            self._waiting = False
            raise InterruptedError(EINTR, "nothing came")

    def receive(self) -> Call | None:
        """The next stopped call; None when its thread died or was interrupted before it could be taken."""
        buffer = self._notif
        buffer[:] = _ZERO  # the kernel insists on zeros
        if self._guarded and (now := monotonic()) >= self._alarmed:
            # One alarm stands for all calls of a while: it comes between half of the patience and all of it from now.
            self._alarmed = now + _PATIENCE_S / 2
            _signal.setitimer(_signal.ITIMER_REAL, _PATIENCE_S)
        try:
            self._waiting = True
            ioctl(self._fd, _RECV, buffer)
            self._waiting = False
        except OSError as error:
            self._waiting = False
            if error.errno not in (ENOENT, EINTR):
                raise
            if not any(buffer[:8]):  # else the alarm came just after the call had been taken
                return None
        id_, tid, _, nr, arch, _, *args = _NOTIF.unpack(buffer)
        made: Call = _new(Call, (id_, tid, arch, nr, tuple(args)))
        return made

    def _send(self, id_: int, value: int, error: int, flags: int) -> bool:
        _RESP.pack_into(self._resp, 0, id_, value, error, flags)
        try:
            _settled(self._fd, _SEND, self._resp)
        except OSError as failure:
            if failure.errno in (ENOENT, EINPROGRESS):
                return False
            raise
        return True

    def valid(self, call: Call) -> bool:
        """Whether the call still waits for its answer."""
        try:
            _settled(self._fd, _VALID, _ID.pack(call.id))
        except OSError:
            return False
        return True

    def follow(self, became: object, exited: object) -> None:
        """Nothing to do: execs and exits are not seen here."""

    def child(self) -> None:
        """Nothing to do."""

    def collect(self) -> None:
        """Nothing to do: whoever is killed leaves its call."""

    def proceed(self, call: Call, told: object = None) -> bool:
        """Let the kernel run the call, arguments read anew: only ever for what the kernel itself bounds."""
        return self._send(call.id, 0, 0, _CONTINUE)

    def fail(self, call: Call, errno: int) -> bool:
        """The call returns ``-errno``."""
        return self._send(call.id, 0, -errno, 0)

    def give(self, call: Call, result: int) -> bool:
        """The call returns *result*."""
        return self._send(call.id, result, 0, 0)

    def inject(self, call: Call, fd: int, cloexec: bool, told: object = None) -> bool:
        """Install a copy of *fd* in the tracee, lowest free number, and make the call return that number.

        In two steps. In one (SECCOMP_ADDFD_FLAG_SEND) a signal that reaches this thread before the tracee has run, or a
        freezer, takes the descriptor back but leaves the reply: the call then returns 0, which is another file.
        """
        _ADDFD.pack_into(self._addfd, 0, call.id, 0, fd, 0, os.O_CLOEXEC if cloexec else 0)
        while True:
            try:
                installed = self._install(call.tid)
            except OSError as error:
                if error.errno in (EMFILE, ENFILE):  # the tracee's own limit
                    return self.fail(call, error.errno)
                if error.errno == EINTR:
                    continue
                if error.errno in (ENOENT, EINPROGRESS):
                    return False
                raise
            return self._send(call.id, installed, 0, 0)

    def _install(self, tid: int) -> int:
        """The number that the prepared descriptor got. The tracee has to run for that.

        Woken on another, idle CPU it takes twice as long as everything else here. Where that is seen, and one thread
        makes call after call, it is bound to this CPU, which is idle while it installs the descriptor, and unbound
        before it goes on to code of its own.
        """
        if tid != self._latest:
            self._latest, self._far = tid, 0
        if not self._far:
            began = monotonic()
            installed = self._add()
            self._far = _FAR_CALLS if monotonic() - began > _FAR_S else 0
            return installed
        self._far -= 1
        here = linux.sched_getcpu()
        try:
            cpus = os.sched_getaffinity(tid)
            if here not in cpus:
                return self._add()
            os.sched_setaffinity(tid, (here,))
        except OSError:  # gone, or of a kind that keeps to its CPUs
            return self._add()
        try:
            return self._add()
        finally:
            try:
                os.sched_setaffinity(tid, cpus)
            except OSError:
                pass  # killed; or it may no longer be on any of them, and is let go by that

    def _add(self) -> int:
        installed: int = ioctl(self._fd, _ADD, self._addfd)
        return installed

    def close(self) -> None:
        """Close the listener: intercepted calls of whoever is left fail with ENOSYS."""
        if self._fd >= 0:
            try:
                os.close(self._fd)
            except OSError as error:
                if error.errno != EBADF:
                    raise
            self._fd = -1


def _settled(fd: int, request: int, buffer: bytes | bytearray) -> None:
    """ioctl(2) to its end: what a signal interrupted had not got its lock yet."""
    while True:
        try:
            ioctl(fd, request, buffer)
        except InterruptedError:
            continue
        return
