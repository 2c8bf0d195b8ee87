"""What was allowed for always: a policy file of the user's own, one rule a line, added by answering "always".

It is consulted where a policy asks, never where one blocks, so it can spare a question but not lift a block. The lines
are ordinary rules: each names the kind, and the exact path, address or command line.
"""

from __future__ import annotations

import os

from agent_safety_layer.events import ALLOW, Event
from agent_safety_layer.policy import Policy, State, decide, load_text
from agent_safety_layer.policy.globs import escape
from agent_safety_layer.policy.wording import text_of_event
from agent_safety_layer.trace import redact
from agent_safety_layer.trace.encode import dumps

NAME = "always.yaml"
_HEAD = """\
# What you have allowed for always when you were asked. asl-supervise looks here before it asks again; remove a line to
# be asked again. A policy that blocks is not overruled by this.
version: 1
name: always
rules:
"""
_SIMPLE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/=@%,:;~ '\"!&#<>-")


def overlay_path(state_dir: str) -> str:
    """Where the file is."""
    return os.path.join(state_dir, "approvals", NAME)


class Overlay:
    """The file as it was when this was made. ``PolicyError`` when it cannot be read as a policy."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._policy: Policy | None = None
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError:
            return
        self._policy = _parsed(text, path)

    def allows(self, event: Event) -> str:
        """Where the line stands that allows the event; empty when none does."""
        return _allows(self._policy, event) if self._policy is not None else ""


def _parsed(text: str, path: str) -> Policy:
    home = os.path.expanduser("~")
    return load_text(text, name=path, variables={"WORKSPACE": home, "HOME": home})


def _allows(policy: Policy, event: Event) -> str:
    decision = decide(policy, State(), event)
    return decision.where if decision.action == ALLOW and decision.where else ""


def line_for(event: Event) -> str:
    """The line that would allow just this event from now on; empty where no line says exactly that."""
    if event.path2 or event.kind in ("file.meta", "process.signal", "file.link"):
        return ""
    condition = {"on": event.kind}
    if event.kind == "process.exec":
        if redact.arguments(event.argv) is not event.argv or not event.path.startswith("/"):
            return ""
        condition |= {"path": escape(event.path), "match": f"^{_literally(text_of_event(event))}$"}
    elif event.kind.startswith("file.") or event.path.startswith("/"):
        if not event.path.startswith("/"):
            return ""
        # Not as path: that would also mean what a link leads to that somebody puts there later.
        condition["match"] = f"^{_literally(event.path)}$"
    elif event.host or event.ip:
        name = event.host or event.ip
        name = f"[{name}]" if ":" in name else name
        condition["host"] = f"{name}:{event.port}" if event.port else name
    else:
        return ""
    if not all(text.isprintable() and "\\x" not in text for text in condition.values()):
        return ""
    words = ", ".join(f"{key}: {text if key == 'on' else dumps(text)}" for key, text in condition.items())
    return f"{{name: always, {words}, action: allow}}"


def _literally(text: str) -> str:
    """The RE2 pattern that matches the text alone."""
    return "".join(c if c in _SIMPLE or not c.isascii() else "\\" + c for c in text)


def add(path: str, line: str, event: Event) -> None:
    """Write *line* into the file at *path*. Postcondition: it is there once, on disk, and allows *event*.

    ``ValueError`` when the line would not, ``OSError`` when it cannot be written, ``PolicyError`` when the file is no
    policy any more.
    """
    try:
        with open(path, encoding="utf-8") as file:
            before = file.read()
    except FileNotFoundError:
        before = _HEAD
    entry = f"  - {line}\n"
    if entry in before:
        return
    text = (before if before.endswith("\n") else before + "\n") + entry
    if not _allows(_parsed(text, path), event):
        raise ValueError("the line would not allow it")
    scratch = f"{path}.{os.getpid()}"
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(scratch, path)
