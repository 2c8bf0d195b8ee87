"""What would allow what was refused: the flag to add, or the line to change, as short as it can be said."""

from __future__ import annotations

from agent_safety_layer.events import ASK, BLOCK, PYTHON
from agent_safety_layer.policy.commands import basename, quote
from agent_safety_layer.policy.decision import judge_of
from agent_safety_layer.policy.loading import BUILT_IN as BUILT_IN_NAMES
from agent_safety_layer.policy.state import State
from agent_safety_layer.policy.wording import with_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.events import Decision, Event
    from agent_safety_layer.policy.model import Entry, Host, Policy

BUILT_IN = "profiles/"  # what the origins of the built-in profiles' lines begin with


def remedy(policy: Policy, event: Event, decision: Decision) -> str:
    """What would let *event* go on, given the *decision* that *policy* made: a flag such as
    ``--allow-write /etc/hosts``, a line to add or to remove; empty when nothing would, or nothing has to.
    """
    if decision.action not in (ASK, BLOCK):
        return ""
    if decision.where in ("", "built-in"):
        return ""
    if decision.where == PYTHON:
        return f"change the Python policy '{decision.rule}'"
    section, _, name = decision.rule.partition(".")
    if section not in _WANTED or not name:
        return f"change the rule '{decision.rule}' ({decision.where})"
    entry = _entry(policy, decision)
    if entry is not None and entry.text == "${STATE}":
        return ""  # the supervisor's own
    if entry is not None:
        return _take_away(policy, entry, event, decision)
    wanted = wanted_of(event, decision)
    flag = _flag(section, name, decision, wanted)
    if flag and _layer(policy, event, decision) == 0:
        return f"{flag} {quote(wanted)}"
    key = {"ask": "read" if section == "files" else "allow", "private_ips": "allow"}.get(name, name)
    return f'add "{wanted}" to {section}.{key} ({decision.where})'


def _flag(section: str, name: str, decision: Decision, wanted: str) -> str:
    """The flag that adds *wanted* to the list that is missing it."""
    if section == "files":
        return "--allow-write" if name == "write" or decision.reason.startswith("changing") else "--allow-read"
    return "--allow-host" if section == "network" and name in ("allow", "ask", "private_ips") and wanted else ""


def wanted_of(event: Event, decision: Decision) -> str:
    """What an allowlist would have to name: the event's path, host and port, or command."""
    return _WANTED[decision.rule.partition(".")[0]](event, decision)


def _path(event: Event, decision: Decision) -> str:
    """The path that the decision is about: of two, the one that the reason names."""
    return event.path2 if event.path2 and f" {event.path} " not in decision.reason else event.path


def _destination(event: Event, decision: Decision) -> str:
    if decision.rule == "network.unix":
        return event.path
    host = event.ip if decision.rule in ("network.private_ips", "network.listen") else event.host
    return with_port(host or event.ip or event.host, event.port)


def _command(event: Event, _: Decision) -> str:
    return basename(event.argv[0] if event.argv else event.path or event.exe)


_WANTED = {"files": _path, "network": _destination, "exec": _command}


def _entry(policy: Policy, decision: Decision) -> Entry | Host | None:
    """The line that refused it, when it was a line that names what it refuses."""
    section, _, name = decision.rule.partition(".")
    if name not in ("block", "ask", "protect"):
        return None
    for layer in policy.layers:
        entries: tuple[Entry | Host, ...] = getattr(getattr(layer, section), name, ())
        for entry in entries:
            if entry.origin == decision.where and decision.reason.endswith(f" '{entry.text}'"):
                return entry
    return None


def _take_away(policy: Policy, entry: Entry | Host, event: Event, decision: Decision) -> str:
    """How to do without the entry: it goes as a whole, with all that it stands for."""
    where = decision.where
    if where.startswith("--"):
        return f"leave out {where} {quote(entry.text)}"
    if not where.startswith(BUILT_IN):
        return f"remove the entry '{entry.text}' from {decision.rule} ({where})"
    section, _, name = decision.rule.partition(".")
    layer = policy.layers[max(_layer(policy, event, decision), 0)].name
    mine = f"a policy of your own with extends: [{layer}] and" if layer in BUILT_IN_NAMES else f"in the policy {layer},"
    return f'{mine} without: {{{section}: {{{name}: ["{entry.text}"]}}}}, the whole entry'


def _layer(policy: Policy, event: Event, decision: Decision) -> int:
    """The position of the first layer that gives this decision; flags join the first layer only."""
    state = State()
    for position, layer in enumerate(judge_of(policy).layers):
        if any(answer(event, state) == decision for answer in layer.answers(event.kind)):
            return position
    return -1
