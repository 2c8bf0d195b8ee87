"""Messages that are sent in a tracee's stead: to the address that was judged, with the descriptors that were copied.

The data is nobody's to judge, so it is read from the tracee's memory piece by piece, as it goes out: however much a
call sends, little of it is held here.
"""

from __future__ import annotations

import _signal
import ctypes
import os
from errno import EMSGSIZE, ESRCH

from agent_safety_layer.engine.waiting import patiently
from asl_hooks import memory
from asl_hooks._abi import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agent_safety_layer.events import Event

    Prepare = Callable[[Callable[[int], None]], None]
    Part = tuple[int, int]  # address and size of a stretch of the tracee's memory

STREAM = 1
MSG_DONTWAIT, MSG_NOSIGNAL = 0x40, 0x4000
_MSG_OOB = 0x1
PIECE = 1 << 16
LONGEST_DATAGRAM = 1 << 20
AT_ONCE = 1 << 20  # of a stream, in the loop's own thread
_libc = ctypes.CDLL(None, use_errno=True)


class Outgoing:
    """One message: what is judged, and what is sent where once ``prepare`` is done."""

    __slots__ = ("event", "parts", "prepare", "rights", "target")

    def __init__(
        self,
        event: Event | None,
        parts: list[Part],
        rights: list[int],
        target: list[bytes],
        prepare: Prepare | None,
    ) -> None:
        self.event = event
        self.parts = parts
        self.rights = rights
        self.target = target
        self.prepare = prepare


class Sender:
    """Sends on a copy of the tracee's socket; *mem* is a copy of its memory's descriptor, *waits* whether it blocks."""

    def __init__(self, held: int, type_: int, mem: int, task: tuple[int, int], flags: int, *, waits: bool) -> None:
        self._held = held
        self._is_stream = type_ == STREAM
        self._mem = mem
        self._pid, self._tid = task
        self._flags = flags | MSG_DONTWAIT | MSG_NOSIGNAL
        self._raises = self._is_stream and not flags & MSG_NOSIGNAL
        self._waits = waits

    def send(self, message: Outgoing) -> int:
        """How much was sent. As the kernel does it, a broken stream gives the sender SIGPIPE."""
        try:
            return self._stream(message) if self._is_stream else self._datagram(message)
        except BrokenPipeError:
            if self._raises:
                try:
                    linux.bind("tgkill", *[ctypes.c_int] * 3)(self._pid, self._tid, _signal.SIGPIPE)
                except OSError as error:
                    if error.errno != ESRCH:
                        raise
            raise

    def _datagram(self, message: Outgoing) -> int:
        if sum(size for _, size in message.parts) > LONGEST_DATAGRAM:
            raise OSError(EMSGSIZE, "longer than any datagram")
        data = b"".join(memory.read(self._mem, at, size) for at, size in message.parts)
        return self._put(data, message.rights, message.target[0])

    def _stream(self, message: Outgoing) -> int:
        sent = 0
        rights = message.rights
        left = sum(size for _, size in message.parts)
        for at, size in _pieces(message.parts):
            left -= size
            if sent >= AT_ONCE and not self._waits:
                break
            try:
                data = memory.read(self._mem, at, size)
                while data:
                    done = self._put(data, rights, message.target[0], more=left > 0)
                    data, rights = data[done:], []
                    sent += done
            except OSError:
                if not sent:
                    raise
                break
        return sent if sent else self._put(b"", rights, message.target[0])

    def _put(self, data: bytes, rights: list[int], address: bytes, *, more: bool = False) -> int:
        flags = self._flags & ~_MSG_OOB if more else self._flags  # what is urgent is the last byte

        def attempt() -> int:
            return _send_message(self._held, data, rights, flags, address)

        return patiently(self._held, self._tid, attempt) if self._waits else attempt()


def _pieces(parts: Iterable[Part]) -> Iterable[Part]:
    for at, size in parts:
        for start in range(0, size, PIECE):
            yield at + start, min(PIECE, size - start)


def in_turn(prepares: list[Prepare]) -> Prepare | None:
    """All of them, one after the other, until one fails."""
    if not prepares:
        return None

    def prepare(done: Callable[[int], None]) -> None:
        left = iter(prepares)

        def next_one(errno: int) -> None:
            following = None if errno else next(left, None)
            if following is None:
                done(errno)
            else:
                following(next_one)

        next_one(0)

    return prepare


class _Message(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("name_len", ctypes.c_uint),
        ("iov", ctypes.c_void_p),
        ("iov_len", ctypes.c_size_t),
        ("control", ctypes.c_char_p),
        ("control_len", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Part(ctypes.Structure):
    _fields_ = (("base", ctypes.c_char_p), ("size", ctypes.c_size_t))


def _send_message(fd: int, data: bytes, rights: list[int], flags: int, address: bytes) -> int:
    part = _Part(data, len(data))
    control = b""
    if rights:
        body = b"".join(fd.to_bytes(4, "little") for fd in rights)
        control = (16 + len(body)).to_bytes(8, "little") + b"\1\0\0\0\1\0\0\0" + body
        control += b"\0" * (-len(control) % 8)
    message = _Message(address or None, len(address), ctypes.addressof(part), 1, control or None, len(control), 0)
    sent: int = _libc.sendmsg(fd, ctypes.byref(message), flags)
    if sent < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return sent
