"""YAML text as plain nodes that know their line: what a policy file says, before anyone asks what it means.

A node is ``(value, line)``. The value is a scalar (``str int float bool None``), a list of nodes, or a dict from keys
to nodes; a node in a dict carries the line of its key. YAML 1.2, so ``on`` and ``yes`` are words.
"""

from __future__ import annotations

from itertools import pairwise

from agent_safety_layer.errors import PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Scalar: TypeAlias = str | int | float | bool | None
    Value: TypeAlias = "Scalar | list[Node] | dict[str, Node]"
    Node: TypeAlias = "tuple[Value, int]"

NODE_LIMIT = 200_000
_TAG = "tag:yaml.org,2002:"


def compose(raw: bytes, name: str) -> Node:
    """The document in *raw*; everything that YAML, or we, do not accept is a ``PolicyError`` with its line."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise PolicyError("The policy is not UTF-8 text.", file=name, line=line) from None
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 2)
    try:
        root = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise PolicyError(f"This is not YAML: {problem}.", file=name, line=mark.line + 1 if mark else 0) from None
    except (YAMLError, ValueError, RecursionError) as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PolicyError(f"This is not YAML: {problem}.", file=name, line=_line_in(str(error))) from None
    if root is None:
        return None, 1
    return _Reader(name).node(root, root.start_mark.line + 1)


class _Reader:
    """Turns ruamel's node graph into ours, counting: an alias can stand for any number of nodes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.left = NODE_LIMIT
        self.open: set[int] = set()

    def node(self, node: Any, line: int) -> Node:
        self.left -= 1
        if self.left < 0:
            raise self.error(f"There are more than {NODE_LIMIT} values in this policy.", line)
        if node.id == "scalar":
            return self.scalar(node, line), line
        if id(node) in self.open or len(self.open) > 50:
            raise self.error("The values are nested too deeply, or within themselves.", line)
        self.open.add(id(node))
        try:
            if node.id == "sequence":
                return [self.node(item, item.start_mark.line + 1) for item in node.value], line
            return self.mapping(node), line
        finally:
            self.open.discard(id(node))

    def mapping(self, node: Any) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.id != "scalar":
                raise self.error("A key must be a word.", line)
            if key.value in found:
                first = found[key.value][1]
                raise self.error(f"The key '{key.value}' is here twice; first in line {first}.", line, key.value)
            found[key.value] = self.node(value, line)
        return found

    def scalar(self, node: Any, line: int) -> Scalar:
        tag = str(node.tag)
        if not tag.startswith(_TAG):
            raise self.error(f"The tag {tag} means nothing in a policy.", line)
        text: str = node.value
        try:
            match tag.removeprefix(_TAG):
                case "null":
                    return None
                case "bool":
                    return text.lower() == "true"
                case "int":
                    return int(text.replace("_", ""), 0 if text.lstrip("+-")[:2].lower() in ("0x", "0o", "0b") else 10)
                case "float":
                    return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            return text
        return text

    def error(self, message: str, line: int, key: str = "") -> PolicyError:
        return PolicyError(message, file=self.name, line=line, key=key)


def _line_in(message: str) -> int:
    """The line that an error without a mark of its own names in its text, or 0."""
    words = message.replace(",", " ").split()
    found = [following for word, following in pairwise(words) if word == "line" and following.isdigit()]
    return int(found[0]) if found else 0
