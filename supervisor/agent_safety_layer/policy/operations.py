"""Operations as people write them, ``file.write /etc/passwd``, and the events that they stand for.

    file.read ~/.ssh/id_ed25519        file.rename a.txt -> b.txt      net.connect api.example.com:443
    net.connect [2001:db8::1]:443      net.connect db.lan:5432 (10.0.0.5)      net.unix /run/docker.sock
    net.listen 0.0.0.0:8080            net.dns example.com             process.exec git push origin HEAD

A bare command (``git push``) is ``process.exec``. Relative paths start from ``WORKSPACE``; paths are made canonical as
the engine makes them, so that what is judged is what would be opened.
"""

from __future__ import annotations

import os
import posixpath
import shlex
from typing import TYPE_CHECKING

from agent_safety_layer.errors import UsageError
from agent_safety_layer.events import FILE_KINDS, KINDS, NET_KINDS, Event, text_of
from agent_safety_layer.policy.hosts import parse_ip
from agent_safety_layer.policy.reader import suggest
from agent_safety_layer.policy.wording import text_of_event, with_port

if TYPE_CHECKING:
    from collections.abc import Mapping

_TWO_PATHS = ("file.rename", "file.link")
_OPERATIONS = (*FILE_KINDS, *NET_KINDS, "process.exec", "op.call")
_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def parse(text: str, variables: Mapping[str, str], *, look: bool = True) -> Event:
    """The event that the operation *text* stands for. ``UsageError`` says what is wrong with it.

    ``look`` is whether links are followed and programs found on this machine; without it, paths are only tidied.
    """
    kind, _, rest = text.strip().partition(" ")
    rest = rest.strip()
    if kind not in KINDS:
        if not kind or kind.partition(".")[0] in ("file", "net", "process", "op", "limit", "session", "approval"):
            raise UsageError(f"There is no kind of operation '{kind}'.", remedy=suggest(kind, _OPERATIONS))
        kind, rest = "process.exec", text.strip()
    if kind not in _OPERATIONS:
        raise UsageError(f"No policy is asked about {kind}.", remedy=f"There are: {', '.join(_OPERATIONS)}.")
    if not rest:
        raise UsageError(f"{kind} needs an object.", remedy=f"Write it as in '{kind} {_example(kind)}'.")
    if kind == "process.exec":
        return _execution(rest, variables, look)
    if kind == "net.unix" or (kind.startswith("net.") and rest.startswith(("/", "~", "@"))):
        path = rest if rest.startswith("@") else _path(rest, variables, look)
        return Event(kind, path=path, proto="unix")
    if kind.startswith("net."):
        return _reaching(kind, rest)
    if kind == "op.call":
        return Event(kind, op=rest)
    first, arrow, second = rest.partition(" -> ")
    if bool(arrow) != (kind in _TWO_PATHS):
        wanted = "two paths: a -> b" if kind in _TWO_PATHS else "one path"
        raise UsageError(f"{kind} needs {wanted}; found '{rest}'.")
    paths = (_path(first, variables, look), _path(second, variables, look) if arrow else "")
    return Event(kind, path=paths[0], path2=paths[1])


def written(event: Event) -> str:
    """The operation as ``parse`` reads it."""
    if event.kind.startswith("net.") and (event.host or event.ip):
        port = event.port if event.kind != "net.dns" else 0
        said = with_port(event.host or event.ip, port)
        return f"{event.kind} {said} ({event.ip})" if event.host and event.ip else f"{event.kind} {said}"
    return f"{event.kind} {event.path if event.kind.startswith('net.') else text_of_event(event)}".rstrip()


def _example(kind: str) -> str:
    if kind in _TWO_PATHS:
        return "a.txt -> b.txt"
    if kind == "process.exec":
        return "git push"
    if kind == "net.unix":
        return "/run/docker.sock"
    if kind == "op.call":
        return "send_mail"
    return "/etc/passwd" if kind.startswith("file.") else "example.com" if kind == "net.dns" else "example.com:443"


def _execution(text: str, variables: Mapping[str, str], look: bool) -> Event:
    try:
        argv = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"'{text}' is not a command line: {error}.") from None
    cwd = variables.get("WORKSPACE", "/")
    name = argv[0] if argv else ""
    if "/" in name or name.startswith("~"):
        spelled, path = _path(name, variables, False), _path(name, variables, look)
    else:
        spelled = _found(name) if look else ""
        path = text_of(os.path.realpath(os.fsencode(spelled))) if spelled else ""
    return Event("process.exec", argv=argv, path=path, exe=path, cwd=cwd, spelled=spelled if spelled != path else "")


def _found(name: str) -> str:
    """The file that *name* would run, empty when there is none: then only what is said of commands matters."""
    for folder in (os.environ.get("PATH") or _FOLDERS).split(":"):
        path = os.path.join(folder, name)
        if folder.startswith("/") and os.access(path, os.X_OK) and not os.path.isdir(path):
            return text_of(os.fsencode(path))
    return ""


def _reaching(kind: str, text: str) -> Event:
    named, _, inside = text.partition(" ")
    inside = inside.strip().strip("()")
    if "://" in named:
        raise UsageError(f"'{named}' is a URL.", remedy=f"Write host and port: {kind} example.com:443.")
    if named.startswith("["):
        host, _, port = named[1:].partition("]")
        port = port.removeprefix(":")
    elif named.count(":") > 1:
        host, port = named, ""
    else:
        host, _, port = named.partition(":")
    if port and not (port.isdigit() and int(port) <= 65535):
        raise UsageError(f"'{port}' is not a port.")
    if inside and parse_ip(inside) is None:
        raise UsageError(f"'{inside}' is not an address.", remedy="Write host:port (address).")
    if not port and kind in ("net.connect", "net.send"):
        raise UsageError(f"{kind} needs a port.", remedy=f"Write {kind} {with_port(host, 443)}.")
    literal = parse_ip(host) is not None
    return Event(
        kind,
        host="" if literal else host,
        ip=host if literal else inside,
        port=int(port or 0),
        proto="udp" if kind == "net.send" else "tcp",
    )


def _path(text: str, variables: Mapping[str, str], look: bool) -> str:
    for name, value in variables.items():
        text = text.replace(f"${{{name}}}", value)
    if "${" in text:
        name = text.partition("${")[2].partition("}")[0]
        raise UsageError(f"There is no variable ${{{name}}}.", remedy=f"There are: {', '.join(variables)}.")
    if text == "~" or text.startswith("~/"):
        text = variables.get("HOME", "/") + text[1:]
    text = posixpath.join(variables.get("WORKSPACE", "/"), text)
    path = os.path.realpath(text) if look else posixpath.normpath(text)
    return text_of(os.fsencode("/" + path.lstrip("/")))


__all__ = ["parse", "written"]
