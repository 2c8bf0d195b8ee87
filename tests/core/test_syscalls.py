"""The table of system calls is complete, and every line means something."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

from asl_hooks import syscalls
from asl_hooks._abi.constants import AUDIT_ARCH_AARCH64, AUDIT_ARCH_X86_64
from asl_hooks.errors import UnsupportedError

ARCHES = (AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64)
KINDS = {
    *("fd", "dirfd", "int", "pid", "sig", "flags", "mode", "uid", "len"),
    *("path", "str", "argv", "ptr", "sockaddr", "size", "word", "off"),
}
TAGS = {
    *("open", "open_handle", "mkdir", "mknod", "unlink", "rename", "link", "symlink", "truncate", "chmod", "chown"),
    *("utime", "xattr", "fd_meta", "stat", "chdir", "connect", "bind", "listen", "send", "sendmsg", "socket", "exec"),
    *("fork", "kill", "setown", "sched", "ipc", "queue", "umask", "tell", "creds", "linger", "watch"),
    *("refuse", "absent"),
}


def test_every_number_has_a_line_and_every_line_a_number() -> None:
    named = [call.name for call in syscalls.table()]
    assert len(named) == len(set(named))
    assert set(named) == set(syscalls.numbers(AUDIT_ARCH_X86_64)) | set(syscalls.numbers(AUDIT_ARCH_AARCH64))


def test_lines_use_the_kinds_and_tags_that_exist() -> None:
    for call in syscalls.table():
        assert len(call.args) <= 6, call
        assert set(call.args) <= KINDS, call
        assert set(call.tags) <= TAGS, call
    assert set(syscalls.tags()) == TAGS


@pytest.mark.parametrize(
    ("name", "x86_64", "aarch64"),
    [
        ("read", 0, 63),
        ("open", 2, None),
        ("openat", 257, 56),
        ("newfstatat", 262, 79),
        ("fcntl", 72, 25),
        ("renameat", 264, 38),
        ("execve", 59, 221),
        ("clone", 56, 220),
        ("mmap", 9, 222),
        ("prlimit64", 302, 261),
        ("pidfd_send_signal", 424, 424),
        ("clone3", 435, 435),
        ("openat2", 437, 437),
        ("fchmodat2", 452, 452),
        ("mseal", 462, 462),
        ("file_setattr", 469, 469),
    ],
)
def test_known_numbers(name: str, x86_64: int, aarch64: int | None) -> None:
    assert syscalls.number(name, AUDIT_ARCH_X86_64) == x86_64
    assert syscalls.number(name, AUDIT_ARCH_AARCH64) == aarch64


@pytest.mark.parametrize(("arch", "module"), [(AUDIT_ARCH_X86_64, "x86_64"), (AUDIT_ARCH_AARCH64, "aarch64")])
def test_numbers_are_those_of_python_ptrace(arch: int, module: str) -> None:
    theirs = importlib.import_module(f"ptrace.syscall.linux.{module}").SYSCALL_NAMES
    common = {name: number for number, name in theirs.items() if number < 512 and name != "timerfd"}  # x32; a misnomer
    assert len(common) > 290
    ours = syscalls.numbers(arch)
    assert {name: ours.get(name) for name in common} == common


def test_arguments_are_those_of_python_ptrace() -> None:
    from ptrace.syscall.prototypes import FILENAME_ARGUMENTS, SYSCALL_PROTOTYPES

    common = [call for call in syscalls.table() if call.name in SYSCALL_PROTOTYPES]
    assert len(common) > 250
    for call in common:
        _, theirs = SYSCALL_PROTOTYPES[call.name]
        if call.name != "membarrier":  # it has had one more since Linux 5.10
            assert len(call.args) == len(theirs), call
        for kind, (type_, name) in zip(call.args, theirs, strict=False):
            if kind == "path":
                assert type_.endswith("char *"), (call, name)
            elif type_ == "const char *" and name in FILENAME_ARGUMENTS:
                assert kind == "str", (call, name)  # what a symbolic link says names nothing yet


@pytest.mark.parametrize("arch", ARCHES)
def test_names_and_numbers_are_each_others_inverse(arch: int) -> None:
    for name, number in syscalls.numbers(arch).items():
        assert syscalls.name_of(number, arch) == name
    assert syscalls.name_of(9999, arch) == "syscall_9999"


def test_numbers_from_424_on_are_shared() -> None:
    first, second = ({n: nr for n, nr in syscalls.numbers(arch).items() if nr >= 424} for arch in ARCHES)
    assert first == second
    assert len(first) == 48


def test_another_architecture_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="arch 0x40000003"):
        syscalls.number("read", 0x40000003)


def test_native_arch_names_this_process() -> None:
    assert syscalls.name_of(syscalls.numbers(syscalls.native_arch())["getpid"], syscalls.native_arch()) == "getpid"


def test_groups_have_the_whole_family() -> None:
    groups = {
        "open": "open openat openat2 creat",
        "unlink": "unlink unlinkat rmdir",
        "rename": "rename renameat renameat2",
        "link": "link linkat",
        "truncate": "truncate",
        "chmod": "chmod fchmodat fchmodat2",
        "xattr": "setxattr lsetxattr setxattrat removexattr lremovexattr removexattrat",
        "fd_meta": "fchmod fchown fsetxattr fremovexattr",
        "send": "sendto",
        "sendmsg": "sendmsg sendmmsg",
        "exec": "execve execveat",
        "fork": "clone clone3 fork vfork",
        "kill": "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal",
    }
    assert {tag: set(syscalls.tagged(tag)) for tag in groups} == {tag: set(ns.split()) for tag, ns in groups.items()}


def test_calls_that_take_a_path_are_tagged() -> None:
    """A call that is handed a path, and that no tag covers, would never be judged."""
    assert [call.name for call in syscalls.table() if "path" in call.args and not call.tags] == []
    assert [call.name for call in syscalls.table() if "sockaddr" in call.args and not call.tags] == []


def test_unknown_names_have_six_plain_words() -> None:
    assert syscalls.spec("syscall_500") == syscalls.Syscall("syscall_500", ("word",) * 6, ())


def test_arguments_are_cut_as_the_kernel_cuts_them() -> None:
    garbage = 0xDEADBEEF << 32
    registers = (garbage | 0xFFFFFF9C, 0x7FFF_1234_5678, garbage | 0o101, garbage | 0o644, 1, 2)
    assert syscalls.spec("openat").arguments(registers) == (-100, 0x7FFF_1234_5678, 0o101, 0o644)
    assert syscalls.spec("lseek").arguments((3, (1 << 64) - 5, 1, 0, 0, 0)) == (3, -5, 1)
    assert syscalls.spec("getpid").arguments(registers) == ()


def test_import_reads_no_table() -> None:
    """Importing the module neither parses the table nor loads an architecture's numbers."""
    look = "import sys, asl_hooks.syscalls as s; print(s._specs, s._tags, [m for m in sys.modules if 'numbers_' in m])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.split() == ["{}", "{}", "[]"]
