"""What many processes cost the supervisor: its resident memory and its descriptors before, during and after."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Says "ready", then at each newline does the next thing and says that it is done.
AGENT = r"""
import os, signal, sys
short, at_once = int(sys.argv[1]), int(sys.argv[2])
def say(word):
    print(word, flush=True)
    sys.stdin.readline()
def known():
    os.close(os.open("/etc/passwd", os.O_RDONLY))
for _ in range(50):
    if os.fork() == 0: known(); os._exit(0)
    os.wait()
say("ready")
for _ in range(short):
    if os.fork() == 0: known(); os._exit(0)
    os.wait()
say("short-lived")
r, w = os.pipe()
pids = []
for _ in range(at_once):
    pid = os.fork()
    if pid == 0:
        known()
        os.write(w, b"x")
        signal.pause()
    pids.append(pid)
left = at_once
while left: left -= len(os.read(r, 4096))
say("at once")
for pid in pids: os.kill(pid, signal.SIGKILL)
for pid in pids: os.waitpid(pid, 0)
known()
say("gone")
"""
STEPS = ("ready", "short-lived", "at once", "gone")


def footprints(
    command: list[str], agent: list[str], short: int, at_once: int, **options: object
) -> dict[str, tuple[float, int]]:
    """Resident MiB and open descriptors of the supervisor at each step of the agent, run as ``COMMAND AGENT``."""
    words = [*command, *agent, "-c", AGENT, str(short), str(at_once)]
    found = {}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options) as run:  # type: ignore[call-overload]
        assert run.stdin is not None
        assert run.stdout is not None
        for step in STEPS:
            said = run.stdout.readline().strip()
            assert said == step, f"{step} expected, {said!r} found"
            found[step] = footprint(run.pid)
            run.stdin.write("\n")
            run.stdin.flush()
    assert run.returncode == 0
    return found


def footprint(pid: int) -> tuple[float, int]:
    """Resident memory in MiB and number of open descriptors of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return resident / 1024, len(os.listdir(f"/proc/{pid}/fd"))


def tell(supervise: list[str], short: int, at_once: int) -> None:
    """Print the figures."""
    found = footprints(supervise, [sys.executable, "-S"], short, at_once)
    named = {
        "ready": "after 50 processes",
        "short-lived": f"after {short} short-lived",
        "at once": f"with {at_once} at once",
    }
    for step, (resident, descriptors) in found.items():
        print(f"  {named.get(step, 'when they are gone'):<34} {resident:8.1f} MiB resident, {descriptors} descriptors")
