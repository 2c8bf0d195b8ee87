"""Against the supervisor: a person's yes to one question is not a yes to the next; and what a question shows."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time

from tests.attacks.scene import MARK, Scene

CODE = r"""
import os, sys
got = []
for _ in range(3):
    try: got.append(os.read(os.open("../asked/\x1b[2Jname", os.O_RDONLY), 99))
    except OSError: got.append(None)
open("loot", "w").write(repr(got))
"""


def test_yes_is_for_once(scene: Scene) -> None:
    asked = scene.base / "asked"
    asked.mkdir()
    (asked / "\x1b[2Jname").write_text(MARK)
    policy = scene.base / "asking.yaml"
    policy.write_text(
        f'version: 1\nname: asking\nfiles: {{read: ["/"], write: ["${{WORKSPACE}}"], ask: ["{asked}"]}}\n'
    )
    command = scene.command([sys.executable, "-c", CODE], "--approve", "tty", policy=policy)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(scene.ws)
        os.execve(command[0], command, scene.environment())
    shown, answers, until = b"", [b"y\n", b"n\n", b"n\n"], time.monotonic() + 20
    while time.monotonic() < until:
        ready, _, _ = select.select([terminal], [], [], 0.2)
        if ready:
            try:
                data = os.read(terminal, 4096)
            except OSError:
                break
            if not data:
                break
            shown += data
        while answers and shown.count(b"y + Enter within") > 3 - len(answers):
            os.write(terminal, answers.pop(0))
    if os.waitpid(pid, os.WNOHANG) == (0, 0):
        if answers:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    os.close(terminal)
    assert not answers, f"it asked {3 - len(answers)} times: {shown!r}"
    assert scene.loot.read_text() == repr([MARK.encode(), None, None]), shown
    assert b"\x1b[2J" not in shown
