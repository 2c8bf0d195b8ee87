"""Filters say what their rules say: assembled and run on a BPF machine, for every call of both architectures."""

from __future__ import annotations

import os
import random
from errno import EAFNOSUPPORT, EBUSY, ENOSYS, EPERM, EPROTONOSUPPORT

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asl_hooks import filters, syscalls
from asl_hooks._abi import constants as k
from asl_hooks._abi.constants import AUDIT_ARCH_AARCH64, AUDIT_ARCH_X86_64
from asl_hooks.bpf import (
    ALLOW,
    KILL_PROCESS,
    NOTIFY,
    Filter,
    Low,
    Nonzero,
    Rule,
    any_of,
    assemble,
    differs,
    equals,
    fail,
    none_of,
    trace,
    verdict_text,
)
from tests.core import bpf_machine

ARCHES = (AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64)
I386 = 0x40000003
GARBAGE = 0xDEADBEEF << 32
ASKED = frozenset(syscalls.tags()) - {"absent", "refuse"}
CONDITIONAL = {
    *(
        "clone",
        "unshare",
        "ioctl",
        "prlimit64",
        "socket",
        "socketpair",
        "setsockopt",
        "personality",
        "prctl",
        "seccomp",
    ),
    *("sendto", "fcntl", *syscalls.tagged("sched")),
}


def answer(built: Filter, name: str, *args: int) -> int:
    """What the assembled filter answers to *name*; missing arguments are 0."""
    number = syscalls.number(name, built.arch)
    assert number is not None
    return bpf_machine.run(assemble(built), built.arch, number, (*args, *(0,) * (6 - len(args))))


# The whole table


@pytest.mark.parametrize("asked", [frozenset(), ASKED, frozenset({"open", "exec"})], ids=["nothing", "all", "some"])
@pytest.mark.parametrize("arch", ARCHES)
def test_every_call_gets_the_verdict_of_its_tags(arch: int, asked: frozenset[str]) -> None:
    code = bpf_machine.load(assemble(filters.build(arch, asked)))
    chance = random.Random(arch)
    checked = 0
    for call in syscalls.table():
        number = syscalls.number(call.name, arch)
        if number is None or call.name in CONDITIONAL:
            continue
        if "absent" in call.tags:
            expected = fail(ENOSYS)
        elif "refuse" in call.tags:
            expected = fail(EPERM)
        else:
            expected = NOTIFY if asked & set(call.tags) else ALLOW
        for args in ((0,) * 6, ((1 << 64) - 1,) * 6, tuple(chance.getrandbits(64) for _ in range(6))):
            assert bpf_machine.execute(code, data(arch, number, args)) == expected, call
        checked += 1
    assert checked > 290


def data(arch: int, number: int, args: tuple[int, ...]) -> bytes:
    return (
        b"".join(n.to_bytes(4, "little") for n in (number, arch))
        + bytes(8)
        + b"".join(a.to_bytes(8, "little") for a in args)
    )


@pytest.mark.parametrize("arch", ARCHES)
def test_numbers_that_the_table_does_not_know_fail(arch: int) -> None:
    code = bpf_machine.load(assemble(filters.build(arch, ASKED)))
    known = set(syscalls.numbers(arch).values())
    unknown = [nr for nr in range(1200) if nr not in known] + [0x3FFFFFFF, 0x80000000, 0xBFFFFFFF]
    assert len(unknown) > 700
    assert {bpf_machine.execute(code, data(arch, nr, (0,) * 6)) for nr in unknown} == {fail(ENOSYS)}


@pytest.mark.parametrize("arch", ARCHES)
def test_another_architecture_is_killed(arch: int) -> None:
    code = bpf_machine.load(assemble(filters.build(arch, ())))
    others = (*ARCHES, I386, 0x40000028, 0, 0xFFFFFFFF)
    for other in others:
        expected = ALLOW if other == arch else KILL_PROCESS
        assert bpf_machine.execute(code, data(other, syscalls.numbers(arch)["read"], (0,) * 6)) == expected


def test_x32_numbers_are_killed() -> None:
    code = bpf_machine.load(assemble(filters.build(AUDIT_ARCH_X86_64, ())))
    for number in (*syscalls.numbers(AUDIT_ARCH_X86_64).values(), 512, 547, 0x3FFFFFFF - 1):
        asked = data(AUDIT_ARCH_X86_64, number | 0x40000000, (0,) * 6)
        assert bpf_machine.execute(code, asked) == KILL_PROCESS


@pytest.mark.parametrize("arch", ARCHES)
def test_a_call_that_a_tracer_skipped_is_left_alone(arch: int) -> None:
    assert bpf_machine.run(assemble(filters.build(arch, ASKED)), arch, 0xFFFFFFFF, (0,) * 6) == ALLOW


# What holds whatever is asked about

NEW_CALLS = [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
SIGCHLD = 17
THREAD = 0x3D0F00  # what pthread_create(3) passes

CASES = [
    *(("clone", (flag | SIGCHLD,), fail(EPERM)) for flag in (*NEW_CALLS, 0x800000, 0x8000)),
    ("clone", (SIGCHLD,), ALLOW),
    ("clone", (THREAD,), ALLOW),
    ("clone", (0x4111,), ALLOW),  # vfork(3) by clone: CLONE_VM | CLONE_VFORK | SIGCHLD
    *(("unshare", (flag,), fail(EPERM)) for flag in (*NEW_CALLS, 0x80)),
    ("unshare", (0x600,), ALLOW),  # CLONE_FS | CLONE_FILES
    *(("ioctl", (0, command), fail(EPERM)) for command in (0x5412, 0x541C, 0x541D, 0x5423, 0x5437, 0x8901, 0x8902)),
    ("ioctl", (0, 0xAA00), fail(EPERM)),
    ("ioctl", (0, 0x5401), ALLOW),  # TCGETS
    ("ioctl", (0, 0x5410), ALLOW),  # TIOCSPGRP: shells need it
    ("prlimit64", (0, 7, 0x1000), ALLOW),
    ("prlimit64", (1, 7, 0), ALLOW),
    ("prlimit64", (1, 7, 0x1000), fail(EPERM)),
    ("prlimit64", (1, 7, 1 << 32), fail(EPERM)),
    ("socket", (1, 5, 0), ALLOW),
    ("socket", (2, 1, 0), ALLOW),
    ("socket", (2, 1 | 0x80800, 6), ALLOW),  # SOCK_CLOEXEC | SOCK_NONBLOCK
    ("socket", (10, 2, 17), ALLOW),
    ("socket", (2, 3, 1), fail(EPERM)),  # SOCK_RAW
    ("socket", (2, 5, 132), fail(EPERM)),  # SOCK_SEQPACKET
    ("socket", (2, 10, 0x300), fail(EPERM)),  # SOCK_PACKET
    ("socket", (2, 2, 1), fail(EPROTONOSUPPORT)),  # ICMP
    ("socket", (2, 1, 132), fail(EPROTONOSUPPORT)),  # SCTP
    ("socket", (2, 1, 262), fail(EPROTONOSUPPORT)),  # MPTCP
    ("socket", (16, 3, 0), ALLOW),  # NETLINK_ROUTE
    ("socket", (16, 3, 9), fail(EPROTONOSUPPORT)),  # NETLINK_AUDIT
    *(("socket", (family, 2, 0), fail(EAFNOSUPPORT)) for family in (0, 3, 17, 31, 38, 40, 44)),
    ("socketpair", (1, 1, 0), ALLOW),
    ("socketpair", (2, 1, 0), fail(EAFNOSUPPORT)),
    ("setsockopt", (3, 6, 23), fail(EPERM)),
    ("setsockopt", (3, 6, 30), fail(EPERM)),
    ("setsockopt", (3, 6, 1), ALLOW),  # TCP_NODELAY
    ("setsockopt", (3, 1, 30), ALLOW),
    ("personality", (0,), ALLOW),
    ("personality", (0xFFFFFFFF,), ALLOW),
    ("personality", (0x40000,), ALLOW),
    ("personality", (0x400000,), fail(EPERM)),  # READ_IMPLIES_EXEC
    ("prctl", (35, 1), fail(EPERM)),
    ("prctl", (4, 0), ALLOW),
    ("prctl", (38, 1), ALLOW),
    ("seccomp", (1, 0, 0x1000), ALLOW),
    ("seccomp", (1, 8, 0x1000), fail(EBUSY)),
    ("seccomp", (2, 0, 0x1000), ALLOW),
]


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(("name", "args", "expected"), CASES)
def test_conditions(arch: int, name: str, args: tuple[int, ...], expected: int) -> None:
    assert answer(filters.build(arch, ()), name, *args) == expected


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(("name", "args", "expected"), CASES)
def test_garbage_above_32_bits_changes_nothing(arch: int, name: str, args: tuple[int, ...], expected: int) -> None:
    pointers = {i for i, kind in enumerate(syscalls.spec(name).args) if kind == "ptr"}
    spoiled = (arg if i in pointers else arg | GARBAGE for i, arg in enumerate(args))
    assert answer(filters.build(arch, ()), name, *spoiled) == expected


# What is asked about, and how


@pytest.mark.parametrize(
    ("tag", "name", "args", "expected"),
    [
        ("send", "sendto", (3, 0x1000, 5, 0, 0, 0), ALLOW),
        ("send", "sendto", (3, 0x1000, 5, 0x4000, 0, 16), ALLOW),  # MSG_NOSIGNAL
        ("send", "sendto", (3, 0x1000, 5, 0, 0x2000, 16), NOTIFY),
        ("send", "sendto", (3, 0x1000, 5, 0, 0x2000 << 32, 16), NOTIFY),  # a pointer with an empty low word
        ("send", "sendto", (3, 0x1000, 5, 0x20000000, 0, 0), NOTIFY),  # MSG_FASTOPEN
        ("send", "sendto", (3, 0x1000, 5, 0x20000000 | GARBAGE, 0, 0), NOTIFY),
        ("fork", "clone", (SIGCHLD,), NOTIFY),
        ("fork", "clone", (THREAD,), ALLOW),
        ("fork", "clone", (SIGCHLD | 0x10000000,), fail(EPERM)),
        ("fork", "clone3", (0x1000, 88), fail(ENOSYS)),
        ("kill", "tgkill", (1, 1, 9), NOTIFY),
        ("socket", "socket", (2, 1, 0), NOTIFY),
        ("socket", "socket", (17, 3, 0), fail(EAFNOSUPPORT)),
        ("open_handle", "open_by_handle_at", (3, 0x1000, 0), fail(EPERM)),
        ("setown", "fcntl", (3, 8, 1), NOTIFY),
        ("setown", "fcntl", (3, 15, 0x1000), fail(EPERM)),
        ("setown", "fcntl", (3, 1), ALLOW),
        ("open", "fcntl", (3, 15, 0x1000), ALLOW),
        ("sched", "sched_setaffinity", (0, 8, 0x1000), ALLOW),
        ("sched", "sched_setaffinity", (1, 8, 0x1000), NOTIFY),
        ("sched", "setpriority", (0, 0, 5), ALLOW),
        ("sched", "setpriority", (0, 1, 5), NOTIFY),
        ("sched", "setpriority", (2, 0, 5), NOTIFY),  # PRIO_USER: every process of this user
        ("sched", "ioprio_set", (1, 0, 5), ALLOW),
        ("sched", "ioprio_set", (3, 0, 5), NOTIFY),
    ],
)
@pytest.mark.parametrize("arch", ARCHES)
def test_asked_calls_are_narrowed(arch: int, tag: str, name: str, args: tuple[int, ...], expected: int) -> None:
    assert answer(filters.build(arch, {tag}), name, *args) == expected
    if expected == NOTIFY:
        assert answer(filters.build(arch, ()), name, *args) == ALLOW
        assert answer(filters.build(arch, {tag}, ask=trace(7)), name, *args) == trace(7)


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("openat", (3, 0x1000, os.O_RDONLY), ALLOW),
        ("openat", (3, 0x1000, os.O_CLOEXEC | os.O_NOCTTY | os.O_PATH | os.O_NONBLOCK), ALLOW),
        ("openat", (3, 0x1000, GARBAGE), ALLOW),  # above the 32 bits that the kernel looks at
        ("openat", (3, 0x1000, os.O_WRONLY), NOTIFY),
        ("openat", (3, 0x1000, os.O_RDWR), NOTIFY),
        ("openat", (3, 0x1000, os.O_ACCMODE), NOTIFY),
        ("openat", (3, 0x1000, os.O_RDONLY | os.O_CREAT, 0o600), NOTIFY),
        ("openat", (3, 0x1000, os.O_RDONLY | os.O_TRUNC), NOTIFY),
        ("openat", (3, 0x1000, os.O_RDONLY | os.O_TMPFILE), NOTIFY),
        ("openat2", (3, 0x1000, 0x2000, 24), NOTIFY),  # its flags lie behind a pointer
        ("mkdirat", (3, 0x1000, 0o700), NOTIFY),
    ],
)
@pytest.mark.parametrize("arch", ARCHES)
def test_reads_that_nobody_asks_for(arch: int, name: str, args: tuple[int, ...], expected: int) -> None:
    assert answer(filters.build(arch, {"open", "mkdir"}, reads=False), name, *args) == expected
    assert answer(filters.build(arch, {"open", "mkdir"}), name, *args) == NOTIFY


@pytest.mark.parametrize("arch", ARCHES)
def test_listing_is_asked_about_whatever_the_flag_is_called(arch: int) -> None:
    folder, direct = (0o200000, 0o40000) if arch == AUDIT_ARCH_X86_64 else (0o40000, 0o200000)
    itself = 0o400000 if arch == AUDIT_ARCH_X86_64 else 0o100000  # O_NOFOLLOW
    assert answer(filters.build(arch, {"open"}, reads=False), "openat", 3, 0x1000, folder) == NOTIFY
    assert answer(filters.build(arch, {"open"}, reads=False), "openat", 3, 0x1000, itself) == NOTIFY
    assert answer(filters.build(arch, {"open"}, reads=False), "openat", 3, 0x1000, direct) == ALLOW


@pytest.mark.parametrize("how", [os.O_RDONLY, os.O_WRONLY, os.O_CREAT])
def test_reads_that_nobody_asks_for_with_the_old_open(how: int) -> None:
    expected = NOTIFY if how else ALLOW
    assert answer(filters.build(AUDIT_ARCH_X86_64, {"open"}, reads=False), "open", 0x1000, how) == expected
    assert answer(filters.build(AUDIT_ARCH_X86_64, {"open"}, reads=False), "creat", 0x1000, 0o600) == NOTIFY


@pytest.mark.parametrize("arch", ARCHES)
def test_report_asks_about_what_would_be_refused(arch: int) -> None:
    reporting, plain = filters.build(arch, (), report=True), filters.build(arch, ())
    number = syscalls.numbers(arch)["ptrace"]
    assert answer(reporting, "ptrace") == NOTIFY
    assert plain.verdict(number, (0,) * 6) == fail(EPERM)
    assert answer(reporting, "unshare", 0x10000000) == NOTIFY
    assert answer(reporting, "unshare", 0) == ALLOW
    assert answer(reporting, "clone3") == fail(ENOSYS)


@pytest.mark.parametrize("arch", ARCHES)
def test_keep_dumpable_feigns_success(arch: int) -> None:
    kept = filters.build(arch, (), keep_dumpable=True)
    assert answer(kept, "prctl", 4, 0) == fail(0)
    assert answer(kept, "prctl", 4, 1) == ALLOW


@pytest.mark.parametrize("wrong", ["opens", "refuse", "absent"])
def test_only_tags_can_be_asked_about(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"not tags to ask about: {wrong}"):
        filters.build(AUDIT_ARCH_X86_64, {"open", wrong})


# Rules in general


def test_rules_print_themselves() -> None:
    rules = (
        Rule(("ptrace", "bpf"), fail(EPERM)),
        Rule(("clone",), NOTIFY, (none_of(0, 0x10000),)),
        Rule(("sendto",), trace(3), (Nonzero(4), any_of(3, 0x20))),
        Rule(("socket",), KILL_PROCESS, (differs(0, 1, 2), equals(1, 3), Low(2, (1, 2), 0xF))),
        Rule(("prctl",), fail(0)),
    )
    assert str(Filter(AUDIT_ARCH_AARCH64, rules)).splitlines() == [
        "aarch64: other architectures kill, unknown calls fail ENOSYS, calls without a rule allow",
        "fail EPERM: ptrace bpf",
        "notify: clone when no arg0 & 0x10000",
        "trace 3: sendto when arg4 given and any arg3 & 0x20",
        "kill: socket when arg0 not in {0x1, 0x2} and arg1 in {0x3} and arg2 & 0xf in {0x1, 0x2}",
        "fail 0: prctl",
    ]
    assert verdict_text(ALLOW) == "allow"


words = st.sampled_from([0, 1, 2, 0x10, 0x80000000, 0xFFFFFFFF]) | st.integers(0, 0xFFFFFFFF)
argument = st.integers(0, 5)
conditions = st.builds(
    Low,
    argument,
    st.lists(words, min_size=1, max_size=9).map(tuple),
    st.just(0xFFFFFFFF) | words,
    st.booleans(),
) | st.builds(Nonzero, argument)
verdicts = st.sampled_from([ALLOW, NOTIFY, KILL_PROCESS, fail(EPERM), fail(0), trace(9)])
names = st.sampled_from([call.name for call in syscalls.table()])
rule_lists = st.lists(
    st.builds(
        Rule,
        st.lists(names, min_size=1, max_size=12).map(tuple),
        verdicts,
        st.lists(conditions, max_size=4).map(tuple),
    ),
    max_size=12,
)
registers = st.builds(lambda high, low: high << 32 | low, words, words)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ARCHES), rule_lists, st.data())
def test_the_machine_agrees_with_the_rules(arch: int, rules: list[Rule], draw: st.DataObject) -> None:
    built = Filter(arch, tuple(rules))
    code = bpf_machine.load(assemble(built))
    ruled = [nr for rule in rules for name in rule.calls if (nr := syscalls.number(name, arch)) is not None]
    for _ in range(12):
        number = draw.draw((st.sampled_from(ruled) if ruled else st.nothing()) | st.integers(0, 600) | words)
        args = tuple(draw.draw(st.tuples(*[registers] * 6)))
        assert bpf_machine.execute(code, data(arch, number, args)) == meaning(arch, rules, number, args)
        assert built.verdict(number, args) == meaning(arch, rules, number, args)


def meaning(arch: int, rules: list[Rule], number: int, args: tuple[int, ...]) -> int:
    """The rules read once more, as their documentation says."""
    if number == 0xFFFFFFFF:
        return ALLOW
    if arch == AUDIT_ARCH_X86_64 and number & 0x40000000:
        return KILL_PROCESS
    name = syscalls.name_of(number, arch)
    if name.startswith("syscall_"):
        return fail(ENOSYS)
    for rule in rules:
        if name in rule.calls and all(holds(condition, args[condition.arg]) for condition in rule.when):
            return rule.verdict
    return ALLOW


def holds(condition: Low | Nonzero, register: int) -> bool:
    if isinstance(condition, Nonzero):
        return register > 0
    found = any(register % (1 << 32) & condition.mask == wanted for wanted in condition.values)
    return found if condition.among else not found


@pytest.mark.parametrize("arch", ARCHES)
def test_programs_longer_than_a_short_jump(arch: int) -> None:
    """Every call has conditions and a verdict of its own: all jumps are far, and many need a long one."""
    numbers = syscalls.numbers(arch)
    rules = tuple(
        Rule((name,), fail(number), (equals(0, number, number + 3), Nonzero(5))) for name, number in numbers.items()
    )
    code = bpf_machine.load(assemble(Filter(arch, rules)))
    assert len(code) > 2000
    for number in numbers.values():
        for first, last, expected in (
            (number, 1, fail(number)),
            (number + 3, 1 << 63, fail(number)),
            (number + 1, 1, ALLOW),
            (number, 0, ALLOW),
        ):
            assert bpf_machine.execute(code, data(arch, number, (first, 0, 0, 0, 0, last))) == expected


def test_a_condition_with_more_values_than_a_short_jump() -> None:
    built = Filter(AUDIT_ARCH_X86_64, (Rule(("read",), fail(EPERM), (equals(0, *range(0, 2000, 2)),)),))
    code = bpf_machine.load(assemble(built))
    verdicts = [bpf_machine.execute(code, data(built.arch, 0, (first, 0, 0, 0, 0, 0))) for first in range(2001)]
    assert verdicts == [fail(EPERM) if first % 2 == 0 and first < 2000 else ALLOW for first in range(2001)]


def test_a_filter_that_the_kernel_would_not_take_is_refused() -> None:
    rule = Rule(("read",), fail(EPERM), (equals(0, *range(4096)),))
    with pytest.raises(ValueError, match="the kernel takes 4096"):
        assemble(Filter(AUDIT_ARCH_X86_64, (rule,)))


def test_always_allowed_calls_touch_no_argument() -> None:
    """The kernel skips the filter for calls that it can see are always allowed: no load but of number and arch."""
    code = bpf_machine.load(assemble(filters.build(AUDIT_ARCH_X86_64, ASKED)))
    for name in ("read", "write", "mmap", "futex", "close"):
        number = syscalls.numbers(AUDIT_ARCH_X86_64)[name]
        header_only = data(AUDIT_ARCH_X86_64, number, ())[: k.SECCOMP_DATA_ARGS]
        assert bpf_machine.execute(code, header_only) == ALLOW
