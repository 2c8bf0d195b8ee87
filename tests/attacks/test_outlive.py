"""Outliving the run: nothing of the tree lives after it, nor after a kill -9 of the supervisor."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from tests.attacks.scene import Scene
from tests.attacks.test_stall import _alive

CODE = r"""
import ctypes, os, signal, sys, time
def daemon(act):
    if os.fork(): return
    os.setsid()
    if os.fork(): os._exit(0)
    for number in range(1, 65):
        try: signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError): pass
    act(); os._exit(0)
def sleeps():
    while True: time.sleep(60)
def stops(): os.kill(os.getpid(), signal.SIGSTOP); sleeps()
def forks():
    parent = os.getppid()
    while True:
        try:
            if os.fork() == 0: time.sleep(0.02); os._exit(0)
            os.wait()
        except OSError: pass
def subreaper():
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    if not os.fork(): sleeps()
    sleeps()
def hops():  # a new process each time, the old one gone
    while True:
        try:
            if os.fork(): os._exit(0)
        except OSError: time.sleep(0.01)
for act in (sleeps, stops, forks, subreaper, hops): daemon(act)
time.sleep(0.3); open("going", "w").close()
if sys.argv[1] == "stay": sleeps()
"""


def _gone(scene: Scene) -> bool:
    until = time.monotonic() + 6
    while time.monotonic() < until:
        if not _alive(str(scene.ws)):
            return True
        time.sleep(0.05)
    return False


def _end(scene: Scene) -> None:
    for pid in _alive(str(scene.ws)):
        os.kill(int(pid), signal.SIGKILL)


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_nothing_lives_on(scene: Scene, how: str) -> None:
    try:
        if how == "exit":
            done = scene.bound(sys.executable, "-c", CODE, "go")
            assert (scene.ws / "going").exists(), done.stderr
        else:
            process = scene.start(sys.executable, "-c", CODE, "stay")
            while not (scene.ws / "going").exists():
                assert process.poll() is None
                time.sleep(0.02)
            assert len(_alive(str(scene.ws))) > 5
            process.kill()
            process.wait()
        assert _gone(scene)
    finally:
        _end(scene)


@pytest.mark.parametrize("scene", ["waved"], indirect=True)
def test_control(scene: Scene) -> None:
    code = CODE.replace("(sleeps, stops, forks, subreaper, hops)", "(sleeps, stops)")
    try:
        scene.free("/bin/sh", "-c", '"$0" -c "$1" go >/dev/null 2>&1', sys.executable, code)
        assert len(_alive(str(scene.ws))) >= 2, "without a supervisor they live on"
    finally:
        _end(scene)
