"""Path patterns as written, turned into the canonical forms that events are matched against.

``~`` and ``${NAME}`` are filled in (their values are taken literally, whatever characters they hold), braces are
expanded, and the literal part in front of the first wildcard is resolved through symbolic links, because the paths of
events are canonical: ``/bin/sh`` in a policy also means ``/usr/bin/sh`` where ``/bin`` is a link.

A link that lies in a folder that the supervised program may have written (the working directory, the private tmp) is
not followed for entries that *allow* something: an earlier run could have planted it.
"""

from __future__ import annotations

import os

from agent_safety_layer.policy.globs import Wildcard, escape, expand_braces, has_meta, segments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LINK_LIMIT = 40  # as the kernel's MAXSYMLINKS
KNOWN = ("WORKSPACE", "HOME", "HOMES", "TMP", "USER", "STATE", "CWD")


class Paths:
    """Fills in variables and resolves links, remembering what it has looked up. ``variables`` holds absolute paths.

    ``${HOMES}`` stands for every home folder: ``/root``, each folder in ``/home``, and ``~``.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        home = variables.get("HOME", "/")
        self.variables = {
            "HOME": home,
            "WORKSPACE": variables.get("WORKSPACE", home),
            "TMP": "/tmp",
            "USER": "",
            "STATE": f"{home.rstrip('/')}/.local/state/asl",
            **variables,
        }
        self.variables.setdefault("CWD", self.variables["WORKSPACE"])
        self._seen: dict[tuple[str, bool], str] = {}
        shown = {name: [escape(text.rstrip("/"))] for name, text in self.variables.items()}
        shown["HOMES"] = ["/root", "/home/*", *([] if home == "/root" else shown["HOME"])]
        self._values = shown
        self._theirs = tuple(
            self.variables[name].rstrip("/") for name in ("WORKSPACE", "TMP") if self.variables[name].strip("/")
        )

    def forms(self, text: str, *, allows: bool = False, relative_to: str = "") -> tuple[str, ...]:
        """The absolute patterns, braces and variables gone, that *text* stands for; ``ValueError`` says what is wrong.

        A literal path that ends in a link stands for the link and for what it leads to. ``relative_to`` names a
        variable that a relative pattern is taken to start from; without it one is an error.
        """
        if "\0" in text:
            raise ValueError("it holds a NUL byte")
        forms: dict[str, None] = {}
        for choice in expand_braces(text) if "{" in text else (text,):
            for pattern in self.fill(choice):
                start = ""
                if not pattern.startswith(("/", "**/")) and pattern != "**":
                    if not relative_to:
                        raise ValueError(
                            f"it is not absolute. Write ${{WORKSPACE}}/{text} for one in the working directory,"
                            f" or **/{text} for one anywhere"
                        )
                    start = f"{self._values[relative_to][0]}/"
                for form in self._canonical(start + pattern, allows):
                    forms[form] = None
        return tuple(forms)

    def fill(self, text: str) -> list[str]:
        """*text* with ``~`` and ``${NAME}`` replaced by escaped values; several when it holds ``${HOMES}``."""
        if text.startswith("~"):
            if text[1:2] not in ("", "/"):
                raise ValueError(f"~{text[1:].partition('/')[0]} is not supported; write the path of that home folder")
            text = self._values["HOME"][0] + (text[1:] or "")
            if not text:
                text = "/"
        if "${" not in text:
            return [text]
        before, _, rest = text.partition("${")
        name, closed, after = rest.partition("}")
        if not closed:
            raise ValueError(f"${{{name} is never closed")
        values = self._values.get(name)
        if values is None:
            raise ValueError(f"there is no variable ${{{name}}}; there are {', '.join(KNOWN)}")
        made = [before + value + tail for value in values for tail in self.fill_rest(after)]
        return [pattern or "/" for pattern in made]

    def fill_rest(self, text: str) -> list[str]:
        """Like ``fill`` for what follows a variable, where a tilde is only a tilde."""
        return self.fill(text) if "${" in text else [text]

    def _canonical(self, pattern: str, allows: bool) -> tuple[str, ...]:
        if not has_meta(pattern):
            return self._literal(tidy(pattern), allows)
        parts = segments(pattern)  # also says what is wrong with it
        names: list[str] = []
        for part in parts:
            if not isinstance(part, str):
                break
            names.append(part)
        start = tidy("/" + "/".join(names))
        if len(names) == len(parts):
            return self._literal(start, allows)
        base = escape(self.resolve(start, follow_theirs=not allows))
        return ("/".join([base, *(shown(part) for part in parts[len(names) :])]),)

    def _literal(self, path: str, allows: bool) -> tuple[str, ...]:
        parent, _, name = path.rpartition("/")
        link = f"{self.resolve(parent, follow_theirs=not allows)}/{name}"
        target = self.resolve(path, follow_theirs=not allows) or "/"
        return (escape(link),) if link == target else (escape(target), escape(link))

    def resolve(self, path: str, *, follow_theirs: bool = True, links: int = 0) -> str:
        """*path* with every link on the way followed; what does not exist stays as it is written. ``/`` is ``""``."""
        if path in ("", "/"):
            return ""
        known = self._seen.get((path, follow_theirs))
        if known is not None:
            return known
        parent, _, name = path.rpartition("/")
        base = self.resolve(parent, follow_theirs=follow_theirs, links=links)
        here = f"{base}/{name}"
        if follow_theirs or not here.startswith(tuple(f"{folder}/" for folder in self._theirs)):
            try:
                target = os.readlink(here)
            except OSError:
                pass  # not a link, or not there (yet), or out of our reach: then also out of the tracee's
            else:
                if links >= LINK_LIMIT:
                    raise ValueError(f"{here} is a link that leads in a circle")
                if ".." in target:
                    here = os.path.realpath(here)
                else:
                    target = tidy(target if target.startswith("/") else f"{base}/{target}")
                    here = self.resolve(target, follow_theirs=follow_theirs, links=links + 1)
        self._seen[path, follow_theirs] = here
        return here


def tidy(path: str) -> str:
    """An absolute path without empty and ``.`` segments and without a slash at the end; ``..`` is a ``ValueError``."""
    if "//" not in path and "/." not in path and (path == "/" or not path.endswith("/")):
        return path
    names = [name for name in path.split("/") if name not in ("", ".")]
    if ".." in names:
        raise ValueError(
            "it holds '..', which means something else once a link is on the way; write the path without it"
        )
    return "/" + "/".join(names)


def shown(part: str | Wildcard | None) -> str:
    """One part of a pattern as it is written."""
    return "**" if part is None else escape(part) if isinstance(part, str) else part.text


def covers(folders: Sequence[str], path: str) -> bool:
    """Whether *path* is one of *folders* or below one."""
    return any(path == folder or path.startswith("/" if folder == "/" else f"{folder}/") for folder in folders)
