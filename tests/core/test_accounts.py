"""Accounts of processes: which are listed, and how many samples are kept."""

from __future__ import annotations

import os
from typing import Any

from agent_safety_layer.accounts import LISTED, SAMPLES, Accounts


class Known:
    def __init__(self, pid: int) -> None:
        self.pid, self.ppid, self.exe = pid, 1, f"/bin/{pid}"


def process(pid: int) -> Any:
    return Known(pid)


def test_a_process_is_looked_at_until_it_is_gone() -> None:
    accounts = Accounts(list)
    accounts.start(0.0)
    ours = process(os.getpid())
    accounts.new(ours)
    accounts.look(0.1)
    assert accounts.living == 1
    assert accounts.memory_bytes > 1 << 20
    assert 0 < accounts.cpu_s <= sum(os.times()[:2]) + 0.1
    accounts.gone(ours)
    accounts.gone(ours)
    told: Any = accounts.told()
    (account,) = told["processes"]
    assert (account["pid"], account["exe"], accounts.living, accounts.memory_bytes) == (os.getpid(), ours.exe, 0, 0)
    assert account["peak_memory_bytes"] > 1 << 20
    accounts.last(os.getpid(), (7.0, 1.0), 10, 20)
    told = accounts.told()
    assert told["processes"][0]["cpu_user_seconds"] == 7
    assert told["processes"][0]["read_bytes"] == 10


def test_looks_become_rarer_when_nothing_happens_and_soon_again_with_a_new_process() -> None:
    accounts = Accounts(list)
    accounts.start(0.0)
    waits = []
    now = 0.0
    for _ in range(8):
        accounts.look(now)
        waits.append(accounts.next_look - now)
        now = accounts.next_look
    assert waits == sorted(waits)
    assert waits[-1] == 1.0
    accounts.next_look = float("inf")
    accounts.new(process(os.getpid()))
    assert accounts.next_look < float("inf")


def test_those_are_listed_that_used_most() -> None:
    accounts = Accounts(list)
    accounts.start(0.0)
    gone = 1 << 23  # no such process: pids end at 1 << 22
    count = 2 * LISTED + 50
    everyone = [process(gone + number) for number in range(count)]
    for number, one in enumerate(everyone):
        accounts.new(one)
        accounts.last(one.pid, (float(number), 0.0), 0, 0)
        accounts.gone(one)
    told: Any = accounts.told()
    listed = [account["cpu_user_seconds"] for account in told["processes"]]
    assert listed == [float(number) for number in range(count - 1, LISTED + 49, -1)]
    assert told["unlisted"] == count - LISTED
    assert accounts.cpu_s == sum(range(count))


def test_samples_are_thinned_and_cover_the_run() -> None:
    accounts = Accounts(list, lambda: 7)
    accounts.start(0.0)
    for number in range(20_000):
        accounts.look(number / 10)
    times = [sample[0] for sample in accounts.samples]
    assert len(times) <= SAMPLES
    assert times[0] == 0
    assert times[-1] > 1900
    assert times == sorted(set(times))
    assert {sample[2] for sample in accounts.samples} == {7}


def test_who_has_not_made_itself_known_is_found() -> None:
    found = [os.getpid()]
    accounts = Accounts(lambda: found)
    accounts.start(0.0)
    accounts.look(0.1)
    assert accounts.living == 1
    accounts.new(process(os.getpid()))
    accounts.look(0.2)
    assert accounts.living == 1
    accounts.gone(next(iter(accounts._living)))
    accounts.look(0.3)
    assert accounts.living == 1  # whoever has the number now
    found.clear()
    accounts.look(0.4)
    told: Any = accounts.told()
    assert (accounts.living, len(told["processes"])) == (0, 2)
    assert {account["exe"] for account in told["processes"]} == {os.readlink("/proc/self/exe"), f"/bin/{os.getpid()}"}
