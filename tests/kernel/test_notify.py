"""The listener: what it does when there is nothing to receive after all."""

from __future__ import annotations

import os
import signal
import time

import pytest

from asl_hooks import bpf, filters, syscalls
from asl_hooks.launch import LaunchSpec, launch
from asl_hooks.notify import Listener

pytestmark = pytest.mark.requires("notify")


def test_a_call_that_was_withdrawn_does_not_stop_the_supervisor() -> None:
    """Between poll and RECV a signal may take the call away, and its thread may never call again."""
    program = bpf.assemble(filters.build(syscalls.native_arch(), {"open"}))
    launched = launch(LaunchSpec(("/bin/sleep", "60"), (("PATH", "/usr/bin:/bin"),), program))
    listener = Listener(launched.listener)
    before = signal.getsignal(signal.SIGALRM)
    try:
        listener.guard()
        for _ in range(2):
            started = time.monotonic()
            assert listener.receive() is None
            assert time.monotonic() - started < 5
        # What comes later is still received: the child's first open, once it may go.
        os.write(launched.go, b"g")
        call = None
        while call is None:
            call = listener.receive()
        assert syscalls.name_of(call.nr, call.arch) in ("open", "openat")
        assert listener.proceed(call)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.write(launched.control, b"e")
        os.waitpid(launched.warden, 0)
        listener.close()
        for fd in (launched.control, launched.status, launched.go, launched.pidfd):
            os.close(fd)
