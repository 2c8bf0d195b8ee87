"""What asking costs: from an answer to the continued call, and what a thousand open questions cost while they wait."""

from __future__ import annotations

import os
import select
import statistics
import subprocess
import sys
import time
from pathlib import Path

ONE_BY_ONE = """
import sys, time
for i in range(int(sys.argv[2])):
    open(sys.argv[1]).close()
    print(time.monotonic(), flush=True)
"""
AT_ONCE = """
import sys, threading
threads = [threading.Thread(target=lambda i=i: open(f"{sys.argv[1]}{i}").close()) for i in range(int(sys.argv[2]))]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
_WAITS_S = 3.0


def tell(supervise: list[str], folder: Path, answers: int, at_once: int) -> None:
    """Print both. *supervise* is the command, *answers* how many are timed, *at_once* how many questions wait."""
    from agent_safety_layer.approvals.question import Answered
    from agent_safety_layer.approvals.sqlite import SqliteApprovalQueue

    asked, policy = folder / "asked", folder / "asks.yaml"
    asked.mkdir()
    for i in range(at_once):
        (asked / f"file{i}").touch()
    policy.write_text(f'version: 1\nextends: [workspace]\nfiles: {{ask: ["{asked}"]}}\napprovals: {{timeout: 10m}}\n')
    words = [*supervise, "-q", "-p", str(policy), "--approve", "queue", "--", sys.executable, "-ISc"]
    queue = SqliteApprovalQueue()

    def open_questions(count: int) -> list[str]:
        poll = select.poll()
        poll.register(queue.fileno(), select.POLLIN)
        while len(found := queue.get_pending()) < count:
            poll.poll(1000)
            queue.hush()
        return [request.id for request in found]

    taken = []
    with subprocess.Popen([*words, ONE_BY_ONE, str(asked / "file0"), str(answers)], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        for _ in range(answers):
            (waiting,) = open_questions(1)
            answered = time.monotonic()
            queue.respond(Answered(waiting, True, "bench"))
            taken.append(float(run.stdout.readline()) - answered)
    print(f"  {'answer to continued call':<44} {statistics.median(taken) * 1e3:8.2f} ms  (to {max(taken) * 1e3:.2f})")
    with subprocess.Popen([*words, AT_ONCE, str(asked / "file"), str(at_once)]) as run:
        waiting_ones = open_questions(at_once)
        before = _cpu_s(run.pid)
        time.sleep(_WAITS_S)
        cost = (_cpu_s(run.pid) - before) / _WAITS_S
        for waiting in waiting_ones:
            queue.respond(Answered(waiting, True, "bench"))
    print(f"  {f'{at_once} open questions, of one CPU':<44} {cost * 100:8.2f} %")
    queue.close()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
