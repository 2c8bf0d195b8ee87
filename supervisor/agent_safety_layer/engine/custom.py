"""Python policies, as the engine sees them: judges in another process, asked about each event while its call waits.

What they may be asked about is never waved through on arguments that the tracee can change afterwards: with such
policies every path operation is performed here (``session``), what an exec became must be what they were asked about
(``execs``), and the egress process asks them about what it would really dial (``egress``).
"""

from __future__ import annotations

from agent_safety_layer.events import RANK, Decision

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from agent_safety_layer.events import Event

    Said = Callable[[Decision | None], None]
else:
    Protocol = object


class Custom(Protocol):
    """Somebody with policies of their own. ``binding`` is false where they only observe."""

    binding: bool

    def ask(self, events: tuple[Event, ...], said: Said) -> None:
        """Have the events judged. ``said`` is called once, later, from the loop's thread, with the strictest answer;
        with None when no policy is about them.
        """


def stricter(decision: Decision, said: Decision | None) -> Decision:
    """The stricter of a policy file's decision and what the Python policies *said*; the former when they are equal."""
    return said if said is not None and RANK[said.action] > RANK[decision.action] else decision
