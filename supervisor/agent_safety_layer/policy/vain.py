"""Flags that change nothing, because something stricter is said about what they allow."""

from __future__ import annotations

from _stat import S_IFDIR

from agent_safety_layer.events import BLOCK, Decision, Event
from agent_safety_layer.policy.decision import decide
from agent_safety_layer.policy.globs import has_meta
from agent_safety_layer.policy.state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent_safety_layer.policy.model import Entry, Host, Layer, Policy


def vain(policy: Policy) -> Iterator[tuple[Entry | Host, Event, Decision]]:
    """Each flag that allows a path or a host which the policy blocks all the same, with the operation and decision."""
    for layer in policy.layers:
        for flag, event in _flags(layer):
            decision = decide(policy, State(), event)
            if decision.action == BLOCK:
                yield flag, event, decision


def _flags(layer: Layer) -> Iterator[tuple[Entry | Host, Event]]:
    """What was given on the command line, with what it is to allow."""
    if layer.files is not None:
        for kind, entries in (("file.read", layer.files.read), ("file.write", layer.files.write)):
            for entry in entries:
                if entry.origin.startswith("--"):
                    paths = (form for form in entry.forms if not has_meta(form))
                    yield from ((entry, Event(kind, path=path, mode=S_IFDIR)) for path in paths)
    for host in layer.network.allow if layer.network is not None else ():
        if host.origin.startswith("--"):
            names = (address for address in host.addresses if address.name and "*" not in address.name)
            yield from ((host, Event("net.connect", host=one.name, port=one.low or 443)) for one in names)
