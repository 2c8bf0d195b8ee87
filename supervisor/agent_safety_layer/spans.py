"""Telling the supervisor, when this process runs under one, which operation runs: every system call's event then
carries its span, and operations are in the same trace as what they do to the world.

The channel is a system call that no kernel knows: the supervisor answers it, so the next call of this thread is
already seen in the new span. See ``engine.spans`` for the message.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Generator
from errno import EACCES
from functools import partial
from typing import Any, TypeVar

from agent_safety_layer.engine.spans import LONGEST
from asl_hooks._abi.constants import PR_ASL_TELL

T = TypeVar("T")
_prctl: Callable[..., int] | None = None
_channel: Callable[..., int] | None = None
_looked = False


def supervised() -> bool:
    """Whether there is a supervisor that listens."""
    if not _looked:
        _look("ASL_RUN_ID" in os.environ)
    return _prctl is not None


def outer_run() -> str:
    """The run that supervises this process, asked for now; empty when there is none."""
    outer = os.environ.get("ASL_RUN_ID", "")
    if outer:
        listened_to()
        now("")  # only a supervisor answers
    return outer if outer and supervised() else ""


def listened_to() -> None:
    """From here on there is: this process was forked into a supervised one."""
    _look(True)


def began(span: str, around: str, operation: str, more: str) -> bool:
    """An operation begins within another one. False when the supervisor's policy forbids it."""
    return _tell("call", around, span, operation, more) != EACCES


def ended(span: str, around: str, operation: str, how: str) -> None:
    """It is over."""
    _tell("end", around, span, operation, how)


def now(span: str) -> None:
    """This thread runs in that span from now on."""
    _tell("now", span, "", "", "")


def said(span: str, level: str, message: str) -> None:
    """A message for the trace."""
    _tell("log", span, span, level, message)


def _tell(*parts: str) -> int:
    global _prctl
    if _prctl is None:
        return 0
    texts = [part.replace("\0", " ").encode("utf-8", "backslashreplace") for part in parts]
    message = b"\0".join([part[:256] for part in texts[:4]] + texts[4:])[:LONGEST]
    if _prctl(PR_ASL_TELL, message, len(message), 0, 0) == 0:
        return 0
    from ctypes import get_errno

    errno = get_errno()
    if errno != EACCES:  # nobody listens
        _prctl = None
    return errno


def _look(there: bool) -> None:
    global _looked, _prctl
    if there:
        _prctl = channel()
    _looked = True  # last: other threads look, too


def channel() -> Callable[..., int]:
    """The system call, made once: a fork pays for what it makes itself."""
    global _channel
    if _channel is None:
        import ctypes

        function = ctypes.CDLL(None, use_errno=True).prctl
        function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
        _channel = function
    return _channel


class Stepped:
    """An awaitable that runs in a span, while other tasks of the thread run in none or in theirs."""

    def __init__(self, awaitable: Awaitable[Any], span: str) -> None:
        self._awaitable = awaitable
        self._span = span

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = _coroutine(self._awaitable)
        advance: Callable[[], Any] = partial(steps.send, None)
        while True:
            now(self._span)
            try:
                item = advance()
            except StopIteration as stop:
                return stop.value
            now("")
            try:
                received = yield item
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as error:
                advance = partial(steps.throw, error)
            else:
                advance = partial(steps.send, received)


async def _coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable


__all__ = ["Stepped", "began", "ended", "listened_to", "now", "said", "supervised"]
