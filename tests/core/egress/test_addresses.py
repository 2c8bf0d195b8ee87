import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_safety_layer.egress import addresses as a
from agent_safety_layer.egress.names import CAPACITY, AddressBook, canonical_name, is_synthetic

KINDS = [
    ("93.184.216.34", a.PUBLIC),
    ("2606:4700::6810:1", a.PUBLIC),
    ("10.1.2.3", a.PRIVATE),
    ("172.16.0.1", a.PRIVATE),
    ("192.168.1.1", a.PRIVATE),
    ("198.18.1.1", a.PRIVATE),
    ("192.0.2.1", a.PRIVATE),
    ("fd12::1", a.PRIVATE),
    ("fec0::1", a.PRIVATE),
    ("127.0.0.1", a.LOOPBACK),
    ("127.255.255.254", a.LOOPBACK),
    ("::1", a.LOOPBACK),
    ("169.254.1.1", a.LINK_LOCAL),
    ("fe80::1%eth0", a.LINK_LOCAL),
    ("100.64.0.1", a.SHARED),
    ("100.127.255.255", a.SHARED),
    ("169.254.169.254", a.METADATA),
    ("169.254.170.2", a.METADATA),
    ("100.100.100.200", a.METADATA),
    ("168.63.129.16", a.METADATA),
    ("192.0.0.192", a.METADATA),
    ("fd00:ec2::254", a.METADATA),
    ("224.0.0.251", a.MULTICAST),
    ("ff02::1", a.MULTICAST),
    ("0.0.0.0", a.UNSPECIFIED),
    ("0.1.2.3", a.UNSPECIFIED),
    ("::", a.UNSPECIFIED),
    ("255.255.255.255", a.RESERVED),
    ("240.0.0.1", a.RESERVED),
]


@pytest.mark.parametrize(("text", "kind"), KINDS)
def test_kinds(text: str, kind: str) -> None:
    assert a.kind_of(text) == kind


INNER = [(text, kind) for text, kind in KINDS if ":" not in text and kind != a.PUBLIC and not text.startswith("0.")]


@pytest.mark.parametrize(("text", "kind"), INNER)
@pytest.mark.parametrize("wrapper", ["::ffff:{}", "64:ff9b::{}", "sixtofour", "::{}"])
def test_a_wrapper_hides_nothing(text: str, kind: str, wrapper: str) -> None:
    packed = socket.inet_aton(text)
    if wrapper == "sixtofour":
        wrapped = str(ipaddress.IPv6Address(b"\x20\x02" + packed + bytes(10)))
    else:
        wrapped = wrapper.format(text)
    assert a.kind_of(wrapped) == kind
    assert a.objection(wrapped, private=False)


def test_a_public_address_stays_public_through_nat64() -> None:
    assert a.objection("64:ff9b::93.184.216.34", private=False) == ""


@pytest.mark.parametrize(("text", "kind"), KINDS)
def test_what_private_ips_admits(text: str, kind: str) -> None:
    assert bool(a.objection(text, private=False)) == (kind != a.PUBLIC)
    assert bool(a.objection(text, private=True)) == (kind in a.NEVER)


def test_spellings() -> None:
    assert a.canonical("::ffff:127.0.0.1") == "127.0.0.1"
    assert a.canonical("FE80::0:1%3") == "fe80::1"
    for odd in ("127.1", "0x7f.0.0.1", "017700000001", "2130706433", "", "example.com"):
        assert not a.is_address(odd)
        with pytest.raises(ValueError, match="does not appear"):
            a.canonical(odd)


@given(st.ip_addresses())
def test_every_address_has_a_kind_and_one_spelling(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    text = a.canonical(str(address))
    assert a.canonical(text) == text
    assert a.kind_of(text) == a.kind_of(str(address))
    if isinstance(address, ipaddress.IPv4Address):
        assert a.kind_of(f"::ffff:{address}") == a.kind_of(text)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("API.Example.COM.", "api.example.com"),
        ("_srv.host-1.example", "_srv.host-1.example"),
        ("localhost", "localhost"),
        ("", ""),
        (".", ""),
        ("a..b", ""),
        ("a" * 64 + ".com", ""),
        (".".join(["a" * 60] * 5), ""),
        ("exa mple.com", ""),
        ("ex\\xffmple.com", ""),
        ("é.com", ""),
        ("127.0.0.1", ""),
        ("127.1", ""),
        ("evil.0x7f000001", ""),
        ("2130706433", ""),
        ("١.com", ""),
    ],
)
def test_host_names(name: str, canonical: str) -> None:
    assert canonical_name(name) == canonical


@given(st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,20}\.(com|test)", fullmatch=True), min_size=1))
def test_the_book_gives_each_name_its_own_addresses_for_good(names: list[str]) -> None:
    book = AddressBook()
    first = {name: book.addresses_of(name) for name in names}
    for name, (ip4, ip6) in first.items():
        assert book.addresses_of(name) == (ip4, ip6)
        assert book.host_of(ip4) == book.host_of(a.canonical(ip6)) == name
        assert ipaddress.ip_address(ip4) in ipaddress.ip_network("198.18.0.0/15")
        assert is_synthetic(ip4)
        assert is_synthetic(ip6)
        assert ip6 == a.canonical(ip6)
    assert len({ip for pair in first.values() for ip in pair}) == 2 * len(first)


def test_the_book_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_safety_layer.egress.names.CAPACITY", 2)
    book = AddressBook()
    book.addresses_of("a.test")
    last = book.addresses_of("b.test")
    with pytest.raises(OverflowError):
        book.addresses_of("c.test")
    assert book.addresses_of("b.test") == last
    assert book.host_of("198.18.0.2") == ""


def test_the_last_entry_of_a_full_book_is_still_in_its_range() -> None:
    book = AddressBook()
    for number in range(CAPACITY):
        ip4, ip6 = book.addresses_of(f"n{number}.test")
    assert ipaddress.ip_address(ip4) in ipaddress.ip_network("198.18.0.0/15")
    assert ip6 == a.canonical(ip6)
    assert book.host_of(ip4) == f"n{CAPACITY - 1}.test"
