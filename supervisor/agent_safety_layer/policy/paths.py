"""Path patterns as written, turned into the canonical forms that events are matched against.

``~`` and ``${NAME}`` are filled in (their values are taken literally, whatever characters they hold), braces are
expanded, and the literal part in front of the first wildcard is resolved through symbolic links, because the paths of
events are canonical: ``/bin/sh`` in a policy also means ``/usr/bin/sh`` where ``/bin`` is a link.

``parse`` does what depends on the text alone, so that it can be cached; ``Paths`` does the rest for one run.
"""

from __future__ import annotations

import os
from errno import EINVAL

from agent_safety_layer import errors
from agent_safety_layer.policy.globs import Wildcard, escape, expand_braces, has_meta
from asl_hooks import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeAlias

    # Text and names of variables by turns, text first and last.
    Parts: TypeAlias = tuple[str, ...]
    # The literal part in front (unescaped), and the pattern behind it (empty when there is no wildcard).
    Choice: TypeAlias = tuple[Parts, Parts]

LINK_LIMIT = 40  # as the kernel's MAXSYMLINKS
VARIABLES = ("WORKSPACE", "HOME", "HOMES", "OTHERS", "PROGRAM", "TMP", "USER", "STATE", "CWD")
_PROGRAM = tuple(os.path.dirname(os.path.realpath(str(part.__file__))) for part in (errors, value))
ITSELF = "."  # the last segment of a pattern for a folder without what is below it; no canonical path has it
_MARK = "\1"  # stands around the names of variables while a pattern is taken apart


def parse(text: str, *, relative_to: str = "", alone: bool = False) -> tuple[Choice, ...]:
    """The patterns that *text* stands for, one for each of its braces' choices; ``ValueError`` says what is wrong
    with it.

    ``relative_to`` names a variable that a relative pattern starts from; without it such a pattern is an error.
    ``alone`` is whether ``/folder/.`` may stand for the folder itself, without what is below it.
    """
    if "\0" in text or _MARK in text:
        raise ValueError("it holds a control character")
    return tuple(_choice(_marked(choice), text, relative_to, alone) for choice in expand_braces(text))


def _marked(text: str) -> str:
    """*text* with each variable's name between marks."""
    if text.startswith("~"):
        if text[1:2] not in ("", "/"):
            raise ValueError(f"~{text[1:].partition('/')[0]} is not supported; write the path of that home folder")
        text = "${HOME}" + text[1:]
    done = ""
    while "${" in text:
        before, _, rest = text.partition("${")
        name, closed, text = rest.partition("}")
        if not closed:
            raise ValueError(f"${{{name} is never closed")
        if name not in VARIABLES:
            raise ValueError(f"there is no variable ${{{name}}}; there are {', '.join(VARIABLES)}")
        done += f"{before}{_MARK}{name}{_MARK}"
    return done + text


def _choice(marked: str, text: str, relative_to: str, alone: bool) -> Choice:
    itself = marked.endswith("/.") and not relative_to
    if itself and not alone:
        raise ValueError("only files.read and files.write know '/.', for a folder without what is below it")
    if not marked.startswith(("/", "**/", _MARK)) and marked != "**":
        if not relative_to:
            name = text.partition("/")[0]
            if name.startswith("$") and name[1:] in VARIABLES:
                raise ValueError(f"variables stand in braces; write ${{{name[1:]}}}{text[len(name) :]}")
            raise ValueError(
                f"it is not absolute. Write ${{WORKSPACE}}/{text} for one in the working directory,"
                f" or **/{text} for one anywhere"
            )
        marked = f"{_MARK}{relative_to}{_MARK}/{marked}"
    names = [name for name in marked.split("/") if name not in ("", ".")]
    if names[:2] in (["proc", "self"], ["proc", "thread-self"]):
        raise ValueError(f"/proc/{names[1]} is another folder for each process; write /proc/* for all of them")
    if ".." in names:
        raise ValueError("it holds '..', which means something else once a link is on the way; write it without")
    head: list[str] = []
    tail: list[str] = []
    for name in names:
        wildcard = Wildcard(name) if has_meta(name) else None
        literal = name if wildcard is None else wildcard.literal()
        if tail or literal is None:
            tail.append(name)
        else:
            head.append(literal)
    if itself:
        tail.append(ITSELF)
    front = "/".join(head)
    if head and not front.startswith(_MARK):
        front = f"/{front}"
    return tuple(front.split(_MARK)), tuple("".join(f"/{name}" for name in tail).split(_MARK))


class Paths:
    """Fills in variables and resolves links, remembering what it has looked up. ``variables`` holds absolute paths.

    ``${HOMES}`` stands for the home folders in which the run takes place: ``~`` and the one that the working directory
    is in. ``${OTHERS}`` stands for all other ones, where those are open to the run: to root. ``${PROGRAM}`` stands for
    the folders that this program itself runs from.

    A link that lies in a folder that the supervised program may have written (the working directory, the private tmp)
    is not followed for entries that *allow* something: an earlier run could have planted it.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        home = variables.get("HOME", "/").rstrip("/")
        workspace = variables.get("WORKSPACE", home).rstrip("/")
        given = {name: path.rstrip("/") for name, path in variables.items()}
        defaults = {"WORKSPACE": home, "CWD": workspace, "TMP": "/tmp", "USER": "", "STATE": f"{home}/.local/state/asl"}
        self._values = {**defaults, **given}  # without the slash at the end: the root folder is empty
        homes = _homes(home, workspace)
        self._several = {"HOMES": homes, "OTHERS": _others(homes), "PROGRAM": _PROGRAM}
        self._seen: dict[bool, dict[str, str]] = {follow: {"": "", "/": ""} for follow in (False, True)}
        self._absent: set[str] = set()
        self._theirs = (f"{self._values['WORKSPACE']}/", f"{self._values['TMP']}/")

    def forms(self, choices: tuple[Choice, ...], *, allows: bool = False) -> tuple[str, ...]:
        """The absolute patterns that the parsed choices stand for here.

        A literal path that is a link stands for the link and for what it leads to. ``ValueError`` when links lead in a
        circle.
        """
        forms: dict[str, None] = {}
        follow = not allows
        for head, tail in choices:
            for path, rest in self._filled(head, tail):
                target = self._resolve(path, follow)
                if rest:
                    forms[escape(target) + rest] = None
                    continue
                forms[escape(target or "/")] = None
                if target != path:
                    parent, _, name = path.rpartition("/")
                    link = f"{self._resolve(parent, follow)}/{name}"
                    if link != target and name:
                        forms[escape(link)] = None
        return tuple(forms)

    def _filled(self, head: Parts, tail: Parts) -> list[tuple[str, str]]:
        if not self._several.keys().isdisjoint(head + tail):
            for name, homes in self._several.items():
                if name in head or name in tail:
                    return [self._fill(head, tail, home) for home in homes]
        return [self._fill(head, tail, "")]

    def _fill(self, head: Parts, tail: Parts, home: str) -> tuple[str, str]:
        values = self._values
        path = head[0]
        if len(head) > 1:
            path = "".join([values.get(part, home) if i & 1 else part for i, part in enumerate(head)])
        if len(tail) == 1:
            return path, tail[0]
        rest = [escape(values.get(part, home)) if i & 1 else part for i, part in enumerate(tail)]
        return path, "".join(rest)

    def _resolve(self, path: str, follow: bool, links: int = 0) -> str:
        """*path* with every link on the way followed; what is not there stays as it is written. ``/`` is ``""``.

        ``follow`` is whether to follow those that the supervised program may have made.
        """
        seen = self._seen[follow]
        known = seen.get(path)
        if known is not None:
            return known
        parent, _, name = path.rpartition("/")
        base = seen.get(parent)
        if base is None:
            base = self._resolve(parent, follow, links)
        here = f"{base}/{name}"
        if base in self._absent:
            self._absent.add(here)
        elif base != "/proc" and (follow or not here.startswith(self._theirs)):
            try:
                target = os.readlink(here)
            except OSError as error:
                if error.errno != EINVAL:  # EINVAL: there, and no link
                    self._absent.add(here)
            else:
                if links >= LINK_LIMIT:
                    raise ValueError(f"{here} is a link that leads in a circle")
                if ".." in target:
                    here = os.path.realpath(here)
                else:
                    here = self._resolve(tidy(target if target[0] == "/" else f"{base}/{target}"), follow, links + 1)
        seen[path] = here
        return here


def _homes(home: str, workspace: str) -> tuple[str, ...]:
    parts = workspace.split("/")
    around = "/".join(parts[:3]) if parts[1:2] == ["home"] else "/root" if parts[1:2] == ["root"] else home
    return (home,) if around in (home, "/home") else (home, around)


def _others(homes: tuple[str, ...]) -> tuple[str, ...]:
    if os.geteuid() != 0:
        return ()
    try:
        found = ["/root", *(f"/home/{name}" for name in os.listdir("/home"))]
    except OSError:
        found = ["/root"]
    return tuple(home for home in found if home not in homes)


def tidy(path: str) -> str:
    """An absolute path without empty and ``.`` segments and without a slash at the end."""
    if "//" not in path and "/." not in path and (path == "/" or not path.endswith("/")):
        return path
    return "/" + "/".join(name for name in path.split("/") if name not in ("", "."))
