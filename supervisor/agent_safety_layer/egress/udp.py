"""UDP other than DNS out of the namespace: one relay per client and destination, where the policy allows it.

Without a listener the kernel answers "port unreachable", so what is not allowed fails at once. The supervisor has a
port opened when it has judged a datagram or a connect to it; each flow is admitted again here.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from functools import partial

from agent_safety_layer.egress.datagrams import LONGEST, Datagram, Datagrams
from agent_safety_layer.egress.gate import Admission, Gate
from agent_safety_layer.egress.loop import IN, Loop, Room
from agent_safety_layer.egress.protocol import Happened

IDLE_S = 60.0
WAITING, WAITING_BYTES = 16, 65_536
BATCH = 32


class UdpPort:
    """Relays what the tree sends to one port of any address."""

    def __init__(
        self, loop: Loop, gate: Gate, report: Callable[[Happened], None], bound: socket.socket, room: Room
    ) -> None:
        self._room = room
        self._loop = loop
        self._gate = gate
        self._report = report
        self._datagrams = Datagrams(bound)
        self._port = int(bound.getsockname()[1])
        self._flows: dict[tuple[object, str], _Flow] = {}
        loop.watch(bound.fileno(), IN, self._ready)

    def _ready(self, _events: int) -> None:
        for _ in range(BATCH):
            got = self._datagrams.receive()
            if got is None:
                return
            key = (got.peer, got.to)
            flow = self._flows.get(key)
            if flow is None:
                if self._room.full:
                    continue
                self._room.enter()
                flow = _Flow(self._loop, self._datagrams, got, self._port, partial(self._drop, key))
                self._flows[key] = flow
                self._gate.admit(got.to, self._port, "udp", flow.admitted)
            flow.send(got.data)

    def _drop(self, key: tuple[object, str]) -> None:
        flow = self._flows.pop(key, None)
        if flow is not None:
            self._room.leave()
            self._report(flow.ended())

    def close(self) -> None:
        self._loop.unwatch(self._datagrams.socket.fileno())
        for key in list(self._flows):
            self._drop(key)
        self._datagrams.socket.close()


class _Flow:
    """One client's datagrams to one destination, and the answers. A refused flow stays, mute, until it is idle."""

    def __init__(self, loop: Loop, inside: Datagrams, first: Datagram, port: int, drop: Callable[[], None]) -> None:
        self._loop = loop
        self._inside = inside
        self._peer, self._dialled, self._port = first.peer, first.to, port
        self._drop = drop
        self._waiting: list[bytes] | None = []
        self._outside: socket.socket | None = None
        self._host, self._ip = "", first.to
        self._result, self._reason = "", ""
        self._sent = self._received = 0
        self._is_over = False
        self._used = time.monotonic()
        self._timer = loop.later(IDLE_S, self._idle)

    def admitted(self, admission: Admission) -> None:
        if self._is_over:
            return
        waiting, self._waiting = self._waiting or [], None
        self._host, self._result, self._reason = admission.host, admission.code, admission.reason
        for address in admission.addresses:
            try:
                outside = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            except OSError as failure:
                self._result = errno.errorcode.get(failure.errno or 0, "EIO")
                continue
            outside.setblocking(False)
            error = outside.connect_ex((address, self._port))
            if not error:
                self._ip, self._outside, self._result = address, outside, ""
                self._loop.watch(outside.fileno(), IN, self._ready)
                break
            outside.close()
            self._result = errno.errorcode.get(error, str(error))
        for data in waiting:
            self.send(data)

    def send(self, data: bytes) -> None:
        self._used = time.monotonic()
        if self._waiting is not None:
            if len(self._waiting) < WAITING and sum(map(len, self._waiting)) + len(data) <= WAITING_BYTES:
                self._waiting.append(data)
        elif self._outside is not None:
            try:
                self._sent += self._outside.send(data)
            except OSError:  # full, too long, or an ICMP error for an earlier one: the datagram is lost
                return

    def _ready(self, _events: int) -> None:
        if self._outside is None:
            return
        for _ in range(BATCH):
            try:
                data = self._outside.recv(LONGEST)
            except OSError:
                return
            self._used = time.monotonic()
            self._received += len(data)
            self._inside.send(data, self._peer, self._dialled)

    def _idle(self) -> None:
        left = self._used + IDLE_S - time.monotonic()
        if left > 0:
            self._timer = self._loop.later(left, self._idle)
        else:
            self._drop()

    def ended(self) -> Happened:
        """The flow is over; this is what became of it."""
        self._is_over = True
        self._timer.cancel()
        if self._outside is not None:
            self._loop.unwatch(self._outside.fileno())
            self._outside.close()
        outside = (self._host, self._ip, self._port, "udp")
        inside = (int(self._peer[1]), self._dialled)
        came_of_it = (self._result, self._reason, self._sent, self._received)
        return Happened("net.send", *outside, *came_of_it, *inside)
