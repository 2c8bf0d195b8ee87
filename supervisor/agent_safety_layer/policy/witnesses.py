"""Operations that tell policies apart: for every pattern in them an example that it means, and ones that it does not.

Paths are found by walking the index of all patterns: from each folder to the names that a pattern asks for, an
instance of each wildcard, and a name that nobody asks for. Two paths that reach the same place with the same lists
behind them are told apart by no policy, so the shorter one stands for both. Hosts, ports and commands are tried at the
edges of their patterns.
"""

from __future__ import annotations

import shlex
from collections import deque
from typing import TYPE_CHECKING, Any

from agent_safety_layer.events import FILE_KINDS, GROUPS, Event
from agent_safety_layer.policy.files import DEVICES, covers_all
from agent_safety_layer.policy.globs import PathIndex, Wildcard, follow
from agent_safety_layer.policy.hosts import parse_ip
from agent_safety_layer.policy.remedies import BUILT_IN

if TYPE_CHECKING:
    Item = tuple[str, str]  # what a pattern stands in, and the pattern
    from collections.abc import Iterable, Iterator

    from agent_safety_layer.policy.globs import Node
    from agent_safety_layer.policy.model import Address, Condition, Entry, Host, Layer, Policy

PATHS = 20_000
HOSTS = 400
_FILLS = ("example", "other")
_CHOICES = 4
_PORTS = (22, 80, 443)
_HOSTS = (("host.example", ""), ("", "203.0.113.7"), ("", "10.0.0.1"), ("", "127.0.0.1"), ("", "169.254.169.254"))
_PID = 1


def events(policies: Iterable[Policy], *, apart: bool = False) -> Iterator[Event]:
    """The operations that tell the policies apart, the simplest of a kind first. One process does them all.

    ``apart`` is as for ``paths``.
    """
    layers = [layer for policy in policies for layer in policy.layers]
    file_kinds = ("file.read", "file.write", "file.delete", *(kind for kind in FILE_KINDS if _ruled(layers, kind)))
    sockets = any(layer.network is not None for layer in layers)
    for path in paths(layers, apart=apart):
        for kind in dict.fromkeys(file_kinds):
            second = path if kind in ("file.rename", "file.link") else ""
            yield Event(kind, pid=_PID, path=path, path2=second)
        if sockets:
            yield Event("net.unix", pid=_PID, path=path, proto="unix")
    yield from _reaching(layers)
    yield from _running(layers)
    yield from _texts(layers)


def _ruled(layers: list[Layer], kind: str) -> bool:
    return any(kind in rule.condition.on for layer in layers for rule in layer.rules)


def conditions(layer: Layer) -> Iterator[Condition]:
    """The conditions of the layer's rules, those that they wait for included."""
    for rule in layer.rules:
        yield rule.condition
        if rule.after is not None:
            yield rule.after.condition


# Paths


def paths(layers: Iterable[Layer], *, apart: bool = False, limit: int = PATHS) -> Iterator[str]:
    """Example paths, short ones first; at most *limit* places are looked at.

    ``apart`` is whether lines of the same list are told apart, too, other than those of built-in profiles.
    """
    index: PathIndex[Item] = PathIndex()
    for item, form in _path_forms(layers, apart):
        index.add(form, (item, form))
    found, active = index.start()
    todo: deque[tuple[str, list[Node[Item]], frozenset[str]]] = deque([("", active, frozenset(i for i, _ in found))])
    seen: set[tuple[frozenset[int], frozenset[str]]] = set()
    shown: set[Item] = set()
    yield "/"
    while todo and limit:
        path, active, above = todo.popleft()
        limit -= 1
        for name in _names(active):
            reached: list[Item] = []
            following = follow(active, name, reached)
            held = above.union(item for item, _ in reached)
            # Where the same patterns can still match, and what matched came from the same lists, goes on the same way.
            place = (frozenset(map(id, following)), held)
            if place not in seen or not shown.issuperset(reached):
                yield f"{path}/{name}"
            shown.update(reached)
            if place not in seen:
                seen.add(place)
                todo.append((f"{path}/{name}", following, held))


def _path_forms(layers: Iterable[Layer], apart: bool) -> Iterator[Item]:
    """Every path pattern with what tells it from others: the list that it is in, or more."""
    for device in DEVICES:
        yield "devices", device
    for number, layer in enumerate(layers):
        for key, entry in _path_entries(layer):
            alone = covers_all(entry) or (apart and not entry.origin.startswith(BUILT_IN))
            item = f"{number} {key} {entry.text}" if alone else f"{number} {key}"
            yield from ((item, form) for form in entry.forms if form.startswith(("/", "**")))


def _path_entries(layer: Layer) -> Iterator[tuple[str, Entry]]:
    files, network = layer.files, layer.network
    if files is not None:
        for key in ("read", "write", "block", "ask", "protect"):
            yield from ((key, entry) for entry in getattr(files, key))
    if network is not None:
        yield from (("unix", entry) for entry in network.unix or ())
    if layer.exec is not None:
        for key in ("allow", "block", "ask"):
            yield from ((f"exec {key}", entry) for entry in getattr(layer.exec, key))
    for number, condition in enumerate(conditions(layer)):
        if condition.path is not None:
            yield f"rule {number}", condition.path


def _names(active: list[Node[Item]]) -> Iterator[str]:
    """The names worth trying next: one that nobody asks for, those asked for, and instances of the wildcards."""
    yield _FILLS[0]
    wildcards: dict[str, Wildcard] = {}
    for node in active:
        yield from (name for name in node.names if name != ".")
        tables = [node.globs, *(t for by in (node.heads, node.tails) for named in by.values() for t in named.values())]
        for table in tables:
            wildcards.update((text, wildcard) for text, (wildcard, _) in table.items())
    some = list(wildcards.values())
    for wildcard in some:
        for fill in (*_FILLS, ""):
            for choice in range(_CHOICES):
                name = instance(wildcard, fill, choice)
                if name not in ("", ".", ".."):
                    yield name
    for first in some[:40]:  # what two of them match
        for second in some[:40]:
            head, tail = first.chunks[0], second.chunks[-1]
            name = f"{head}{tail}" if isinstance(head, str) and isinstance(tail, str) else ""
            if first is not second and name and first.matches(name) and second.matches(name):
                yield name


def instance(wildcard: Wildcard, fill: str, choice: int = 0) -> str:
    """A text that the wildcard matches, with *fill* for each star; *choice* picks a class's characters."""
    return fill.join("".join(_one(atom, choice) for atom in chunk) for chunk in wildcard.chunks)


def _one(atom: Any, choice: int) -> str:
    if isinstance(atom, str):
        return atom
    negated, ranges = atom or (True, ())
    if negated:
        fitting = [c for c in "xy.09-_AZ~#" if not any(low <= c <= high for low, high in ranges)]
    else:
        fitting = [c for edges in ranges for c in edges]
    return str(fitting[choice % len(fitting)])


# Hosts


def _reaching(layers: list[Layer]) -> Iterator[Event]:
    if not any(layer.network is not None or layer.rules for layer in layers):
        return
    hosts: dict[tuple[str, str], None] = dict.fromkeys(_HOSTS)
    ports: dict[int, None] = dict.fromkeys(_PORTS)
    for address in (address for host in _host_entries(layers) for address in host.addresses):
        for name in _examples(address):
            hosts[name] = None
        for port in (address.low, address.high, address.low - 1, address.high + 1):
            if 0 < port < 65535 or port == 65535 == address.low:
                ports[port] = None
    for host, ip in list(hosts)[:HOSTS]:
        for port in list(ports)[: max(8, 20_000 // len(hosts))]:
            yield Event("net.connect", pid=_PID, host=host, ip=ip, port=port, proto="tcp")
        if host:
            yield Event("net.dns", pid=_PID, host=host)
        elif ":" not in ip:
            for port in (*_PORTS, 8000, *(port for port in list(ports)[:50] if port not in _PORTS)):
                yield Event("net.listen", pid=_PID, ip=ip, port=port, proto="tcp")
    for port in list(ports)[:50]:
        yield Event("net.listen", pid=_PID, ip="0.0.0.0", port=port, proto="tcp")


def _host_entries(layers: list[Layer]) -> Iterator[Host]:
    for layer in layers:
        if layer.network is not None:
            for key in ("allow", "block", "ask", "listen"):
                yield from getattr(layer.network, key) or ()
        yield from (condition.host for condition in conditions(layer) if condition.host is not None)


def _examples(address: Address) -> Iterator[tuple[str, str]]:
    if not address.name:
        from ipaddress import ip_address

        width = 32 if address.family == 4 else 128
        base = address.network << (width - address.bits)
        top = base + (1 << (width - address.bits)) - 1
        for number in (base, top, base - 1, top + 1):
            if 0 <= number < 1 << width:
                text = str(ip_address(number)) if width == 32 or number > 0xFFFFFFFF else f"::{number:x}"
                if parse_ip(text) is not None:
                    yield "", text
        return
    if address.name != "*":
        yield address.name.replace("*", "example"), ""
        yield address.name.removeprefix("*."), ""
        yield f"example.{address.name.removeprefix('*.')}".replace("*", "other"), ""


# Commands and texts


def _running(layers: list[Layer]) -> Iterator[Event]:
    if not any(layer.exec is not None or layer.rules for layer in layers):
        return
    lines: dict[str, None] = {"example": None, "example --option value": None}
    programs: dict[str, None] = {}
    for form in _command_forms(layers):
        if form.startswith(("/", "**/")) and " " not in form:
            programs[form] = None
            continue
        wildcard = Wildcard(form)
        for fill in ("", *_FILLS):
            lines[instance(wildcard, fill)] = None
        lines[f"{instance(wildcard, _FILLS[0])} argument"] = None
    for line in lines:
        try:
            argv = tuple(shlex.split(line))
        except ValueError:
            continue
        if argv:
            yield Event("process.exec", pid=_PID, argv=argv)
    index: PathIndex[str] = PathIndex((form, form) for form in programs)
    for form in programs:
        path = "/".join(instance(Wildcard(name), _FILLS[0]) if name else "" for name in form.split("/"))
        path = path if path.startswith("/") else f"/{path}"
        if index.find(path):
            yield Event("process.exec", pid=_PID, argv=(path,), path=path)


def _command_forms(layers: list[Layer]) -> Iterator[str]:
    for layer in layers:
        if layer.exec is not None:
            for key in ("allow", "block", "ask"):
                for entry in getattr(layer.exec, key):
                    yield from entry.forms
        for condition in conditions(layer):
            if condition.argv is not None:
                yield from condition.argv.forms


def _texts(layers: list[Layer]) -> Iterator[Event]:
    """Events whose text has what a rule's ``match`` looks for."""
    for condition in (condition for layer in layers for condition in conditions(layer)):
        text = sample(condition.match) if condition.match else None
        for kind in condition.on if text else ():
            if kind == "process.exec":
                try:
                    yield Event(kind, pid=_PID, argv=tuple(shlex.split(str(text))))
                except ValueError:
                    continue
            elif kind in GROUPS["file"]:
                yield Event(kind, pid=_PID, path=f"/{str(text).lstrip('/')}")
            elif kind in GROUPS["net"]:
                yield Event(kind, pid=_PID, host=str(text).partition(":")[0], port=443)


def sample(pattern: str) -> str | None:
    """A text in which the regular expression occurs, or None where none was found."""
    import re2

    try:
        from re import _parser  # type: ignore[attr-defined]  # the only reader of expressions that there is

        text = "".join(_generated(_parser.parse(pattern)))
        return text if re2.search(pattern, text) else None
    except Exception:  # what this parser does not know, or RE2 means otherwise, has no example
        return None


def _generated(tokens: Any) -> Iterator[str]:
    for code, held in tokens:
        match str(code):
            case "LITERAL":
                yield chr(held)
            case "NOT_LITERAL":
                yield "x" if held != ord("x") else "y"
            case "ANY":
                yield "x"
            case "IN":
                yield _member(held)
            case "BRANCH":
                yield from _generated(held[1][0])
            case "SUBPATTERN":
                yield from _generated(held[-1])
            case "MAX_REPEAT" | "MIN_REPEAT":
                for _ in range(held[0]):
                    yield from _generated(held[2])


def _member(items: Any) -> str:
    classes = {"CATEGORY_DIGIT": "0", "CATEGORY_SPACE": " ", "CATEGORY_WORD": "x", "CATEGORY_NOT_SPACE": "x"}
    code, held = items[0]
    match str(code):
        case "LITERAL":
            return chr(held)
        case "RANGE":
            return chr(held[0])
        case "CATEGORY":
            return classes.get(str(held), "-")
    return "~"


__all__ = ["conditions", "events", "instance", "paths", "sample"]
