"""The ``rules`` of a policy, read from their nodes. Apart, because the built-in profiles have none to read."""

from __future__ import annotations

from agent_safety_layer.events import KINDS
from agent_safety_layer.policy.draft import action, kinds, suggest
from agent_safety_layer.policy.hosts import parse_host
from agent_safety_layer.policy.model import After, Condition, Entry, Host, Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent_safety_layer.policy.document import Node
    from agent_safety_layer.policy.draft import Mistakes
    from agent_safety_layer.policy.paths import Paths

_CONDITION = ("on", "path", "host", "argv", "match")
_RULE = ("name", *_CONDITION, "after", "action", "reason")
_AFTER = (*_CONDITION, "same")


class RuleReader:
    """Makes rules of nodes and notes what is wrong with them."""

    def __init__(self, mistakes: Mistakes, paths: Paths, command: Callable[[str, str], Entry]) -> None:
        self.mistakes = mistakes
        self.paths = paths
        self.command = command
        self.file = ""
        self.sound = True

    def rule(self, node: dict[str, Node], file: str, line: int, number: int) -> Rule | None:
        """The rule, or None when it has a mistake."""
        self.file, self.sound = file, True
        self._known(node, _RULE, "rules")
        name = self._text(node, "name", "rules.name") or f"rules[{number}]"
        reason = self._text(node, "reason", "rules.reason")
        verdict = ""
        if "action" not in node:
            self._wrong("rules.action", line, "the rule has no action:.")
        else:
            try:
                verdict = action(node["action"][0])
            except ValueError as error:
                self._wrong("rules.action", node["action"][1], f"{error}")
        condition = self._condition(node, line, "rules")
        after = None
        if "after" in node:
            value, at = node["after"]
            if isinstance(value, dict):
                self._known(value, _AFTER, "rules.after")
                after = After(self._condition(value, at, "rules.after"), self._same(value))
            else:
                self._wrong("rules.after", at, "this holds on: and path:, host:, argv: or match:.")
        return Rule(name, verdict, condition, after, reason, f"{file}:{line}") if self.sound else None

    def _condition(self, node: dict[str, Node], line: int, key: str) -> Condition:
        path: Entry | None = None
        host: Host | None = None
        argv: Entry | None = None
        text = self._text(node, "path", f"{key}.path")
        if text:
            path = self._made(node, f"{key}.path", lambda at: Entry(text, at, self.paths.forms(text)))
        name = self._text(node, "host", f"{key}.host")
        if name:
            host = self._made(node, f"{key}.host", lambda at: parse_host(name, at))
        command = self._text(node, "argv", f"{key}.argv")
        if command:
            argv = self._made(node, f"{key}.argv", lambda at: self.command(command, at))
        match = self._text(node, "match", f"{key}.match")
        if match:
            self._made(node, f"{key}.match", lambda _: _compiles(match))
        return Condition(self._on(node, line, key), path, host, argv, match)

    def _on(self, node: dict[str, Node], line: int, key: str) -> tuple[str, ...]:
        value, at = node.get("on", (None, line))
        if value is None:
            self._wrong(
                f"{key}.on",
                line,
                "the rule does not say what it is on:; write a kind or group such as file.write or net.",
            )
            return ()
        words = [(value, at)] if isinstance(value, str) else value
        found: set[str] = set()
        for word, place in words if isinstance(words, list) else [(value, at)]:
            try:
                found.update(kinds(str(word)))
            except ValueError as error:
                self._wrong(f"{key}.on", place, str(error))
        return tuple(kind for kind in KINDS if kind in found)

    def _same(self, node: dict[str, Node]) -> bool:
        value, at = node.get("same", (None, 0))
        if value not in (None, "path"):
            self._wrong("rules.after.same", at, "the only thing that can be the same is 'path'.")
        return value == "path"

    def _known(self, node: dict[str, Node], keys: tuple[str, ...], key: str) -> None:
        for name, (_, at) in node.items():
            if name not in keys:
                self._wrong(key, at, f"there is no key '{name}' here.", suggest(name, keys))

    def _text(self, node: dict[str, Node], name: str, key: str) -> str:
        value, at = node.get(name, ("", 0))
        if isinstance(value, str) and (value or name not in node):
            return value
        self._wrong(key, at, "this must be text. Put it in quotes.")
        return ""

    def _made(self, node: dict[str, Node], key: str, make: Callable[[str], Any]) -> Any:
        text, line = node[key.rpartition(".")[2]]
        try:
            return make(f"{self.file}:{line}")
        except ValueError as error:
            self._wrong(key, line, f"'{text}' cannot be used: {error}.")
            return None

    def _wrong(self, key: str, line: int, message: str, remedy: str = "") -> None:
        self.sound = False
        self.mistakes.add(f"{key}: {message}", file=self.file, line=line, key=key, remedy=remedy)


def _compiles(pattern: str) -> None:
    """Raise ``ValueError`` unless RE2 takes the pattern."""
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error as error:
        detail = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"{detail} (patterns are RE2: no look-around, no back-references)") from None
