import socket
import threading
from collections.abc import Callable
from functools import partial

from agent_safety_layer.egress.loop import Loop
from agent_safety_layer.egress.resolver import Resolution, Resolver, is_own_address, system_lookup


def run_until(loop: Loop, condition: Callable[[], bool]) -> None:
    late: list[bool] = []
    loop.later(10, lambda: late.append(True))
    while not condition():
        assert not late, "it did not happen"
        loop.run_once()


def test_a_name_is_looked_up_once_for_all_who_wait_and_then_remembered() -> None:
    loop, may_end = Loop(), threading.Event()
    calls: list[str] = []

    def lookup(host: str) -> tuple[str, ...]:
        calls.append(host)
        may_end.wait(10)
        return ("192.0.2.1",)

    found: list[Resolution] = []
    resolver = Resolver(loop, lookup)
    resolver.resolve("a.test", found.append)
    resolver.resolve("a.test", found.append)
    assert found == []
    may_end.set()
    run_until(loop, lambda: len(found) == 2)
    resolver.resolve("a.test", found.append)
    assert found == [Resolution(("192.0.2.1",), "")] * 3
    assert calls == ["a.test"]


def test_a_look_up_that_hangs_is_given_up_and_its_late_answer_goes_nowhere() -> None:
    loop, may_end, ended = Loop(), threading.Event(), threading.Event()

    def lookup(host: str) -> tuple[str, ...]:
        if host == "slow.test":
            may_end.wait(10)
            ended.set()
        return ("192.0.2.1",)

    found: list[Resolution] = []
    resolver = Resolver(loop, lookup, timeout_s=0.05)
    resolver.resolve("slow.test", found.append)
    run_until(loop, lambda: bool(found))
    assert found == [Resolution((), "the look-up took too long")]
    may_end.set()
    assert ended.wait(10)
    resolver.resolve("quick.test", found.append)
    run_until(loop, lambda: len(found) == 2)
    assert found[1].addresses == ("192.0.2.1",)
    assert resolver.known("slow.test") is None


def test_failures_are_told_apart() -> None:
    def lookup(host: str) -> tuple[str, ...]:
        if host == "missing.test":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    loop = Loop()
    found: dict[str, Resolution] = {}
    resolver = Resolver(loop, lookup)
    for host in ("missing.test", "failing.test"):
        resolver.resolve(host, partial(found.__setitem__, host))
    run_until(loop, lambda: len(found) == 2)
    assert found["missing.test"].error == "no such name"
    assert found["failing.test"].error == "Temporary failure in name resolution"
    assert resolver.known("missing.test") is not None
    assert resolver.known("failing.test") is None


def test_the_hosts_own_names_and_addresses() -> None:
    assert "127.0.0.1" in system_lookup("localhost") or "::1" in system_lookup("localhost")
    assert is_own_address("127.0.0.1")
    assert not is_own_address("192.0.2.77")
    assert not is_own_address("2001:db8::77")


def test_timers_come_in_order_and_can_be_cancelled() -> None:
    loop = Loop()
    came: list[str] = []
    loop.later(0.02, lambda: came.append("second"))
    loop.later(0.01, lambda: came.append("first"))
    loop.later(0.0, lambda: came.append("never")).cancel()
    while len(came) < 2:
        loop.run_once()
    assert came == ["first", "second"]
