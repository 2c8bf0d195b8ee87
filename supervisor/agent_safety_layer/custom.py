"""Python policies under a ``Supervisor``: asked in the program that they belong to, about events of the tree.

    run's supervisor ── asked: events ──► program: a thread for each question ── said: decision ──► run's supervisor

The call that the events are about waits meanwhile, and nothing else does. What a policy raises blocks. How many threads
there are at once is not the tree's to say: beyond ``MOST`` questions wait for one that is done.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from agent_safety_layer.engine.custom import stricter
from agent_safety_layer.events import ALLOW, BLOCK, PYTHON, Decision, Event
from agent_safety_layer.policies import Policy, PolicyResult
from agent_safety_layer.wording import object_of, shell_joined

MOST = 256  # threads
_log = logging.getLogger(__name__)


def operation_of(event: Event) -> tuple[str, dict[str, Any]]:
    """The event as policies that know no events see an operation: its text, and what else there is to say of it.

    >>> operation_of(Event("process.exec", argv=("git", "push")))
    ('git push', {'command': ['git', 'push']})
    """
    given: dict[str, Any] = {"path": event.path, "path2": event.path2, "host": event.host or event.ip}
    given |= {"port": event.port, "command": list(event.argv), "signal": event.signal, "detail": event.detail}
    text = event.op or (shell_joined(event.argv) if event.argv else f"{event.kind} {object_of(event)}")
    return text, {name: value for name, value in given.items() if value}


def judge(policies: Sequence[Policy], events: Sequence[Event]) -> Decision | None:
    """The strictest answer of any policy to any of the events; None when none is about them."""
    strictest: Decision | None = None
    for event in events:
        operation, context = operation_of(event)
        context |= {"operation_type": event.kind, "pid": event.pid, "exe": event.exe, "cwd": event.cwd, "event": event}
        for policy in policies:
            said = _answer(policy, operation, context)
            if said is not None:
                strictest = said if strictest is None else stricter(strictest, said)
    return strictest


def _answer(policy: Policy, operation: str, context: dict[str, Any]) -> Decision | None:
    try:
        result = policy.evaluate(operation, dict(context))
        if result is not None and not isinstance(result, PolicyResult):
            raise TypeError(f"it answered {result!r}, not a PolicyResult or None")
    except BaseException as error:  # SystemExit, too: without an answer the call would wait for ever
        _log.exception("The policy '%s' failed, so '%s' was blocked", policy.name, operation)
        reason = f"the policy '{policy.name}' raised {type(error).__name__}: {error}"
        return Decision(BLOCK, policy.name, PYTHON, reason)
    if result is None or result.action.value == ALLOW:
        return None
    reason = result.reason or f"the policy '{policy.name}' says so"
    return Decision(result.action.value, policy.name, PYTHON, reason)


class Judges:
    """Answers questions about events. ``tell`` is given each answer, in whatever thread found it."""

    def __init__(self, policies: Sequence[Policy], tell: Callable[[dict[str, Any]], None]) -> None:
        self._policies = tuple(policies)
        self._tell = tell
        self._lock = threading.Lock()
        self._busy = 0
        self._waiting: deque[dict[str, Any]] = deque()

    def asked(self, question: dict[str, Any]) -> None:
        """Answer a question on a thread of its own, so that no policy delays another's."""
        with self._lock:
            if self._busy >= MOST:
                self._waiting.append(question)
                return
            self._busy += 1
        try:
            threading.Thread(target=self._judge, args=(question,), name="asl-policy", daemon=True).start()
        except RuntimeError:  # no more threads: it is not answered by waiting here, where everything would wait
            with self._lock:
                self._busy -= 1
            self._say(question, Decision(BLOCK, "policies", PYTHON, "there was no thread to ask the policies in"))

    def _judge(self, question: dict[str, Any] | None) -> None:
        while question is not None:
            self._say(question, judge(self._policies, [event_from(fields) for fields in question["events"]]))
            with self._lock:
                question = self._waiting.popleft() if self._waiting else None
                self._busy -= question is None

    def _say(self, question: dict[str, Any], decision: Decision | None) -> None:
        fields: tuple[str, ...] | None = decision  # type: ignore[assignment]  # every value is a tuple
        self._tell({"said": {"number": question["number"], "decision": fields and list(fields)}})


def event_from(fields: Sequence[Any]) -> Event:
    """The event whose fields these are."""
    given: list[Any] = [tuple(field) if isinstance(field, list) else field for field in fields]
    return Event(*given)


__all__ = ["Judges", "event_from", "judge", "operation_of"]
