"""The registers of a stopped task: where a system call's number, arguments and result lie, by architecture.

A task stops either on its way into a call or on its way out. On the way in, ``skip`` makes the call return without
running and ``substitute`` makes it another one. On the way out, ``again`` makes the task run another call: it is sent
back to the instruction that it came from.
"""

from __future__ import annotations

import ctypes
import struct

from asl_hooks import syscalls
from asl_hooks._abi import linux
from asl_hooks._abi.constants import AUDIT_ARCH_X86_64
from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_WORD = 8
_ALL = (1 << 64) - 1
_IOVEC = struct.Struct("=QQ")


@value
class _Layout:
    """Indexes into the words of NT_PRSTATUS: ``made`` is the number that an instruction at ``pc`` calls, ``number`` the
    one of the call at hand (-1: in a register set of its own)."""

    words: int
    made: int
    number: int
    result: int
    args: tuple[int, ...]
    pc: int
    instruction_bytes: int


_X86_64 = _Layout(27, made=10, number=15, result=10, args=(14, 13, 12, 7, 9, 8), pc=16, instruction_bytes=2)
_AARCH64 = _Layout(34, made=8, number=-1, result=0, args=(0, 1, 2, 3, 4, 5), pc=32, instruction_bytes=4)
_HERE = _X86_64 if syscalls.native_arch() == AUDIT_ARCH_X86_64 else _AARCH64
_RESULT_AT, _NUMBER_AT = _HERE.result * _WORD, _HERE.number * _WORD


class Registers:
    """The general registers of the stopped task *tid*, as they were when it was made. ``OSError(ESRCH)`` if it died."""

    __slots__ = ("_words", "tid")

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self._words = (ctypes.c_uint64 * _HERE.words)()
        _regset(linux.PTRACE_GETREGSET, tid, linux.NT_PRSTATUS, self._words)

    @property
    def result(self) -> int:
        """What a call on its way out returns, signed."""
        found = self._words[_HERE.result]
        return found - (1 << 64) if found >> 63 else found

    def substitute(self, number: int, args: tuple[int, ...]) -> None:
        """The call on its way in becomes this one."""
        words = self._copy(args)
        if _HERE.number >= 0:
            words[_HERE.number] = number
        _regset(linux.PTRACE_SETREGSET, self.tid, linux.NT_PRSTATUS, words)
        if _HERE.number < 0:
            _set_number(self.tid, number)

    def again(self, number: int, args: tuple[int, ...]) -> None:
        """The task, on its way out of a call that was made from here, makes this one next."""
        words = self._copy(args)
        words[_HERE.made] = number
        words[_HERE.pc] = words[_HERE.pc] - _HERE.instruction_bytes
        _regset(linux.PTRACE_SETREGSET, self.tid, linux.NT_PRSTATUS, words)

    def leave(self, result: int) -> None:
        """The task, on its way out, goes on as after its own call, which returned *result*."""
        words = self._copy(())
        words[_HERE.result] = result & _ALL
        _regset(linux.PTRACE_SETREGSET, self.tid, linux.NT_PRSTATUS, words)

    def _copy(self, args: tuple[int, ...]) -> ctypes.Array[ctypes.c_uint64]:
        words = (ctypes.c_uint64 * _HERE.words)(*self._words)
        for place, arg in zip(_HERE.args, args, strict=False):
            words[place] = arg & _ALL
        return words


def skip(tid: int, result: int) -> None:
    """The call that *tid* is on its way into returns *result* without running."""
    if _HERE.number >= 0:
        linux.ptrace(linux.PTRACE_POKEUSER, tid, _NUMBER_AT, _ALL)
        linux.ptrace(linux.PTRACE_POKEUSER, tid, _RESULT_AT, result & _ALL)
    else:
        Registers(tid).leave(result)
        _set_number(tid, -1)


def restart(tid: int, number: int, result: int) -> None:
    """The call *number*, on its way out, returns *result*: an ERESTART code, of which the kernel makes EINTR or the
    call anew."""
    if _HERE.number >= 0:
        linux.ptrace(linux.PTRACE_POKEUSER, tid, _NUMBER_AT, number)
        linux.ptrace(linux.PTRACE_POKEUSER, tid, _RESULT_AT, result & _ALL)
    else:
        _set_number(tid, number)
        Registers(tid).leave(result)


def _set_number(tid: int, number: int) -> None:
    _regset(linux.PTRACE_SETREGSET, tid, linux.NT_ARM_SYSTEM_CALL, (ctypes.c_int * 1)(number))


def _regset(request: int, tid: int, which: int, words: ctypes.Array[Any]) -> None:
    vector = _IOVEC.pack(ctypes.addressof(words), ctypes.sizeof(words))
    linux.ptrace(request, tid, which, vector)
