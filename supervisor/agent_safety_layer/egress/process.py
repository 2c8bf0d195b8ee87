"""The egress process: what it serves, and how the supervisor's messages and the tree's traffic meet in it."""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections import deque
from collections.abc import Callable

from agent_safety_layer.egress import privileges
from agent_safety_layer.egress.addresses import LOOPBACK, canonical, kind_of
from agent_safety_layer.egress.gate import Admission, Gate, Settings
from agent_safety_layer.egress.loop import IN, OUT, Loop, Room
from agent_safety_layer.egress.maker import CAPTURE, TREE, SocketMaker
from agent_safety_layer.egress.names import AddressBook
from agent_safety_layer.egress.protocol import (
    LONGEST,
    Answer,
    Ask,
    Failed,
    Finish,
    Happened,
    Lost,
    Message,
    Open,
    Opened,
    Ready,
    Release,
    Resolve,
    Resolved,
    decode,
    encode,
)
from agent_safety_layer.egress.resolver import Lookup, Resolver, is_own_address
from agent_safety_layer.egress.responder import DnsOverTcp, DnsOverUdp, Responder
from agent_safety_layer.egress.tcp import Connection, TcpListener
from agent_safety_layer.egress.udp import UdpPort
from asl_hooks.errors import UnsupportedError
from asl_hooks.value import replace

DNS_PORT = 53
BACKLOG = 4096
LASTING = 16_384
CONNECTIONS, FLOWS = 2048, 1024
Key = tuple[str, str, int]


def run(channel: socket.socket, net_fd: int, settings: Settings, lookup: Lookup, parent: int) -> None:
    """Serves until the supervisor hangs up or dies. Runs in a process of its own, forked from the supervisor.

    *net_fd* is the tree's network namespace, or -1: then there are only the responder and ``Resolve``.
    """
    privileges.die_with_parent(parent)
    privileges.stand_apart({channel.fileno(), net_fd} - {-1})
    privileges.raise_descriptor_limit()
    try:
        maker = SocketMaker(net_fd) if net_fd >= 0 else None
    except UnsupportedError as error:
        channel.send(encode(Failed(error.wanted, error.found, error.remedy)))
        return
    privileges.drop_capabilities()
    Egress(channel, maker, settings, lookup).loop.run()


class Channel:
    """The egress process's end: never blocks; drops reports rather than grow when the supervisor does not keep up."""

    def __init__(self, loop: Loop, connected: socket.socket, received: Callable[[Message], None]) -> None:
        connected.setblocking(False)
        self._loop = loop
        self._socket = connected
        self._received = received
        self._unsent: deque[bytes] = deque()
        self._lost = 0
        self._ends = False
        loop.watch(connected.fileno(), IN, self._ready)

    def send(self, message: Message) -> None:
        if isinstance(message, Happened) and len(self._unsent) >= BACKLOG:
            self._lost += 1
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            self._unsent.append(encode(Lost(lost)))
        self._unsent.append(encode(message))
        self._flush()

    def end(self) -> None:
        """Hang up once everything is sent."""
        self._ends = True
        self._flush()

    def _flush(self) -> None:
        was_waiting = len(self._unsent) > 1
        try:
            while self._unsent:
                self._socket.send(self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            self._loop.watch(self._socket.fileno(), IN | OUT, self._ready)
            return
        except OSError:  # the supervisor has hung up
            self._loop.stop()
            return
        if self._ends:
            self._loop.stop()
        elif was_waiting:
            self._loop.watch(self._socket.fileno(), IN, self._ready)

    def _ready(self, events: int) -> None:
        if self._unsent:
            self._flush()
        if events & ~OUT:
            try:
                datagram = self._socket.recv(LONGEST)
            except BlockingIOError:
                return
            except OSError:
                datagram = b""
            if datagram:
                self._received(decode(datagram))
            else:
                self._loop.stop()


class Egress:
    """The egress process's parts, joined: the supervisor's messages on one side, the tree's sockets on the other."""

    def __init__(self, channel: socket.socket, maker: SocketMaker | None, settings: Settings, lookup: Lookup) -> None:
        self.loop = Loop()
        self._channel = Channel(self.loop, channel, self._obey)
        self._maker = maker
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[Ask, Callable[[Answer], None]]] = {}
        self._lasting: dict[Ask, Answer] = {}
        self._connections, self._flows = Room(CONNECTIONS), Room(FLOWS)
        self._live: set[Connection] = set()
        self._finishing = False
        self._open: dict[Key, TcpListener | UdpPort | DnsOverUdp] = {}
        self._gate = Gate(self._ask, Resolver(self.loop, lookup), AddressBook(), settings, is_own_address)
        self._responder = Responder(self._gate, self._channel.send, self._channel.send)
        dns_port = 0
        if maker is None:
            dns_port = self._serve_dns_on_host()
        else:
            for proto in ("udp", "tcp"):
                self._listen((proto, "", DNS_PORT))
        self._channel.send(Ready(dns_port))

    def _serve_dns_on_host(self) -> int:
        """The port on 127.0.0.1 where the responder listens, UDP and TCP."""
        while True:
            listening = socket.create_server(("127.0.0.1", 0))
            port = int(listening.getsockname()[1])
            bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                bound.bind(("127.0.0.1", port))
            except OSError:
                listening.close()
                bound.close()
                continue
            break
        for end in (listening, bound):
            end.setblocking(False)
        self._open["tcp", "", DNS_PORT] = TcpListener(self.loop, listening, self._accepted_dns, self._connections)
        self._open["udp", "", DNS_PORT] = DnsOverUdp(self.loop, bound, self._responder)
        return port

    def _ask(self, question: Ask, done: Callable[[Answer], None]) -> None:
        lasting = self._lasting.get(question)
        if lasting is not None:
            done(lasting)
            return
        number = next(self._numbers)
        self._asked[number] = (question, done)
        self._channel.send(replace(question, id=number))

    def _obey(self, message: Message) -> None:
        if isinstance(message, Answer):
            self._take_answer(message)
        elif isinstance(message, Open):
            self._channel.send(Opened(message.id, self._try_to_listen(message)))
        elif isinstance(message, Release):
            listener = self._open.pop(_key(message), None)
            if listener:
                listener.close()
            self._channel.send(Opened(message.id, 0))
        elif isinstance(message, Resolve):
            self._resolve(message)
        elif isinstance(message, Finish):
            self._finishing = True
            self.loop.later(message.within_ms / 1000, self._end)
            self.loop.later(0, self._look_soon)

    def _take_answer(self, answer: Answer) -> None:
        question, done = self._asked.pop(answer.id)
        if answer.lasts and len(self._lasting) < LASTING:
            self._lasting[question] = answer
        done(answer)
        if self._finishing:
            self._look()

    def _try_to_listen(self, message: Open) -> int:
        try:
            self._listen(_key(message))
        except (OSError, ValueError) as error:
            return getattr(error, "errno", None) or errno.EINVAL
        return 0

    def _listen(self, key: Key) -> None:
        """There is a listener for the key: on the tree's loopback address, or in the capture namespace."""
        if key in self._open or self._maker is None:
            return
        proto, ip, port = key
        made = self._maker.listener(TREE if ip else CAPTURE, proto, ip or "::", port)
        if proto == "tcp":
            accepted = self._accepted_dns if port == DNS_PORT else self._accepted
            self._open[key] = TcpListener(self.loop, made, accepted, self._connections)
        elif port == DNS_PORT:
            self._open[key] = DnsOverUdp(self.loop, made, self._responder)
        else:
            self._open[key] = UdpPort(self.loop, self._gate, self._channel.send, made, self._flows)

    def _accepted(self, client: socket.socket, source: int) -> None:
        self._connections.enter()
        Connection(self.loop, self._gate, self._channel.send, client, source, self._live, self._gone)

    def _gone(self, connection: Connection) -> None:
        self._connections.leave()
        self._live.discard(connection)
        if self._finishing:
            self._look()

    def _look_soon(self) -> None:
        """Look after the next round: what had arrived before the tree was gone is accepted by then."""
        self.loop.later(0, self._look)

    def _look(self) -> None:
        """The tree is gone: what is left to do is done once nothing of it is to be passed on any more."""
        if not self._live and not self._asked:
            self._end()
        for connection in tuple(self._live):
            connection.only_send()

    def _end(self) -> None:
        """Tell what came of everything, and end."""
        self._finishing = False
        for connection in tuple(self._live):
            connection.end()
        for listener in self._open.values():
            listener.close()
        self._open.clear()
        self._channel.end()

    def _accepted_dns(self, client: socket.socket, _source: int) -> None:
        DnsOverTcp(self.loop, client, self._responder, self._connections)

    def _resolve(self, message: Resolve) -> None:
        def done(admission: Admission) -> None:
            ip = admission.addresses[0] if admission.addresses else ""
            self._channel.send(Resolved(message.id, admission.host, ip, admission.reason))

        try:
            self._gate.admit(message.ip, message.port, message.proto, done)
        except ValueError:
            self._channel.send(Resolved(message.id, "", "", f"{message.ip} is not an address"))


def _key(message: Open | Release) -> Key:
    ip = canonical(message.ip)
    return message.proto, ip if kind_of(ip) == LOOPBACK else "", message.port


def fork(net_fd: int, settings: Settings, lookup: Lookup) -> tuple[int, socket.socket]:
    """The pid of a new egress process, and the supervisor's end of the channel to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    status = 1
    try:
        run(theirs, net_fd, settings, lookup, parent)
        status = 0
    finally:
        os._exit(status)
