"""Everything in a policy that is about one event: each entry and rule that matches it, and what each layer answers.

A decision names the rule that decided. This is the whole picture: what else said something, and what would have to
change for another decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_safety_layer.events import ALLOW, ASK, BLOCK, RANK, Decision, Event
from agent_safety_layer.policy.commands import CommandIndex, called, vouched
from agent_safety_layer.policy.decision import decide, judge_of
from agent_safety_layer.policy.files import CHANGES
from agent_safety_layer.policy.globs import PathIndex, Wildcard, escape
from agent_safety_layer.policy.hosts import HostIndex, event_ip, parse_host
from agent_safety_layer.policy.model import Entry, Exec, Files, Host, Layer, Network, Policy, Rule
from agent_safety_layer.policy.remedies import remedy, wanted_of
from agent_safety_layer.policy.ruleset import Matcher
from asl_hooks.value import replace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent_safety_layer.policy.state import State

_REACH = ("net.connect", "net.send", "net.dns")
_SERVE = ("net.bind", "net.listen")
_STEPS = 200


@dataclass(frozen=True, slots=True)
class Match:
    """An entry or rule that is about an event: where it stands, what it says, and ``note`` when it has no effect."""

    layer: str
    key: str
    text: str
    origin: str
    action: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an event is decided as it is. ``change`` holds the steps that together would alter it, ``to`` what into.

    ``answers`` has each layer's own decision; ``change`` is empty when nothing in the policy alters it.
    """

    decision: Decision
    answers: tuple[tuple[str, Decision], ...]
    matches: tuple[Match, ...]
    change: tuple[str, ...]
    to: str


def explain(policy: Policy, state: State, event: Event) -> Explanation:
    """The explanation of what *policy* says to *event*."""
    decision = decide(policy, state, event)
    answers = tuple((layer.name, decide(Policy((layer,)), state, event)) for layer in policy.layers)
    steps, to = change(policy, state, event)
    return Explanation(decision, answers, tuple(matches(policy, state, event)), steps, to)


def matches(policy: Policy, state: State, event: Event) -> Iterator[Match]:
    """Each entry and rule of every layer that is about the event, the strictest of a layer first."""
    for layer in policy.layers:
        found = [*_sections(layer, event), *_rules(layer, state, event)]
        yield from sorted(found, key=lambda match: -RANK[match.action])


def _sections(layer: Layer, event: Event) -> Iterator[Match]:
    if layer.files is not None:
        yield from _files(layer.name, layer.files, event)
    if layer.network is not None:
        yield from _network(layer.name, layer.network, event)
    if layer.exec is not None and event.kind == "process.exec":
        yield from _exec(layer.name, layer.exec, event)


def _files(name: str, files: Files, event: Event) -> Iterator[Match]:
    kind, changes = event.kind, event.kind in CHANGES
    local = kind in ("net.unix", "net.connect", "net.send")
    if not (kind.startswith("file.") or kind == "process.exec" or local):
        return
    roles = {"block": BLOCK, "ask": ASK} if local else {"block": BLOCK, "ask": ASK, "protect": BLOCK, "write": ALLOW}
    if not changes:
        roles.pop("protect", None)
        if not local:
            roles["read"] = ALLOW
    paths = [path for path in (event.path, event.path2) if path.startswith("/")]
    for role, action in roles.items():
        for entry in getattr(files, role):
            index = PathIndex((form, True) for form in entry.forms)
            if any(covers(index, path) for path in paths):
                yield Match(name, f"files.{role}", entry.text, entry.origin, action)


def covers(index: PathIndex[bool], path: str) -> bool:
    """Whether a pattern of *index* covers *path*, or names it alone (``/folder/.``)."""
    return bool(index.find(path) or index.find(f"{path.rstrip('/')}/."))


def _network(name: str, network: Network, event: Event) -> Iterator[Match]:
    kind = event.kind
    if kind == "net.unix" or (kind in _REACH and event.path and not event.ip and not event.host):
        for entry in network.unix or ():
            if _names_socket(entry, event.path):
                yield Match(name, "network.unix", entry.text, entry.origin, ALLOW)
        return
    keys = {"block": BLOCK, "ask": ASK, "allow": ALLOW} if kind in _REACH else {"listen": ALLOW}
    if kind not in _REACH and kind not in _SERVE:
        return
    host, ip = event_ip(event)
    for key, action in keys.items():
        for item in getattr(network, key) or ():
            index = HostIndex((item,))
            port = (0 if key == "block" else -1) if kind == "net.dns" else event.port
            if index.find(host, ip, port) or index.find_any(port):
                yield Match(name, f"network.{key}", item.text, item.origin, action)


def _names_socket(entry: Entry, path: str) -> bool:
    if path.startswith("@"):
        return any(form.startswith("@") and Wildcard(form).matches(path) for form in entry.forms)
    index = PathIndex((form, True) for form in entry.forms if form.startswith("/"))
    return path.startswith("/") and bool(index.find(path))


def _exec(name: str, section: Exec, event: Event) -> Iterator[Match]:
    for key, action in (("block", BLOCK), ("ask", ASK), ("allow", ALLOW)):
        for entry in getattr(section, key):
            path = event.path or event.exe
            names = (vouched if key == "allow" else called)(event.argv, path, event.spelled)
            if entry.text == "*" or CommandIndex((entry,)).find(event.argv, path, names):
                yield Match(name, f"exec.{key}", entry.text, entry.origin, action)


def _rules(layer: Layer, state: State, event: Event) -> Iterator[Match]:
    for rule in layer.rules:
        if Matcher(rule.condition).holds(event):
            happened = state.happened(rule, event)
            note = "" if happened else f"not yet: only after {_words(rule)}"
            yield Match(layer.name, "rules", rule.name, rule.origin, rule.action if happened else ALLOW, note)


def _words(rule: Rule) -> str:
    if rule.after is None:
        return ""
    condition = rule.after.condition
    said = [", ".join(condition.on)]
    said += [entry.text for entry in (condition.path, condition.host, condition.argv) if entry is not None]
    if condition.match:
        said.append(f"/{condition.match}/")
    return " ".join(said) + (" of the same path" if rule.after.same_path else "")


# What would alter it


def change(policy: Policy, state: State, event: Event) -> tuple[tuple[str, ...], str]:
    """The fewest steps, in words, after which the policy decides otherwise, and what it decides then.

    What is refused or asked about becomes allowed; each stricter answer in its way takes one step. What is allowed
    becomes blocked, by one line. No steps when nothing in the policy alters it.
    """
    decision = decide(policy, state, event)
    if decision.action not in (ASK, BLOCK):
        return _closing(event), BLOCK
    steps: list[str] = []
    while decision.action in (ASK, BLOCK) and len(steps) < _STEPS:
        said = remedy(policy, event, decision)
        changed = altered(policy, state, event, decision)
        if not said or changed is None:
            return (), decision.action
        steps.append(said)
        policy = changed
        decision = decide(policy, state, event)
    if decision.action in (ASK, BLOCK):
        return (), decision.action
    return tuple(dict.fromkeys(steps)), decision.action


def _closing(event: Event) -> tuple[str, ...]:
    kind = event.kind
    if kind.startswith("file.") and event.path.startswith("/"):
        return (f'add "{escape(event.path)}" to files.block',)
    if kind in _REACH and (event.host or event.ip):
        host = event.host or (f"[{event.ip}]" if ":" in event.ip else event.ip)
        port = f":{event.port}" if event.port and kind != "net.dns" else ""
        return (f'add "{host}{port}" to network.block',)
    if kind == "process.exec":
        from agent_safety_layer.policy.commands import basename

        name = basename(event.argv[0]) if event.argv else basename(event.path)
        return (f'add "{name}" to exec.block',)
    if kind == "net.unix" and event.path.startswith("/"):
        return (f'add "{escape(event.path)}" to files.block',)
    return (f"add a rule on {kind} with action: block",)


def altered(policy: Policy, state: State, event: Event, decision: Decision) -> Policy | None:
    """The policy with what ``remedy`` says done to it; None when it cannot be."""
    at = _layer_of(policy, state, event, decision)
    if at is None:
        return None
    layer = policy.layers[at]
    section, _, key = decision.rule.partition(".")
    made = None
    if section in ("files", "network", "exec") and key:
        held = getattr(layer, section)
        taken = _less(held, key, decision, event)
        made = replace(layer, **{section: taken if taken is not None else _more(held, section, key, decision, event)})
    else:
        kept = tuple(rule for rule in layer.rules if (rule.name, rule.origin) != (decision.rule, decision.where))
        if len(kept) < len(layer.rules):
            made = replace(layer, rules=kept)
    if made is None or made == layer:
        return None
    return Policy((*policy.layers[:at], made, *policy.layers[at + 1 :]))


def _layer_of(policy: Policy, state: State, event: Event, decision: Decision) -> int | None:
    for at, layer in enumerate(judge_of(policy).layers):
        if any(answer(event, state) == decision for answer in layer.answers(event.kind)):
            return at
    return None


def _less(section: Files | Network | Exec, key: str, decision: Decision, event: Event) -> Files | Network | Exec | None:
    """The section without the line that refused the event; None when no line of a list did."""
    if key not in ("block", "ask", "protect"):
        return None
    entries: tuple[Entry | Host, ...] = getattr(section, key)
    for entry in entries:
        if entry.origin == decision.where and decision.reason.endswith(f"'{entry.text}'"):
            return replace(section, **{key: tuple(one for one in entries if one is not entry)})
    return None


def _more(
    section: Files | Network | Exec, name: str, key: str, decision: Decision, event: Event
) -> Files | Network | Exec:
    """The section with the event's object in the list that lacks it."""
    wanted = wanted_of(event, decision)
    if isinstance(section, Files):
        role = "write" if key == "write" or decision.reason.startswith("changing") else "read"
        entry = Entry(wanted, "added", (escape(wanted),))
        return replace(section, **{role: (*getattr(section, role), entry)})
    if isinstance(section, Exec):
        return replace(section, allow=(*section.allow, Entry(wanted, "added", (escape(wanted),))))
    if key == "unix":
        return replace(section, unix=(*(section.unix or ()), Entry(wanted, "added", (escape(wanted),))))
    role = "listen" if key == "listen" else "allow"
    try:
        host = parse_host(wanted, "added")
    except ValueError:
        return section
    return replace(section, **{role: (*(getattr(section, role) or ()), host)})


__all__ = ["Explanation", "Match", "altered", "change", "covers", "explain", "matches"]
