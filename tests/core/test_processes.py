"""What is known of a process that made a call: this one serves as it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator

import pytest

from asl_hooks import processes
from asl_hooks._abi import linux
from asl_hooks.processes import Processes


@pytest.fixture
def known() -> Iterator[Processes]:
    made = Processes()
    yield made
    made.close()


def test_a_process_is_known_with_what_it_is_and_who_it_acts_as(known: Processes) -> None:
    process, new = known.find(os.getpid())
    assert new
    assert (process.pid, process.ppid) == (os.getpid(), os.getppid())
    assert process.exe == os.path.realpath(sys.executable)
    assert (process.uid, process.gid) == (os.geteuid(), os.getegid())
    assert sorted(process.groups) == sorted(os.getgroups())
    assert known.find(os.getpid()) == (process, False)
    assert known.started == 1


def test_the_umask_is_that_of_the_first_time_it_is_asked_for(known: Processes) -> None:
    process, _ = known.find(os.getpid())
    before = os.umask(0o031)
    try:
        assert process.umask == 0o031
    finally:
        os.umask(before)
    process.umask = 0o007  # as a call of it sets it
    assert process.umask == 0o007


def test_there_is_nothing_else_to_ask_for(known: Processes) -> None:
    with pytest.raises(AttributeError):
        known.find(os.getpid())[0].colour  # noqa: B018


def test_a_thread_is_known_by_its_process(known: Processes) -> None:
    found = []
    for _ in range(2):  # before the first thread is known, and after
        thread = threading.Thread(target=lambda: found.append(known.find(threading.get_native_id())))
        thread.start()
        thread.join()
    (process, first), (again, second) = found
    assert process.pid == os.getpid()
    assert (first, second, again) == (True, False, process)
    assert known.find(os.getpid()) == (process, False)


def test_the_parent_is_found_without_the_call_that_tells_it(known: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "PIDFD_GET_INFO", 0)
    assert known.find(os.getpid())[0].ppid == os.getppid()


def test_who_has_gone_is_not_found(known: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError):
        known.find(child)

    def gone(pid: int) -> str:
        raise ProcessLookupError

    monkeypatch.setattr(processes, "_exe", gone)
    with pytest.raises(ProcessLookupError):
        known.find(os.getpid())
    assert len(os.listdir("/proc/self/fd")) == len(before)
