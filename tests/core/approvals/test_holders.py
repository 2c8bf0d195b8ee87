"""Who shares the terminal does nothing while a question stands on it, and if it does, that is noticed."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from agent_safety_layer.approvals.terminal import Holders
from asl_hooks.warden import descendants

PATIENCE_S = 30.0


@pytest.fixture
def device() -> Iterator[tuple[int, int]]:
    """A terminal: the program's side, and its device number."""
    ours, theirs = pty.openpty()
    yield theirs, os.stat(os.ttyname(theirs)).st_rdev
    os.close(ours)
    os.close(theirs)


TREE = """
import os, signal, sys
keeps, said = map(int, sys.argv[1:])
child = os.fork()
if child:
    os.close(keeps)
    os.waitpid(child, 0)
    os._exit(0)
signal.signal(signal.SIGCONT, lambda *_: os.write(said, b"ran"))
os.write(said, b"ready")
while True:
    signal.pause()
"""


@contextmanager
def tree(keeps: int) -> Iterator[tuple[int, int, int]]:
    """A warden, and a child that keeps a descriptor; what is heard from the child, which says when it goes on."""
    heard, said = os.pipe()
    argv = [sys.executable, "-S", "-c", TREE, str(keeps), str(said)]
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    with subprocess.Popen(argv, pass_fds=(keeps, said), **quiet) as warden:
        try:
            assert os.read(heard, 9) == b"ready"
            (child,) = descendants(warden.pid)
            yield warden.pid, child, heard
        finally:
            for pid in descendants(warden.pid):
                os.kill(pid, signal.SIGKILL)
            os.close(heard)
            os.close(said)


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def is_stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


def test_who_runs_in_between_is_noticed_though_stopped_again(device: tuple[int, int]) -> None:
    with tree(device[0]) as (warden, child, heard):
        holders = Holders(warden, {device[1]})
        assert not holders.sweep()
        until(lambda: is_stopped(child))
        limit = time.monotonic() + PATIENCE_S
        while not holders.sweep():
            assert time.monotonic() < limit
        assert holders.sweep(), "nobody ran"
        os.kill(child, signal.SIGCONT)
        assert os.read(heard, 9) == b"ran"
        os.kill(child, signal.SIGSTOP)
        until(lambda: is_stopped(child))
        assert not holders.sweep()
        holders.release()
        assert os.read(heard, 9) == b"ran"


def test_who_can_be_handed_the_terminal_waits_too(device: tuple[int, int]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, tree(theirs.fileno()) as (warden, child, _):
        Holders(warden, {device[1]}).sweep()
        until(lambda: is_stopped(child))
