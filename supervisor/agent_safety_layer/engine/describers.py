"""Which describer answers which call: found by the call's number, imported and made when first needed.

A method is named like the group of calls (tag of ``asl_hooks.syscalls``) that it describes. Most runs need few groups,
and each import is paid for before the child gets to run.
"""

from __future__ import annotations

from agent_safety_layer.engine import kernel as groups
from asl_hooks import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent_safety_layer.engine.egress import Egress
    from agent_safety_layer.engine.entries import Entries
    from agent_safety_layer.engine.objects import Objects
    from agent_safety_layer.engine.operation import Operation
    from agent_safety_layer.engine.view import View
    from asl_hooks.backend import Call
    from asl_hooks.processes import Process

_HOMES = {
    **dict.fromkeys(groups.OPEN_TAGS, "opens"),
    **dict.fromkeys(groups.ENTRY_TAGS, "entries"),
    **dict.fromkeys(groups.METADATA_TAGS, "metadata"),
    **dict.fromkeys(groups.NETWORK_TAGS, "network"),
    **dict.fromkeys(groups.EXEC_TAGS, "execs"),
    **dict.fromkeys(groups.SIGNAL_TAGS, "signals"),
    **dict.fromkeys((*groups.IPC_TAGS, *groups.QUEUE_TAGS), "ipc"),
}


class Describers:
    """The describers of one run."""

    def __init__(self, view: View, egress: Egress) -> None:
        self._view = view
        self._egress = egress
        self._made: dict[str, Any] = {}
        self._found: dict[int, Callable[[Call, Process], Operation] | None] = {}

    def find(self, nr: int) -> Callable[[Call, Process], Operation] | None:
        """What describes call *nr* of this machine; None when no policy has a say in it."""
        try:
            return self._found[nr]
        except KeyError:
            found = self._found[nr] = self._look(nr)
            return found

    def _look(self, nr: int) -> Callable[[Call, Process], Operation] | None:
        name = syscalls.name_of(nr, syscalls.native_arch())
        for tag in syscalls.spec(name).tags:
            home = _HOMES.get(tag)
            if home is not None:
                method = getattr(getattr(self, home)(), tag)
                return lambda call, process: method(call, process, name)
        return None

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def objects(self) -> Objects:
        """What finds objects, shared by those that hold some."""
        from agent_safety_layer.engine.objects import Objects

        return self._once("objects", lambda: Objects(self._view))  # type: ignore[no-any-return]

    def opens(self) -> Any:
        """The open family."""
        from agent_safety_layer.engine.opens import Opens

        return self._once("opens", lambda: Opens(self._view, self.objects()))

    def entries(self) -> Entries:
        """Making, removing and moving names."""
        from agent_safety_layer.engine.entries import Entries

        return self._once("entries", lambda: Entries(self._view, self.objects()))  # type: ignore[no-any-return]

    def metadata(self) -> Any:
        """Changing what is there."""
        from agent_safety_layer.engine.metadata import Metadata

        return self._once("metadata", lambda: Metadata(self._view, self.objects()))

    def network(self) -> Any:
        """Sockets."""
        from agent_safety_layer.engine.network import Network

        return self._once("network", lambda: Network(self._view, self._egress))

    def execs(self) -> Any:
        """Exec."""
        from agent_safety_layer.engine.execs import Execs

        return self._once("execs", lambda: Execs(self._view))

    def signals(self) -> Any:
        """Signals."""
        from agent_safety_layer.engine.signals import Signals

        return self._once("signals", lambda: Signals(self._view))

    def ipc(self) -> Any:
        """System V IPC."""
        from agent_safety_layer.engine.ipc import Ipc

        return self._once("ipc", lambda: Ipc(self._view, self.objects()))

    def close(self) -> None:
        """Remove what was made for the tree and would outlive it."""
        if "ipc" in self._made:
            self._made["ipc"].close()
