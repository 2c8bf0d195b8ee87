"""Bells: whoever holds one hears it, whoever is gone is forgotten."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

from agent_safety_layer.approvals.bells import Bell, is_heard, ring


def heard(bell: Bell, wait_ms: int = 0) -> bool:
    """Whether it has rung."""
    poll = select.poll()
    poll.register(bell.fileno(), select.POLLIN)
    return bool(poll.poll(wait_ms))


def test_a_bell_is_heard_until_it_is_closed(tmp_path: Path) -> None:
    folder = str(tmp_path / "bells")
    bell = Bell(folder)
    assert is_heard(folder, bell.name) and not heard(bell)
    ring(folder)
    assert heard(bell)
    bell.hush()
    assert not heard(bell)
    bell.close()
    assert not is_heard(folder, bell.name) and os.listdir(folder) == []


def test_what_nobody_holds_is_taken_away(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "left")
    bell = Bell(str(tmp_path), "right")
    ring(str(tmp_path))
    assert os.listdir(tmp_path) == ["right"] and heard(bell)
    bell.close()


def test_no_bell_is_lost_to_those_who_ring_while_it_is_made(tmp_path: Path) -> None:
    folder = str(tmp_path)
    code = "import sys\nfrom agent_safety_layer.approvals.bells import ring\nwhile True: ring(sys.argv[1])"
    ringer = subprocess.Popen(
        [sys.executable, "-c", code, folder], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    try:
        for _ in range(2000):
            bell = Bell(folder)
            assert heard(bell, 30_000)
            bell.close()
    finally:
        ringer.kill()
        ringer.wait()
    assert os.listdir(folder) == []
