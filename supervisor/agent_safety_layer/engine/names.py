"""Names behind addresses, where the tree shares the machine's network: which allowed name an address was looked up
by."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.events import Event


class Names:
    """Knows no names: every address stands for itself."""

    def name_of(self, ip: str) -> str:
        """The name that *ip* was looked up by, or an empty text."""
        return ""

    def redirect(self, event: Event, address: bytes) -> bytes:
        """The address to use in the place of *address* once *event* is allowed."""
        return address
