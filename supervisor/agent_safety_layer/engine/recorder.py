"""Where answered calls are written down: the trace, the counts, the denials. The loop's only sink."""

from __future__ import annotations

from time import monotonic, time

from agent_safety_layer.events import ALLOW, AUDIT
from agent_safety_layer.tally import Slot, counted
from agent_safety_layer.trace.encode import body as encode
from asl_hooks.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.denials import Denials
    from agent_safety_layer.engine.gate import Answer
    from agent_safety_layer.events import Decision, Event
    from agent_safety_layer.tally import Tally
    from agent_safety_layer.trace.lines import Lines
    from agent_safety_layer.trace.writer import TraceWriter

_READS = frozenset({"file.read", "file.list"})
_NOWHERE = Slot("", ALLOW, ALLOW)  # counts what is not recorded; nobody looks


class Recorder:
    """Writes down events with what became of them. ``listener`` also sees each entry, for live views. Without
    ``reads``, those that a policy simply allows are left out.
    """

    def __init__(self, writer: TraceWriter, tally: Tally, denials: Denials, *, reads: bool = True) -> None:
        self._writer = writer
        self._tally = tally
        self._denials = denials
        self._unwanted = frozenset() if reads else _READS
        self._latest: tuple[bytes, int, bytes] = (b"", 0, b"")  # a body, what it returned, and both
        self.listener: Callable[[Event, Decision, str, str], None] | None = None

    def record(
        self,
        event: Event,
        decision: Decision,
        effective: str,
        result: str,
        started: float,
        answer: Answer | None = None,
    ) -> tuple[bytes, Slot]:
        """Record an event; its line's body, without the result, and count come back, for ``repeat``.

        *result* is an errno's name, a number that the call returned, or nothing. ``answer`` is what a person said.
        """
        if event.kind in self._unwanted and effective == ALLOW == decision.action:
            return b"", _NOWHERE
        if answer is not None:
            event = replace(event, detail=f"{event.detail}; {answer.by}" if event.detail else answer.by)
        body = encode(event, decision, effective)
        self._writer.add(_returning(body, result) if result else body, started, int((time() - started) * 1e6))
        decision = counted(decision, effective, result)
        slot = self._tally.add(event, decision, effective)
        if effective not in (ALLOW, AUDIT) or effective != decision.action:
            self._denials.tell(event, decision, effective, monotonic(), answer)
        if self.listener is not None:
            self.listener(event, decision, effective, result)
        return body, slot

    def frame(self, event: Event, decision: Decision) -> tuple[bytes, bytes, Slot]:
        """What stands before and behind the path in the body of an event that was decided so and done so, and its
        count: for ``repeat`` about other paths. Both are empty where nothing is to be written.
        """
        if event.kind in self._unwanted and decision.action == ALLOW:
            return b"", b"", _NOWHERE
        head, key, rest = encode(event, decision, decision.action).partition(b',"path":"')
        return head + key, rest[rest.index(b'"') :], self._tally.slot(event, decision, decision.action)

    def repeat(self, body: bytes, slot: Slot, started: float, result: int | None = None) -> None:
        """Record the same again, at another time; *result* is what it returned this time, if somebody saw that."""
        if not body:
            return
        if result is not None:
            before, returned, line = self._latest  # mostly the same number again
            if before is not body or returned != result:
                line = _returning(body, result_text(result))
                self._latest = body, result, line
            body = line
        self._writer.add(body, started, int((time() - started) * 1e6))
        slot.n += 1

    @property
    def lines(self) -> Lines:
        """Where they are written first."""
        return self._writer.lines

    @property
    def count(self) -> int:
        """How many events there have been."""
        return self._writer.seq

    @property
    def blocked(self) -> int:
        """How many of them were blocked."""
        return self._tally.blocked

    def due(self, now: float) -> bool:
        """Whether to flush; *now* is monotonic seconds."""
        self._denials.tick(now)
        return self._writer.due(now)

    @property
    def pending(self) -> bool:
        """Whether something waits to be flushed."""
        return self._writer.pending

    def flush(self) -> None:
        """Bring what is pending into the file."""
        self._writer.flush()


def _returning(body: bytes, result: str) -> bytes:
    """The body of an event, with what the call returned."""
    return b'%b,"result":"%b"}\n' % (body[:-2], result.encode())


def result_text(result: int | None) -> str:
    """What a call returned, as a trace has it: the number, an errno name, nothing for what nobody saw."""
    if result is None:
        return ""
    return errno_name(-result) if -4096 < result < 0 else str(result)


_errno_names: dict[int, str] = {0: "", 512: "ERESTARTSYS"}


def errno_name(errno: int) -> str:
    """``EACCES`` for 13; empty for 0."""
    name = _errno_names.get(errno)
    if name is None:
        from errno import errorcode

        name = _errno_names[errno] = errorcode.get(errno, str(errno))
    return name
