"""What this machine lets hold for a run: the kernel's parts of a policy, and what of it nothing here can enforce."""

from __future__ import annotations

import os

from asl_hooks import landlock
from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.engine.kernel import Kernel
    from agent_safety_layer.policy import Limits, Plan, Policy
    from asl_hooks.cgroup import Subtree


@value
class Domain:
    """A Landlock ruleset, open (``fd``; -1 for none), with what its READ and WRITE parts cover."""

    fd: int
    read: tuple[str, ...]
    write: tuple[str, ...]
    log: int = 0

    def close(self) -> None:
        """Give the descriptor up."""
        if self.fd >= 0:
            os.close(self.fd)


class Machine:
    """What of the mechanisms is to be had here, and the kernel's parts of a plan made for it.

    ``without`` names mechanisms to go without, as on a machine that lacks them; ``landlock=3`` is one with ABI 3.
    """

    def __init__(self, without: frozenset[str]) -> None:
        self._without = without
        older = [int(name.partition("=")[2]) for name in without if name.startswith("landlock=")]
        self.abi = 0 if "landlock" in without else landlock.abi(min(older, default=None))
        self.verifies_exec = "ptrace" not in without
        self.isolates = not without & {"userns", "netns"}
        self._lost: tuple[str, ...] = ()  # of the Landlock rights and scopes that were wanted
        self._landlocked = False
        self._bounds_reads = False  # reads go on without being stopped
        self._counts_threads = False  # no cgroup bounds them, so each new one has to be asked about

    def ruleset(self, plan: Plan) -> Domain:
        """The Landlock ruleset for *plan*, where there is Landlock.

        Also where no file is forbidden: a domain bounds signals, and keeps the tree from the memory of processes
        outside, this one's for a start.
        """
        if not self.abi:
            return Domain(-1, (), ())
        rights = [(path, landlock.READ) for path in plan.read]
        rights += [(path, landlock.WRITE) for path in plan.write]
        handled = landlock.READ | landlock.WRITE | landlock.MAKE_DEVICE
        wanted = landlock.Ruleset(fs=handled, scopes=landlock.SCOPES, paths=tuple(rights), log=landlock.LOG_OFF)
        fitting, self._lost = landlock.downgrade(wanted, self.abi)
        fd, skipped = landlock.build(fitting)
        self._landlocked = True
        self._bounds_reads = plan.unseen_reads
        gone = set(skipped)
        read, write = (tuple(path for path in part if path not in gone) for part in (plan.read, plan.write))
        return Domain(fd, read, write, fitting.log)

    def kernel(self) -> Kernel:
        """What the kernel will do for the run; after ``ruleset`` and ``group``."""
        from agent_safety_layer.engine.kernel import COUNTED_TAGS, CREDENTIAL_TAGS, NOTIFIED, Kernel

        scoped = self._landlocked and "scope.signal" not in self._lost
        notified = {*NOTIFIED, *(() if scoped else ("setown",)), *(CREDENTIAL_TAGS if os.geteuid() == 0 else ())}
        if self._counts_threads:
            notified.update(COUNTED_TAGS)
        truncates = self._landlocked and "fs.truncate" not in self._lost
        return Kernel(
            frozenset(notified), scopes_signals=scoped, bounds_truncate=truncates, bounds_reads=self._bounds_reads
        )

    def enforced(self, policy: Policy, backend: str, *, isolated: bool) -> tuple[tuple[str, str], ...]:
        """The mechanisms that hold, with what each enforces. ``isolated``: the tree has a network of its own."""
        found = [
            ("seccomp", "each file, network and exec call is stopped and judged; calls no agent needs are refused")
        ]
        if self._landlocked:
            found.append(("landlock", f"ABI {self.abi}: what is waved through stays inside the allowed folders"))
        if self._bounds_reads:
            found.append(
                (
                    "reads",
                    "files are read within landlock's bounds, unseen: neither that nor a refusal is recorded",
                )
            )
        if backend == "ptrace":
            how = "every task is traced from birth; what an exec really runs is verified before its first instruction"
            found.append(("ptrace", how))
        elif self.verifies_exec:
            found.append(("ptrace", "what an exec really runs is verified before its first instruction"))
        if policy.enforced.guards_network:
            how = "in a network namespace of its own; " if isolated else ""
            found.append(
                ("egress", f"{how}names are resolved and connections dialled for the tree, as the policy says")
            )
        return tuple(found)

    def missing(self, policy: Policy, *, custom: bool = False) -> tuple[str, ...]:
        """What of *policy*, and of Python policies where there are some (``custom``), nothing here can hold."""
        if not self.verifies_exec and (custom or any(layer.exec is not None for layer in policy.enforced.layers)):
            return ("exec rules need ptrace to verify what runs",)
        return ()

    def group(self, limits: Limits, run_id: str) -> Subtree | None:
        """A cgroup for the tree, with its limits set, if a limit asks for one and the machine has it."""
        from agent_safety_layer.limits import wanted_controllers

        wanted = wanted_controllers(limits)
        group = self._subtree(wanted, run_id) if wanted and "cgroup" not in self._without else None
        held = group.holds if group else frozenset()
        self._counts_threads = limits.processes is not None and "pids" not in held
        if group is not None:
            if "memory" in held and limits.memory_bytes is not None:
                group.limit_memory(limits.memory_bytes)
            if "pids" in held and limits.processes is not None:
                group.limit_processes(limits.processes)
            if "cpu" in held and limits.cpu_percent is not None:
                group.limit_cpu(limits.cpu_percent)
        return group

    def _subtree(self, wanted: tuple[str, ...], run_id: str) -> Subtree | None:
        from asl_hooks import cgroup

        own = cgroup.places()
        if not any(place.controllers.intersection(wanted) for place in own):
            return None
        group = cgroup.Subtree(f"asl-{run_id}", own, wanted)
        if not group.holds:
            group.remove()
            return None
        return group
