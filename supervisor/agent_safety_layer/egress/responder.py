"""The DNS server that the tree sees, whichever it asks: allowed names get addresses of the book, others do not exist.

    policy's answer         in DNS
    allow, audit, warn      resolved on the host; an address of the book, or what the host said (no such name, failure)
    require_approval        an address of the book; nothing is looked up before someone has agreed
    block                   NXDOMAIN, with the reason for clients that read extended errors (RFC 8914)

NXDOMAIN rather than REFUSED: glibc and musl take it as final and fail at once, while REFUSED makes them try the next
server, wait, and report a temporary failure that programs retry. Questions for other types than addresses are answered
empty; so nothing that the tree asks ever leaves this machine but the allowed names themselves.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial

from agent_safety_layer.egress import dns
from agent_safety_layer.egress.datagrams import Datagrams
from agent_safety_layer.egress.gate import PASSING, Gate
from agent_safety_layer.egress.loop import IN, OUT, Loop, Room
from agent_safety_layer.egress.names import canonical_name, is_local_name
from agent_safety_layer.egress.protocol import Answer, Ask, Happened, Named
from agent_safety_layer.egress.resolver import NO_SUCH_NAME, Resolution

WAITING = 512
IDLE_S = 10.0
BATCH = 32
Reply = Callable[[bytes], None]


class Responder:
    """Answers questions, wherever they come from."""

    def __init__(self, gate: Gate, named: Callable[[Named], None], report: Callable[[Happened], None]) -> None:
        self._gate = gate
        self._named = named
        self._report = report
        self._waiting = 0

    def answer(self, packet: bytes, reply: Reply) -> None:
        """*reply* gets the answer, at once or later, or never when the packet is no question or there are too many."""
        query = dns.parse_query(packet)
        if query is None or self._waiting >= WAITING:
            return
        name = canonical_name(query.name)
        if not name or name.endswith(".arpa") or query.type == dns.PTR:
            reply(dns.reply(query, dns.NXDOMAIN))
            return
        if is_local_name(name):
            reply(dns.reply(query, dns.NOERROR, _packed(query.type, "127.0.0.1", "::1")))
            return
        self._waiting += 1

        def finish(rcode: int, reason: str = "") -> None:
            self._waiting -= 1
            try:
                pair = self._addresses(name) if rcode == dns.NOERROR else ("", "")
            except OverflowError:
                rcode = dns.SERVFAIL
            addresses = _packed(query.type, *pair) if rcode == dns.NOERROR else ()
            reply(dns.reply(query, rcode, addresses, blocked=reason))

        def resolved(found: Resolution) -> None:
            good, objections = self._gate.check(found)
            if good:
                finish(dns.NOERROR)
                return
            reason = f"{name} leads to no address that is allowed: {objections}" if objections else found.error
            missing = bool(objections) or found.error == NO_SUCH_NAME
            self._report(Happened("net.dns", name, "", 53, "dns", "NXDOMAIN" if missing else "SERVFAIL", reason, 0, 0))
            finish(dns.NXDOMAIN if missing else dns.SERVFAIL, objections and reason)

        def judged(answer: Answer) -> None:
            if answer.action in PASSING:
                self._gate.resolver.resolve(name, resolved)
            elif answer.action == "require_approval":
                finish(dns.NOERROR)
            else:
                finish(dns.NXDOMAIN, answer.reason or "blocked by policy")

        self._gate.ask(Ask(0, "net.dns", name, "", 53, "dns"), judged)

    def _addresses(self, name: str) -> tuple[str, str]:
        known = name in self._gate.book
        pair = self._gate.book.addresses_of(name)
        if not known:
            self._named(Named(name, *pair))
        return pair


def _packed(kind: int, ip4: str, ip6: str) -> tuple[bytes, ...]:
    if kind == dns.A:
        return (socket.inet_pton(socket.AF_INET, ip4),)
    if kind == dns.AAAA:
        return (socket.inet_pton(socket.AF_INET6, ip6),)
    return ()


class DnsOverUdp:
    """Serves the responder on a bound UDP socket."""

    def __init__(self, loop: Loop, bound: socket.socket, responder: Responder) -> None:
        self._loop = loop
        self._datagrams = Datagrams(bound)
        self._responder = responder
        loop.watch(bound.fileno(), IN, self._ready)

    def _ready(self, _events: int) -> None:
        for _ in range(BATCH):
            got = self._datagrams.receive()
            if got is None:
                return
            self._responder.answer(got.data, partial(self._datagrams.send, peer=got.peer, source=got.to))

    def close(self) -> None:
        self._loop.unwatch(self._datagrams.socket.fileno())
        self._datagrams.socket.close()


class DnsOverTcp:
    """Serves the responder on one accepted connection until the client closes it or asks nothing for a while."""

    def __init__(self, loop: Loop, client: socket.socket, responder: Responder, room: Room) -> None:
        self._room = room
        room.enter()
        self._loop = loop
        self._client = client
        self._responder = responder
        self._frames = dns.Frames()
        self._out = bytearray()
        self._timer = loop.later(IDLE_S, self._close)
        loop.watch(client.fileno(), IN, self._ready)

    def _ready(self, events: int) -> None:
        try:
            if events & ~OUT:
                data = self._client.recv(4096)
                if not data:
                    self._close()
                    return
                self._timer.cancel()
                self._timer = self._loop.later(IDLE_S, self._close)
                for packet in self._frames.feed(data):
                    self._responder.answer(packet, self._send)
            self._flush()
        except BlockingIOError:
            return
        except OSError:
            self._close()

    def _send(self, answer: bytes) -> None:
        if self._client.fileno() < 0:
            return
        self._out += dns.framed(answer)
        try:
            self._flush()
        except OSError:
            self._close()

    def _flush(self) -> None:
        """As much as possible is sent; while an answer waits to be taken, no further questions are read."""
        if self._client.fileno() < 0:
            return
        try:
            if self._out:
                del self._out[: self._client.send(self._out)]
        except BlockingIOError:
            pass
        self._loop.watch(self._client.fileno(), OUT if self._out else IN, self._ready)

    def _close(self) -> None:
        self._timer.cancel()
        if self._client.fileno() >= 0:
            self._room.leave()
            self._loop.unwatch(self._client.fileno())
            self._client.close()
