"""Two connected sockets become one connection: bytes, half-closes and resets pass both ways.

Each direction reads only while everything read before has been written, so a slow reader slows its writer and nothing
piles up. A socket that waits for nothing is not watched: with level-triggered events a hang-up would be told for ever.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from functools import partial

from agent_safety_layer.egress.loop import IN, OUT, Loop

PIECE, _SHORTEST = 512 * 1024, 16 * 1024
_WHOLE = 32  # so many relays read whole pieces; more read shorter ones, so that what waits has a bound
_buffer = memoryview(bytearray(PIECE))  # the loop is one thread, and no read outlives its callback

FORWARD, HOLD, REFUSE = "forward", "hold", "refuse"
Inspect = Callable[[bytes], str]


class _Direction:
    """Bytes from *source* to *sink*: how many, which of them still wait, and whether the end has come."""

    __slots__ = ("ended", "held", "inspect", "sink", "source", "total", "waiting")

    def __init__(self, source: socket.socket, sink: socket.socket, inspect: Inspect | None) -> None:
        self.source = source
        self.sink = sink
        self.inspect = inspect
        self.waiting: memoryview = memoryview(b"")
        self.held = False
        self.ended = False
        self.total = 0

    def wants_read(self) -> bool:
        return not self.ended and not self.waiting

    def wants_write(self) -> bool:
        return bool(self.waiting) and not self.held

    def read(self) -> bool:
        """One piece has been passed on, or waits. False when it must not be."""
        size = self.source.recv_into(_buffer, max(PIECE // max(Relay.running // _WHOLE, 1), _SHORTEST))
        if not size:
            self.ended = True
            self.sink.shutdown(socket.SHUT_WR)
            return True
        piece = _buffer[:size]
        verdict = self.inspect(bytes(piece)) if self.inspect else FORWARD
        if verdict == REFUSE:
            return False
        if verdict == HOLD:
            self.held = True
            self.waiting = memoryview(bytes(piece))
            return True
        try:
            done = self.sink.send(piece)
        except BlockingIOError:
            done = 0
        self.total += done
        if done < size:
            self.waiting = memoryview(bytes(piece[done:]))
        return True

    def write(self) -> None:
        done = self.sink.send(self.waiting)
        self.total += done
        self.waiting = self.waiting[done:]


class Relay:
    """Runs on the loop until both directions have ended or either side is reset; then both sockets are closed.

    *inspect* sees every piece from the client before it goes on and answers FORWARD, HOLD (the piece waits until
    ``let_go``) or REFUSE (both sides are reset). *finished* gets the bytes sent, the bytes received, and an error text.
    """

    running = 0

    def __init__(
        self,
        loop: Loop,
        client: socket.socket,
        upstream: socket.socket,
        inspect: Inspect | None,
        finished: Callable[[int, int, str], None],
    ) -> None:
        Relay.running += 1
        self._loop = loop
        self._client = client
        self._upstream = upstream
        self._out = _Direction(client, upstream, inspect)
        self._back = _Direction(upstream, client, None)
        self._finished = finished
        self._masks = {client: 0, upstream: 0}
        self._open = True
        self._arrange()

    def stop_inspecting(self) -> None:
        self._out.inspect = None

    def let_go(self) -> None:
        """The held piece goes on."""
        if self._open and self._out.held:
            self._out.held = False
            self._arrange()

    def only_send(self) -> None:
        """The client is gone: it ends once what that has sent is passed on."""
        if self._open:
            self._back.ended = True
            self._back.waiting = memoryview(b"")
            self._arrange()

    def reset(self, why: str) -> None:
        """Both sides see a reset. Nothing happens when the relay has ended already."""
        if self._open:
            for side in (self._client, self._upstream):
                reset_on_close(side)
            self._close(why)

    def _ready(self, side: socket.socket, events: int) -> None:
        inward, outward = (self._out, self._back) if side is self._client else (self._back, self._out)
        try:
            if outward.wants_write() and events & ~IN:
                outward.write()
            if inward.wants_read() and events & ~OUT and not inward.read():
                self.reset("refused")
                return
        except BlockingIOError:
            return
        except OSError as error:
            self.reset(error.strerror or str(error))
            return
        self._arrange()

    def _arrange(self) -> None:
        """Each socket is watched for what its two directions wait for, and the relay closed when that is nothing."""
        if self._out.ended and self._back.ended:
            self._close("")
            return
        for side, inward, outward in ((self._client, self._out, self._back), (self._upstream, self._back, self._out)):
            mask = (IN if inward.wants_read() else 0) | (OUT if outward.wants_write() else 0)
            if mask == self._masks[side]:
                continue
            self._masks[side] = mask
            if mask:
                self._loop.watch(side.fileno(), mask, partial(self._ready, side))
            else:
                self._loop.unwatch(side.fileno())

    def _close(self, why: str) -> None:
        self._open = False
        Relay.running -= 1
        for side in (self._client, self._upstream):
            self._loop.unwatch(side.fileno())
            side.close()
        self._finished(self._out.total, self._back.total, why)


def reset_on_close(side: socket.socket) -> None:
    """Closing the socket will reset the connection instead of ending it in order."""
    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
