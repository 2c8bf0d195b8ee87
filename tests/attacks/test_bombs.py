"""Outliving the run: more processes, threads, memory, files or output than it was given."""

from __future__ import annotations

import sys

import pytest

from tests.attacks.scene import Scene

# Limits, what goes past them by a step at a time, and how many steps that may be; sixty harm no machine.
BOMBS = {
    "processes": ("processes: 20", "if not os.fork(): time.sleep(30)", 20),
    "threads": ("processes: 20", "_thread.start_new_thread(time.sleep, (30,))", 20),
    "memory": ("memory: 150MiB", "held.append(b'x' * (10 << 20))", 20),
    "memory of no process": ("memory: 150MiB", "os.write(memfd, b'x' * (10 << 20))", 20),
    "a file": ("file_size: 1MiB", "os.pwrite(file, bytes(1 << 17), i << 17)", 8),
    "descriptors": ("open_files: 40", "os.dup(0)", 40),
    "output": ("output: 2KiB", "print('x' * 99)", 30),
}
CODE = """
import _thread, os, signal, sys, time
held, memfd, file = [], os.memfd_create("x"), os.open("large", os.O_CREAT | os.O_WRONLY, 0o600)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    for i in range(60):
        {step}
        print(i + 1, flush=True)
except (OSError, RuntimeError): pass
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.killpg(0, signal.SIGTERM)  # what it has started
"""


@pytest.mark.parametrize("scene", ["waved", "userns"], indirect=True)
@pytest.mark.parametrize("bomb", BOMBS)
def test_no_further_than_its_limit(scene: Scene, bomb: str) -> None:
    limits, step, most = BOMBS[bomb]
    program = (sys.executable, "-S", "-c", CODE.format(step=step))
    policy = scene.policy()
    policy.write_text(policy.read_text() + f"limits: {{{limits}, grace: 200ms}}\n")

    def steps(out: str) -> int:
        return max(int(line) for line in out.splitlines() if line.isdigit())

    done = scene.bound("setsid", "-w", *program, policy=policy)
    assert steps(done.stdout) <= most, done.stderr
    assert steps(scene.free("setsid", "-w", *program).stdout) == 60
