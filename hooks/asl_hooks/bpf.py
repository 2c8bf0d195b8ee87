"""Seccomp filters as values: rules that print themselves, evaluate in Python, and assemble to classic BPF.

    Filter(arch, rules) ─ verdict(nr, args) → what the rules say          (the meaning, in Python)
                        ─ str()             → the rules, one a line
    assemble(filter)    → bytes, an array of struct sock_filter           (the same, for the kernel)
    install(program)    → the filter holds in this thread                  (the only thing that touches the kernel)

A verdict is a SECCOMP_RET_* word. The first rule of a call whose conditions all hold decides; a call that the system
call table knows and no rule decides is allowed. A number that the table does not know fails with ENOSYS: what a later
kernel adds cannot get past rules written before it. Another architecture, or an x32 number, kills the process.

Conditions look at the low 32 bits of a register, as the kernel does where it takes an ``int``: a 64-bit compare would
be evaded by garbage in the high word.
"""

from __future__ import annotations

import struct
from errno import ENOSYS, errorcode

from asl_hooks import syscalls
from asl_hooks._abi.constants import (
    AUDIT_ARCH_AARCH64,
    AUDIT_ARCH_X86_64,
    BPF_ALU_AND_K,
    BPF_JMP_JA,
    BPF_JMP_JEQ_K,
    BPF_JMP_JGE_K,
    BPF_JMP_JSET_K,
    BPF_LD_W_ABS,
    BPF_MAXINSNS,
    BPF_RET_K,
    SECCOMP_DATA_ARCH,
    SECCOMP_DATA_ARGS,
    SECCOMP_DATA_NR,
    SECCOMP_RET_ACTION_FULL,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_DATA,
    SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS,
    SECCOMP_RET_TRACE,
    SECCOMP_RET_USER_NOTIF,
    X32_SYSCALL_BIT,
)
from asl_hooks.errors import BackendError
from asl_hooks.value import value

ALLOW = SECCOMP_RET_ALLOW
NOTIFY = SECCOMP_RET_USER_NOTIF
KILL_PROCESS = SECCOMP_RET_KILL_PROCESS


def fail(errno: int) -> int:
    """The verdict that makes a call return ``-errno`` without running; ``fail(0)`` makes it return 0."""
    return SECCOMP_RET_ERRNO | errno


ASKED = 0xA5C  # a tracer knows by it the stops that its filter made: at no others does PTRACE_GETEVENTMSG tell that


def trace(data: int = 0) -> int:
    """The verdict that stops a call for the ptrace(2) tracer; without one it fails with ENOSYS."""
    return SECCOMP_RET_TRACE | data


def verdict_text(verdict: int) -> str:
    """A verdict as a reader would write it: ``allow``, ``notify``, ``kill``, ``fail EPERM``, ``trace 1``."""
    action, data = verdict & SECCOMP_RET_ACTION_FULL, verdict & SECCOMP_RET_DATA
    if action == SECCOMP_RET_ERRNO:
        return f"fail {errorcode.get(data, data)}"
    if action == SECCOMP_RET_TRACE:
        return f"trace {data}"
    return {ALLOW: "allow", NOTIFY: "notify", KILL_PROCESS: "kill"}[action]


@value
class Low:
    """The low 32 bits of argument ``arg``, masked, are one of ``values`` (or, with ``among`` false, none of them).

    There is at least one value; values and mask are unsigned 32-bit.
    """

    arg: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    among: bool = True

    def holds(self, args: tuple[int, ...]) -> bool:
        return (args[self.arg] & self.mask & 0xFFFFFFFF in self.values) == self.among

    def __str__(self) -> str:
        subject = f"arg{self.arg}" if self.mask == 0xFFFFFFFF else f"arg{self.arg} & {self.mask:#x}"
        if self.values == (0,) and self.mask != 0xFFFFFFFF:
            return f"no {subject}" if self.among else f"any {subject}"
        return f"{subject} {'in' if self.among else 'not in'} {{{', '.join(f'{v:#x}' for v in self.values)}}}"


@value
class Nonzero:
    """All 64 bits of argument ``arg`` taken together are not zero: a pointer that is given."""

    arg: int

    def holds(self, args: tuple[int, ...]) -> bool:
        return args[self.arg] != 0

    def __str__(self) -> str:
        return f"arg{self.arg} given"


def equals(arg: int, *values: int) -> Low:
    """Holds when the argument is one of *values*."""
    return Low(arg, values)


def differs(arg: int, *values: int) -> Low:
    """Holds when the argument is none of *values*."""
    return Low(arg, values, among=False)


def any_of(arg: int, flags: int) -> Low:
    """Holds when at least one bit of *flags* is set in the argument."""
    return Low(arg, (0,), flags, among=False)


def none_of(arg: int, flags: int) -> Low:
    """Holds when no bit of *flags* is set in the argument."""
    return Low(arg, (0,), flags)


@value
class Rule:
    """``verdict`` for the named ``calls`` when all conditions hold. An architecture that lacks a name skips it."""

    calls: tuple[str, ...]
    verdict: int
    when: tuple[Low | Nonzero, ...] = ()

    def __str__(self) -> str:
        condition = f" when {' and '.join(map(str, self.when))}" if self.when else ""
        return f"{verdict_text(self.verdict)}: {' '.join(self.calls)}{condition}"


_ALLOWED = (Rule((), ALLOW),)
_UNKNOWN = (Rule((), fail(ENOSYS)),)
_SKIPPED = 0xFFFFFFFF
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jt, jf, k


@value
class Filter:
    """Ordered rules for one architecture (an AUDIT_ARCH constant)."""

    arch: int
    rules: tuple[Rule, ...]

    def by_number(self) -> dict[int, tuple[Rule, ...]]:
        """The rules of each number that has any, in order; the last of them always holds."""
        numbers = syscalls.numbers(self.arch)
        found: dict[int, tuple[Rule, ...]] = {}
        for rule in self.rules:
            bare = Rule((), rule.verdict, rule.when)
            for name in rule.calls:
                nr = numbers.get(name)
                if nr is not None:
                    before = found.get(nr, ())
                    if not before or before[-1].when:
                        found[nr] = (*before, bare)
        return {nr: (*rules, *_ALLOWED) if rules[-1].when else rules for nr, rules in found.items()}

    def verdict(self, nr: int, args: tuple[int, ...], arch: int | None = None) -> int:
        """What the filter answers to call *nr* (unsigned 32-bit) of *arch* with six unsigned 64-bit *args*."""
        if arch is not None and arch != self.arch:
            return KILL_PROCESS
        if nr == _SKIPPED:
            return ALLOW
        if self.arch == AUDIT_ARCH_X86_64 and nr & X32_SYSCALL_BIT:
            return KILL_PROCESS
        if nr not in syscalls.numbers(self.arch).values():
            return _UNKNOWN[0].verdict
        rules = self.by_number().get(nr, _ALLOWED)
        return next(rule.verdict for rule in rules if all(condition.holds(args) for condition in rule.when))

    def __str__(self) -> str:
        name = {AUDIT_ARCH_X86_64: "x86_64", AUDIT_ARCH_AARCH64: "aarch64"}[self.arch]
        lines = [f"{name}: other architectures kill, unknown calls fail ENOSYS, calls without a rule allow"]
        return "\n".join([*lines, *map(str, self.rules)])


class _Program:
    """Instructions laid down from the last to the first: every jump goes forward, so its target is already in place.

    A label is the number of instructions from its target to the end. ``self.code`` is in reverse order.
    """

    def __init__(self) -> None:
        self.code: list[tuple[int, int, int, int]] = []
        self.returns: dict[int, int] = {}

    def put(self, code: int, k: int, yes: int = 0, no: int = 0) -> int:
        self.code.append((code, yes, no, k))
        return len(self.code)

    def ret(self, verdict: int) -> int:
        """A label where *verdict* is returned, near enough to jump to."""
        label = self.returns.get(verdict, 0)
        if not label or len(self.code) - label > 200:
            label = self.returns[verdict] = self.put(BPF_RET_K, verdict)
        return label

    def jump(self, code: int, k: int, yes: int, no: int) -> int:
        """A conditional jump to two labels. Its offsets have 8 bits; a farther label is reached by a long jump."""
        if len(self.code) - yes > 254:  # one less than fits: the second long jump would push the first target away
            yes = self.put(BPF_JMP_JA, len(self.code) - yes)
        if len(self.code) - no > 255:
            no = self.put(BPF_JMP_JA, len(self.code) - no)
        return self.put(code, k, len(self.code) - yes, len(self.code) - no)

    def condition(self, condition: Low | Nonzero, yes: int, no: int) -> int:
        offset = SECCOMP_DATA_ARGS + 8 * condition.arg  # the low word comes first: both architectures are little-endian
        if isinstance(condition, Nonzero):
            self.jump(BPF_JMP_JEQ_K, 0, no, yes)
            high = self.put(BPF_LD_W_ABS, offset + 4)
            self.jump(BPF_JMP_JEQ_K, 0, high, yes)
            return self.put(BPF_LD_W_ABS, offset)
        if not condition.among:
            yes, no = no, yes
        following = no
        for wanted in reversed(condition.values):
            following = self.jump(BPF_JMP_JEQ_K, wanted, yes, following)
        if condition.mask != 0xFFFFFFFF:
            self.put(BPF_ALU_AND_K, condition.mask)
        return self.put(BPF_LD_W_ABS, offset)

    def decision(self, rules: tuple[Rule, ...]) -> int:
        """A label where the verdict of the first of *rules* that holds is returned. The last must hold always."""
        label = self.ret(rules[-1].verdict)
        for rule in reversed(rules[:-1]):
            no, label = label, self.ret(rule.verdict)
            for condition in reversed(rule.when):
                label = self.condition(condition, label, no)
        return label

    def search(self, ranges: list[tuple[int, int, int]]) -> int:
        """A balanced search for the last of *ranges* (first number, label or 0, verdict) not above the number."""
        if len(ranges) == 1:
            _, label, verdict = ranges[0]
            return label or self.ret(verdict)
        middle = len(ranges) // 2
        right = self.search(ranges[middle:])
        left = self.search(ranges[:middle])
        return self.jump(BPF_JMP_JGE_K, ranges[middle][0], right, left)


def _ranges(filter: Filter) -> list[tuple[int, tuple[Rule, ...]]]:
    """The number line cut where the rules change: each first number with the rules that hold from there on."""
    rules = filter.by_number()
    ranges: list[tuple[int, tuple[Rule, ...]]] = []
    expected = 0
    for nr in (*sorted(syscalls.numbers(filter.arch).values()), None):
        if nr != expected:
            ranges.append((expected, _UNKNOWN))
        if nr is not None:
            body = rules.get(nr, _ALLOWED)
            if not ranges or body != ranges[-1][1]:
                ranges.append((nr, body))
            expected = nr + 1
    return ranges


def assemble(filter: Filter) -> bytes:
    """The filter as an array of ``struct sock_filter``, 8 bytes each (linux/filter.h).

    Numbers are searched before any argument is loaded, so the kernel can see which calls are always allowed and does
    not run the filter for them (Linux 5.11).
    """
    ranges = _ranges(filter)
    program = _Program()
    labels: dict[tuple[Rule, ...], int] = {}
    for _, body in ranges:
        if len(body) > 1 and body not in labels:
            labels[body] = program.decision(body)
    entry = program.search([(start, labels.get(body, 0), body[0].verdict) for start, body in ranges])
    if filter.arch == AUDIT_ARCH_X86_64:
        entry = program.jump(BPF_JMP_JSET_K, X32_SYSCALL_BIT, program.ret(KILL_PROCESS), entry)
    # -1 is no call: a tracer wrote it over the number to skip one, and gives the result itself.
    program.jump(BPF_JMP_JEQ_K, _SKIPPED, program.ret(ALLOW), entry)
    entry = program.put(BPF_LD_W_ABS, SECCOMP_DATA_NR)
    program.jump(BPF_JMP_JEQ_K, filter.arch, entry, program.ret(KILL_PROCESS))
    program.put(BPF_LD_W_ABS, SECCOMP_DATA_ARCH)
    if len(program.code) > BPF_MAXINSNS:
        raise ValueError(f"a seccomp filter of {len(program.code)} instructions; the kernel takes {BPF_MAXINSNS}")
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in reversed(program.code))


def install(program: bytes, flags: int = 0) -> int:
    """The seccomp filter *program* holds in this thread, its later threads and children, for good. Returns the
    listener's descriptor if *flags* (SECCOMP_FILTER_FLAG_*) ask for one, else 0.

    Needs no_new_privs or CAP_SYS_ADMIN. Raises ``BackendError``; EBUSY means that there is a listener already.
    """
    from asl_hooks._abi import ctypes, linux

    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(instructions))
    try:
        return linux.seccomp(linux.SECCOMP_SET_MODE_FILTER, flags, header)
    except OSError as error:
        raise BackendError(
            "seccomp", error.errno or 0, remedy="Needs CONFIG_SECCOMP_FILTER and no_new_privs."
        ) from error


__all__ = [
    "ALLOW",
    "KILL_PROCESS",
    "NOTIFY",
    "Filter",
    "Low",
    "Nonzero",
    "Rule",
    "any_of",
    "assemble",
    "differs",
    "equals",
    "fail",
    "install",
    "none_of",
    "trace",
    "verdict_text",
]
