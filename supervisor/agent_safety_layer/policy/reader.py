"""One policy document read against the language: every value with its place, every mistake noted, nothing filled in.

The tables below *are* the language: what keys there are, and what each takes. What is read is a ``Draft``, which is
cached: a run whose policies did not change does not import this module.
"""

from __future__ import annotations

from agent_safety_layer.errors import PolicyError
from agent_safety_layer.events import ACTIONS, ASK, GROUPS, KINDS
from agent_safety_layer.policy import commands, hosts, paths
from agent_safety_layer.policy.draft import Draft
from agent_safety_layer.policy.globs import Wildcard, expand_braces
from agent_safety_layer.policy.quantities import seconds, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from agent_safety_layer.policy.yaml import Node

LISTS: dict[str, tuple[str, ...]] = {
    "files": ("read", "write", "block", "ask", "protect"),
    "network": ("allow", "block", "ask", "listen", "unix"),
    "exec": ("allow", "block", "ask"),
    "environment": ("pass", "block", "secrets"),
}
# The flag that adds to a list or sets a scalar, as shown where the entry's file and line would be.
FLAGS = {
    "files.read": "--allow-read",
    "files.write": "--allow-write",
    "files.block": "--block-path",
    "network.allow": "--allow-host",
    "network.block": "--block-host",
    "limits.wall_time": "--timeout",
    "limits.cpu_time": "--cpu-time",
    "limits.memory": "--memory",
    "limits.processes": "--max-processes",
    "limits.open_files": "--max-open-files",
    "limits.file_size": "--max-file-size",
}


class PolicyMistakes(PolicyError):
    """Everything that is wrong with a policy: ``mistakes`` holds one ``PolicyError`` for each, by file and line."""

    def __init__(self, mistakes: Iterable[PolicyError]) -> None:
        self.mistakes = tuple(mistakes)
        first = self.mistakes[0]
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))
        self.file, self.line, self.key = first.file, first.line, first.key


def plain_host(text: str) -> tuple[tuple[Any, ...], ...]:
    """The addresses of a host pattern as plain tuples."""
    return tuple(tuple(address) for address in hosts.parse_host(text).addresses)  # type: ignore[arg-type]


def names(text: str) -> tuple[str, ...]:
    """The wildcards, braces expanded, that a pattern for names stands for."""
    found = tuple(expand_braces(text))
    for name in found:
        Wildcard(name)
    return found


# What a list's entries are.
MAKERS: dict[str, Callable[[str], Any]] = {
    **{f"files.{key}": lambda text: (True, paths.parse(text)) for key in LISTS["files"]},
    **{f"files.{key}": lambda text: (True, paths.parse(text, alone=True)) for key in ("read", "write")},
    **{f"network.{key}": plain_host for key in ("allow", "block", "ask", "listen")},
    "network.unix": lambda text: (False, names(text)) if text.startswith("@") else (True, paths.parse(text)),
    **{f"exec.{key}": commands.parse for key in LISTS["exec"]},
    **{f"environment.{key}": lambda text: (False, names(text)) for key in LISTS["environment"]},
}


def suggest(word: str, known: Iterable[str]) -> str:
    """ "Did you mean …?" when one of *known* looks like *word*, else which there are."""
    from difflib import get_close_matches

    known = list(known)
    close = get_close_matches(str(word), known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else f"There are: {', '.join(known)}."


def _count(value: int | str) -> int:
    if isinstance(value, str):  # from the command line
        if not (value.isascii() and value.isdigit()):
            raise ValueError(f"{value!r} is not a whole number")
        value = int(value)
    if value < 1:
        raise ValueError(f"{value} must be at least 1")
    return value


def _percent(value: int | float | str) -> float:
    try:
        share = float(value.removesuffix("%") if isinstance(value, str) else value)
    except ValueError:
        raise ValueError(f"{value!r} is not a percentage") from None
    if not 1 <= share <= 100_000:
        raise ValueError(f"{value!r} must be at least 1; 100 is one processor")
    return share


def _memory(value: int | str) -> int:
    found = size(value)
    if found < 1 << 20:
        meant = f"write {value}MiB if that is meant" if str(value).isdigit() else "write 100MiB or more"
        raise ValueError(f"{value} is {found} bytes, in which nothing runs; {meant}")
    return found


def _version(value: int) -> int:
    if value != 1:
        raise ValueError(f"{value} is not a version that this program knows; write 1")
    return value


def _word(*choices: str) -> tuple[tuple[type, ...], str, Callable[[Any], Any]]:
    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is none of {', '.join(choices)}")
        return value

    return (str,), " or ".join(choices), check


_TEXT = ((str,), "text", lambda text: text)
_BOOL = ((bool,), "true or false", lambda flag: flag)
_DURATION = ((str, int, float), "a duration such as 90s, 10m or 1h30m", seconds)
_MEMORY = ((str, int), "a size such as 2GiB or 500MB", _memory)
_SIZE = ((str, int), "a size such as 2GiB or 500MB", size)
_COUNT = ((int, str), "a whole number", _count)
_PERCENT = ((int, float, str), "a percentage such as 50%; 100% is one processor", _percent)

SCALARS: dict[str, dict[str, tuple[tuple[type, ...], str, Callable[[Any], Any]]]] = {
    "": {
        "version": ((int,), "the number 1", _version),
        "name": _TEXT,
        "mode": _word("enforce", "observe"),
        "on_violation": _word("continue", "kill"),
        "record": _word("all", "changes"),
    },
    "network": {"private_ips": _BOOL},
    "limits": {
        "wall_time": _DURATION,
        "cpu_time": _DURATION,
        "memory": _MEMORY,
        "processes": _COUNT,
        "open_files": _COUNT,
        "file_size": _SIZE,
        "output": _SIZE,
        "written": _SIZE,
        "operations": _COUNT,
        "idle_time": _DURATION,
        "cpu": _PERCENT,
        "grace": _DURATION,
    },
    "approvals": {"timeout": _DURATION, "on_timeout": _word("deny", "allow")},
}
TOP = (*SCALARS[""], "extends", "without", *LISTS, "limits", "rules", "approvals")


class Reader:
    """Reads one document. ``file`` is what errors call it; empty for the command line."""

    def __init__(self, file: str, mistakes: list[PolicyError]) -> None:
        self.file = file
        self.mistakes = mistakes
        self.draft = Draft()

    def origin(self, key: str, line: int) -> str:
        """Where something stands: ``file:line``, or the flag."""
        return f"{self.file}:{line}" if self.file else FLAGS.get(key, "the command line")

    def wrong(self, key: str, line: int, message: str, remedy: str = "") -> None:
        """Note a mistake at *key*."""
        where = key if self.file or key not in FLAGS else FLAGS[key]
        told = f"{where}: {message}" if where else message
        self.mistakes.append(PolicyError(told, file=self.file, line=line, key=key, remedy=remedy))

    def read(self, node: Node) -> Draft:
        """The draft of the document; what is wrong with it goes to the mistakes."""
        value, line = node
        if value is None:
            return self.draft
        if not isinstance(value, dict):
            self.wrong("", line, "A policy is a mapping of keys such as files: and network:.")
            return self.draft
        for key, (inner, at) in value.items():
            if key in SCALARS[""]:
                self._scalar("", key, inner, at)
            elif key == "extends":
                self._extends(inner, at)
            elif key == "without":
                self._without(inner, at)
            elif key == "rules":
                self._rules(inner, at)
            elif key in LISTS or key in SCALARS:
                self._section(key, inner, at)
            else:
                self.wrong("", at, f"There is no key '{key}' in a policy.", suggest(key, TOP))
        return self.draft

    def _section(self, section: str, value: Any, line: int) -> None:
        if self.file:
            self.draft.present[section] = self.origin(section, line)
        if value is None:
            return
        if not isinstance(value, dict):
            self.wrong(section, line, "this is a section; it holds keys of its own.")
            return
        lists, scalars = LISTS.get(section, ()), SCALARS.get(section, {})
        for key, (inner, at) in value.items():
            if key in lists:
                self._list(section, key, inner, at)
            elif key in scalars:
                self._scalar(section, key, inner, at)
            elif section == "environment" and key == "set":
                self._set(inner, at)
            else:
                known = (*lists, *scalars, *(("set",) if section == "environment" else ()))
                self.wrong(section, at, f"there is no key '{key}' in {section}.", suggest(key, known))

    def _scalar(self, section: str, key: str, value: Any, line: int) -> None:
        types, wanted, convert = SCALARS[section][key]
        dotted = f"{section}.{key}" if section else key
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            self.wrong(dotted, line, f"{_shown(value)} is not {wanted}.")
            return
        try:
            self.draft.scalars[dotted] = convert(value), self.origin(dotted, line)
        except ValueError as error:
            self.wrong(dotted, line, f"{error}.")

    def texts(self, key: str, value: Any, line: int) -> list[tuple[str, int]]:
        """The strings of a list with their lines."""
        if not isinstance(value, list):
            example = f' Write ["{value}"].' if isinstance(value, str) else ""
            self.wrong(key, line, f"{_shown(value)} is not a list.{example}")
            return []
        found = []
        for item, at in value:
            if isinstance(item, str) and item:
                found.append((item, at))
            else:
                self.wrong(key, at, f"{_shown(item)} is not text." + ("" if item == "" else f' Write "{item}".'))
        return found

    def _list(self, section: str, name: str, value: Any, line: int) -> None:
        key = f"{section}.{name}"
        if self.file:
            self.draft.present[key] = self.origin(key, line)
        items = self.draft.lists.setdefault(key, [])
        for text, at in self.texts(key, value, line) if value is not None else ():
            try:
                # What is typed in a shell starts from its working directory; what stands in a file may not.
                made = (
                    MAKERS[key](text)
                    if self.file or section != "files"
                    else (True, paths.parse(text, relative_to="CWD"))
                )
            except ValueError as error:
                self.wrong(key, at, f"'{text}' cannot be used: {error}.")
            else:
                items.append((text, self.origin(key, at), made))

    def _set(self, value: Any, line: int) -> None:
        if not isinstance(value, dict):
            self.wrong("environment.set", line, "this is a mapping from names to values.")
            return
        for name, (text, at) in value.items():
            if not isinstance(text, str | int | float) or isinstance(text, bool):
                self.wrong("environment.set", at, f"the value of {name} is not text. Put it in quotes.")
            elif not name or "=" in name or "\0" in f"{name}{text}":
                self.wrong("environment.set", at, f"{name!r} cannot be the name of a variable.")
            else:
                self.draft.variables[name] = str(text), self.origin("environment.set", at)

    def _extends(self, value: Any, line: int) -> None:
        items = [(value, line)] if isinstance(value, str) else value
        self.draft.extends = self.texts("extends", items, line)

    def _without(self, value: Any, line: int) -> None:
        if not isinstance(value, dict):
            self.wrong("without", line, "this holds sections and lists, as the policy does that it takes lines from.")
            return
        for section, (inner, at) in value.items():
            if section not in LISTS or not isinstance(inner, dict):
                self.wrong("without", at, f"'{section}' is not a section with lists.", suggest(section, LISTS))
                continue
            for key, (items, line_of_key) in inner.items():
                if key not in LISTS[section]:
                    self.wrong(
                        "without", line_of_key, f"there is no list '{key}' in {section}.", suggest(key, LISTS[section])
                    )
                    continue
                for text, at_line in self.texts(f"without.{section}.{key}", items, line_of_key):
                    self.draft.without.append((f"{section}.{key}", text, at_line))

    def _rules(self, value: Any, line: int) -> None:
        if not isinstance(value, list):
            self.wrong("rules", line, f"{_shown(value)} is not a list of rules.")
            return
        from agent_safety_layer.policy.rules import RuleReader

        reader = RuleReader(self)
        for number, (item, at) in enumerate(value, 1):
            if not isinstance(item, dict):
                self.wrong("rules", at, f"{_shown(item)} is not a rule; a rule has on: and action:.")
                continue
            rule = reader.rule(item, at, number)
            if rule is not None:
                self.draft.rules.append(rule)


def kinds(word: str) -> tuple[str, ...]:
    """The kinds that a kind or group stands for; ``ValueError`` with a suggestion when it is neither."""
    if word in GROUPS:
        return GROUPS[word]
    if word in KINDS:
        return (word,)
    raise ValueError(f"there is no kind of event '{word}'. {suggest(word, (*GROUPS, *KINDS))}")


def action(word: object) -> str:
    """The action that *word* names (``ask`` for ``require_approval``); ``ValueError`` when there is none."""
    if word == "ask":
        return ASK
    if word in ACTIONS:
        return str(word)
    raise ValueError(f"{_shown(word)} is not an action. {suggest(str(word), ACTIONS)}")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "nothing" if value is None else repr(value)
