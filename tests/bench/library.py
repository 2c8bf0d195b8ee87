"""What the library costs a warm process: ``python tests/bench/library.py``. Prints milliseconds; asserts nothing."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

from agent_safety_layer import PathBoundary, SafetyLayer, Supervisor


def fork() -> None:
    """Fork a child that exits at once, and wait for it."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def measured(count: int) -> dict[str, list[float]]:
    """Seconds of each, taking turns, over a bare fork for the sandboxed calls; two rounds first that do not count."""
    here = os.getcwd()
    bounded = SafetyLayer(boundaries=[PathBoundary([here])]).guard(os.getpid, sandbox=True)
    profile = SafetyLayer().guard(os.getpid, sandbox=True)
    supervisor = Supervisor()
    calls: dict[str, Callable[[], object]] = {
        "bare fork and wait": fork,
        "sandboxed call, one folder, over a fork": bounded,
        "sandboxed call, default profile, over a fork": profile,
        "true, Supervisor().run": lambda: supervisor.run(["true"]),
    }
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(count + 2):
        bare = 0.0
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            took = time.perf_counter() - started
            bare = bare or took
            if turn >= 2:
                taken[name].append(took - bare if "over a fork" in name else took)
    return taken


if __name__ == "__main__":
    for name, seconds in measured(20).items():
        print(f"{name:<44} {statistics.median(seconds) * 1e3:8.2f} ms  (from {min(seconds) * 1e3:.2f})")
