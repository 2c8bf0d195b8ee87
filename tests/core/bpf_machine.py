"""The kernel's classic BPF machine as seccomp(2) uses it: checks a program as the kernel would, then runs it.

Written from linux/filter.h and the checks in net/core/filter.c and kernel/seccomp.c; it knows nothing of the
assembler.
"""

from __future__ import annotations

import struct

LD_W_ABS, AND_K, RET_K = 0x20, 0x54, 0x06
JA, JEQ, JGT, JGE, JSET = 0x05, 0x15, 0x25, 0x35, 0x45
LENGTH = 64  # of struct seccomp_data
MAX_INSTRUCTIONS = 4096


class RefusedError(Exception):
    """The kernel would not take the program."""


def load(program: bytes) -> list[tuple[int, int, int, int]]:
    """The instructions (code, jt, jf, k) of a program that the kernel would take."""
    if not program or len(program) % 8:
        raise RefusedError("not a whole number of instructions")
    code = list(struct.iter_unpack("=HBBI", program))
    if len(code) > MAX_INSTRUCTIONS:
        raise RefusedError("too long")
    for at, (operation, yes, no, k) in enumerate(code):
        if operation == LD_W_ABS:
            if k >= LENGTH or k % 4:
                raise RefusedError(f"{at}: loads offset {k}")
        elif operation == JA:
            if at + 1 + k >= len(code):
                raise RefusedError(f"{at}: jumps past the end")
        elif operation in (JEQ, JGT, JGE, JSET):
            if at + 1 + max(yes, no) >= len(code):
                raise RefusedError(f"{at}: jumps past the end")
        elif operation not in (AND_K, RET_K):
            raise RefusedError(f"{at}: operation {operation:#x}")
    if code[-1][0] != RET_K:
        raise RefusedError("runs off the end")
    return code


def run(program: bytes, arch: int, nr: int, args: tuple[int, ...]) -> int:
    """The verdict of *program* on a call; all registers are unsigned, *args* are six of 64 bits."""
    return execute(load(program), struct.pack("=IIQ6Q", nr, arch, 0, *args))


def execute(code: list[tuple[int, int, int, int]], data: bytes) -> int:
    """The verdict of loaded instructions on a ``struct seccomp_data``."""
    at, accumulator = 0, 0
    while True:
        operation, yes, no, k = code[at]
        at += 1
        if operation == RET_K:
            return k
        if operation == LD_W_ABS:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif operation == AND_K:
            accumulator &= k
        elif operation == JA:
            at += k
        else:
            holds = {
                JEQ: accumulator == k,
                JGT: accumulator > k,
                JGE: accumulator >= k,
                JSET: bool(accumulator & k),
            }[operation]
            at += yes if holds else no
