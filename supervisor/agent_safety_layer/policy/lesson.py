"""A learned policy as text: a document of its own, or another's with lines added."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from agent_safety_layer.errors import PolicyError
from agent_safety_layer.policy.effective import limits, quoted
from agent_safety_layer.policy.loading import load
from agent_safety_layer.wording import shell_joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent_safety_layer.policy.evidence import Run
    from agent_safety_layer.policy.learning import Learned
    from agent_safety_layer.policy.model import Rule

_SECTIONS = {
    "files": ("read", "write", "block", "protect", "ask"),
    "network": ("allow", "listen", "unix", "block", "ask"),
    "exec": ("allow", "block", "ask"),
}
_ALWAYS = ("files.read", "files.write", "network.allow", "exec.allow")  # a list that is there closes what it is of
_WIDTH = 46
_SHOWN = 40  # refused operations told for each list


def document(learned: Learned, runs: Sequence[Run], name: str = "learned") -> str:
    """The learned policy as a YAML document."""
    return "\n".join(_document(learned, runs, name)) + "\n"


def _document(learned: Learned, runs: Sequence[Run], name: str) -> Iterator[str]:
    events, deeds = sum(run.events for run in runs), sum(len(run.deeds) for run in runs)
    of = "one run" if len(runs) == 1 else f"{len(runs)} runs"
    yield f"# Learned from {of}: {events} operations, {deeds} different ones. A line ends in how often it was needed."
    yield from (f"#   {_told(run)}" for run in runs)
    yield "# What is not listed is refused. Secrets stay refused by the profile that this extends."
    yield "version: 1"
    yield f"name: {quoted(name)}"
    yield "extends: [secrets]"
    for key, lines in learned.without.items():
        section, _, which = key.partition(".")
        yield f"without:  # {lines[0][1]}"
        yield f"  {section}: {{{which}: [{', '.join(quoted(text) for text, _ in lines)}]}}"
    for section, names in _SECTIONS.items():
        yield ""
        yield f"{section}:"
        for which in names:
            yield from _list(learned, f"{section}.{which}", which)
    yield from _rest(runs)


def _list(learned: Learned, key: str, which: str) -> Iterator[str]:
    lines = learned.lists.get(key, []) + learned.carried.get(key, [])
    if lines:
        yield f"  {which}:"
        yield from (_noted(f"    - {quoted(text)}", note) for text, note in lines)
    elif key in _ALWAYS:
        yield f"  {which}: []"
    yield from _refused(learned, key, "    ")


def _refused(learned: Learned, key: str, indent: str) -> Iterator[str]:
    refused = learned.refused.get(key, [])
    if refused:
        yield f"{indent}# Refused in these runs, or refused by name, and so not allowed:"
        yield from (_noted(f"{indent}# - {quoted(text)}", note) for text, note in refused[:_SHOWN])
        if len(refused) > _SHOWN:
            yield f"{indent}# ... and {len(refused) - _SHOWN} more"


def _rest(runs: Sequence[Run]) -> Iterator[str]:
    policies = [run.policy for run in runs if run.policy is not None]
    held = [layer.files for policy in policies for layer in policy.layers if layer.files is not None]
    origins = {entry.origin for files in held for entry in files.read}
    if any(origin.startswith("profiles/workspace.yaml:") for origin in origins):
        keep = load(("workspace",), variables=runs[0].variables).layers[0].environment.keep
        yield ""
        yield "environment:"
        yield "  pass:"
        yield from (_noted(f"    - {quoted(entry.text)}", entry.origin) for entry in keep)
    rules: dict[str, Rule] = {
        rule.key: rule
        for policy in policies
        for layer in policy.layers
        for rule in layer.rules
        if not rule.origin.startswith("profiles/")
    }
    if rules:
        from agent_safety_layer.policy.effective import written_rule

        yield ""
        yield "rules:"
        yield from (_noted(f"  - {written_rule(rule)}", rule.origin) for rule in rules.values())
    given = [line for policy in policies[:1] for line in limits(policy.limits)]
    yield ""
    if given:
        yield "limits:"
        yield from (f"  {limit}: {amount}" for limit, amount in given)
    used = _used(runs)
    if used:
        yield f"# The runs took at most {used}. See `limits:` to bound that."


def _used(runs: Sequence[Run]) -> str:
    footers = [run.footer for run in runs if run.footer]
    if not footers:
        return ""
    wall = max(float(footer.get("wall_seconds", 0)) for footer in footers)
    memory = max(int(footer.get("tree_peak_memory_bytes", 0) or 0) for footer in footers)
    return f"{wall:.1f} s" + (f" and {memory / (1 << 20):.0f} MiB of memory" if memory else "")


def _told(run: Run) -> str:
    command = shell_joined(map(str, run.header.get("command") or ()))
    said = f"{run.header.get('run', '?')}  {command[:80]}"
    return json.dumps(said, ensure_ascii=not said.isprintable())[1:-1]


def _noted(line: str, note: str) -> str:
    said = json.dumps(note, ensure_ascii=not note.isprintable())[1:-1]
    return f"{line:<{_WIDTH}}  # {said}" if note else line


def merged(raw: bytes, learned: Learned, file: str) -> str:
    """The policy in *raw* with the learned lines added to its lists, its comments and layout kept."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap, CommentedSeq
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    try:
        top: Any = yaml.load(raw.decode("utf-8-sig")) or CommentedMap(version=1)
    except (YAMLError, UnicodeDecodeError) as error:
        raise PolicyError(f"This is not YAML: {error}.", file=file) from None
    for key, lines in learned.lists.items():
        if not lines:
            continue
        section, _, which = key.partition(".")
        if not top.get(section):
            top[section] = CommentedMap()
        if not top[section].get(which):
            top[section][which] = CommentedSeq()
        held = top[section][which]
        if held.fa.flow_style():
            held.fa.set_block_style()
        if top[section].fa.flow_style():
            top[section].fa.set_block_style()
        present = {str(item) for item in held}
        for text, note in lines:
            if text not in present:
                held.append(DoubleQuotedScalarString(text))
                held.yaml_add_eol_comment(f"learned: {note}", len(held) - 1)
    out = io.StringIO()
    yaml.dump(top, out)
    refused = [line for key in learned.refused for line in (f"# {key}:", *_refused(learned, key, ""))]
    return out.getvalue() + "".join(f"{line}\n" for line in refused)


__all__ = ["document", "merged"]
