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
        """Record an event; its line's body and count come back, for ``repeat``. ``answer`` is what a person said.

        *result* is an errno's name, a number that the call returned, or nothing; the number is not in the body.
        """
        if event.kind in self._unwanted and effective == ALLOW == decision.action:
            return b"", _NOWHERE
        if answer is not None:
            event = replace(event, detail=f"{event.detail}; {answer.by}" if event.detail else answer.by)
        number = result.isdigit()
        body = encode(event, decision, effective, "" if number else result)
        self._writer.add(_returning(body, result) if number else body, started, int((time() - started) * 1e6))
        decision = counted(decision, effective, result)
        slot = self._tally.add(event, decision, effective)
        if effective not in (ALLOW, AUDIT) or effective != decision.action:
            self._denials.tell(event, decision, effective, monotonic(), answer)
        if self.listener is not None:
            self.listener(event, decision, effective, result)
        return body, slot

    def repeat(self, body: bytes, slot: Slot, started: float, result: str = "") -> None:
        """Record the same again, at another time; *result* is what it returned this time, if somebody saw that."""
        if not body:
            return
        if result:
            body = _returning(body, result)
        self._writer.add(body, started, int((time() - started) * 1e6))
        slot.n += 1

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
