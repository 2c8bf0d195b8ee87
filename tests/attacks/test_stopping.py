"""Against the supervisor: stopped by way of the terminal, by what its group reads and writes in the background."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys

import pytest

from tests.attacks.scene import Scene

# The leader of the terminal's session starts the command in a group of its own, in the background.
LEADER = r"""
import json, os, signal, sys
os.close(os.open(os.ttyname(0), os.O_RDWR))  # which makes it the session's
pid = os.fork()
if not pid:
    os.setpgid(0, 0)
    os.execvp(sys.argv[3], sys.argv[3:])
stopped = []
signal.signal(signal.SIGHUP, signal.SIG_IGN)
while True:
    _, status = os.waitpid(pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        break
    stopped.append(os.WSTOPSIG(status))
    if sys.argv[2] == "kill":
        os.killpg(pid, signal.SIGKILL)
with open(sys.argv[1], "w") as file:
    json.dump([stopped, status], file)
"""
READS = "import os; tty = os.open('/dev/tty', os.O_RDWR); open('tried', 'w').close(); os.read(tty, 1)"
WRITES = (
    "import os, termios; tty = os.open('/dev/tty', os.O_RDWR); open('tried', 'w').close();"
    "a = termios.tcgetattr(tty); termios.tcsetattr(tty, termios.TCSANOW, a)"
)


@pytest.mark.parametrize("scene", ["waved"], indirect=True)
@pytest.mark.parametrize(("code", "number"), [(READS, signal.SIGTTIN), (WRITES, signal.SIGTTOU)])
def test_terminal_stops(scene: Scene, code: str, number: int) -> None:
    attack = [sys.executable, "-c", code]
    stopped, status = _on_terminal(scene, scene.command(attack, "--timeout", "1s"), "wait")
    assert (scene.ws / "tried").exists()
    assert set(stopped) <= {signal.SIGSTOP}, "by its own doing"
    assert os.waitstatus_to_exitcode(status) == 124, "the time limit holds though nobody continues it"
    stopped, _ = _on_terminal(scene, attack, "kill")
    assert number in stopped, "without a supervisor it works"


def _on_terminal(scene: Scene, command: list[str], then: str) -> tuple[list[int], int]:
    (scene.ws / "tried").unlink(missing_ok=True)
    ours, theirs = pty.openpty()
    told = scene.base / "told"
    leader = subprocess.Popen(
        [sys.executable, "-c", LEADER, told, then, *command],
        cwd=scene.ws,
        env=scene.environment(),
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        leader.wait(60)
    finally:
        leader.kill()
        leader.wait()
        os.close(theirs)
        os.close(ours)
    stopped, status = json.loads(told.read_text())
    return stopped, status
