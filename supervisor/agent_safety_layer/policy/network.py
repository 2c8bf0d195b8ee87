"""The ``network`` section as a judge: connecting, sending, resolving, listening, and Unix sockets.

``block`` beats ``ask`` beats ``allow``; an ``ask`` for every host (``*``, ``*:443``) is what becomes of hosts that no
entry names, so that ``allow: ["api.x.com:443"]`` next to ``ask: ["*:443"]`` asks for all but one.
"""

from __future__ import annotations

from agent_safety_layer.events import ALLOW, ASK, BLOCK, Decision, Event
from agent_safety_layer.policy.globs import PathIndex, Wildcard
from agent_safety_layer.policy.hosts import (
    METADATA_NAMES,
    HostIndex,
    event_ip,
    is_loopback,
    is_metadata,
    is_private,
    parse_ip,
)
from agent_safety_layer.policy.model import Entry, Host, Network
from agent_safety_layer.policy.wording import destination, listed

# ``Event.detail`` of an event that stays within this very run: its own listener, a port of its own namespace.
OWN = "own"
_REMEMBERED = 4096


class NetworkJudge:
    """Answers for network events under one layer's section."""

    __slots__ = ("_reached", "allow", "ask", "block", "listening", "network", "unix", "unix_abstract")

    def __init__(self, network: Network) -> None:
        self.network = network
        self.allow = HostIndex(network.allow)
        self.block = HostIndex(network.block)
        self.ask = HostIndex(network.ask)
        self.listening = HostIndex(network.listen or ())
        self.unix: PathIndex[Entry] = PathIndex()
        self.unix_abstract: list[tuple[Wildcard, Entry]] = []
        self._reached: dict[tuple[str, str, int, bool], Decision] = {}
        for entry in network.unix or ():
            for form in entry.forms:
                if form.startswith("@"):
                    self.unix_abstract.append((Wildcard(form), entry))
                else:
                    self.unix.add(form, entry)

    def reach(self, event: Event) -> Decision:
        """The decision on connecting or sending to where the event goes."""
        if event.proto == "unix" or (event.path and not event.ip and not event.host):
            return self.local(event)
        key = (event.host, event.ip, event.port, event.detail == OWN)
        found = self._reached.get(key)
        if found is None:
            if len(self._reached) >= _REMEMBERED:
                self._reached.clear()
            found = self._reached[key] = self._reach(event)
        return found

    def _reach(self, event: Event) -> Decision:
        host, ip = event_ip(event)
        port = event.port
        where = destination(event)
        blocked = self.block.find(host, ip, port) or self.block.find_any(port)
        if blocked is not None:
            return _decision(BLOCK, "network.block", blocked, f"{where} is blocked by '{blocked.text}'")
        if not self.network.origin and not self.network.allow_list:
            return _NO_OPINION
        if (ip is not None and is_metadata(ip)) or host in METADATA_NAMES:
            reason = f"{where} is a cloud metadata service, which gives out credentials; it is always refused"
            return Decision(BLOCK, "network.metadata", "built-in", reason)
        if event.detail == OWN and ip is not None and is_loopback(ip):
            return Decision(ALLOW, "network.own", "built-in", "this run itself listens there")
        if ip is not None and not self.network.private_ips and is_private(ip):
            named = self.ask.find_ip(ip, port), self.allow.find_ip(ip, port)
            if named == (None, None):
                name = f"{where} ({event.ip})" if event.host and event.ip else where
                reason = f"{name} is not a public address, and no entry names it"
                return Decision(BLOCK, "network.private_ips", self.network.origin, reason)
        return self._listed(host, ip, port, where)

    def _listed(self, host: str, ip: tuple[int, int] | None, port: int, where: str) -> Decision:
        asked = self.ask.find(host, ip, port)
        if asked is not None:
            return _decision(ASK, "network.ask", asked, f"{where} needs approval because of '{asked.text}'")
        allowed = self.allow.find(host, ip, port)
        if allowed is not None:
            return _decision(ALLOW, "network.allow", allowed)
        asked = self.ask.find_any(port)
        if asked is not None:
            reason = f"{where} needs approval because no entry in network names it"
            return _decision(ASK, "network.ask", asked, reason)
        allowed = self.allow.find_any(port)
        if allowed is not None:
            return _decision(ALLOW, "network.allow", allowed)
        if self.network.allow_list:
            reason = f"{where} is not allowed; allowed is {listed(self.network.allow)}"
            return Decision(BLOCK, "network.allow", self.network.allow_list, reason)
        return _NO_LIST

    def resolve(self, event: Event) -> Decision:
        """The decision on asking for the address of a name. Ports do not matter here."""
        host = event.host.lower().rstrip(".")
        # Port 0 fits what is blocked on every port, -1 what is allowed on any.
        blocked = self.block.find(host, None, 0) or self.block.find_any(0)
        if blocked is not None:
            return _decision(BLOCK, "network.block", blocked, f"{event.host} is blocked by '{blocked.text}'")
        if not self.network.origin and not self.network.allow_list:
            return _NO_OPINION
        if host in METADATA_NAMES:
            reason = f"{event.host} is a cloud metadata service, which gives out credentials; it is always refused"
            return Decision(BLOCK, "network.metadata", "built-in", reason)
        if host == "localhost" or host.endswith(".localhost"):
            return Decision(ALLOW, "network.own", "built-in", "the name means this machine")
        return self._listed(host, None, -1, event.host)

    def listen(self, event: Event) -> Decision:
        """The decision on binding to, or listening at, a local address."""
        if event.proto == "unix" or event.path:
            return _NO_OPINION  # making the socket's file is judged by files
        if not self.network.origin and self.network.listen is None:
            return _NO_OPINION
        if event.detail == OWN:
            return Decision(ALLOW, "network.own", "built-in", "nobody outside this run can connect to it")
        ip = parse_ip(event.ip) if event.ip else (4, 0)
        where = destination(event)
        if event.kind == "net.bind" and event.port == 0:
            # What every client socket does unasked; listening on the port that it gets is an event of its own.
            return Decision(ALLOW, "network.listen", "built-in", "a port that the system chooses")
        if self.network.listen is None:
            if ip is not None and ip not in ((4, 0), (6, 0)) and is_loopback(ip):
                return Decision(ALLOW, "network.listen", "built-in", "only this machine can connect to it")
            reason = f"listening at {where} is not allowed: others could connect, and there is no network.listen"
            return Decision(BLOCK, "network.listen", self.network.origin, reason)
        found = (self.listening.find("", ip, event.port) if ip else None) or self.listening.find_any(event.port)
        if found is not None:
            return _decision(ALLOW, "network.listen", found)
        reason = f"listening at {where} is not allowed; allowed is {listed(self.network.listen)}"
        place = self.network.listen[0].origin if self.network.listen else self.network.origin
        return Decision(BLOCK, "network.listen", place, reason)

    def local(self, event: Event) -> Decision:
        """The decision on connecting to a Unix socket: a path, or ``@name`` for an abstract one."""
        if event.detail == OWN:
            return Decision(ALLOW, "network.own", "built-in", "this run itself listens there")
        if not self.network.origin and self.network.unix is None:
            return _NO_OPINION
        path = event.path
        if path.startswith("@"):
            found = next((entry for wildcard, entry in self.unix_abstract if wildcard.matches(path)), None)
        else:
            found = next(iter(self.unix.find(path)), None) if path.startswith("/") else None
        if found is not None:
            return Decision(ALLOW, "network.unix", found.origin)
        allowed = listed(self.network.unix or ())
        reason = f"the Unix socket {path or '(unnamed)'} is not allowed; allowed is {allowed}"
        place = self.network.unix[0].origin if self.network.unix else self.network.origin
        return Decision(BLOCK, "network.unix", place, reason)


_NO_OPINION = Decision(ALLOW, "network", "", "no layer has a network section about it")
_NO_LIST = Decision(ALLOW, "network", "", "no list in network is about it")


def _decision(action: str, rule: str, host: Host, reason: str = "") -> Decision:
    return Decision(action, rule, host.origin, reason)
