"""What a decision costs under a policy of 1,000 rules against one of 10, and how long such a policy takes to be ready.

Rules are of every sort, in equal parts: lines of ``files`` (paths, wildcards), of ``network`` and of ``exec``, and
``rules`` with paths and with regular expressions. Paths are different ones each time, so that no answer is remembered;
both policies take turns, and the median of the rounds counts.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

from agent_safety_layer.events import Event
from agent_safety_layer.policy import Policy, State, decide, load, load_text
from agent_safety_layer.policy.decision import Judge

HERE = {"WORKSPACE": "/home/u/w", "HOME": "/home/u", "TMP": "/tmp/run"}
ROUNDS = 9
EVENTS = 1500
SORTS: tuple[Callable[[int], tuple[str, str]], ...] = (
    lambda n: ("files.block", f"/srv/team{n % 37}/project{n}/secrets"),
    lambda n: ("files.write", "${WORKSPACE}" + f"/part{n}/**/*.log{n}"),
    lambda n: ("files.block", "${WORKSPACE}" + f"/**/private{n}.*"),
    lambda n: ("network.allow", f"api{n}.example{n % 11}.com:443"),
    lambda n: ("exec.block", f"tool{n} push*"),
    lambda n: ("rules", f'{{name: path{n}, on: file.write, path: "/data/set{n}/*.csv", action: audit}}'),
    lambda n: ("rules", f"{{name: text{n}, on: process.exec, match: 'curl .*host{n}\\.example', action: block}}"),
)


def text(count: int) -> str:
    """A policy of *count* rules."""
    lists: dict[str, list[str]] = {"files.read": ["/"], "files.write": ["${WORKSPACE}"]}
    for number in range(count):
        key, line = SORTS[number % len(SORTS)](number)
        lists.setdefault(key, []).append(line)
    lines = ["version: 1"]
    for section in ("files", "network", "exec"):
        lines.append(f"{section}:")
        for key, entries in lists.items():
            if key.startswith(f"{section}."):
                lines += [f"  {key.partition('.')[2]}:", *(f'    - "{entry}"' for entry in entries)]
    return "\n".join([*lines, "rules:", *(f"  - {rule}" for rule in lists.get("rules", []))]) + "\n"


def paths(turn: int) -> Iterator[Event]:
    """Reads and writes of paths that were not asked about before, some of which rules are about."""
    for number in range(EVENTS):
        place = ("/home/u/w/src/package", "/usr/lib/python3/dist", "/srv/team3/project40/x", "/data/set12")[number % 4]
        yield Event("file.write" if number % 3 else "file.read", pid=1, path=f"{place}/module{turn}/file{number}.py")


def commands(turn: int) -> Iterator[Event]:
    """Executions."""
    for number in range(EVENTS):
        argv = ("git", "log", f"--max-count={turn}{number}")
        yield Event("process.exec", pid=1, path="/usr/bin/git", argv=argv)


def each_us(policy: Policy, events: list[Event]) -> float:
    """Microseconds for one decision."""
    state = State()
    started = time.perf_counter()
    for event in events:
        decide(policy, state, event)
    return (time.perf_counter() - started) / len(events) * 1e6


def ready(policy: Policy) -> None:
    """Compile the policy, down to the first decision about each kind of operation."""
    judge = Judge(policy)
    for event in (Event("file.read", path="/a"), Event("file.write", path="/a"), Event("process.exec", argv=("a",))):
        judge.decide(State(), event)
    judge.decide(State(), Event("net.connect", host="a", port=1))


def seconds(work: Callable[[], object]) -> float:
    """The median time of *work*."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    small, large = text(10), text(1000)
    few, many = (load_text(given, variables=HERE) for given in (small, large))
    for what, make in (("path", paths), ("command", commands)):
        costs: list[tuple[float, float]] = []
        for turn in range(ROUNDS + 1):
            events = list(make(turn))
            pair = each_us(few, events), each_us(many, events)
            costs += [pair] if turn else []
        below, above = (statistics.median(side) for side in zip(*costs, strict=True))
        ratio = statistics.median(more / less for less, more in costs)
        print(f"a {what}: {below:.1f} us with 10 rules, {above:.1f} us with 1,000: {ratio:.2f} times as long")
    print(f"made ready to decide, 1,000 rules: {seconds(lambda: ready(many)) * 1e3:.0f} ms")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "policy.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(large)
        read = seconds(lambda: load((path,), variables=HERE))
        load((path,), variables=HERE, cache=folder)
        again = seconds(lambda: load((path,), variables=HERE, cache=folder))
    print(f"loaded, as in every run but a policy's first: {again * 1e3:.0f} ms (the first: {read * 1e3:.0f} ms)")


if __name__ == "__main__":
    main()
