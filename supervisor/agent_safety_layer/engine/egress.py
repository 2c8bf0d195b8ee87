"""What stands between a socket call and the network: names behind addresses, and what must be ready before a call
goes on.

    Open       no policy speaks of the network: addresses stand for themselves
    Guarded    the egress process answers DNS and hands out an address for each name, so that a later connect tells
               which name was meant. In a namespace (``captured``) it receives whatever the tree sends, and dials what
               is allowed; without one the supervisor dials the address that the egress process resolved and checked.

The egress process is started at the first call that needs it.
"""

from __future__ import annotations

from _collections import OrderedDict
from errno import EACCES, ECONNREFUSED, EHOSTUNREACH, ENETUNREACH

from agent_safety_layer.engine.custom import stricter
from agent_safety_layer.events import ALLOW, ASK, AUDIT, BLOCK, WARN, Decision, Event
from asl_hooks import sockaddr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from agent_safety_layer.egress.client import EgressClient
    from agent_safety_layer.egress.protocol import Ask, Happened, Lost
    from agent_safety_layer.engine.custom import Custom
    from agent_safety_layer.engine.recorder import Recorder
    from agent_safety_layer.engine.view import View

    Ready = Callable[[int, bytes], None]
    Flow = tuple[str, int, str, int]  # protocol, the tree's own port, the address and port that it used
else:
    Protocol = object

DNS = 53
FLOWS = 4096  # whose spans are remembered
_PASSING = (ALLOW, AUDIT, WARN)


class Egress(Protocol):
    """The way out, as the network calls see it. ``captured``: the tree's loopback is its own, all else is received by
    us."""

    captured: bool

    def name_of(self, ip: str) -> str:
        """The name that the tree looked *ip* up by; empty for a literal address."""

    def is_question(self, port: int) -> bool:
        """Whether what goes to *port* is DNS, which is judged by the name asked for and not by the server asked."""

    def reach(self, raw: bytes, proto: str, ready: Ready) -> None:
        """*ready* gets 0 and the address to use in place of *raw* once that can be used, or an errno."""

    def vacate(self, raw: bytes, proto: str, ready: Ready) -> None:
        """The same before the tree binds *raw*: nothing of ours is in the way."""

    def left(self, event: Event, source: Callable[[], int], raw: bytes) -> None:
        """What the tree does in *event* leaves for *raw* from the port that *source* tells, 0 while it has none."""

    def finish(self, within_s: float) -> None:
        """The tree is gone: what it has sent goes on its way, for so long at most, and what came of it is recorded."""

    def close(self) -> None:
        """End what was started."""


class Open:
    """Addresses stand for themselves."""

    captured = False

    def name_of(self, ip: str) -> str:
        """No name."""
        return ""

    def is_question(self, port: int) -> bool:
        """DNS is traffic like any other."""
        return False

    def reach(self, raw: bytes, proto: str, ready: Ready) -> None:
        """At once, as it is."""
        ready(0, raw)

    vacate = reach

    def left(self, event: Event, source: Callable[[], int], raw: bytes) -> None:
        """Nothing more is heard of it."""

    def finish(self, within_s: float) -> None:
        """The kernel does."""

    def close(self) -> None:
        """Nothing was started."""


class Guarded:
    """The way out through the egress process. *net_fd* is the tree's network namespace, or -1.

    ``watch`` is told the descriptor to wait for, with what to call when it is readable. ``custom`` are Python policies
    that have a say, too.
    """

    def __init__(
        self,
        view: View,
        recorder: Recorder,
        net_fd: int,
        watch: Callable[[int, Callable[[], None]], None],
        custom: Custom | None = None,
    ) -> None:
        self._custom = custom
        self.captured = net_fd >= 0
        self._view = view
        self._recorder = recorder
        self._net_fd = net_fd
        self._watch = watch
        self._client: EgressClient | None = None
        self._finishing = False
        self._spans: OrderedDict[Flow, str] = OrderedDict()  # in which what is on its way was begun, the latest last
        # Of the layers that enforce: without any, all that is refused is only told.
        self._networks = [layer.network for layer in view.enforced.layers if layer.network is not None]

    def _started(self) -> EgressClient:
        if self._client is None:
            from agent_safety_layer.egress.client import EgressClient
            from agent_safety_layer.egress.gate import Settings

            private = all(network.private_ips for network in self._networks)
            self._client = EgressClient(
                self._net_fd,
                judge=self._judge,
                happened=self._happened,
                settings=Settings(private_ips=private, observe=not self._networks),
            )
            self._watch(self._client.fileno(), self._client.dispatch)
        return self._client

    def name_of(self, ip: str) -> str:
        """The name behind an address of the book."""
        return self._client.host_of(ip) if self._client is not None and not _is_loopback(ip) else ""

    def is_question(self, port: int) -> bool:
        """DNS goes to the egress process, whatever server it was meant for."""
        return port == DNS

    def reach(self, raw: bytes, proto: str, ready: Ready) -> None:
        """Captured: once the egress process receives what is sent there. Else: what it resolved and checked."""
        address = sockaddr.parse(raw)
        client = self._started()
        if self.captured:
            if address.port == DNS and not _is_loopback(address.ip):
                ready(0, raw)
            else:
                client.open(
                    address.ip, address.port, proto, lambda errno: ready(errno or self._refused(address, proto), raw)
                )
        elif address.port == DNS:
            ready(0, sockaddr.inet(address.family, "127.0.0.1", client.dns_port))
        elif client.host_of(address.ip) in ("", "localhost"):
            ready(0, raw)
        else:
            client.resolve(
                address.ip,
                address.port,
                proto,
                lambda found: self._resolved(found.ip, found.reason, address.family, address.port, ready),
            )

    def _refused(self, address: sockaddr.Address, proto: str) -> int:
        """ECONNREFUSED where the tree would reach our listener, and that nobody on the host: it is told at once."""
        if (
            proto != "tcp"
            or not _is_loopback(address.ip)
            or not self._started().receives(address.ip, address.port, proto)
        ):
            return 0
        from asl_hooks.sockdiag import refuses

        return ECONNREFUSED if refuses(address.ip, address.port) else 0

    @staticmethod
    def _resolved(ip: str, reason: str, family: int, port: int, ready: Ready) -> None:
        if not ip:
            ready(EHOSTUNREACH if "resolve" in reason else EACCES, b"")
        elif ":" in ip and family == sockaddr.AF_INET:
            ready(ENETUNREACH, b"")
        else:
            ready(0, sockaddr.inet(family, ip, port))

    def vacate(self, raw: bytes, proto: str, ready: Ready) -> None:
        """Nothing of the egress process stands on that port of the tree's loopback."""
        if self.captured and self._client is not None:
            self._client.release(sockaddr.parse(raw).port, proto, lambda: ready(0, raw))
        else:
            ready(0, raw)

    def left(self, event: Event, source: Callable[[], int], raw: bytes) -> None:
        """Remember the span in which that is done, for when the egress process tells what came of it."""
        if self.captured and (event.span or self._spans):  # most trees know of no spans
            address = sockaddr.parse(raw)
            flow = (event.proto, source(), address.ip, address.port)
            self._spans.pop(flow, None)
            self._spans[flow] = event.span
            if len(self._spans) > FLOWS:
                self._spans.popitem(last=False)  # other threads add to it as well

    # -- what the egress process asks and tells ------------------------------------------------------------------------

    def _judge(self, question: Ask) -> Decision | None:
        """What the policy says of a name, or of a checked address. What a person allowed at the call holds here too."""
        view = self._view
        host, ip, port, proto = question.host, question.ip, question.port, question.proto
        event = Event(question.kind, host=host, ip=ip, port=port, proto=proto, time=view.clock())
        decision = view.decide_enforced(event)
        if self._custom is None or decision.action == BLOCK:
            return self._answered(question, event, decision, None)
        if self._finishing:
            return Decision(BLOCK, "", "", "the program that asked for it has ended")
        self._custom.ask((event,), lambda said: self._advised(question, event, decision, said))
        return None

    def _advised(self, question: Ask, event: Event, decision: Decision, said: Decision | None) -> None:
        """Answer with what the Python policies said."""
        if self._client is not None and self._client.alive:
            self._client.answer(question.id, self._answered(question, event, decision, said))

    def _answered(self, question: Ask, event: Event, decision: Decision, said: Decision | None) -> Decision:
        view = self._view
        if self._custom is not None and self._custom.binding:
            decision = stricter(decision, said)
        if decision.action == ASK and view.was_approved(event):
            return Decision(ALLOW, decision.rule, decision.where, "approved")
        # A loopback address was judged at the call; asked about here are also those that mean the same.
        told = question.host == "localhost"
        if not told and (question.kind == "net.dns" or decision.action not in _PASSING):
            effective = decision.action if decision.action != ASK else ALLOW if question.kind == "net.dns" else BLOCK
            recorded = view.decide(event)
            view.advance(event, recorded)
            result = "" if effective != BLOCK else "EACCES"
            self._recorder.record(event, stricter(recorded, said), effective, result, view.clock())
        return decision

    def _happened(self, report: Happened | Lost) -> None:
        from agent_safety_layer.egress.protocol import Happened

        now = self._view.clock()
        if not isinstance(report, Happened):
            gap = Event("session.gap", detail=f"{report.count} reports of the egress process were lost", time=now)
            self._recorder.record(gap, Decision(ALLOW), ALLOW, "", now)
            return
        counted = f"{report.sent} bytes sent, {report.received} received"
        event = Event(
            report.kind,
            host=report.host,
            ip=report.ip,
            port=report.port,
            proto=report.proto,
            detail=report.reason if report.result else counted,
            span=self._span_of(report),
            time=now,
        )
        decision = self._view.decide(event)
        self._view.advance(event, decision)
        effective = BLOCK if report.result == "EACCES" else ALLOW if decision.action == ASK else decision.action
        if effective == BLOCK and not self._networks:
            effective = AUDIT
        self._recorder.record(event, decision, effective, report.result, now)

    def _span_of(self, report: Happened) -> str:
        """The span in which it was begun. What has ended before its port was known is the latest that went there."""
        flows = ((report.proto, source, report.dialled, report.port) for source in (report.source, 0))
        return next((self._spans[flow] for flow in flows if flow in self._spans), "")

    def finish(self, within_s: float) -> None:
        """The egress process passes on what is left, and tells."""
        if self._client is not None:
            self._finishing = True
            self._client.finish(within_s)

    def close(self) -> None:
        """End the egress process."""
        if self._client is not None:
            self._client.close()


def _is_loopback(ip: str) -> bool:
    return ip.startswith("127.") or ip == "::1"
