"""From what the tree dialled to what may be dialled for it: the name meant, the policy's answer, the checked addresses.

    dialled address ─ book ─ name? ── no: literal ────────────────────────────── judge(ip) ─ dial exactly that
                                 └─ yes: judge(name) ─ resolve once ─ check ─ judge(name, ip) ─ dial exactly those

Both ways of egress use it: the relays inside a namespace, and dialling on the tracee's behalf without one. The policy
itself is elsewhere: ``ask`` carries the question to the supervisor and brings the answer back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from agent_safety_layer.egress.addresses import LOOPBACK, NEVER, canonical, kind_of, objection
from agent_safety_layer.egress.names import AddressBook, is_synthetic
from agent_safety_layer.egress.protocol import Answer, Ask
from agent_safety_layer.egress.resolver import Resolution, Resolver
from asl_hooks.value import value

PASSING = frozenset({"allow", "audit", "warn"})
CANDIDATES = 8
AskPolicy = Callable[[Ask, Callable[[Answer], None]], None]
"""``ask(question, done)``: *done* gets the answer later, or at once. The question's number is the callee's to give."""


@value
class Admission:
    """What was meant, and the addresses to dial in order; none when refused, and why (``code``: the errno's name).

    ``judged`` is true when the supervisor refused it, and so knows of the refusal already.
    """

    host: str
    addresses: tuple[str, ...]
    code: str = ""
    reason: str = ""
    judged: bool = False


@value
class Settings:
    """``private_ips``: names may resolve to private addresses. ``observe``: the egress's own refusals are only told."""

    private_ips: bool = False
    observe: bool = False


class Gate:
    """Decides for one address at a time what may be dialled. Calls back exactly once for each question."""

    def __init__(
        self, ask: AskPolicy, resolver: Resolver, book: AddressBook, settings: Settings, is_own: Callable[[str], bool]
    ) -> None:
        self.ask = ask
        self.resolver = resolver
        self.book = book
        self.settings = settings
        self._is_own = is_own

    def admit(self, ip: str, port: int, proto: str, done: Callable[[Admission], None]) -> None:
        """*done* gets what may be dialled in place of *ip*, the address that the tree used."""
        ip = canonical(ip)
        host = self.book.host_of(ip)
        if host:
            self._admit_name(host, port, proto, done)
        elif is_synthetic(ip):
            done(
                Admission("", (), "EHOSTUNREACH", f"{ip} is not the address of any name that was looked up in this run")
            )
        elif kind_of(ip) == LOOPBACK:
            self._judge("localhost", _loopbacks(ip), port, proto, done)
        elif kind_of(ip) in NEVER and not self.settings.observe:
            done(Admission("", (), "EACCES", f"{ip} is a {kind_of(ip)} address"))
        else:
            self._judge("", (ip,), port, proto, done)

    def check(self, found: Resolution) -> tuple[tuple[str, ...], str]:
        """Those of a name's addresses that may be dialled, and the objections to the others."""
        objections = {address: self._objection(address) for address in found.addresses}
        good = tuple(address for address, why in objections.items() if not why or self.settings.observe)
        return good[:CANDIDATES], "; ".join(why for why in objections.values() if why)

    def _objection(self, address: str) -> str:
        private = self.settings.private_ips
        return objection(address, private=private) or (
            f"{address} is an address of this machine" if not private and self._is_own(address) else ""
        )

    def _admit_name(self, host: str, port: int, proto: str, done: Callable[[Admission], None]) -> None:
        known = self.resolver.known(host)
        if known is not None:  # it was judged by name before it was resolved
            self._admit_resolved(host, port, proto, known, done)
            return

        def answered(answer: Answer) -> None:
            if answer.action in PASSING:
                self.resolver.resolve(host, lambda found: self._admit_resolved(host, port, proto, found, done))
            else:
                done(Admission(host, (), "EACCES", answer.reason, True))

        self.ask(Ask(0, "net.connect", host, "", port, proto), answered)

    def _admit_resolved(
        self, host: str, port: int, proto: str, found: Resolution, done: Callable[[Admission], None]
    ) -> None:
        good, objections = self.check(found)
        if good:
            self._judge(host, good, port, proto, done)
        elif objections:
            done(Admission(host, (), "EACCES", f"{host} leads to no address that is allowed: {objections}"))
        else:
            done(Admission(host, (), "EHOSTUNREACH", f"{host} does not resolve: {found.error}"))

    def _judge(
        self, host: str, addresses: tuple[str, ...], port: int, proto: str, done: Callable[[Admission], None]
    ) -> None:
        """Each address is judged together with the name; the allowed ones remain, in order."""
        answers: dict[str, Answer] = {}

        def answered(address: str, answer: Answer) -> None:
            answers[address] = answer
            if len(answers) < len(addresses):
                return
            good = tuple(a for a in addresses if answers[a].action in PASSING)
            reason = "" if good else answers[addresses[0]].reason
            done(Admission(host, good, "" if good else "EACCES", reason, not good))

        for address in addresses:
            self.ask(Ask(0, "net.connect", host, address, port, proto), partial(answered, address))


def _loopbacks(ip: str) -> tuple[str, ...]:
    """The addresses to try for a loopback address: for the two that localhost has, the other one as well."""
    both = ("127.0.0.1", "::1")
    return (ip, *(other for other in both if other != ip)) if ip in both else (ip,)
