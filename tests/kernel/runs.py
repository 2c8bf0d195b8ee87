"""Runs of ``asl-supervise`` in tests: started, looked for, waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.requirements import BACKEND

CHECKOUT = Path(__file__).resolve().parents[2]
HOSTILE = Path(__file__).with_name("hostile.py")


def environment(state: Path, **more: str) -> dict[str, str]:
    """The variables of a run that keeps its state below *state*."""
    path = os.pathsep.join((str(CHECKOUT / "supervisor"), str(CHECKOUT / "hooks"), os.environ.get("PYTHONPATH", "")))
    return {**os.environ, "PYTHONPATH": path, "ASL_STATE": str(state), "PYTHONDONTWRITEBYTECODE": "1", **more}


def command(*words: str | Path, without: str = "") -> list[str]:
    """The command line of ``asl-supervise WORDS``, on a machine that lacks the mechanisms in *without*."""
    main = (
        f"from agent_safety_layer.cli.supervise import main; main(frozenset({without.split(',') if without else []}))"
    )
    return [sys.executable, "-c", main, *BACKEND, *map(str, words)]


def marked(mark: str, *, ours: bool = True) -> list[int]:
    """The living processes, zombies apart, whose command line has *mark* in it; with or without the supervisor, its
    warden, and the child before its exec, which have the same one.
    """
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                line = file.read()
            with open(f"/proc/{name}/stat", "rb") as file:
                state = file.read().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        if mark.encode() in line and state not in (b"Z", b"X") and (ours or b"agent_safety_layer" not in line):
            found.append(int(name))
    return found


def gone(mark: str, within_s: float = 60) -> list[int]:
    """What is left of the processes with *mark* when none is, or when the time is over."""
    until = time.monotonic() + within_s
    while (left := marked(mark)) and time.monotonic() < until:
        time.sleep(0.005)
    return left


def children(pid: int) -> list[int]:
    """The children of process *pid*."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def supervise(state: Path, *words: str | Path, without: str = "", **options: object) -> subprocess.Popen[str]:
    """A run that has begun, its output piped unless *options* (of ``Popen``) say otherwise."""
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment(state), **options}
    return subprocess.Popen(command(*words, without=without), **given)  # type: ignore[call-overload, no-any-return]
