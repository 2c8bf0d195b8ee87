"""What an operation reaches for, read off the names of its arguments: paths, hosts, commands.

A context is a mapping of names to values, as policies and boundaries get it. A name says what its value is (``path``,
``output_file``, ``baseUrl``, ``cmd``); some names only do when the value looks the part (``source``, ``address``).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from agent_safety_layer.policy.files import DEVICES

PATH, URL, HOST, PORT, COMMAND = "path", "url", "host", "port", "command"

_NAMES = {
    PATH: "path paths file files filename filenames filepath filepaths pathname dir dirs dirname directory directories"
    " folder folders cwd workdir src dst dest",
    URL: "url urls uri uris href webhook",
    HOST: "host hosts hostname hostnames ip ips",
    PORT: "port",
    COMMAND: "cmd cmds command commands cmdline argv",
}
# These can mean anything; they count when the value looks like a path or a host.
_MAYBE = {
    PATH: "source destination target input output out location root base template attachment attachments config",
    HOST: "address addr server domain endpoint remote peer origin target source destination link",
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names.split()}
_POSSIBLE = {
    name: tuple(role for role, names in _MAYBE.items() if name in names.split())
    for names in _MAYBE.values()
    for name in names.split()
}
_FILLING = frozenset(("name", "names", "list", "str", "string", "arg", "to", "line"))
_NESTED = 8
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_HOST_LIKE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|\[?[0-9A-Fa-f:.]+\]?(:\d+)?$|([\w-]+\.)+[\w-]+(:\d+)?(/|$)")
_PATH_LIKE = re.compile(r"[/~]|\.\.?/|.*/")
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21, "ssh": 22, "sftp": 22, "telnet": 23, "smtp": 25}
_PORTS |= {"ldap": 389, "rdp": 3389, "postgresql": 5432, "postgres": 5432, "mysql": 3306, "redis": 6379}
_SEPARATORS = frozenset("();<>|&\n")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


class Destination(NamedTuple):
    """Where a connection would go. ``port`` is None when nothing tells; ``scheme`` is empty for a bare host."""

    host: str
    port: int | None = None
    scheme: str = ""


@lru_cache(maxsize=4096)
def role_of(name: str) -> str:
    """What a parameter of this name holds for certain: ``path url host port command``, or nothing.

    >>> role_of("output_file"), role_of("baseUrl"), role_of("size")
    ('path', 'url', '')
    """
    if name in _ROLES or name in _POSSIBLE:
        return _ROLES.get(name, "")
    words = [word.lower() for word in _WORD.findall(name)]
    if "or" in words:  # path_or_buffer
        return next((_ROLES[word] for word in words if word in _ROLES), "")
    while len(words) > 1 and (words[-1].isdigit() or words[-1] in _FILLING):
        words.pop()
    return _ROLES.get(words[-1], "") if words else ""


@lru_cache(maxsize=4096)
def role_of_annotation(annotation: str) -> str:
    """What an annotation says that a value is: ``Path | None``, ``HttpUrl``, ``Annotated[str, "path"]``.

    >>> role_of_annotation("pathlib.Path | None"), role_of_annotation("HttpUrl"), role_of_annotation("str")
    ('path', 'url', '')
    """
    for token in re.findall(r"\w+", annotation.replace("pathlib", "")):
        role = role_of(token) or role_of(token.lower())
        if role:
            return role
    return ""


def texts_of(value: object) -> Iterator[str]:
    """The path or host texts in a value: itself, or each member of a list, tuple or set."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield os.fsdecode(value)
    elif isinstance(value, os.PathLike):
        yield os.fsdecode(os.fspath(value))
    elif isinstance(value, list | tuple | set | frozenset):
        for member in value:
            yield from texts_of(member)


def fields_of(value: object) -> Mapping[str, object] | None:
    """The named members of a mapping, a dataclass, an attrs class or a pydantic model; None of anything else."""
    if isinstance(value, Mapping):
        return value
    kind = type(value)
    names: Iterable[str] | None = getattr(kind, "__dataclass_fields__", None)
    if names is None and hasattr(kind, "__attrs_attrs__"):
        names = [attribute.name for attribute in kind.__attrs_attrs__]
    if names is None and (hasattr(kind, "model_fields") or hasattr(kind, "__fields__")):
        names = getattr(value, "__dict__", ())
    return None if names is None else {name: getattr(value, name, None) for name in names}


def _named(value: object, depth: int = 0) -> Iterator[tuple[str, object]]:
    """Names and values, those of nested mappings and objects as well: tools are often called with a dict."""
    fields = fields_of(value)
    if fields is not None:
        for name, member in fields.items():
            if member and isinstance(name, str):
                yield name, member
                if depth < _NESTED and not isinstance(member, str | bytes | int | float):
                    yield from _named(member, depth + 1)
    elif isinstance(value, list | tuple) and depth < _NESTED:
        for member in value:
            if not isinstance(member, str | bytes | int | float):
                yield from _named(member, depth + 1)


def _items(context: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Names and values of a context. A guarded call's arguments stand in it by name, so its raw ones are left out: the
    first may be the object that the method belongs to.
    """
    if "function" in context and "args" in context and "kwargs" in context:
        context = {name: value for name, value in context.items() if name not in ("args", "kwargs")}
    return _named(context)


def paths_of(context: Mapping[str, object]) -> list[str]:
    """Every path that the context names, as written, in order, once each. Commands count with what they name.

    >>> paths_of({"path": "/a", "target": "/b", "cmd": "cat /c > out.txt", "target_name": "/d"})
    ['/a', '/b', '/c', 'out.txt']
    """
    found: list[str] = []
    for name, value in _items(context):
        role = role_of(name)
        if role == PATH:
            found += texts_of(value)
            if isinstance(value, Mapping):  # {"src/a.py": "its content"}
                found += (key for key in value if isinstance(key, str) and _PATH_LIKE.match(key))
        elif role == COMMAND:
            for argv in commands_in(value):
                found += _paths_in(argv)
        elif isinstance(value, os.PathLike):
            found += texts_of(value)
        elif name in _POSSIBLE and PATH in _POSSIBLE[name]:
            found += (text for text in texts_of(value) if "://" not in text and _PATH_LIKE.match(text))
        elif role == URL:
            found += (urlsplit(text).path for text in texts_of(value) if text.lower().startswith("file:"))
    return list(dict.fromkeys(text for text in found if text))


def destinations_of(context: Mapping[str, object]) -> list[Destination]:
    """Every host that the context names, with its port where one is known, in order, once each. A URL of a local file
    has no host.

    Raises ``ValueError`` when something that must be a URL or an address is not one.

    >>> destinations_of({"url": "https://x.com/a", "host": "y.com", "port": 22})
    [Destination(host='x.com', port=443, scheme='https'), Destination(host='y.com', port=22, scheme='')]
    """
    found: list[Destination] = []
    port: int | None = None
    for name, value in _items(context):
        role = role_of(name)
        if role in (URL, HOST):
            found += map(destination, _hosts_in(value))
        elif role == PORT:
            port = _port(value)
        elif role == COMMAND:
            for argv in commands_in(value):
                found += (destination(word) for word in argv if "://" in word and _HOST_LIKE.match(word))
        elif name in _POSSIBLE and HOST in _POSSIBLE[name]:
            found += (destination(text) for text in texts_of(value) if "@" not in text and _HOST_LIKE.match(text))
    if port is not None:
        found = [place if place.port is not None else place._replace(port=port) for place in found]
    return list(dict.fromkeys(found))


def _hosts_in(value: object) -> Iterable[str]:
    # An int or an ipaddress object as a host is what its text is; a (host, port) pair is one address.
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int):
        host, port = value
        return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}",)
    return list(texts_of(value)) or ([] if isinstance(value, list | tuple | set | frozenset | dict) else [str(value)])


def destination(text: str) -> Destination:
    """The host and port in a URL, ``host``, ``host:port``, ``[v6]:port`` or a bare IPv6 address; lower case.

    >>> destination("http://user:secret@H.com:99/x")
    Destination(host='h.com', port=99, scheme='http')
    """
    text = text.strip()
    if "\\" in text or any(letter <= " " for letter in text):
        raise ValueError(f"{text!r} holds a character that no two clients read alike")
    if "://" not in text and text.count(":") > 1 and not text.startswith("["):
        return Destination(text.partition("%")[0].lower())
    parts = urlsplit(text if "://" in text else f"//{text.removeprefix('//')}")
    port = parts.port  # ValueError when it is no number or out of range
    host = (parts.hostname or "").partition("%")[0].rstrip(".")
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError(f"{host!r} is not a host name") from None
    return Destination(host, port if port is not None else _PORTS.get(parts.scheme), parts.scheme)


def _port(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and value.isdigit() else None


def command_values(context: Mapping[str, object]) -> list[object]:
    """The values that are commands, as they were given: a line for a shell, or an argv."""
    return [value for name, value in _items(context) if role_of(name) == COMMAND]


def commands_in(value: object) -> list[tuple[str, ...]]:
    """The argvs in a command: a list is one; a line for a shell is split at ``;``, ``&&``, ``|`` and the like.

    What no shell rule explains (an open quote, a substitution) comes as ``("sh", "-c", line)``, too. Variables set in
    front are left out; redirections stay, as words of their own.

    >>> commands_in("A=1 cat /etc/x | tee out")
    [('cat', '/etc/x'), ('tee', 'out')]
    >>> commands_in(["rm", "-rf", "/"])
    [('rm', '-rf', '/')]
    """
    if isinstance(value, list | tuple):
        members = list(texts_of(list(value)))
        if len(members) == 1 and " " in members[0]:
            return commands_in(members[0])
        return [tuple(members)] if members else []
    return [argv for text in texts_of(value) for argv in _split(text)]


@lru_cache(maxsize=256)
def _split(line: str) -> list[tuple[str, ...]]:
    lexer = shlex.shlex(line.replace("\n", " ; "), posix=True, punctuation_chars=";|&()<>")
    lexer.whitespace_split = True
    lexer.commenters = ""
    whole = ("sh", "-c", line)
    try:
        words = list(lexer)
    except ValueError:
        return [whole]
    argvs: list[list[str]] = [[]]
    for word in words:
        if word and set(word) <= _SEPARATORS and not set(word) & {"<", ">"}:
            argvs.append([])
        elif argvs[-1] or not _ASSIGNMENT.match(word):
            argvs[-1].append(word)
    found = [tuple(argv) for argv in argvs if argv]
    if "$(" in line or "`" in line:
        found.append(whole)
    return found


def _paths_in(argv: tuple[str, ...]) -> Iterator[str]:
    """The words of a command that name files: absolute ones, those that climb, and what is redirected from or to."""
    redirected = False
    for place, word in enumerate(argv):
        if word and set(word) <= {"<", ">", "&", "|"}:
            redirected = True
            continue
        text = word.partition("=")[2] if word.startswith("-") and "=" in word else word
        starts = text.startswith(("/", "~", "../", "./")) or "/../" in text or text == ".."
        named = not text.isdigit() if redirected else place and starts and "://" not in text
        if named and text not in DEVICES:
            yield text
        redirected = False


__all__ = [
    "Destination",
    "command_values",
    "commands_in",
    "destination",
    "destinations_of",
    "paths_of",
    "role_of",
    "role_of_annotation",
    "texts_of",
]
