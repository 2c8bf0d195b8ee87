"""The listener: what it does when there is nothing to receive after all, and what signals do to calls."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import EINTR, EXDEV

import pytest

from asl_hooks import bpf, filters, syscalls, warden
from asl_hooks._abi import linux
from asl_hooks.backend import Call
from asl_hooks.launch import Launched, LaunchSpec, launch
from asl_hooks.notify import Listener
from asl_hooks.processes import read_status

pytestmark = pytest.mark.requires("notify")


@contextmanager
def listening(argv: tuple[str, ...], *notified: str) -> Iterator[tuple[Launched, Listener]]:
    """A child whose calls of the groups *notified* are received here, once it may go."""
    program = bpf.assemble(filters.build(syscalls.native_arch(), set(notified)))
    launched = launch(LaunchSpec(argv, (("PATH", "/usr/bin:/bin"),), program))
    listener = Listener(launched.listener)
    before = signal.getsignal(signal.SIGALRM)
    try:
        listener.guard()
        yield launched, listener
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.write(launched.control, b"e")
        os.waitpid(launched.warden, 0)
        listener.close()
        for fd in (launched.control, launched.status, launched.go, launched.pidfd):
            os.close(fd)


def received(listener: Listener) -> Call:
    call = None
    while call is None:
        call = listener.receive()
    return call


def test_a_call_that_was_withdrawn_does_not_stop_the_supervisor() -> None:
    """Between poll and RECV a signal may take the call away, and its thread may never call again."""
    with listening(("/bin/sleep", "60"), "open") as (launched, listener):
        for _ in range(2):
            started = time.monotonic()
            assert listener.receive() is None
            assert time.monotonic() - started < 5
        # What comes later is still received: the child's first open, once it may go.
        os.write(launched.go, b"g")
        call = received(listener)
        assert syscalls.name_of(call.nr, call.arch) in ("open", "openat")
        assert listener.proceed(call)


def test_an_answer_that_a_signal_interrupts_is_given_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """SEND and ID_VALID wait for a lock, and a signal may come in between."""
    real, interrupted = fcntl.ioctl, []

    def ioctl(fd: int, request: int, buffer: bytes | bytearray) -> int:
        if len(interrupted) < 4 and request != linux.SECCOMP_IOCTL_NOTIF_RECV and interrupted[-2:] != [request] * 2:
            interrupted.append(request)
            raise InterruptedError(EINTR, "a signal")
        return real(fd, request, buffer)

    with listening(("/bin/true",), "open") as (launched, listener):
        os.write(launched.go, b"g")
        call = received(listener)
        monkeypatch.setattr("asl_hooks.notify.ioctl", ioctl)
        assert listener.valid(call)
        assert listener.proceed(call)
        assert interrupted == [linux.SECCOMP_IOCTL_NOTIF_ID_VALID] * 2 + [linux.SECCOMP_IOCTL_NOTIF_SEND] * 2
        assert not listener.valid(call)


# Tells the errno of each call by the mode of the next one.
CALLS = """
import ctypes, signal
signal.signal(signal.SIGUSR1, lambda *_: None)
libc = ctypes.CDLL(None, use_errno=True)
while True:
    libc.mkdir(b"/nowhere/x", ctypes.get_errno())
"""


def pending(tid: int) -> bool:
    status = read_status(tid)
    return any(int(status[key], 16) for key in (b"SigPnd", b"ShdPnd"))


def test_a_signal_ends_a_call_only_before_it_is_received() -> None:
    with listening((sys.executable, "-I", "-S", "-c", CALLS), "mkdir") as (launched, listener):
        os.write(launched.go, b"g")
        call = received(listener)
        at = 1 if syscalls.name_of(call.nr, call.arch) == "mkdir" else 2
        assert call.args[at] == 0

        os.kill(call.tid, signal.SIGUSR1)
        assert pending(call.tid) and listener.valid(call), "it waits for the answer"
        assert listener.fail(call, EXDEV)
        assert select.select([listener.fileno()], [], [], 20)[0]
        call = received(listener)
        assert call.args[at] == EXDEV

        assert listener.fail(call, EXDEV)
        assert select.select([listener.fileno()], [], [], 20)[0]
        os.kill(call.tid, signal.SIGUSR1)
        until = time.monotonic() + 20
        while pending(call.tid) and time.monotonic() < until:
            pass
        assert received(listener).args[at] == EINTR


# A thread looks at its own affinity after each open; it exits with 1 when that is not what it set.
OPENS = """
import os
every = os.sched_getaffinity(0)
for mine in (every, {max(every)}, {min(every)}, every):
    os.sched_setaffinity(0, mine)
    for _ in range(20):
        os.close(os.open("/etc/passwd", os.O_RDONLY))
        if os.sched_getaffinity(0) != mine:
            os._exit(1)
os._exit(0)
"""


def test_a_thread_that_is_kept_near_for_a_moment_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = []
    real = os.sched_setaffinity

    def bind(tid: int, cpus: Iterable[int]) -> None:
        real(tid, cpus)
        bound.append((tid, os.sched_getaffinity(tid)))

    every = os.sched_getaffinity(0)
    with listening((sys.executable, "-I", "-S", "-c", OPENS), "open") as (launched, listener):
        monkeypatch.setattr(os, "sched_setaffinity", bind)
        monkeypatch.setattr("asl_hooks.notify._FAR_S", -1)  # as if it always took long
        os.write(launched.go, b"g")
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(launched.pidfd, select.POLLIN)
        opened = 0
        while all(fd != launched.pidfd for fd, _ in poll.poll(20_000)):
            call = listener.receive()
            if call is None:
                continue
            with open(f"/proc/{call.tid}/mem", "rb", buffering=0) as mem:
                mem.seek(call.args[1])
                path = mem.read(256).partition(b"\0")[0]
            if path != b"/etc/passwd":
                assert listener.proceed(call)
                continue
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            assert listener.inject(call, fd, True)
            os.close(fd)
            opened += 1
        assert opened == 80
        assert len(bound) >= 2
        assert all(len(cpus) == 1 for _, cpus in bound[::2])
        assert {frozenset(cpus) for _, cpus in bound[1::2]} <= {frozenset(every), *(frozenset({c}) for c in every)}
        status = warden.STATUS.unpack(os.read(launched.status, warden.STATUS.size))[0]
        assert status == 0
