"""The ``rules`` of a policy, read from their nodes into plain tuples (see ``loading`` for what becomes of them)."""

from __future__ import annotations

from agent_safety_layer.events import KINDS
from agent_safety_layer.policy import commands, paths
from agent_safety_layer.policy.reader import action, kinds, plain_host, suggest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from agent_safety_layer.policy.draft import Item
    from agent_safety_layer.policy.reader import Reader
    from agent_safety_layer.policy.yaml import Node

    # on, path, host, argv, match
    PlainCondition: TypeAlias = tuple[tuple[str, ...], Item | None, Item | None, Item | None, str]

_CONDITION = ("on", "path", "host", "argv", "match")
_RULE = ("name", *_CONDITION, "after", "action", "reason")
_AFTER = (*_CONDITION, "same")


class RuleReader:
    """Makes plain rules of nodes: ``(name, action, condition, (condition, same path) or None, reason, origin)``."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.sound = True

    def rule(self, node: dict[str, Node], line: int, number: int) -> tuple[Any, ...] | None:
        """The rule, or None when it has a mistake."""
        self.sound = True
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
                after = self._condition(value, at, "rules.after"), self._same(value)
            else:
                self._wrong("rules.after", at, "this holds on: and path:, host:, argv: or match:.")
        return (name, verdict, condition, after, reason, self.reader.origin("rules", line)) if self.sound else None

    def _condition(self, node: dict[str, Node], line: int, key: str) -> PlainCondition:
        path = self._item(node, "path", key, lambda text: (True, paths.parse(text)))
        host = self._item(node, "host", key, plain_host)
        argv = self._item(node, "argv", key, commands.parse)
        match = self._item(node, "match", key, _compiles)
        return self._on(node, line, key), path, host, argv, match[0] if match else ""

    def _on(self, node: dict[str, Node], line: int, key: str) -> tuple[str, ...]:
        value, at = node.get("on", (None, line))
        if value is None:
            remedy = "Write a kind or group such as file.write or net."
            self._wrong(f"{key}.on", line, "nothing says what it is on.", remedy)
            return ()
        found: set[str] = set()
        for word, place in value if isinstance(value, list) else [(value, at)]:
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

    def _item(self, node: dict[str, Node], name: str, key: str, make: Callable[[str], Any]) -> Item | None:
        text = self._text(node, name, f"{key}.{name}")
        if not text:
            return None
        line = node[name][1]
        try:
            return text, self.reader.origin("rules", line), make(text)
        except ValueError as error:
            self._wrong(f"{key}.{name}", line, f"'{text}' cannot be used: {error}.")
            return None

    def _wrong(self, key: str, line: int, message: str, remedy: str = "") -> None:
        self.sound = False
        self.reader.wrong(key, line, message, remedy)


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
