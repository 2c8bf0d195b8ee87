"""Filters in the kernel: calls have bogus arguments, so the errno shows whether the filter or the kernel answered."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
import socket
from collections.abc import Collection
from errno import EAFNOSUPPORT, EBADF, EBUSY, EFAULT, EINVAL, ENOSYS, EPERM, EPROTONOSUPPORT

import pytest

from asl_hooks import bpf, filters, syscalls
from asl_hooks._abi import linux
from asl_hooks.errors import BackendError
from tests.kernel.child import DiedError, errno_of, outcome, raw

BAD = 1  # an address at which nothing is mapped
GARBAGE = 0xDEADBEEF << 32
x86_64_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="an ABI that only x86-64 has")


def restrict(notified: Collection[str] = (), **options: bool) -> None:
    bpf.install(bpf.assemble(filters.build(syscalls.native_arch(), notified, **options)))


# Calls that the kernel itself answers otherwise, and harmlessly, when they are made like this.
REFUSED = {
    "chroot": (BAD,),
    "io_uring_setup": (0, BAD),
    "kcmp": (1 << 30, 1 << 30, 0, 0, 0),
    "keyctl": (99999,),
    "mount": (BAD, BAD, BAD, 0, 0),
    "open_by_handle_at": (-1, BAD, 0),
    "pidfd_getfd": (-1, -1, 0),
    "process_madvise": (-1, BAD, 0, 0, 1),
    "process_vm_readv": (1 << 30, BAD, 1, BAD, 1, 0),
    "ptrace": (99999, 1 << 30, 0, 0),
    "setns": (-1, 0),
    "umount2": (BAD, 1 << 30),
    "userfaultfd": (1 << 30,),
}


def test_refused_calls_fail_before_the_kernel_looks() -> None:
    def inside() -> dict[str, int]:
        restrict()
        return {name: raw(name, *args) for name, args in REFUSED.items()}

    outside = outcome(lambda: {name: raw(name, *args) for name, args in REFUSED.items()})
    assert outcome(inside) == dict.fromkeys(REFUSED, EPERM)
    assert len([name for name in REFUSED if outside[name] != EPERM]) >= 6, outside


def test_absent_and_unknown_calls_look_like_an_old_kernel() -> None:
    def inside() -> tuple[int, int, int]:
        restrict()
        return raw("clone3", BAD, 64), raw("file_setattr", -1, BAD, BAD, 0, 0), raw(4999)

    assert outcome(lambda: raw("clone3", BAD, 64)) == EFAULT
    assert outcome(inside) == (ENOSYS, ENOSYS, ENOSYS)


def test_ordinary_work_goes_on() -> None:
    def inside() -> tuple[str, int, str]:
        restrict(keep_dumpable=True)
        with open("/proc/self/comm") as comm, socket.socketpair()[0], socket.socket(socket.AF_INET):
            name = comm.read()
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        done = os.popen("/bin/echo from a program").read()
        return name, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), done

    name, status, printed = outcome(inside)
    assert name
    assert status == 7
    assert printed == "from a program\n"


@pytest.mark.parametrize(
    ("call", "args", "outside", "inside"),
    [
        ("ioctl", (-1, 0x5412, BAD), EBADF, EPERM),
        ("ioctl", (-1, 0x5412 | GARBAGE, BAD), EBADF, EPERM),
        ("ioctl", (-1, 0x5401, BAD), EBADF, EBADF),
        ("prlimit64", (0, 999, BAD, 0), (EFAULT, EINVAL), (EFAULT, EINVAL)),
        ("prlimit64", (1 << 30, 7, BAD, 0), EFAULT, EPERM),
        ("socket", (17 | GARBAGE, 99, 0), EINVAL, EAFNOSUPPORT),
        ("socket", (2, 1, 9999), EINVAL, EPROTONOSUPPORT),
        ("socket", (2 | GARBAGE, 3, 9999), EINVAL, EPERM),
        ("setsockopt", (-1, 6, 23, BAD, 4), EBADF, EPERM),
        ("setsockopt", (-1, 6, 1, BAD, 4), EBADF, EBADF),
        ("setsockopt", (-1, 41, 32 | GARBAGE, BAD, 32), EBADF, EPERM),
        ("ioctl", (-1, 0xC0406618, BAD), EBADF, EPERM),
        ("fcntl", (-1, 1040 | GARBAGE, BAD), EBADF, EPERM),
        ("prctl", (62 | GARBAGE, 99, 1 << 30, 0, 0), EINVAL, EPERM),
        ("unshare", (1,), EINVAL, EINVAL),
        ("unshare", (1 | 0x10000000,), EINVAL, EPERM),
        ("seccomp", (1, 0, BAD), EFAULT, EFAULT),
        ("seccomp", (1, 8, BAD), EFAULT, EBUSY),
        ("personality", (0xFFFFFFFF,), 0, 0),
        ("personality", (0x400000,), 0, EPERM),
    ],
)
def test_conditions(call: str, args: tuple[int, ...], outside: int | tuple[int, ...], inside: int) -> None:
    def restricted() -> int:
        restrict()
        return raw(call, *args)

    def among(wanted: int | tuple[int, ...]) -> tuple[int, ...]:
        return wanted if isinstance(wanted, tuple) else (wanted,)

    assert outcome(lambda: raw(call, *args)) in among(outside)
    assert outcome(restricted) in among(inside)


def test_asked_calls_fail_when_nobody_listens() -> None:
    def inside() -> tuple[int, int, int, int, int]:
        inherited = os.open("/proc/self/comm", os.O_RDONLY)
        one, _ = socket.socketpair()
        restrict({"open", "send"})
        return (
            errno_of(lambda: os.open("/proc/self/comm", os.O_RDONLY)),
            errno_of(lambda: os.read(inherited, 10)),
            errno_of(lambda: os.stat("/")),
            errno_of(lambda: one.send(b"to whom it is connected to")),
            raw("sendto", -1, BAD, 1, 0, BAD, 16),
        )

    assert outcome(inside) == (ENOSYS, 0, 0, 0, ENOSYS)
    assert outcome(lambda: raw("sendto", -1, BAD, 1, 0, BAD, 16)) == EBADF


def test_one_listener_and_no_second() -> None:
    def inside() -> tuple[bool, int]:
        program = bpf.assemble(bpf.Filter(syscalls.native_arch(), (bpf.Rule(("sethostname",), bpf.NOTIFY),)))
        listener = bpf.install(program, linux.SECCOMP_FILTER_FLAG_NEW_LISTENER)
        try:
            bpf.install(program, linux.SECCOMP_FILTER_FLAG_NEW_LISTENER)
        except BackendError as error:
            return listener > 2, error.errno
        return listener > 2, 0

    assert outcome(inside) == (True, EBUSY)


def test_keep_dumpable_succeeds_and_changes_nothing() -> None:
    def hide(keep: bool) -> int:
        restrict(keep_dumpable=keep)
        linux.prctl(linux.PR_SET_DUMPABLE, 0, 0, 0, 0)
        return linux.prctl(3, 0, 0, 0, 0)  # PR_GET_DUMPABLE

    def before() -> int:
        return linux.prctl(3, 0, 0, 0, 0)

    assert outcome(lambda: hide(False)) == 0
    assert outcome(lambda: hide(True)) == outcome(before)


@x86_64_only
def test_x32_numbers_kill() -> None:
    def inside() -> int:
        restrict()
        return raw(39 | 0x40000000)  # getpid

    assert outcome(lambda: raw(39 | 0x40000000)) in (0, ENOSYS)
    with pytest.raises(DiedError) as died:
        outcome(inside)
    assert died.value.signal == signal.SIGSYS


@x86_64_only
def test_the_32_bit_gate_kills() -> None:
    def getpid_by_int_80() -> int:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov $20, %eax; int $0x80; ret
        at = ctypes.addressof(ctypes.c_char.from_buffer(page))
        return int(ctypes.CFUNCTYPE(ctypes.c_int)(at)()) - os.getpid()

    def inside() -> int:
        restrict()
        return getpid_by_int_80()

    try:
        assert outcome(getpid_by_int_80) == 0
    except DiedError:
        pytest.skip("this kernel has no 32-bit gate")
    with pytest.raises(DiedError) as died:
        outcome(inside)
    assert died.value.signal == signal.SIGSYS
