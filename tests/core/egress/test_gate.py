"""The gate with a policy and a world of our own: what may be dialled, and what is asked and looked up on the way."""

from collections.abc import Callable

import pytest

from agent_safety_layer.egress.gate import Admission, Gate, Settings
from agent_safety_layer.egress.names import AddressBook
from agent_safety_layer.egress.protocol import Answer, Ask
from agent_safety_layer.egress.resolver import Resolution, Resolver


class World(Resolver):
    """Answers look-ups at once from a dictionary that a test may change, and remembers only what it is told to."""

    def __init__(self, names: dict[str, tuple[str, ...]]) -> None:
        self.names = names
        self.looked_up: list[str] = []
        self.remembered: set[str] = set()

    def known(self, host: str) -> Resolution | None:
        return Resolution(self.names[host], "") if host in self.remembered else None

    def resolve(self, host: str, done: Callable[[Resolution], None]) -> None:
        self.looked_up.append(host)
        found = self.names.get(host, ())
        done(Resolution(found, "" if found else "no such name"))


class Desk:
    """A gate, its world, and a policy: the allowed pairs of host and address ("" for a name not yet resolved)."""

    def __init__(self, *allowed: tuple[str, str], settings: Settings | None = None, **names: str) -> None:
        self.world = World({name.replace("_", "."): tuple(found.split()) for name, found in names.items()})
        self.asked: list[tuple[str, str]] = []
        self._allowed = set(allowed)
        self.book = AddressBook()
        self.gate = Gate(self._ask, self.world, self.book, settings or Settings(), lambda ip: ip == "93.184.216.99")

    def _ask(self, question: Ask, done: Callable[[Answer], None]) -> None:
        self.asked.append((question.host, question.ip))
        good = (question.host, question.ip) in self._allowed
        done(Answer(question.id, "allow" if good else "block", "" if good else "no rule"))

    def admit(self, where: str) -> Admission:
        found: list[Admission] = []
        ip = self.book.addresses_of(where)[0] if where.endswith(".test") else where
        self.gate.admit(ip, 443, "tcp", found.append)
        assert len(found) == 1
        return found[0]


def test_a_name_is_judged_then_resolved_then_judged_with_each_address() -> None:
    desk = Desk(("a.test", ""), ("a.test", "93.184.216.34"), a_test="93.184.216.35 93.184.216.34")
    assert desk.admit("a.test") == Admission("a.test", ("93.184.216.34",))
    assert desk.asked == [("a.test", ""), ("a.test", "93.184.216.35"), ("a.test", "93.184.216.34")]


def test_a_name_that_is_refused_is_never_looked_up() -> None:
    desk = Desk(a_test="93.184.216.34")
    assert desk.admit("a.test") == Admission("a.test", (), "EACCES", "no rule", True)
    assert desk.world.looked_up == []
    control = Desk(("a.test", ""), ("a.test", "93.184.216.34"), a_test="93.184.216.34")
    assert control.admit("a.test").addresses == ("93.184.216.34",)
    assert control.world.looked_up == ["a.test"]


@pytest.mark.parametrize("inside", ["10.0.0.1", "127.0.0.1", "::ffff:10.0.0.1", "169.254.169.254", "93.184.216.99"])
def test_a_name_that_is_rebound_to_an_inner_address_is_refused(inside: str) -> None:
    desk = Desk(("a.test", ""), ("a.test", "93.184.216.34"), ("a.test", inside), a_test="93.184.216.34")
    assert desk.admit("a.test").addresses == ("93.184.216.34",)
    desk.world.names["a.test"] = (inside,)
    refused = desk.admit("a.test")
    assert (refused.addresses, refused.code, refused.judged) == ((), "EACCES", False)
    assert inside in refused.reason
    desk.world.names["a.test"] = (inside, "93.184.216.34")
    assert desk.admit("a.test").addresses == ("93.184.216.34",), "the good one among them is still dialled"


def test_private_addresses_where_the_policy_wants_them() -> None:
    names = {"a_test": "10.0.0.1 169.254.169.254"}
    desk = Desk(("a.test", ""), ("a.test", "10.0.0.1"), settings=Settings(private_ips=True), **names)
    assert desk.admit("a.test").addresses == ("10.0.0.1",)
    assert ("a.test", "169.254.169.254") not in desk.asked


def test_what_is_remembered_is_not_looked_up_but_judged() -> None:
    desk = Desk(("a.test", "93.184.216.34"), a_test="93.184.216.34")
    desk.world.remembered.add("a.test")
    assert desk.admit("a.test").addresses == ("93.184.216.34",)
    assert desk.asked == [("a.test", "93.184.216.34")]


@pytest.mark.parametrize(
    ("where", "addresses", "code"),
    [
        ("93.184.216.34", ("93.184.216.34",), ""),
        ("::ffff:93.184.216.34", ("93.184.216.34",), ""),
        ("10.9.9.9", ("10.9.9.9",), ""),
        ("10.9.9.8", (), "EACCES"),
        ("169.254.169.254", (), "EACCES"),
        ("::ffff:169.254.169.254", (), "EACCES"),
        ("224.0.0.1", (), "EACCES"),
        ("198.18.77.77", (), "EHOSTUNREACH"),
        ("fd61:736c:6567:1::1", (), "EHOSTUNREACH"),
    ],
)
def test_literal_addresses(where: str, addresses: tuple[str, ...], code: str) -> None:
    allowed = ("93.184.216.34", "10.9.9.9", "169.254.169.254", "224.0.0.1", "198.18.77.77", "fd61:736c:6567:1::1")
    admission = Desk(*(("", ip) for ip in allowed)).admit(where)
    assert (admission.host, admission.addresses, admission.code) == ("", addresses, code)


def test_loopback_is_localhost_in_either_family() -> None:
    desk = Desk(("localhost", "127.0.0.1"), ("localhost", "::1"))
    assert desk.admit("::1") == Admission("localhost", ("::1", "127.0.0.1"))
    assert desk.admit("127.0.0.1") == Admission("localhost", ("127.0.0.1", "::1"))
    assert desk.admit("127.0.0.9").addresses == ()


def test_observing_refuses_nothing_of_its_own() -> None:
    settings = Settings(observe=True)
    desk = Desk(("a.test", ""), ("a.test", "10.0.0.1"), ("", "169.254.169.254"), settings=settings, a_test="10.0.0.1")
    assert desk.admit("a.test").addresses == ("10.0.0.1",)
    assert desk.admit("169.254.169.254").addresses == ("169.254.169.254",)


def test_what_does_not_resolve_says_so() -> None:
    desk = Desk(("a.test", ""))
    assert desk.admit("a.test") == Admission("a.test", (), "EHOSTUNREACH", "a.test does not resolve: no such name")
