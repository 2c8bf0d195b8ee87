"""Signals that arrive in the middle of a call: only those calls end early that do so without a supervisor."""

from __future__ import annotations

import pytest

from tests.compat.place import Place
from tests.compat.test_python import program

pytestmark = pytest.mark.requires("notify", "landlock")

# A thread waits interruptibly until the supervisor has taken up its call; a signal then ends the call with EINTR if its
# handler was installed without SA_RESTART, as shells' handlers of SIGCHLD are. fork(2) never does that, and shells do
# not expect it, so forks are no notified calls unless they must be counted.
FORKS = """
import os, signal
signal.signal(signal.SIGCHLD, lambda *_: None)
interrupted = 0
for _ in range(150):
    for _ in range(3):
        try:
            if os.fork() == 0: os._exit(0)
        except InterruptedError: interrupted += 1
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0: break
        except ChildProcessError: break
print(interrupted)
"""


def test_forks_that_signals_do_not_end(waved: Place) -> None:
    waved.same('"$PYTHON" -S program.py', program(FORKS))
