"""The egress process as the supervisor sees it. Nothing here waits for it, except its start."""

from __future__ import annotations

import _signal
import errno
import itertools
import os
import select
import socket
import struct
from collections.abc import Callable
from time import monotonic

from agent_safety_layer.egress.addresses import LOOPBACK, canonical, kind_of
from agent_safety_layer.egress.gate import Settings
from agent_safety_layer.egress.names import AddressBook, is_synthetic
from agent_safety_layer.egress.process import fork
from agent_safety_layer.egress.protocol import (
    LONGEST,
    Answer,
    Ask,
    Failed,
    Finish,
    Happened,
    Lost,
    Message,
    Named,
    Open,
    Opened,
    Ready,
    Release,
    Resolve,
    Resolved,
    decode,
    encode,
)
from agent_safety_layer.egress.resolver import Lookup, system_lookup
from agent_safety_layer.errors import InternalError, UnsupportedError
from agent_safety_layer.events import ALLOW, Decision

START_S = 10.0
SEND_S = 5.0  # the process always reads, unless it is stopped
END_S = 2.0
LISTENERS = 1024
Judge = Callable[[Ask], Decision | None]


class EgressClient:
    """Starts the egress process and speaks with it.

    *net_fd* is the tree's network namespace (``netns.open_namespace``), -1 where there is none. *judge* answers each
    question at once or with None; ``answer`` must then follow. *happened* gets every report for the trace. *lasting*:
    what is allowed once stays allowed, so the process need not ask again (no rule looks at what happened before).
    Watch ``fileno()`` for reading and call ``dispatch`` when it is. ``UnsupportedError`` when it cannot be set up.
    """

    def __init__(
        self,
        net_fd: int,
        *,
        judge: Judge,
        happened: Callable[[Happened | Lost], None],
        settings: Settings | None = None,
        lasting: bool = False,
        lookup: Lookup = system_lookup,
    ) -> None:
        self._judge = judge
        self._lasting = lasting
        self._happened = happened
        self._book = AddressBook()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Callable[[int], None]] = {}
        self._resolving: dict[int, Callable[[Resolved], None]] = {}
        self._open: dict[tuple[str, str, int], bool] = {}
        self.dns_port = 0
        self.alive = True
        self.pid, self._socket = fork(net_fd, settings or Settings(), lookup)
        self._await_start()

    def _await_start(self) -> None:
        self._socket.settimeout(START_S)
        try:
            datagram = self._socket.recv(LONGEST)
        except TimeoutError:
            datagram = b""
        self._socket.setblocking(True)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(SEND_S), 0))
        message = decode(datagram) if datagram else None
        if isinstance(message, Ready):
            self.dns_port = message.dns_port
            return
        self.close()
        if isinstance(message, Failed):
            raise UnsupportedError(message.wanted, message.found, message.remedy)
        raise InternalError("the egress process ended while it started")

    def fileno(self) -> int:
        """Readable when ``dispatch`` has something to do."""
        return self._socket.fileno()

    def dispatch(self) -> None:
        """Every message that has arrived is dealt with. ``alive`` is false afterwards if the process has ended."""
        while self.alive:
            try:
                datagram = self._socket.recv(LONGEST, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionError:  # it has ended without having read everything; what it has said comes after that
                continue
            if datagram:
                self._take(decode(datagram))
            else:
                self._ended()

    def _take(self, message: Message) -> None:
        if isinstance(message, Ask):
            decision = self._judge(message)
            if decision is not None:
                self.answer(message.id, decision)
        elif isinstance(message, Named):
            self._book.enter(message.host, message.ip4, message.ip6)
        elif isinstance(message, Opened):
            self._waiting.pop(message.id)(message.errno)
        elif isinstance(message, Resolved):
            self._resolving.pop(message.id)(message)
        elif isinstance(message, Happened | Lost):
            self._happened(message)

    def _ended(self) -> None:
        """Whoever waits is told; nothing of the tree gets out any more, as its listeners are gone."""
        self.alive = False
        self._open.clear()
        waiting, self._waiting = self._waiting, {}
        for done in waiting.values():
            done(errno.ENETDOWN)
        resolving, self._resolving = self._resolving, {}
        for number, resolved in resolving.items():
            resolved(Resolved(number, "", "", "the egress process has ended"))

    def _send(self, message: Message) -> None:
        try:
            self._socket.send(encode(message))
        except OSError:
            self._ended()

    def answer(self, number: int, decision: Decision) -> None:
        """The decision on the question with this number (``Ask.id``)."""
        lasts = self._lasting and decision.action == ALLOW
        self._send(Answer(number, decision.action, decision.reason, int(lasts)))

    def host_of(self, ip: str) -> str:
        """The name behind an address that the tree uses: "" for a literal one, ``localhost`` for loopback."""
        ip = canonical(ip)
        if kind_of(ip) == LOOPBACK:
            return "localhost"
        host = self._book.host_of(ip)
        if not host and is_synthetic(ip):  # the process announces a name before it tells the tree, so it has arrived
            self.dispatch()
            host = self._book.host_of(ip)
        return host

    def open(self, ip: str, port: int, proto: str, done: Callable[[int], None]) -> None:
        """*done* gets 0 once what the tree sends there is received, at once if it is already; else an errno.

        For a loopback address: 0 also when the tree has a server of its own there, which then gets the connection.
        """
        ip = canonical(ip)
        local = kind_of(ip) == LOOPBACK
        key = (proto, ip if local else "", port)
        if not self.alive:
            done(errno.ENETDOWN)
            return
        if self._open.pop(key, False):
            self._open[key] = True  # the most recently used one is the last
            done(0)
            return

        def opened(error: int) -> None:
            if not error:
                self._open[key] = True
            done(0 if local and error == errno.EADDRINUSE else error)

        if len(self._open) >= LISTENERS:
            proto_, ip_, port_ = oldest = next(iter(self._open))
            del self._open[oldest]
            self._ask_for(Release(next(self._numbers), ip_ or "198.18.0.2", port_, proto_), lambda _error: None)
        self._ask_for(Open(next(self._numbers), ip, port, proto), opened)

    def receives(self, ip: str, port: int, proto: str) -> bool:
        """Whether what the tree sends to this loopback address comes to a listener of ours, not to one of its own."""
        return (proto, canonical(ip), port) in self._open

    def release(self, port: int, proto: str, done: Callable[[], None]) -> None:
        """*done* once no listener of ours stands on the port of the tree's loopback, so that the tree can bind it."""
        held = [key for key in self._open if key[0] == proto and key[1] and key[2] == port]
        left = len(held)
        if not left:
            done()

        def released(_error: int) -> None:
            nonlocal left
            left -= 1
            if not left:
                done()

        for key in held:
            del self._open[key]
            self._ask_for(Release(next(self._numbers), key[1], port, proto), released)

    def resolve(self, ip: str, port: int, proto: str, done: Callable[[Resolved], None]) -> None:
        """*done* gets the judged and checked address to dial in place of *ip*, or the reason why there is none."""
        number = next(self._numbers)
        self._resolving[number] = done
        if self.alive:
            self._send(Resolve(number, ip, port, proto))
        else:
            self._ended()

    def _ask_for(self, message: Open | Release, done: Callable[[int], None]) -> None:
        self._waiting[message.id] = done
        self._send(message)

    def finish(self, within_s: float) -> None:
        """The tree is gone: what it has sent was passed on, as far as that was possible within so many seconds, and
        everything that came of it has been reported.
        """
        if not self.alive:
            return
        self._send(Finish(int(within_s * 1000)))
        until = monotonic() + within_s + END_S
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        while self.alive and (left := until - monotonic()) > 0:
            poll.poll(left * 1000 + 1)
            self.dispatch()

    def close(self) -> None:
        """The process has ended, and with it every connection."""
        self.alive = False
        self._socket.close()
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:  # it has ended, and someone else has waited for it
            return
        try:
            if not select.select([fd], [], [], END_S)[0]:
                _signal.pidfd_send_signal(fd, _signal.SIGKILL)
            os.waitid(os.P_PIDFD, fd, os.WEXITED)
        except (ProcessLookupError, ChildProcessError):
            return
        finally:
            os.close(fd)
