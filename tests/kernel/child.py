"""Acts of a forked child: bounds that cannot be lifted are tried on where they end with the process."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
from collections.abc import Callable
from typing import TypeVar

from asl_hooks import syscalls
from asl_hooks._abi import linux

T = TypeVar("T")
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


class DiedError(Exception):
    """The child was ended by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


def outcome(act: Callable[[], T]) -> T:
    """What *act* returns, or raises, in a forked child with no_new_privs. ``DiedError`` if a signal ended it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            try:
                said: tuple[bool, object] = (True, act())
            except Exception as error:
                said = (False, error)
            os.write(writer, pickle.dumps(said))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as stream:
        answer = stream.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        raise DiedError(os.WTERMSIG(status))
    assert status == 0, "the child could not even report"
    good, result = pickle.loads(answer)
    if not good:
        raise result
    return result  # type: ignore[no-any-return]


def errno_of(act: Callable[[], object]) -> int:
    """0 if *act* goes through, else the errno of the ``OSError`` that it raises."""
    try:
        act()
    except OSError as error:
        return error.errno or -1
    return 0


def raw(call: str | int, *args: int) -> int:
    """The errno of a system call, by name or number, made with these very registers; 0 if it succeeds."""
    number = call if isinstance(call, int) else syscalls.numbers(syscalls.native_arch())[call]
    result = _syscall(ctypes.c_long(number), *(ctypes.c_ulong(arg) for arg in args))
    return ctypes.get_errno() if result < 0 else 0
