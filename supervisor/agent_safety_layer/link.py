"""Messages between a program and the supervisor of a run that it started: JSON over a Unix stream socket.

Each message is its length in four bytes, then a JSON object. Descriptors travel with the message that needs them.
Both ends are ours; nothing of a supervised tree ever holds one.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from _thread import allocate_lock
from array import array
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from agent_safety_layer.errors import AslError

_LENGTH = struct.Struct("=I")
_CHUNK = 1 << 16
_MOST_FDS = 8

Message = dict[str, Any]


class Link:
    """One end. ``fds`` are the descriptors that came and were not taken yet, close-on-exec."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._buffer = bytearray()
        self._sending = allocate_lock()
        self.fds: list[int] = []
        self.ended = False

    def fileno(self) -> int:
        """The socket; polls readable when a message, or the end, has come. -1 once closed."""
        return self._socket.fileno()

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send one message, from any thread. Raises ``OSError`` when the other side is gone."""
        text = json.dumps(message, separators=(",", ":")).encode()
        data = memoryview(_LENGTH.pack(len(text)) + text)
        with self._sending:
            sent = socket.send_fds(self._socket, [data], fds) if fds else 0
            if sent < len(data):  # to send nothing fails, too, once the other side has heard all and is gone
                self._socket.sendall(data[sent:])

    def receive(self) -> Message | None:
        """The next message, waited for; None at the end."""
        while True:
            message = self._next()
            if message is not None or self.ended:
                return message
            self._fill(0)

    def arrived(self) -> list[Message]:
        """The messages that have come so far; ``ended`` tells whether more can come."""
        found: list[Message] = []
        while True:
            try:
                self._fill(socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            if self.ended:
                break
        while (message := self._next()) is not None:
            found.append(message)
        return found

    def end_with_us(self) -> None:
        """From now on a forked child has no copy of this end: what is at the other one ends with this process."""
        _ours.add(self)

    def close(self) -> None:
        """Close this end, and what descriptors nobody took."""
        _ours.discard(self)
        self._socket.close()
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()

    def _fill(self, how: int) -> None:
        try:
            data, fds = receive_with_fds(self._socket, _CHUNK, how)
        except ConnectionError:
            data, fds = b"", []
        self.fds += fds
        self._buffer += data
        self.ended = not data

    def _next(self) -> Message | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
        if len(self._buffer) < end:
            return None
        message: Message = json.loads(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return message


_ours: set[Link] = set()


def _forked() -> None:
    for link in tuple(_ours):
        link.close()


os.register_at_fork(after_in_child=_forked)


def receive_with_fds(end: socket.socket, size: int, how: int = 0) -> tuple[bytes, list[int]]:
    """What ``recv`` gives, and the descriptors that came with it, close-on-exec.

    ``socket.recv_fds`` passes no flags on.
    """
    data, extra, _, _ = end.recvmsg(size, socket.CMSG_SPACE(_MOST_FDS * 4), how | socket.MSG_CMSG_CLOEXEC)
    fds = array("i")
    for level, kind, content in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) // 4 * 4])
    return data, list(fds)


def plain_error(error: AslError) -> Message:
    """The error as plain values; ``rebuilt_error`` is the way back."""
    kind = type(error)
    fields = {name: _plain(of) for name, of in vars(error).items()}
    return {"error": [kind.__module__, kind.__qualname__], "args": [str(arg) for arg in error.args], "fields": fields}


def _plain(of: Any) -> Any:
    if isinstance(of, AslError):
        return plain_error(of)
    return [_plain(each) for each in of] if isinstance(of, list | tuple) else of


def rebuilt_error(told: Message) -> AslError:
    """The error that ``plain_error`` was of. Only ever for what a supervisor of ours has sent."""
    module, name = told["error"]
    made: AslError = AslError.__new__(getattr(import_module(module), name))
    made.args = tuple(told["args"])
    made.__dict__.update({name: _rebuilt(of) for name, of in told["fields"].items()})
    return made


def _rebuilt(of: Any) -> Any:
    if isinstance(of, dict) and "error" in of:
        return rebuilt_error(of)
    return tuple(map(_rebuilt, of)) if isinstance(of, list) else of


__all__ = ["Link", "Message", "plain_error", "rebuilt_error", "receive_with_fds"]
