"""What the tree says it is doing: which operation of a guarded program runs, so that each event can carry its span.

    tracee        prctl(PR_ASL_TELL, message) ─► stopped ─────────────► goes on: open(...), connect(...)
    supervisor                                   ─► the thread's span    ─► events of that span

The thread that tells waits until it was heard, so its next call already carries the span. What is told is the tree's
word: it annotates events and is judged as ``op.call`` itself, but nothing is ever allowed because of it. A process
speaks for itself only. What it starts inherits the span that its parent's thread was in.

A message is five texts with NUL in between: what happened (``call end log now``), the span that the thread is in from
now on, the span that is meant, the operation, and more about it.
"""

from __future__ import annotations

import os
from errno import EACCES, EINVAL

from agent_safety_layer.events import ALLOW, ASK, AUDIT, BLOCK, Decision, text_of
from asl_hooks import memory
from asl_hooks.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.engine.recorder import Recorder
    from agent_safety_layer.engine.view import View
    from asl_hooks.backend import Call
    from asl_hooks.processes import Process

LONGEST = 4096
_MOST = 1024  # spans of a process, and children that have not shown themselves
_TOLD = Decision(ALLOW)


class Spans:
    """The spans of one tree's threads. ``root`` is the one that the whole tree runs in."""

    def __init__(self, view: View, recorder: Recorder, root: str = "") -> None:
        self._view = view
        self._recorder = recorder
        self._root = root
        self._told = False
        self._born: dict[int, str] = {}

    def hear(self, call: Call, process: Process) -> int:
        """Take in what a thread tells. The errno that it gets, 0 for none."""
        size = call.args[2]
        if not 0 < size <= LONGEST:
            return EINVAL
        try:
            parts = memory.read(process.mem, call.args[1], size).split(b"\0")
        except OSError as error:
            return error.errno or EINVAL
        if len(parts) != 5:
            return EINVAL
        what, now, span, op, more = map(text_of, parts)
        self._told = True
        self._keep_children(process, call.tid)
        refused = self._record(call, process, what, span, op, more)
        if not refused:
            _note(process, call.tid, what, now, span)
        return refused

    def inherit(self, process: Process) -> None:
        """Give a process that has just shown itself the span in which it was started."""
        if not self._told:
            process.span = self._root
            return
        known = self._born.pop(process.pid, None)
        process.span = self._span_at_birth(process.pid, process.ppid) if known is None else known

    def _record(self, call: Call, process: Process, what: str, span: str, op: str, more: str) -> int:
        if what == "now":
            return 0
        view = self._view
        kind = "op.call" if what == "call" else "op.log"
        event = replace(view.event(kind, call, process, op=op, detail=more), span=span)
        decision, effective, refused = _TOLD, ALLOW, 0
        if what == "call":
            decision = view.decide(event)
            effective = decision.action
            if effective in (ASK, BLOCK):
                refused = EACCES if view.decide_enforced(event).action in (ASK, BLOCK) else 0
                effective = BLOCK if refused else AUDIT
            else:
                view.advance(event, decision)
        self._recorder.record(event, decision, effective, "EACCES" if refused else "", view.now)
        return refused

    def _keep_children(self, process: Process, tid: int) -> None:
        """Remember the span of what this thread has started and what has made no call yet."""
        span = process.span_of(tid)
        for pid in _children(process.pid, tid):
            if self._view.processes.get(pid) is None and len(self._born) < _MOST:
                self._born.setdefault(pid, span)

    def _span_at_birth(self, pid: int, parent: int) -> str:
        from asl_hooks.processes import read_status

        for _ in range(64):
            known = self._view.processes.get(parent)
            if known is not None:
                return known.span_of(_thread_that_started(pid, known) if known.spans else 0)
            if parent in self._born:
                return self._born[parent]
            try:
                pid, parent = parent, int(read_status(parent)[b"PPid"])
            except (OSError, KeyError):
                break
        return self._root


def _note(process: Process, tid: int, what: str, now: str, span: str) -> None:
    if len(process.spans) >= _MOST or len(process.open_spans) >= _MOST:  # nobody nests that deep in earnest
        process.spans.clear()
        process.open_spans.clear()
    if what == "call":
        process.open_spans[span] = now
    elif what == "end":
        process.open_spans.pop(span, None)
    process.spans[tid] = now


def _children(pid: int, tid: int) -> list[int]:
    try:
        fd = os.open(f"/proc/{pid}/task/{tid}/children", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return [int(child) for child in os.read(fd, 65536).split()]
    except OSError:
        return []
    finally:
        os.close(fd)


def _thread_that_started(pid: int, parent: Process) -> int:
    """The thread of *parent* that forked *pid*, 0 when it cannot be told."""
    return next((tid for tid in parent.spans if pid in _children(parent.pid, tid)), 0)
