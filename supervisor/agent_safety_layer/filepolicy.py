"""Policy files in this process: what a call's arguments stand for, as events that ``decide`` answers.

    def copy(source, target)   file.read, file.write          def fetch(url)   net.connect
    def run(cmd)               process.exec for each command   every call       op.call

The events are of the same kinds as those that the supervisor makes of system calls, and the same function decides. They
tell what a call says it will do; ``asl-supervise`` and sandboxed calls hold what it does.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_safety_layer.boundaries import Boundary, ResourceBoundary, TimeBoundary
from agent_safety_layer.calls import argument_texts
from agent_safety_layer.events import ALLOW, RANK, Decision, Event
from agent_safety_layer.policies import Policy, PolicyAction, PolicyResult
from agent_safety_layer.policy import ADMINISTRATOR, DEFAULT, State, advance, decide, load
from agent_safety_layer.policy import Policy as FilePolicies
from agent_safety_layer.resources import command_values, commands_in, destinations_of, paths_of
from agent_safety_layer.state import state_path

if TYPE_CHECKING:
    from agent_safety_layer.replay import RecordedOperation

# What the words of a function's name say that it does to a path.
_VERBS = {
    "file.read": "read load open get cat parse view show tail head grep search find import fetch hash count",
    "file.list": "list ls scan walk glob listdir tree",
    "file.meta": "stat exists size chmod chown info is has",
    "file.delete": "delete remove unlink rm rmdir rmtree erase clean clear purge",
    "file.create": "create touch mkdir make new init",
    "file.rename": "rename move mv replace",
    "file.link": "link symlink",
    "file.write": "write save dump append edit patch update put store export download copy cp upload",
}
_KINDS = {verb: kind for kind, verbs in _VERBS.items() for verb in verbs.split()}
_READING = ("file.read", "file.list", "file.meta")
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_SOURCES = ("source", "src", "input", "from")
_NOT_ARGUMENTS = ("function", "args", "kwargs", "operation_type", "access")


def load_policy(
    *sources: str | Path, workspace: str | Path | None = None, extra: Mapping[str, Any] | None = None
) -> FilePolicies:
    """The policy in files or built-in profiles, each source a layer; ``workspace`` (the profile) when there are none.

    ``${WORKSPACE}`` is the folder *workspace*, by default the working directory. ``extra`` joins the first source and
    is shaped like a policy file. The administrator's ``/etc/asl/policy.yaml``, where there is one, is a further layer.
    Raises ``PolicyError``, with everything that is wrong and where.

    >>> load_policy("offline", extra={"files": {"read": ["/opt/models"]}}).name
    'offline'
    """
    return loaded(sources, workspace, os.path.realpath(tempfile.gettempdir()), extra)


def loaded(
    sources: Sequence[str | Path], workspace: str | Path | None, tmp: str, extra: Mapping[str, Any] | None = None
) -> FilePolicies:
    """Like ``load_policy``, with *tmp* for ``${TMP}``."""
    variables = {
        "WORKSPACE": os.path.realpath(workspace or os.getcwd()),
        "HOME": os.path.expanduser("~"),
        "TMP": tmp,
        "USER": os.environ.get("USER", str(os.getuid())),
        "STATE": state_path(),
        "CWD": os.getcwd(),
    }
    named = [os.fspath(source) for source in sources] or [DEFAULT]
    if os.path.lexists(ADMINISTRATOR):
        named.append(ADMINISTRATOR)
    return load(named, variables=variables, extra=extra)


def limits_of(policy: FilePolicies) -> list[Boundary]:
    """The policy's limits that can be judged from within a process, as boundaries."""
    limits = policy.limits
    found: list[Boundary] = []
    if limits.wall_time_s is not None:
        found.append(TimeBoundary(limits.wall_time_s, limits.wall_time_s, name="limits.wall_time"))
    if limits.memory_bytes is not None:
        found.append(ResourceBoundary(max_memory_mb=limits.memory_bytes / 2**20, name="limits.memory"))
    if limits.open_files is not None:
        found.append(ResourceBoundary(max_open_files=limits.open_files, name="limits.open_files"))
    return found


class FilePolicy(Policy):
    """A policy file as one policy of a layer. Layers of the file that only observe are not asked.

    Rules with ``after`` look back on what this policy let pass in this process. In a context, ``access`` says what is
    done to paths, ``"read"`` or ``"write"``, where the operation's name does not tell.
    """

    def __init__(self, policy: FilePolicies) -> None:
        super().__init__(policy.name, f"Policy file {policy.name}")
        self.policy = policy
        self._enforced = policy.enforced
        self._state = State()

    def evaluate(self, operation: str, context: dict[str, Any]) -> PolicyResult | None:
        """The strictest decision about the events that the call stands for; None when all are allowed."""
        try:
            events = events_of(operation, context)
        except ValueError as error:  # what must be an address is none, so nothing can be said for it
            return PolicyResult(PolicyAction.BLOCK, self.name, f"Not an address: {error}", {"kind": "net.connect"})
        answers = [(event, decide(self._enforced, self._state, event)) for event in events]
        result = self._result(answers)
        if result is None or not result.is_blocked:
            self._advance(answers)
        return result

    def evaluate_recorded(self, operation: RecordedOperation, context: dict[str, Any]) -> PolicyResult | None:
        """The decision about the event itself, when a supervisor recorded the operation."""
        from agent_safety_layer.trace.replay import refused_late
        from agent_safety_layer.traced import TracedOperation

        if not isinstance(operation, TracedOperation):
            return self.evaluate(operation.operation, context)
        self._advance([(event, Decision(ALLOW)) for event in operation.before])
        event, recorded = operation.event, operation.recorded
        judged = decide(self._enforced, self._state, event)
        late = recorded is not None and refused_late(recorded)
        self._advance([(event, recorded if recorded is not None and not late else judged)])
        return self._result([(event, recorded or judged)])

    def _result(self, answers: list[tuple[Event, Decision]]) -> PolicyResult | None:
        """The strictest answer as a result; None when all are allowed."""
        strictest: tuple[Decision, Event] | None = None
        for event, decision in answers:
            if strictest is None or _rank(decision) > _rank(strictest[0]):
                strictest = decision, event
        if strictest is None or strictest[0].action == ALLOW:
            return None
        decision, event = strictest
        result = PolicyResult(
            PolicyAction(decision.action),
            self.name,
            decision.reason or f"{event.kind} is answered by {decision.rule}",
            {"rule": decision.rule, "where": decision.where, "kind": event.kind},
        )
        if result.requires_approval:
            approvals = self.policy.approvals
            result.metadata |= {"timeout": approvals.timeout_s, "on_timeout": approvals.on_timeout}
        return result

    def fresh(self) -> FilePolicy:
        """The same policy, with nothing to look back on."""
        return FilePolicy(self.policy)

    def _advance(self, answers: list[tuple[Event, Decision]]) -> None:
        if self._enforced.stateful:
            with _advancing:
                for event, decision in answers:
                    self._state = advance(self._enforced, self._state, event, decision)


_advancing = threading.Lock()


def _renew_lock() -> None:
    global _advancing
    _advancing = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)  # another thread may have held it while this one forked


def _rank(decision: Decision) -> int:
    return RANK[decision.action]


def events_of(operation: str, context: Mapping[str, Any]) -> list[Event]:
    """The events that an operation with this context stands for.

    >>> [(event.kind, event.path) for event in events_of("delete_file", {"path": "/tmp/x"})]
    [('op.call', ''), ('file.delete', '/tmp/x')]
    """
    now, pid, ppid, tid = time.time(), os.getpid(), os.getppid(), threading.get_native_id()
    who: dict[str, Any] = {"pid": pid, "tid": tid, "ppid": ppid, "op": operation, "time": now}
    arguments = {name: value for name, value in context.items() if name not in _NOT_ARGUMENTS}
    found = [Event("op.call", detail=" ".join(argument_texts(arguments)), **who)]
    commands = command_values(arguments)
    plain = {name: value for name, value in arguments.items() if not any(value is command for command in commands)}
    paths = paths_of(plain)
    if paths:
        kind = _kind(operation, context)
        reads = set(paths_of({name: value for name, value in plain.items() if name.lower().startswith(_SOURCES)}))
        found += _file_events(kind, paths, reads, who)
    for place in destinations_of(arguments):
        if place.scheme != "file":
            found.append(Event("net.connect", host=place.host, port=place.port or 0, proto="tcp", **who))
    for command in commands:
        found += (Event("process.exec", argv=argv, cwd=os.getcwd(), **who) for argv in commands_in(command))
    return found


def _file_events(kind: str, paths: list[str], reads: set[str], who: dict[str, Any]) -> list[Event]:
    resolved = [(os.path.realpath(os.path.expanduser(path)), path) for path in paths if "\0" not in path]
    if kind in ("file.rename", "file.link") and len(resolved) == 2:
        (first, spelled), (second, _) = resolved
        return [Event(kind, path=first, path2=second, spelled=spelled if spelled != first else "", **who)]
    if kind in ("file.rename", "file.link"):
        kind = "file.write"
    found = []
    for real, spelled in resolved:
        each = "file.read" if kind not in _READING and spelled in reads else kind
        found.append(Event(each, path=real, spelled=spelled if spelled != real else "", **who))
    return found


def _kind(operation: str, context: Mapping[str, Any]) -> str:
    """What is done to the paths: as ``access`` or ``mode`` say, else the first verb of a name; writing if none does."""
    access = context.get("access")
    if access in ("read", "write"):
        return f"file.{access}"
    mode = context.get("mode")
    if isinstance(mode, str) and mode and set(mode) <= set("rwxabt+U"):
        return "file.write" if set(mode) & set("wxa+") else "file.read"
    for name in (operation, str(context.get("function", ""))):
        for word in _WORDS.findall(name):
            if word.lower() in _KINDS:
                return _KINDS[word.lower()]
    return "file.write"


__all__ = ["FilePolicy", "events_of", "limits_of", "load_policy"]
