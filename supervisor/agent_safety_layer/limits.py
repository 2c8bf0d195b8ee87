"""Limits: what is measured, against what, and what the kernel is told to hold by itself."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.policy import Limits

GRACE_S = 5.0


def rlimits(limits: Limits) -> tuple[tuple[int, int, int], ...]:
    """The resource limits of each process, as ``(which, soft, hard)``; never a core file."""
    import resource

    wanted = (
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_FSIZE, limits.file_size_bytes),
        (resource.RLIMIT_CPU, None if limits.cpu_time_s is None else int(limits.cpu_time_s) + 1),
    )
    chosen = [(which, amount, amount) for which, amount in wanted if amount is not None]
    return (*chosen, (resource.RLIMIT_CORE, 0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
