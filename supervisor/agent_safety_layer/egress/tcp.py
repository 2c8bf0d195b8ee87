"""TCP out of the namespace: accept what the tree dialled, have it admitted, dial it on the host, relay."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from functools import partial

from agent_safety_layer.egress.addresses import canonical
from agent_safety_layer.egress.gate import PASSING, Admission, Gate
from agent_safety_layer.egress.loop import IN, OUT, Loop, Room, Timer
from agent_safety_layer.egress.protocol import Answer, Ask, Happened
from agent_safety_layer.egress.relay import FORWARD, HOLD, REFUSE, Relay, reset_on_close
from agent_safety_layer.egress.sniff import Sniffer

DIAL_S = 60.0
NEXT_ADDRESS_S = 5.0
ACCEPTS = 32
_PAUSE_S = 0.1
Report = Callable[[Happened], None]


class TcpListener:
    """Accepts on a listening socket of the tree's or the capture namespace and gives each connection to *accepted*,
    with the port of its other end.

    While *room* is full the others wait, as in front of any server that is busy.
    """

    def __init__(
        self, loop: Loop, listening: socket.socket, accepted: Callable[[socket.socket, int], None], room: Room
    ) -> None:
        self._loop = loop
        self._socket = listening
        self._accepted = accepted
        self._room = room
        self._pause: Timer | None = None
        loop.watch(listening.fileno(), IN, self._ready)

    def _ready(self, _events: int) -> None:
        for _ in range(ACCEPTS):
            if self._room.full:
                self._wait()
                return
            try:
                client, peer = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    self._wait()
                    return
                continue  # the client went away before it was accepted
            client.setblocking(False)
            self._accepted(client, int(peer[1]))

    def _wait(self) -> None:
        self._loop.unwatch(self._socket.fileno())  # it stays ready: come back when something was closed
        self._pause = self._loop.later(_PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._loop.watch(self._socket.fileno(), IN, self._ready)

    def close(self) -> None:
        if self._pause:
            self._pause.cancel()
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()


class Connection:
    """One connection of the tree, from acceptance to end; every end but the supervisor's own refusal is reported."""

    def __init__(
        self,
        loop: Loop,
        gate: Gate,
        report: Report,
        client: socket.socket,
        source: int,
        live: set[Connection],
        gone: Callable[[Connection], None],
    ) -> None:
        live.add(self)
        self._gone = gone
        self._is_alone = False
        self._loop = loop
        self._gate = gate
        self._report = report
        self._client = client
        self._host = ""
        self._addresses: list[str] = []
        self._failure = ""
        self._sniffer = Sniffer()
        self._asked = 0
        self._relay: Relay | None = None
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        dialled = client.getsockname()
        self._ip, self._port = canonical(dialled[0]), int(dialled[1])
        self._source, self._dialled_ip = source, self._ip
        gate.admit(self._ip, self._port, "tcp", self._admitted)

    def _admitted(self, admission: Admission) -> None:
        self._host = admission.host
        self._addresses = list(admission.addresses)
        if self._addresses:
            self._ip = self._addresses[0]
            self._dial()
        else:
            if not admission.judged:
                self._tell(admission.code, admission.reason)
            self._drop()

    def _dial(self) -> None:
        """The next address is being dialled, or, when there is none left, the client is reset."""
        while self._addresses:
            self._ip = self._addresses.pop(0)
            try:
                upstream = socket.socket(socket.AF_INET6 if ":" in self._ip else socket.AF_INET, socket.SOCK_STREAM)
            except OSError as failure:  # no descriptor left, or a family that this machine does not have
                self._failure = errno.errorcode.get(failure.errno or 0, "EIO")
                continue
            upstream.setblocking(False)
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            error = upstream.connect_ex((self._ip, self._port))
            if error in (0, errno.EINPROGRESS):
                self._await(upstream)
                return
            upstream.close()
            self._failure = errno.errorcode.get(error, str(error))
        self._tell(self._failure, "could not be reached")
        self._drop()

    def _await(self, upstream: socket.socket) -> None:
        wait_s = NEXT_ADDRESS_S if self._addresses else DIAL_S
        timer = self._loop.later(wait_s, lambda: self._dialled(upstream, timer, errno.ETIMEDOUT))
        self._loop.watch(upstream.fileno(), OUT, lambda _events: self._dialled(upstream, timer, None))

    def _dialled(self, upstream: socket.socket, timer: Timer, error: int | None) -> None:
        timer.cancel()
        self._loop.unwatch(upstream.fileno())
        if error is None:
            error = upstream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            upstream.close()
            self._failure = errno.errorcode.get(error, str(error))
            self._dial()
            return
        inspect = None if self._host == "localhost" else self._inspect
        self._relay = Relay(self._loop, self._client, upstream, inspect, self._finished)
        if self._is_alone:
            self._relay.only_send()

    def _inspect(self, piece: bytes) -> str:
        """Every other host that the client names must be allowed too; TLS on a connection to a name must name one."""
        names = [name for name in self._sniffer.feed(piece) if name not in (self._host, self._ip)]
        if self._sniffer.done and self._relay:
            self._relay.stop_inspecting()
        if self._sniffer.fault and self._host:
            self._tell("ECONNRESET", self._sniffer.fault)
            if not self._gate.settings.observe:
                return REFUSE
        if not names:
            return FORWARD
        self._asked = len(names)
        ip = "" if self._host else self._ip
        for name in names:
            question = Ask(0, "net.connect", name, ip, self._port, "tcp")
            self._gate.ask(question, partial(self._name_judged, name))
        if self._asked:
            return HOLD
        return FORWARD if self._relay else REFUSE

    def _name_judged(self, name: str, answer: Answer) -> None:
        self._asked -= 1
        if self._relay is None:
            return
        if answer.action not in PASSING:
            reason = (
                f"{self._sniffer.protocol} names {name!r} on a connection to {self._host or self._ip}: {answer.reason}"
            )
            self._tell("ECONNRESET", reason)
            self._relay.reset("refused")
        elif not self._asked:
            self._relay.let_go()

    def _finished(self, sent: int, received: int, why: str) -> None:
        self._relay = None
        self._gone(self)
        if why != "refused":
            self._tell("", why, sent, received)

    def _tell(self, result: str, reason: str, sent: int = 0, received: int = 0) -> None:
        outside = (self._host, self._ip, self._port, "tcp")
        inside = (self._source, self._dialled_ip)
        self._report(Happened("net.connect", *outside, result, reason, sent, received, *inside))

    def only_send(self) -> None:
        """The client is gone; what it has sent is still passed on."""
        self._is_alone = True
        if self._relay is not None:
            self._relay.only_send()

    def end(self) -> None:
        """End now, and tell what came of it."""
        if self._relay is not None:
            self._relay.reset("the run has ended")
        else:
            self._tell("", "the run has ended")

    def _drop(self) -> None:
        self._gone(self)
        reset_on_close(self._client)
        self._client.close()
