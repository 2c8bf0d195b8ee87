"""A policy written out: one YAML document for each layer with all that it extends, and where each line comes from.

What is written is a policy itself: read again, it says the same.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from agent_safety_layer.policy.environ import knows_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent_safety_layer.policy.model import After, Condition, Layer, Limits, Policy, Rule

_LISTS = {
    "files": ("read", "write", "block", "ask", "protect"),
    "network": ("allow", "block", "ask", "listen", "unix"),
    "exec": ("allow", "block", "ask"),
}
_CLOSING = {"files.read": "read_list", "files.write": "write_list", "network.allow": "allow_list"}
_LIMITS = {
    "wall_time_s": ("wall_time", "s"),
    "cpu_time_s": ("cpu_time", "s"),
    "memory_bytes": ("memory", ""),
    "processes": ("processes", ""),
    "open_files": ("open_files", ""),
    "file_size_bytes": ("file_size", ""),
    "output_bytes": ("output", ""),
    "written_bytes": ("written", ""),
    "operations": ("operations", ""),
    "idle_time_s": ("idle_time", "s"),
    "cpu_percent": ("cpu", "%"),
    "grace_s": ("grace", "s"),
}
_WIDTH = 58


def effective(policy: Policy) -> list[str]:
    """The lines of the documents, with ``---`` between layers; the strictest answer of all of them holds."""
    lines: list[str] = []
    for number, layer in enumerate(policy.layers, 1):
        if number > 1:
            lines.append("---")
        if len(policy.layers) > 1:
            lines.append(f"# layer {number} of {len(policy.layers)}: the strictest answer of all layers holds")
        lines += _layer(layer)
    if not knows_secrets(policy):
        lines.append("# Variables that `secrets` names are not passed on, unless environment.pass names them.")
    return lines


def quoted(text: str) -> str:
    """The text as a YAML scalar in double quotes."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def limits(held: Limits) -> Iterator[tuple[str, str]]:
    """The limits that are set, each as the language writes it: ``("wall_time", "60s")``."""
    for field, (name, unit) in _LIMITS.items():
        amount = getattr(held, field)
        if amount is not None:
            yield name, f"{amount:.15g}{unit}"


def written_rule(rule: Rule) -> str:
    """The rule as the language writes it, on one line."""
    fields: dict[str, Any] = {"name": rule.name, **_condition(rule.condition)}
    if rule.after is not None:
        fields["after"] = _after(rule.after)
    fields |= {"action": rule.action, **({"reason": rule.reason} if rule.reason else {})}
    return json.dumps(fields, ensure_ascii=False)


def _layer(layer: Layer) -> Iterator[str]:
    yield "version: 1"
    yield f"name: {quoted(layer.name)}"
    if layer.mode != "enforce":
        yield f"mode: {layer.mode}"
    for section, names in _LISTS.items():
        held = getattr(layer, section)
        if held is not None:
            yield _noted(f"{section}:", getattr(held, "origin", ""))
            inner = [line for name in names for line in _list(section, name, held)]
            if section == "network" and held.private_ips:
                inner.append("  private_ips: true")
            yield from inner or ["  {}"]
    yield from _environment(layer)
    given = list(limits(layer.limits))
    if given:
        yield "limits:"
        yield from (f"  {name}: {amount}" for name, amount in given)
    if layer.rules:
        yield "rules:"
        for rule in layer.rules:
            yield _noted(f"  - {written_rule(rule)}", rule.origin)
    approvals = layer.approvals
    yield f"approvals: {{timeout: {approvals.timeout_s:g}s, on_timeout: {approvals.on_timeout}}}"
    yield f"on_violation: {layer.on_violation}"
    if layer.record:
        yield f"record: {layer.record}"


def _list(section: str, name: str, held: Any) -> Iterator[str]:
    entries = getattr(held, name)
    origin = getattr(held, _CLOSING.get(f"{section}.{name}", "allow_list" if name == "allow" else ""), "")
    if not entries:
        # An empty list says something where it closes what it is the list of.
        if entries is not None and (origin or name in ("listen", "unix")):
            yield _noted(f"  {name}: []", origin)
        return
    yield f"  {name}:"
    for entry in entries:
        # What was not written by anybody has a description in place of a text.
        texts = entry.forms if entry.origin == "built-in" else (entry.text,)
        yield from (_noted(f"    - {quoted(text)}", entry.origin) for text in texts)


def _environment(layer: Layer) -> Iterator[str]:
    held = layer.environment
    lists = {"pass": held.keep, "block": held.block, "secrets": held.secrets}
    if not any(lists.values()) and not held.put:
        return
    yield "environment:"
    for name, entries in lists.items():
        if entries:
            yield f"  {name}:"
            yield from (_noted(f"    - {quoted(entry.text)}", entry.origin) for entry in entries)
    if held.put:
        yield "  set:"
        yield from (f"    {quoted(name)}: {quoted(text)}" for name, text in held.put)


def _condition(condition: Condition) -> dict[str, Any]:
    fields: dict[str, Any] = {"on": list(condition.on)}
    for name in ("path", "host", "argv"):
        entry = getattr(condition, name)
        if entry is not None:
            fields[name] = entry.text
    return {**fields, "match": condition.match} if condition.match else fields


def _after(after: After) -> dict[str, Any]:
    return {**_condition(after.condition), **({"same": "path"} if after.same_path else {})}


def _noted(line: str, origin: str) -> str:
    return f"{line:<{_WIDTH}}  # {origin}" if origin else line


__all__ = ["effective", "limits", "quoted", "written_rule"]
