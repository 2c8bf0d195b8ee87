"""A policy learned from runs: the smallest readable one that allows what they did, and refuses what they did not do.

What went on is allowed, folded by ``tiers`` and ``shapes``. What a line of the runs' own policy refuses by name stays
refused, also when a run that blocks nothing carried it out; such lines are taken over, and the operations are told as
comments. Secrets are what the built-in profile ``secrets`` says they are, which the learned policy extends.

Postcondition (``check`` shows it): every operation that went on is allowed by the learned policy, or told as an
exception.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from agent_safety_layer.events import ASK, BLOCK, Decision, Event
from agent_safety_layer.policy.commands import basename
from agent_safety_layer.policy.decision import decide
from agent_safety_layer.policy.files import CHANGES, DEVICES, covers_all
from agent_safety_layer.policy.globs import PathIndex, has_meta
from agent_safety_layer.policy.hosts import is_loopback, is_private, parse_ip
from agent_safety_layer.policy.loading import load
from agent_safety_layer.policy.network import OWN
from agent_safety_layer.policy.shapes import gathered, shape
from agent_safety_layer.policy.state import State
from agent_safety_layer.policy.tiers import READS, WRITES, Line, Steps, Use, fold
from agent_safety_layer.policy.wording import with_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from agent_safety_layer.policy.evidence import Deed, Run
    from agent_safety_layer.policy.model import Entry, Host, Layer, Policy

_NAMED = (
    "files.block",
    "files.protect",
    "files.devices",
    "network.block",
    "network.metadata",
    "exec.block",
    "system calls",
)
_MADE_BY = ("mkdir", "mkdirat")
_UNESCAPE = re.compile(r"\\(.)|\[\$\]")
_EPHEMERAL = 32768


@dataclass(slots=True)
class Learned:
    """What was learned. ``lists`` maps a dotted key to its lines, each with its evidence; ``refused`` likewise to what
    stays refused; ``carried`` to lines of the runs' policies with their origins. ``without`` are lines of the profile
    that would refuse what the runs' policies allowed.
    """

    lists: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    refused: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    carried: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    without: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))


def learn(runs: Sequence[Run], base: Callable[[Run], Policy] | None = None) -> Learned:
    """What the runs teach. ``base`` gives the policy, as it stands for a run, that what is learned is to be merged
    into: then only what that does not allow yet is learned.
    """
    learned = Learned()
    reads: dict[Steps, Use] = defaultdict(Use)
    writes: dict[Steps, Use] = defaultdict(Use)
    net = _Destinations()
    commands: dict[tuple[str, str], int] = defaultdict(int)
    places: dict[Steps, Use] = defaultdict(Use)
    refused: dict[tuple[str, str, str], int] = defaultdict(int)
    without: dict[tuple[str, str], int] = defaultdict(int)
    for run in runs:
        secrets = load(("secrets",), variables=run.variables)
        held = base(run) if base is not None else None
        for deed in run.deeds:
            event = deed.event
            key, said = _object(run, deed)
            if held is not None and decide(held, State(), event).action != BLOCK:
                continue
            if not deed.done:
                refused[key, said, _why(event, deed.decision)] += deed.count
                continue
            against = decide(held or secrets, State(), event)
            if against.action == BLOCK and _by_name(against):
                if held is not None or deed.decision.action == BLOCK:
                    refused[key, said, _why(event, against)] += deed.count
                    continue
                for rule, text in _lines_against(secrets, event):
                    without[rule, text] += deed.count
            if event.kind in CHANGES:
                _note_write(run, deed, writes)
            elif event.kind in ("file.read", "file.list", "process.exec"):
                _note_read(run, deed, reads)
            if event.kind.startswith("net."):
                net.note(run, deed)
            if event.kind == "process.exec":
                place, name = _program(run, event)
                if place is not None:
                    places[place].count += deed.count
                else:
                    commands[shape(event.argv, name, None)] += deed.count
    secret_read, secret_write = _secrets(runs, "block"), _secrets(runs, "block", "protect")
    written = fold(writes, WRITES, secret_write)
    read = [line for line in fold(reads, READS, secret_read) if not any(one.covers(line) for one in written)]
    learned.lists["files.read"] = [(line.text, _evidence(line)) for line in read]
    learned.lists["files.write"] = [(line.text, _evidence(line)) for line in written]
    learned.lists |= net.lists()
    programs = [(text, f"{count}x") for text, count in gathered(commands).items()]
    programs += [(line.text, _evidence(line)) for line in fold(places, WRITES, secret_read)]
    learned.lists["exec.allow"] = programs
    for (key, said, why), count in sorted(refused.items()):
        learned.refused[key].append((said, f"{count}x {why}"))
    for (key, text), count in sorted(without.items()):
        learned.without[key].append((text, f"{count}x allowed by the runs' policy"))
    if base is None:
        for run in runs:
            _carry(run, learned)
    return learned


def exceptions(runs: Iterable[Run], policies: Iterable[Policy]) -> Iterator[tuple[Run, Deed, Decision]]:
    """The operations that went on and that the run's policy of *policies* (one for each run, in order) stops."""
    for run, policy in zip(runs, policies, strict=True):
        for deed in run.deeds:
            if deed.done and not deed.redacted:
                decision = decide(policy, State(), deed.event)
                asked = decision.action == ASK and deed.decision.action != ASK
                if decision.action == BLOCK or asked:
                    yield run, deed, decision


def without_idle(learned: Learned, policies: Sequence[Policy]) -> bool:
    """Leave out the lines taken over that cannot matter beside what was learned, as *policies* have it for each run.
    Whether there were any.
    """
    from agent_safety_layer.policy.differences import idle

    unused = [{(line.key, line.text) for line in idle(policy)} for policy in policies]
    never = set.intersection(*unused) if unused else set()
    found = False
    for key, lines in learned.carried.items():
        kept = [line for line in lines if (key, line[0]) not in never]
        found |= len(kept) < len(lines)
        learned.carried[key] = kept
    return found


# What one operation needs


def _note_read(run: Run, deed: Deed, reads: dict[Steps, Use]) -> None:
    event = deed.event
    if event.path.startswith("/") and event.path not in DEVICES:
        use = reads[run.steps(event.path)]
        use.count += deed.count
        use.folder |= event.kind == "file.list" or "O_DIRECTORY" in event.flags


def _note_write(run: Run, deed: Deed, writes: dict[Steps, Use]) -> None:
    event = deed.event
    for path in (event.path, event.path2):
        if path.startswith("/") and path not in DEVICES:
            use = writes[run.steps(path)]
            use.count += deed.count
            use.made |= event.kind == "file.create" and event.syscall in _MADE_BY
            use.folder |= use.made or "O_DIRECTORY" in event.flags
            use.born |= event.kind == "file.create" or path == event.path2
            use.gone |= path in run.gone and use.born


def _program(run: Run, event: Event) -> tuple[Steps | None, str]:
    """Where the program lies, when it is one of the project's or the user's own; and what it was called."""
    name = basename(event.spelled or event.path) or basename(event.argv[0] if event.argv else "")
    if not event.path.startswith("/"):
        return None, name
    steps = run.steps(event.path)
    own = steps[0] in ("${WORKSPACE}", "${TMP}") or (steps[0] == "~" and not steps[1].startswith("."))
    return (steps if own and not any(" " in step for step in steps) else None), name


class _Destinations:
    """Where runs connected to, what they looked up, where they listened, in counts."""

    def __init__(self) -> None:
        self.hosts: dict[str, int] = defaultdict(int)
        self.lookups: dict[str, int] = defaultdict(int)
        self.named: set[str] = set()
        self.sockets: dict[Steps, Use] = defaultdict(Use)
        self.listening: dict[str, int] = defaultdict(int)
        self.public = False  # some listener that others can connect to

    def note(self, run: Run, deed: Deed) -> None:
        event, count = deed.event, deed.count
        if event.detail == OWN:
            return
        if event.kind in ("net.bind", "net.listen"):
            self._listen(event, count)
        elif event.kind == "net.dns":
            self.lookups[event.host.lower().rstrip(".")] += count
        elif event.path or event.proto == "unix":
            if event.path.startswith(("/", "@")):  # an unnamed one is nothing that a line could name
                self.sockets[run.steps(event.path) if event.path.startswith("/") else (event.path,)].count += count
        else:
            for text in self._reached(event):
                self.hosts[text] += count

    def _reached(self, event: Event) -> Iterator[str]:
        host, ip = event.host.lower().rstrip("."), parse_ip(event.ip) if event.ip else None
        self.named.add(host)
        local = ip is not None and is_loopback(ip)
        if local and host in ("", "localhost"):
            yield with_port("localhost", event.port)
            return
        if host:
            yield with_port(host, event.port)
        if ip is not None and (not host or is_private(ip)):
            yield with_port(event.ip, event.port)

    def _listen(self, event: Event, count: int) -> None:
        if event.path or (event.kind == "net.bind" and event.port == 0):
            return
        ip = parse_ip(event.ip) if event.ip else (4, 0)
        everywhere = ip in ((4, 0), (6, 0))
        self.public |= everywhere or ip is None or not is_loopback(ip)
        where = with_port(event.ip or "0.0.0.0", event.port)
        if event.port >= _EPHEMERAL:
            where = where[: -len(str(event.port))] + f"{_EPHEMERAL}-65535"
        self.listening[where] += count

    def lists(self) -> dict[str, list[tuple[str, str]]]:
        """The lines of the network section."""
        hosts = [(text, f"{count}x") for text, count in sorted(self.hosts.items())]
        for host, count in sorted(self.lookups.items()):
            if host not in self.named and host and host != "localhost" and not host.endswith(".localhost"):
                hosts.append((f"{host}:0", f"{count}x looked up, never connected to"))
        found = {"network.allow": hosts}
        if self.public:
            found["network.listen"] = [(text, f"{count}x") for text, count in sorted(self.listening.items())]
        if self.sockets:
            found["network.unix"] = [("/".join(steps), f"{use.count}x") for steps, use in sorted(self.sockets.items())]
        return found


def _object(run: Run, deed: Deed) -> tuple[str, str]:
    """The list that would have to name the operation's object, and the object as that list names it."""
    event = deed.event
    kind = event.kind
    if kind.startswith("file."):
        path = event.path2 if event.path2 and f" {event.path} " not in deed.decision.reason else event.path
        said = "/".join(run.steps(path)) if path.startswith("/") else path
        return ("files.write" if kind in CHANGES else "files.read"), said or "/"
    if kind == "process.exec":
        place, name = _program(run, event)
        return "exec.allow", shape(event.argv, name, place)[1]
    if event.path or kind == "net.unix":
        return "network.unix", "/".join(run.steps(event.path)) if event.path.startswith("/") else event.path
    key = "network.listen" if kind in ("net.bind", "net.listen") else "network.allow"
    return key, with_port(event.host or event.ip, event.port)


def _why(event: Event, decision: Decision) -> str:
    return f"{event.kind}: {decision.rule} {decision.where}".rstrip()


def _evidence(line: Line) -> str:
    return f"{line.count}x" if line.paths == 1 else f"{line.count}x, {line.paths} paths"


# What is kept from programs


def _by_name(decision: Decision) -> bool:
    return decision.rule in _NAMED or "." not in decision.rule


def _lines_against(secrets: Policy, event: Event) -> Iterator[tuple[str, str]]:
    """The profile's lines that refuse the event: key and text."""
    from agent_safety_layer.policy.matches import matches

    for match in matches(secrets, State(), event):
        if match.action == BLOCK and match.key in _NAMED:
            yield match.key, match.text


def _secrets(runs: Sequence[Run], *keys: str) -> Callable[[Steps], str]:
    """Where a path stands to places for secrets in any of the runs: ``within`` one, ``around`` one, or neither.

    Places are known by name. Patterns that can match in any folder (``${WORKSPACE}/**/.env``) would forbid to fold
    anything: they hold in the learned policy as they are.
    """
    indexes = []
    for run in runs:
        files = load(("secrets",), variables=run.variables).layers[0].files
        index: PathIndex[bool] = PathIndex()
        for key in keys:
            for entry in getattr(files, key):
                for form in entry.forms:
                    if not has_meta(form.rpartition("/")[0]):
                        index.add(form, True)
        indexes.append((run, index))

    @cache
    def secret(steps: Steps) -> str:
        walked = [index.walk(_concrete(run, steps)) for run, index in indexes]
        return "within" if any(found for found, _ in walked) else "around" if any(alive for _, alive in walked) else ""

    return secret


def _concrete(run: Run, steps: Steps) -> str:
    names = {"${WORKSPACE}": "WORKSPACE", "${TMP}": "TMP", "~": "HOME"}
    root = run.variables.get(names.get(steps[0], ""), "").rstrip("/")
    rest = "/".join(_UNESCAPE.sub(lambda found: found.group(1) or "$", step) for step in steps[1:])
    return f"{root}/{rest}".rstrip("/") or "/"


# What the runs' own policies say by name


def _carry(run: Run, learned: Learned) -> None:
    """Take over the lines by which the run's policy refuses, or asks, by name."""
    for layer in run.policy.layers if run.policy is not None else ():
        for key, entry in _named_lines(layer):
            if entry.origin in ("built-in", "added") or entry.origin.startswith("profiles/secrets.yaml:"):
                continue
            text = entry.text
            forms: tuple[str, ...] = getattr(entry, "forms", ())
            if key.startswith("files.") and not text.startswith(("/", "~", "$", "*")):  # a flag's relative path
                text = forms[0] if forms else text
            if all(text != other for other, _ in learned.carried[key]):
                learned.carried[key].append((text, entry.origin))


def _named_lines(layer: Layer) -> Iterator[tuple[str, Entry | Host]]:
    if layer.files is not None:
        for key in ("block", "protect", "ask"):
            for entry in getattr(layer.files, key):
                if key != "ask" or not covers_all(entry):
                    yield f"files.{key}", entry
    if layer.network is not None:
        for key in ("block", "ask"):
            for host in getattr(layer.network, key):
                if key == "block" or all(address.name != "*" for address in host.addresses):
                    yield f"network.{key}", host
    if layer.exec is not None:
        for key in ("block", "ask"):
            for entry in getattr(layer.exec, key):
                if entry.text != "*":
                    yield f"exec.{key}", entry


__all__ = ["Learned", "exceptions", "learn"]
