"""The run's side of approvals: which questions are open, who waits for them, and what was answered before.

ask ─┬─ allowed for always, or answered for the run ──► at once
     ├─ this process was just told no ────────────────► at once
     ├─ the same question is open ────────────────────► waits for its answer
     └─ new ──► approval.asked ──► clerk ──► queue ──► whoever answers
                                                         │
each call that waits  ◄── approval.answered ◄── later ◄──┘
"""

from __future__ import annotations

import os
from time import monotonic, time
from typing import TYPE_CHECKING

from agent_safety_layer.approval import ApprovalStatus
from agent_safety_layer.approvals import overlay as overlays
from agent_safety_layer.approvals.clerk import Clerk
from agent_safety_layer.approvals.question import (
    ALWAYS,
    ONCE,
    PROGRAM,
    SCOPE_WORDS,
    key_of,
    new_request_id,
    question,
    verdict,
)
from agent_safety_layer.engine.gate import Answer
from agent_safety_layer.errors import PolicyError
from agent_safety_layer.events import ALLOW, Decision
from asl_hooks.value import replace, value

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent_safety_layer.approval import ApprovalRequest
    from agent_safety_layer.approvals.exchange import Exchange
    from agent_safety_layer.engine.gate import Answered
    from agent_safety_layer.engine.recorder import Recorder
    from agent_safety_layer.events import Event

MOST = 10_000  # questions open at once; a tree that asks more is refused unasked
AGAIN_S = 2.0  # within this the same process hears the same no: a shell tries each folder of PATH, a loop would nag
_NOES = 1000


@value
class Run:
    """What a desk knows of its run. ``about`` goes into each request; ``kills``: a denial ends the run; ``trace`` is
    the path of the trace; ``lineage`` tells the asking process and those it descends from, ``tell`` tells the user.
    """

    about: dict[str, Any]
    timeout_s: float
    silence_allows: bool
    kills: bool
    trace: str
    overlay: str
    lineage: Callable[[int], list[dict[str, Any]]]
    tell: Callable[[str], object]


class _Open:
    """An open question and the calls that wait for it."""

    __slots__ = ("decision", "event", "id", "key", "waiting")

    def __init__(self, request_id: str, key: tuple[object, ...], event: Event, decision: Decision) -> None:
        self.id = request_id
        self.key = key
        self.event = event
        self.decision = decision
        self.waiting: list[tuple[int, Answered]] = []


class Desk:
    """A ``Gate`` over a queue. ``later`` runs a callable in the loop's thread."""

    def __init__(
        self, queue: Exchange, run: Run, recorder: Recorder, later: Callable[[Callable[[], None]], None]
    ) -> None:
        self._run = run
        self._recorder = recorder
        self._later = later
        self._overlay = overlays.Overlay(run.overlay)
        self._known: dict[tuple[object, ...], Answer] = {}
        self._noes: dict[tuple[object, ...], tuple[Answer, float]] = {}
        self._open: dict[tuple[object, ...], _Open] = {}
        self._by_id: dict[str, _Open] = {}
        self._by_pid: dict[int, set[str]] = {}
        self._clerk = Clerk(queue, lambda *what: later(lambda: self._settled(*what)))

    def ask(self, event: Event, decision: Decision, answered: Answered) -> None:
        """Put a question, unless it was answered before or is open."""
        key = key_of(event)
        known = self._known.get(key) or self._known.get((*key, event.exe))
        if known is not None:
            answered(known)
            return
        if where := self._overlay.allows(event):
            answered(Answer(True, f"allowed for always ({where})"))
            return
        key = (*key, event.exe, decision.rule, decision.where)
        if (answer := self._just_refused((*key, event.pid))) is not None:
            answered(answer)
            return
        pending = self._open.get(key)
        if pending is None:
            if len(self._open) >= MOST:
                answered(Answer(False, "too many questions are open"))
                return
            pending = self._put(key, event, decision)
        pending.waiting.append((event.pid, answered))
        self._by_pid.setdefault(event.pid, set()).add(pending.id)

    def _say_again(self, pending: _Open, answer: Answer) -> None:
        until = monotonic() + AGAIN_S
        for pid, _ in pending.waiting:
            self._noes[(*pending.key, pid)] = answer, until
        while len(self._noes) > _NOES:
            del self._noes[next(iter(self._noes))]

    def _just_refused(self, key: tuple[object, ...]) -> Answer | None:
        answer, until = self._noes.get(key, (None, 0.0))
        now = monotonic()
        if answer is None or now >= until:
            return None
        self._noes[key] = answer, now + AGAIN_S
        return answer

    def _put(self, key: tuple[object, ...], event: Event, decision: Decision) -> _Open:
        run = self._run
        pending = self._open[key] = _Open(new_request_id(), key, event, decision)
        self._by_id[pending.id] = pending
        lineage = run.lineage(event.pid)
        self._record("approval.asked", pending, "waits for an answer")
        self._recorder.flush()  # what the process has done is read from there

        def make() -> ApprovalRequest:
            from agent_safety_layer.approvals.history import before

            line = overlays.line_for(event)
            return question(
                event,
                decision,
                request_id=pending.id,
                timeout_s=run.timeout_s,
                lineage=lineage,
                before=before(run.trace, [each["pid"] for each in lineage[:2]]),
                run=run.about,
                always=(line, run.overlay if line else ""),
                kills=run.kills,
            )

        self._clerk.submit(pending.id, make, run.timeout_s)
        return pending

    def _settled(self, request_id: str, request: ApprovalRequest | None, why: str) -> None:
        pending = self._by_id.get(request_id)
        if pending is None:  # nobody waits any more
            return
        said = verdict(request) if request is not None else why
        answer = Answer(False, said)
        if request is not None:
            allowed = request.is_approved or (request.status is ApprovalStatus.TIMEOUT and self._run.silence_allows)
            answer = Answer(allowed, said, request.response_message or "")
            self._remember(pending, request, answer)
            if not allowed:
                self._say_again(pending, answer)
        self._end(pending, answer)

    def _remember(self, pending: _Open, request: ApprovalRequest, answer: Answer) -> None:
        scope = str(request.metadata.get("scope", ONCE))
        if scope == ONCE or not (request.is_approved or request.is_denied):
            return
        key = key_of(pending.event)
        self._known[(*key, pending.event.exe) if scope == PROGRAM else key] = answer
        if scope == ALWAYS and request.is_approved:
            line = overlays.line_for(pending.event)
            try:
                overlays.add(self._run.overlay, line, pending.event)
            except (OSError, ValueError, PolicyError) as error:
                self._run.tell(f"asl: {self._run.overlay} was not changed: {error}\n")

    def _end(self, pending: _Open, answer: Answer) -> None:
        self._forget(pending)
        self._record("approval.answered", pending, answer.by, len(pending.waiting))
        for pid, answered in pending.waiting:
            self._by_pid.get(pid, set()).discard(pending.id)
            answered(answer)

    def _forget(self, pending: _Open) -> None:
        del self._open[pending.key], self._by_id[pending.id]

    def _record(self, kind: str, pending: _Open, said: str, waiting: int = 0) -> None:
        event, decision, now = pending.event, pending.decision, time()
        many = f", for {waiting} calls" if waiting > 1 else ""
        told = replace(event, kind=kind, op=event.kind, detail=f"{pending.id}: {said}{many}", time=now)
        self._recorder.record(told, Decision(ALLOW, decision.rule, decision.where, decision.reason), ALLOW, "", now)

    def withdraw(self, pid: int) -> None:
        """Take back the questions that only this process waits for."""
        for request_id in self._by_pid.pop(pid, ()):
            pending = self._by_id.get(request_id)
            if pending is None:
                continue
            gone = [answered for waiter, answered in pending.waiting if waiter == pid]
            pending.waiting = [each for each in pending.waiting if each[0] != pid]
            for answered in gone:
                answered(Answer(False, "whoever asked is gone"))
            if not pending.waiting:
                self._forget(pending)
                self._clerk.withdraw(request_id)
                self._record("approval.answered", pending, "cancelled: whoever asked is gone")

    def close(self) -> None:
        """Answer what is open with no."""
        for pending in tuple(self._open.values()):
            self._forget(pending)
            for _, answered in pending.waiting:
                answered(Answer(False, "the run is ending"))
        self._clerk.close()


def lineage_of(pid: int, warden: int) -> list[dict[str, Any]]:
    """The process and those it descends from, up to the run's first, each with pid, exe and argv (redacted)."""
    from agent_safety_layer.events import text_of
    from agent_safety_layer.trace import redact
    from asl_hooks.processes import read_status

    found: list[dict[str, Any]] = []
    while pid > 1 and pid != warden and len(found) < 16:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = tuple(text_of(word) for word in file.read(4096).split(b"\0")[:-1][:64])
            parent = int(read_status(pid)[b"PPid"])
        except (OSError, KeyError):
            break
        try:
            exe = text_of(os.readlink(b"/proc/%d/exe" % pid))
        except OSError:  # somebody else's process: who it is may be asked, what it runs may not
            exe = ""
        found.append({"pid": pid, "exe": exe, "argv": list(redact.arguments(words))})
        pid = parent
    return found


__all__ = ["SCOPE_WORDS", "Desk", "Run", "lineage_of"]
