"""What a policy allows, in a few lines for a model's context: ``$ASL_POLICY_SUMMARY`` of a supervised process.

An agent that knows the bounds plans within them. It can read this, so it holds nothing that the policy should keep.
"""

from __future__ import annotations

from agent_safety_layer.policy.files import covers_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent_safety_layer.policy.model import Entry, Exec, Files, Host, Layer, Limits, Network, Policy

LIMIT = 4000  # characters
_SHOWN = 12
_TEXT = 80  # characters of one entry
_SECRETS = "profiles/secrets.yaml:"


def brief(policy: Policy, workspace: str = "", tmp: str = "", *, attended: bool = True) -> str:
    """The summary: at most ``LIMIT`` characters, one fact a line. ``workspace`` and ``tmp`` are what the variables of
    those names stand for; ``attended`` is whether somebody answers questions.
    """
    if policy.mode == "observe":
        return "Everything you do is recorded. Nothing is blocked in this run.\n"
    lines = ["This process and all it starts run under an enforced policy. What is outside of it fails:"]
    layers = policy.enforced.layers
    for number, layer in enumerate(layers, 1):
        said = list(_layer(layer, attended))
        if said and len(layers) > 1:
            lines.append(f"Part {number} of {len(layers)}, each of which must allow what you do:")
        lines += said
    lines += _limits(policy.limits)
    last = (
        "'Permission denied' or 'Connection refused' can be a refusal by this policy. Do not look for a way around it:"
        " each refusal, its reason and what would allow it is a JSON line in the file $ASL_DENIALS."
        " Go on without it, or tell the user what you need.\n"
    )
    text, room = "\n".join(lines), LIMIT - len(last) - 1
    for name, path in (("${WORKSPACE}", workspace), ("${TMP}", tmp)):
        text = text.replace(name, _short(path)) if path else text
    return f"{text if len(text) <= room else text[: room - 1] + '…'}\n{last}"


def _layer(layer: Layer, attended: bool) -> Iterable[str]:
    if layer.files is not None:
        yield from _files(layer.files, attended)
    if layer.network is not None:
        yield from _network(layer.network, attended)
    if layer.exec is not None:
        yield from _exec(layer.exec, attended)
    for rule in layer.rules:
        if rule.reason and rule.action in ("block", "require_approval") and not rule.origin.startswith("profiles/"):
            yield f"- Rule {rule.name}: {_short(rule.reason)}"


def _asked(what: str, attended: bool) -> str:
    return f"- A person is asked first: {what}." if attended else f"- Refused, as nobody is there to be asked: {what}."


def _files(files: Files, attended: bool) -> Iterable[str]:
    asked = any(covers_all(entry) for entry in files.ask)
    if files.read_list:
        anything = any(covers_all(entry) for entry in files.read)
        yield f"- Read: {'anything but what is named below' if anything else _listed((*files.read, *files.write))}."
    if files.write_list:
        yield f"- Write: {_listed(entry for entry in files.write if not entry.text.startswith('/dev/'))}."
    own = [entry for entry in files.block if not entry.origin.startswith(_SECRETS)]
    if own:
        yield f"- Neither read nor written: {_listed(own)}."
    if len(own) < len(files.block):
        yield "- Neither read nor written: secrets (~/.ssh, credentials of clouds and registries, browsers, .env, ...)."
    own = [entry for entry in files.protect if not entry.origin.startswith((_SECRETS, "built-in"))]
    if own:
        yield f"- Read, but not written: {_listed(own)}."
    if any(entry.origin.startswith(_SECRETS) for entry in files.protect):
        yield "- Read, but not written: configuration of the system, shells, editors and agents, git hooks."
    if files.ask:
        yield _asked("all other files" if asked else _listed(files.ask), attended)


def _network(network: Network, attended: bool) -> Iterable[str]:
    asked = any(address.name == "*" for host in network.ask for address in host.addresses)
    if network.allow:
        yield f"- Connect to: {_listed(network.allow)}."
    elif network.allow_list and not asked:
        yield "- Connect to: nothing. There is no network."
    if network.ask:
        yield _asked(f"connecting to {'any other host' if asked else _listed(network.ask)}", attended)
    if network.block and any(not host.origin.startswith(_SECRETS) for host in network.block):
        yield f"- Never connect to: {_listed(network.block)}."
    if network.origin and not network.private_ips:
        yield "- Private and loopback addresses are refused unless named, except for what you listen on yourself."
    if network.listen is not None:
        yield f"- Listen at: {_listed(network.listen)}."


def _exec(section: Exec, attended: bool) -> Iterable[str]:
    if section.allow_list:
        yield f"- Run only: {_listed(section.allow)}."
    if section.block:
        yield f"- Never run: {_listed(section.block)}."
    if section.ask:
        yield _asked(f"running {_listed(section.ask)}", attended)


def _limits(limits: Limits) -> Iterable[str]:
    said = [
        f"{amount:g} {what}"
        for amount, what in (
            (limits.wall_time_s, "s of time"),
            (limits.cpu_time_s, "s of CPU time"),
            (limits.memory_bytes and limits.memory_bytes / (1 << 20), "MiB of memory"),
            (limits.processes, "processes"),
            (limits.operations, "operations"),
        )
        if amount
    ]
    if said:
        yield f"- At most: {', '.join(said)}."


def _listed(entries: Iterable[Entry] | Iterable[Host]) -> str:
    texts = list(dict.fromkeys(_short(entry.text) for entry in entries))
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more or "nothing"


def _short(text: str) -> str:
    """The text on one line, and not too long of it: names are others' to choose, and a model reads this."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain if len(plain) <= _TEXT else f"{plain[: _TEXT - 1]}…"


__all__ = ["LIMIT", "brief"]
