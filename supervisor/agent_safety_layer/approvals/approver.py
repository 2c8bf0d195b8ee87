"""Who answers a run's questions, as ``--approve`` says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

from agent_safety_layer.approvals.desk import Desk, Run, lineage_of
from agent_safety_layer.approvals.overlay import Overlay, overlay_path
from agent_safety_layer.approvals.question import here
from agent_safety_layer.errors import UsageError
from agent_safety_layer.state import make_private

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.approvals.exchange import Exchange
    from agent_safety_layer.engine.gate import Gate
    from agent_safety_layer.engine.recorder import Recorder
    from agent_safety_layer.policy import Policy
    from agent_safety_layer.terminal import Stderr

    Later = Callable[[Callable[[], None]], None]


class Approver(Protocol):
    """Somebody who can be asked: ``gate`` is how. ``asked`` are paths that the gate wants to be asked about itself;
    ``hidden`` paths, ``hosts`` and ``variables`` lead to the queue and are not for the tree.
    """

    asked: tuple[str, ...]
    hidden: tuple[str, ...]
    hosts: tuple[str, ...]
    variables: tuple[str, ...]

    def gate(
        self, policy: Policy, later: Later, recorder: Recorder, warden: int, about: dict[str, Any], trace: str
    ) -> Gate:
        """The gate of one run, once its tree is there."""


def approver(how: str, state_dir: str, stderr: Stderr) -> Approver:
    """Who is meant by *how*: ``tty``, ``queue`` or the URL of a shared queue. ``AslError`` when nobody can be asked so.

    Establishes: the folder for approvals is there, ours alone; what was allowed for always can be read.
    """
    return _AtTerminal(state_dir, stderr) if how == "tty" else _ByQueue(how, state_dir, stderr)


class Any_:
    """What all approvers have in common."""

    asked: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()

    def __init__(self, state_dir: str, stderr: Stderr) -> None:
        make_private(os.path.join(state_dir, "approvals"))
        Overlay(overlay_path(state_dir))
        self._state_dir = state_dir
        self._stderr = stderr

    def _desk(
        self,
        queue: Exchange,
        policy: Policy,
        later: Later,
        recorder: Recorder,
        warden: int,
        about: dict[str, Any],
        trace: str,
    ) -> Desk:
        _more_descriptors()
        run = Run(
            about={**about, **here()},
            timeout_s=policy.approvals.timeout_s,
            silence_allows=policy.approvals.on_timeout == "allow",
            kills=policy.on_violation == "kill",
            trace=trace,
            overlay=overlay_path(self._state_dir),
            lineage=lambda pid: lineage_of(pid, warden),
            tell=self._stderr.write,
        )
        return Desk(queue, run, recorder, later)


class _ByQueue(Any_):
    """Whoever looks at a queue."""

    def __init__(self, how: str, state_dir: str, stderr: Stderr) -> None:
        super().__init__(state_dir, stderr)
        from agent_safety_layer.approvals.queues import OWN, open_queue

        self._queue = open_queue(how, os.path.join(state_dir, "approvals"))
        if how != OWN:
            from agent_safety_layer.approvals.postgresql import VARIABLES, PostgresApprovalQueue, places

            assert isinstance(self._queue, PostgresApprovalQueue)
            self.hidden, self.hosts = places(self._queue)
            self.variables = VARIABLES

    def gate(
        self, policy: Policy, later: Later, recorder: Recorder, warden: int, about: dict[str, Any], trace: str
    ) -> Gate:
        """See ``Approver``."""
        return self._desk(self._queue, policy, later, recorder, warden, about, trace)


class _AtTerminal(Any_):
    """Whoever sits at the run's terminal."""

    def __init__(self, state_dir: str, stderr: Stderr) -> None:
        super().__init__(state_dir, stderr)
        from agent_safety_layer.approvals.terminal import own_terminal

        try:
            self._path = own_terminal()
        except OSError as error:
            raise UsageError(
                f"--approve tty needs a terminal, and there is none ({error.strerror}).",
                remedy="Run it from a terminal, or with --approve queue or --approve deny.",
            ) from error
        self.asked = tuple({self._path, "/dev/tty"})

    def gate(
        self, policy: Policy, later: Later, recorder: Recorder, warden: int, about: dict[str, Any], trace: str
    ) -> Gate:
        """See ``Approver``."""
        from agent_safety_layer.approvals.terminal import TerminalGate, TerminalQueue

        queue = TerminalQueue(self._path, warden, self._stderr)
        desk = self._desk(queue, policy, later, recorder, warden, about, trace)
        return TerminalGate(desk, queue, self.asked, later)


def _more_descriptors() -> None:
    """A call that waits holds what it is about open: as many as there can be. The tree was started before this."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if most > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
