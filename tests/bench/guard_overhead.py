"""What a guard costs a call: ``python tests/bench/guard_overhead.py``. Prints microseconds; asserts nothing."""

from __future__ import annotations

import asyncio
import time
import timeit
from collections.abc import Callable

from agent_safety_layer import PathBoundary, Policy, SafetyLayer

CALLS = 20_000


def run(cmd: str, timeout: int = 30) -> str:
    return cmd


async def arun(cmd: str, timeout: int = 30) -> str:
    return cmd


def policies() -> list[Policy]:
    """Ten, of which three cannot be looked for in one line."""
    words = ("DROP\\s+TABLE", "TRUNCATE\\s+TABLE", "mkfs|fdisk|parted", "sudo", "curl.*\\|\\s*sh", "(prod|live)_db")
    found = [Policy.block_pattern(word, "no") for word in words]
    found += [Policy.block_pattern(word, "no") for word in ("rm\\s+-rf\\s+/(\\s|$)", "^shutdown", "reboot$")]
    return [*found, Policy.require_approval("send_email")]


def micros(call: Callable[[], object]) -> float:
    # CPU time: what else the machine does is not our cost.
    return min(timeit.repeat(call, number=CALLS, repeat=9, timer=time.process_time)) / CALLS * 1e6


def main() -> None:
    bare = micros(lambda: run("ls -la /tmp"))
    for title, layer in (
        ("no policies", SafetyLayer(trace=False)),
        ("ten policies", SafetyLayer(policies(), trace=False)),
        ("ten policies, traced", SafetyLayer(policies())),
        ("ten policies, traced, a path boundary", SafetyLayer(policies(), [PathBoundary(["/tmp"])])),
    ):
        guarded = layer.guard(run)
        print(f"{title:40} {micros(lambda: guarded('ls -la /tmp')) - bare:6.2f} µs")  # noqa: B023
        layer.reset_trace()

    async def many() -> float:
        guarded = SafetyLayer(policies()).guard(arun)
        start = time.process_time()
        for _ in range(CALLS):
            await guarded("ls -la /tmp")
        return (time.process_time() - start) / CALLS * 1e6

    print(f"{'ten policies, traced, async':40} {asyncio.run(many()):6.2f} µs")


if __name__ == "__main__":
    main()
