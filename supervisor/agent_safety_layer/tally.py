"""Running counts of a run: per kind and action, and every distinct denial once with how often it came."""

from __future__ import annotations

from agent_safety_layer.events import ALLOW, ASK, BLOCK, Decision
from agent_safety_layer.wording import remedy_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agent_safety_layer.events import Event

DISTINCT = 1000
_FAILED = Decision(ALLOW, "", "", "it failed by itself")


def counted(decision: Decision, effective: str, result: str) -> Decision:
    """The decision that an event counts as having had. What went on and failed by itself was denied by nobody."""
    failed = bool(result) and not result.isdigit()
    return _FAILED if failed and effective != BLOCK and decision.action in (BLOCK, ASK) else decision


class Slot:
    """One count. Whoever meets the same event again keeps its slot and does ``slot.n += 1``."""

    __slots__ = ("action", "effective", "kind", "n")

    def __init__(self, kind: str, action: str, effective: str) -> None:
        self.kind = kind
        self.action = action
        self.effective = effective
        self.n = 0


class Denial(Slot):
    """A distinct denial: its first event, the decision, how often it came, and what would allow it."""

    __slots__ = ("decision", "event", "remedy")

    def __init__(self, event: Event, decision: Decision, effective: str, remedy: str) -> None:
        super().__init__(event.kind, decision.action, effective)
        self.event = event
        self.decision = decision
        self.remedy = remedy


class Tally:
    """Counts events. A denial is what was blocked, and in observe mode what would have been.

    Denials are distinct by what was attempted on what, the rule and what was done. Beyond ``distinct`` of them the rest
    are only counted (``unlisted``), so a tree that tries names without end cannot fill the supervisor's memory.
    ``remedy`` says what would allow an event; the policy's own says it better than what can be told without one.
    """

    def __init__(self, distinct: int = DISTINCT, remedy: Callable[[Event, Decision], str] = remedy_of) -> None:
        self._distinct = distinct
        self._remedy = remedy
        self._slots: dict[tuple[str, str, str], Slot] = {}
        self._denials: dict[tuple[object, ...], Denial] = {}

    def add(self, event: Event, decision: Decision, effective: str) -> Slot:
        """Count the event; the slot counts others like it."""
        slot = self.slot(event, decision, effective)
        slot.n += 1
        return slot

    def slot(self, event: Event, decision: Decision, effective: str) -> Slot:
        """The count that events like this one belong to, not yet raised."""
        if BLOCK in (effective, decision.action):
            e = event
            what = (
                e.kind,
                e.path,
                e.path2,
                e.host,
                e.ip,
                e.port,
                e.argv,
                e.target,
                e.signal,
                e.syscall if e.kind == "process.deny" else "",
            )
            key = (what, decision.action, decision.rule, decision.where, effective)
            denial = self._denials.get(key)
            if denial is None and len(self._denials) < self._distinct:
                denial = self._denials[key] = Denial(event, decision, effective, self._remedy(event, decision))
            if denial is not None:
                return denial
        plain = (event.kind, decision.action, effective)
        slot = self._slots.get(plain)
        if slot is None:
            slot = self._slots[plain] = Slot(*plain)
        return slot

    @property
    def denials(self) -> list[Denial]:
        """Every distinct denial, in the order of first appearance."""
        return [denial for denial in self._denials.values() if denial.n]

    @property
    def unlisted(self) -> int:
        """How many denials came after the list of distinct ones was full."""
        return sum(slot.n for slot in self._slots.values() if BLOCK in (slot.effective, slot.action))

    @property
    def events(self) -> int:
        """All events counted."""
        return sum(slot.n for slot in self._all())

    @property
    def blocked(self) -> int:
        """Events that were blocked."""
        return sum(slot.n for slot in self._all() if slot.effective == BLOCK)

    @property
    def would_block(self) -> int:
        """Events that were decided to be blocked and went on all the same, as in observe mode."""
        return sum(slot.n for slot in self._all() if slot.action == BLOCK != slot.effective)

    def counts(self) -> dict[str, dict[str, int]]:
        """How many events of each kind got each decision: ``{"file.read": {"allow": 12, "block": 1}}``."""
        return self._grouped("action")

    def effective(self) -> dict[str, dict[str, int]]:
        """The same by what was done instead of what was decided."""
        return self._grouped("effective")

    def _grouped(self, by: str) -> dict[str, dict[str, int]]:
        counts: dict[str, dict[str, int]] = {}
        for slot in self._all():
            if slot.n:
                of_kind = counts.setdefault(slot.kind, {})
                action = getattr(slot, by)
                of_kind[action] = of_kind.get(action, 0) + slot.n
        return {kind: counts[kind] for kind in sorted(counts)}

    def _all(self) -> Iterable[Slot]:
        yield from self._slots.values()
        yield from self._denials.values()
