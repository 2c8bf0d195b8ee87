"""A policy as plain values, so that a trace can hold the very policy that its run was decided by, and back.

What was filled in for the run (variables, links, home folders) stays filled in: a replay needs nothing of the machine
where the run took place. The ``environment`` section is left out of traces: it decides about no event, and its values
may be secrets.
"""

from __future__ import annotations

from agent_safety_layer.policy.model import (
    Address,
    After,
    Approvals,
    Condition,
    Entry,
    Environment,
    Exec,
    Files,
    Host,
    Layer,
    Limits,
    Network,
    Policy,
    Rule,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Plain = Mapping[str, Any]

_ROWS = (Entry, Address)  # there are hundreds of them: they are written without the names of their fields


def plain(policy: Policy, *, environment: bool = False) -> list[dict[str, Any]]:
    """The policy's layers as dicts of JSON's types; what is None is left out. ``rebuilt`` is the way back."""
    layers = [_plain(layer) for layer in policy.layers]
    return [{name: of for name, of in layer.items() if environment or name != "environment"} for layer in layers]


def _plain(item: Any) -> Any:
    if not isinstance(item, tuple) or isinstance(item, _ROWS):
        return item
    names: tuple[str, ...] | None = getattr(item, "_fields", None)
    if names is None:
        return [_plain(member) for member in item]
    return {name: _plain(member) for name, member in zip(names, item, strict=True) if member is not None}


def rebuilt(layers: Sequence[Plain]) -> Policy:
    """The policy that ``plain`` was of, with its ``environment`` if that was put in.

    Raises ``ValueError`` when the layers are not of a policy that this version knows.
    """
    try:
        return Policy(tuple(_layer(layer) for layer in layers))
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"not a policy: {error}") from None


def _layer(layer: Plain) -> Layer:
    made: dict[str, Any] = dict(layer)
    if "files" in layer:
        made["files"] = Files(**_each(layer["files"], _entry))
    if "network" in layer:
        sockets = _each({name: of for name, of in layer["network"].items() if name == "unix"}, _entry)
        hosts = _each({name: of for name, of in layer["network"].items() if name != "unix"}, _host)
        made["network"] = Network(**hosts, **sockets)
    if "exec" in layer:
        made["exec"] = Exec(**_each(layer["exec"], _entry))
    made["limits"] = Limits(**layer.get("limits", {}))
    made["rules"] = tuple(map(_rule, layer.get("rules", ())))
    made["approvals"] = Approvals(**layer.get("approvals", {}))
    made["environment"] = _environment(layer.get("environment", {}))
    return Layer(**made)


def _each(section: Plain, make: Any) -> dict[str, Any]:
    """The section's fields with each member of its lists made a value."""
    return {name: tuple(map(make, of)) if isinstance(of, list | tuple) else of for name, of in section.items()}


def _environment(section: Plain) -> Environment:
    made = _each({name: of for name, of in section.items() if name != "put"}, _entry)
    return Environment(**made, put=tuple((name, text) for name, text in section.get("put", ())))


def _entry(row: Sequence[Any]) -> Entry:
    text, origin, forms = row
    if not all(isinstance(part, str) for part in (text, origin, *forms)):
        raise TypeError("an entry is text")
    return Entry(text, origin, tuple(forms))


def _host(host: Plain) -> Host:
    return Host(host["text"], host["origin"], tuple(Address(*row) for row in host["addresses"]))


def _rule(rule: Plain) -> Rule:
    after = rule.get("after")
    made = {**rule, "condition": _condition(rule["condition"])}
    if after is not None:
        made["after"] = After(_condition(after["condition"]), after["same_path"])
    return Rule(**made)


def _condition(condition: Plain) -> Condition:
    made = {**condition, "on": tuple(condition["on"])}
    for name, make in (("path", _entry), ("host", _host), ("argv", _entry)):
        if name in made:
            made[name] = make(made[name])
    return Condition(**made)


__all__ = ["plain", "rebuilt"]
