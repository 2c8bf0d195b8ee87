"""What is asked, in words: the one request for stopped calls of a tree and for functions of a process.

An ``ApprovalRequest`` carries all of it, so that whoever answers needs nothing else: ``operation`` is the event's kind
or the function's name, ``context`` what it is about, and ``metadata``

    who       pid, exe, argv of the asking process, and of those it descends from ("lineage"); host, user
    why       rule, where that stands, reason
    before    what else the process has done, a line each
    yes, no   what would happen
    scopes    which answers there are beside "once"
    always    the line that "always" writes, and the file
    scope     of the answer, once there is one
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from agent_safety_layer.approval import ApprovalRequest, ApprovalResponse, ApprovalStatus
from agent_safety_layer.terminal import visible
from agent_safety_layer.trace import redact
from agent_safety_layer.wording import object_of, shell_joined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_safety_layer.events import Decision, Event

ONCE, RUN, PROGRAM, ALWAYS = SCOPES = ("once", "run", "program", "always")
SCOPE_WORDS = {
    ONCE: "once",
    RUN: "for this run",
    PROGRAM: "for this program in this run",
    ALWAYS: "always",
}
_YES = {
    "file.read": "the file is opened, and what it holds can be read",
    "file.list": "the folder is opened, and its names can be read",
    "file.write": "the file is opened, and what it holds can be changed",
    "file.create": "it is created",
    "file.delete": "it is deleted",
    "file.rename": "it is moved, and what bore the new name is gone",
    "file.link": "the file gets another name",
    "file.meta": "its owner, mode, times or attributes change",
    "net.connect": "a connection is made; what may be read can be sent there",
    "net.send": "the message is sent; what may be read can be sent there",
    "net.bind": "the address is taken",
    "net.listen": "others can connect there",
    "net.unix": "the socket is used, and who listens there acts on what it is told",
    "net.dns": "the name is looked up",
    "process.exec": "the program runs, under the same policy",
    "process.signal": "the signal is sent",
}
_REFUSED = {"file": "Permission denied", "net": "Permission denied or Connection refused"}


class Answered(ApprovalResponse):
    """An answer that holds for more than one time: ``scope`` is one of ``SCOPES``."""

    def __init__(
        self, request_id: str, approved: bool, responder: str | None, message: str | None = None, scope: str = ONCE
    ) -> None:
        super().__init__(request_id, approved, responder, message, time.time())
        self.scope = scope


def scope_of(response: ApprovalResponse) -> str:
    """How far an answer goes."""
    return str(getattr(response, "scope", ONCE))


def new_request_id() -> str:
    """A name for a request, short enough to be typed: ten hexadecimal digits."""
    return os.urandom(5).hex()


def key_of(event: Event) -> tuple[object, ...]:
    """What makes two questions the same one, whoever asks."""
    known = (event.kind, event.path, event.path2, event.host or event.ip, event.port, event.proto, event.argv)
    if event.kind == "process.exec":
        return (*known, event.cwd)
    if event.kind in ("file.meta", "process.signal"):
        return (*known, event.syscall, event.mode, event.flags, event.signal, event.target, event.detail)
    return known


def question(
    event: Event,
    decision: Decision,
    *,
    request_id: str,
    timeout_s: float,
    lineage: Sequence[dict[str, Any]],
    before: Sequence[str],
    run: dict[str, Any],
    always: tuple[str, str],
    kills: bool,
) -> ApprovalRequest:
    """The request that stands for *event*. ``always`` is the line that would be written and the file, or empty."""
    what: dict[str, Any] = {"kind": event.kind, "object": object_of(event)}
    for name in ("path", "path2", "spelled", "host", "ip", "port", "proto", "cwd", "flags", "syscall", "detail"):
        if found := getattr(event, name):
            what[name] = redact.text(found, asked=True) if name == "detail" else found
    if event.argv:
        what["argv"] = list(redact.arguments(event.argv, asked=True))
        what["object"] = shell_joined(what["argv"])
    if event.mode != -1:
        what["mode"] = f"{event.mode:04o}"
    fails = _REFUSED.get(event.kind.partition(".")[0], "Operation not permitted")
    if event.kind == "process.exec":
        fails = "Permission denied"
    metadata: dict[str, Any] = {
        **run,
        "who": {
            "pid": event.pid,
            "exe": event.exe,
            "argv": lineage[0]["argv"] if lineage else [],
            "lineage": list(lineage[1:]),
        },
        "why": {"rule": decision.rule, "where": decision.where, "reason": redact.text(decision.reason)},
        "before": list(before),
        "yes": _YES.get(event.kind, "the call goes on"),
        "no": "the run is ended" if kills else f"the call fails ({fails}), and the program goes on",
        "scopes": [scope for scope in SCOPES if scope != ALWAYS or always[0]],
    }
    if event.span:
        metadata["who"]["span"] = event.span
    if always[0]:
        metadata["always"] = {"line": always[0], "file": always[1]}
    return ApprovalRequest(
        request_id, event.kind, redact.text(decision.reason), what, time.time(), timeout_s, metadata=metadata
    )


def asked_in_process(request: ApprovalRequest) -> None:
    """Fill in what a function's request has to say for itself where others answer it: who asks, and what follows."""
    from agent_safety_layer.tracing import current_span

    said = request.metadata
    who: dict[str, Any] = {"pid": os.getpid(), "exe": _exe(), "argv": list(redact.arguments(_argv())), "lineage": []}
    if span := current_span():
        who["span"] = span
    said.setdefault("who", who)
    said.setdefault("why", {"rule": "", "where": "", "reason": request.reason})
    said.setdefault("yes", "the function is called")
    said.setdefault("no", "it is not called, and its caller is told so")
    said.setdefault("scopes", [ONCE])
    for name, found in here().items():
        said.setdefault(name, found)


def here() -> dict[str, str]:
    """The machine and the user that ask."""
    return {"host": os.uname().nodename, "user": user()}


def user() -> str:
    """The name of the user that this process runs as."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _exe() -> str:
    try:
        return os.readlink("/proc/self/exe")
    except OSError:
        return ""


def _argv() -> tuple[str, ...]:
    import sys

    return tuple(sys.orig_argv)


# -- as text -----------------------------------------------------------------------------------------------------------


def object_line(request: ApprovalRequest) -> str:
    """What the request is about, in one line: not escaped."""
    context = request.context
    if "object" in context:
        return str(context["object"])
    function = context.get("function")
    if function is None:
        return ", ".join(f"{name}={found!r}" for name, found in context.items())
    words = [repr(arg) for arg in context.get("args", ())]
    words += [f"{name}={found!r}" for name, found in dict(context.get("kwargs", {})).items()]
    return f"{function}({', '.join(words)})"


def lines(request: ApprovalRequest, width: int = 300) -> list[tuple[str, str]]:
    """The request as labelled lines, hostile text made visible and cut to *width* characters."""
    said = request.metadata
    who, why = said.get("who", {}), said.get("why", {})
    found = [("what", f"{request.operation} {object_line(request)}")]
    if request.operation == "process.exec" and request.context.get("path"):
        found.append(("file", str(request.context["path"])))
    if cwd := request.context.get("cwd"):
        found.append(("in", str(cwd)))
    if who:
        chain = [_process(who), *(_process(each) for each in who.get("lineage", ()))]
        found.append(("who", " < ".join(chain)))
    where = " ".join(str(part) for part in (why.get("rule"), why.get("where")) if part)
    found.append(("why", f"{request.reason}{f' [{where}]' if where else ''}"))
    found += [("before", str(line)) for line in said.get("before", ())]
    found += [(name, str(said[name])) for name in ("yes", "no") if said.get(name)]
    run = " ".join(str(said[name]) for name in ("run", "name") if said.get(name))
    if run:
        found.append(("run", run))
    return [(label, cut(text, width)) for label, text in found]


def cut(text: str, width: int) -> str:
    """The text made visible and cut to *width* characters; that it was cut is said, as what matters may be missing."""
    left_out = len(text) - width + 1
    return visible(text, width) + (f" [{left_out} characters are left out at …]" if left_out > 1 else "")


def _process(who: dict[str, Any]) -> str:
    argv = [str(word) for word in who.get("argv", ())]
    named = shell_joined(argv) if argv else os.path.basename(str(who.get("exe", "?")))
    return f"{named if len(named) <= 80 else named[:79] + '…'} (pid {who.get('pid', '?')})"


def verdict(request: ApprovalRequest) -> str:
    """What became of a request, in words: ``approved for this run by sam``."""
    by = f" by {request.responder}" if request.responder else ""
    said = f": {request.response_message}" if request.response_message else ""
    if request.status is ApprovalStatus.APPROVED:
        return f"approved {SCOPE_WORDS.get(str(request.metadata.get('scope', ONCE)), ONCE)}{by}{said}"
    words = {ApprovalStatus.TIMEOUT: "nobody answered in time", ApprovalStatus.PENDING: "pending"}
    return f"{words.get(request.status, request.status.value)}{by}{said}"
