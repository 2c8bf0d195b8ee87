"""Host patterns and addresses."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_safety_layer.policy.hosts import (
    HostIndex,
    is_loopback,
    is_metadata,
    is_private,
    parse_host,
    parse_ip,
    parse_legacy_ip,
)


def fits(pattern: str, host: str = "", ip: str = "", port: int = 443) -> bool:
    index = HostIndex([parse_host(pattern)])
    return (index.find(host, parse_ip(ip) if ip else None, port) or index.find_any(port)) is not None


@pytest.mark.parametrize(
    ("pattern", "host", "ip", "port", "expected"),
    [
        ("api.x.com", "api.x.com", "", 1, True),
        ("API.x.com", "api.x.com", "", 1, True),
        ("api.x.com", "x.com", "", 1, False),
        ("api.x.com:443", "api.x.com", "", 80, False),
        ("*.x.com", "x.com", "", 1, False),
        ("*.x.com", "a.x.com", "", 1, True),
        ("*.x.com", "a.b.x.com", "", 1, True),
        ("*.x.com", "ax.com", "", 1, False),
        ("api-*.x.com", "api-7.x.com", "", 1, True),
        ("api-*.x.com", "api-7.y.x.com", "", 1, False),
        ("*", "anything", "8.8.8.8", 1, True),
        ("*:443", "", "8.8.8.8", 443, True),
        ("*:443", "", "8.8.8.8", 80, False),
        ("10.1.0.0/16:5432", "", "10.1.2.3", 5432, True),
        ("10.1.0.0/16:5432", "", "10.2.2.3", 5432, False),
        ("10.1.0.0/16:5432", "db.x.com", "10.1.2.3", 5432, True),
        ("127.0.0.1:8000-8100", "", "127.0.0.1", 8050, True),
        ("127.0.0.1:8000-8100", "", "127.0.0.1", 8101, False),
        ("[::1]:80", "", "::1", 80, True),
        ("[::1]:80", "", "::1", 81, False),
        ("2001:db8::/32", "", "2001:db8:1::1", 81, True),
        ("[2001:db8::]/32:81", "", "2001:db8:1::1", 81, True),
        ("[2001:db8::]/32:82", "", "2001:db8:1::1", 81, False),
        ("10.0.0.0/8", "", "::ffff:10.1.1.1", 1, True),
        ("::ffff:10.0.0.0/104", "", "10.1.1.1", 1, True),
        ("localhost", "localhost", "", 1, True),
        ("localhost", "", "127.9.9.9", 1, True),
        ("localhost:11434", "", "::1", 11434, True),
        ("localhost:11434", "", "127.0.0.1", 80, False),
        ("0.0.0.0/0", "", "8.8.8.8", 1, True),
        ("bücher.example", "xn--bcher-kva.example", "", 1, True),
    ],
)
def test_patterns(pattern: str, host: str, ip: str, port: int, expected: bool) -> None:
    assert fits(pattern, host, ip, port) is expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "https://x.com/path",
            "x.com/path",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0",
            "x.com:http",
            "x.com:99999",
            "x.com:9-1",
        ),
        *("", ":443", "a b", "x..com", "[::1", "[::1]x", "x_y!", "::/129"),
    ],
)
def test_malformed_patterns_are_errors(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_host(text)


@settings(deadline=None)
@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_addresses_parse_as_in_ipaddress(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    mapped = getattr(address, "ipv4_mapped", None)
    plain = mapped or address
    assert parse_ip(str(address)) == (plain.version, int(plain))


@settings(deadline=None)
@given(st.ip_addresses(v=4))
def test_no_private_address_passes_for_public(address: ipaddress.IPv4Address) -> None:
    ip = (4, int(address))
    if not is_private(ip):
        assert address.is_global or address in ipaddress.ip_network("192.88.99.0/24") or _documentation(address)


def _documentation(address: ipaddress.IPv4Address) -> bool:
    nets = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
    return any(address in ipaddress.ip_network(net) for net in nets)


@pytest.mark.parametrize(
    ("ip", "private", "metadata", "loopback"),
    [
        ("8.8.8.8", False, False, False),
        ("10.0.0.1", True, False, False),
        ("172.31.0.1", True, False, False),
        ("172.32.0.1", False, False, False),
        ("192.168.1.1", True, False, False),
        ("100.64.0.1", True, False, False),
        ("127.0.0.1", True, False, True),
        ("0.0.0.0", True, False, True),
        ("169.254.169.254", True, True, False),
        ("100.100.100.200", True, True, False),
        ("168.63.129.16", False, True, False),
        ("::1", True, False, True),
        ("::", True, False, True),
        ("::ffff:127.0.0.1", True, False, True),
        ("::ffff:169.254.169.254", True, True, False),
        ("fd00:ec2::254", True, True, False),
        ("fe80::1", True, False, False),
        ("64:ff9b::a9fe:a9fe", True, True, False),  # NAT64 of 169.254.169.254
        ("2002:7f00:1::", True, False, True),  # 6to4 of 127.0.0.1
        ("2606:4700::1111", False, False, False),
    ],
)
def test_kinds_of_addresses(ip: str, private: bool, metadata: bool, loopback: bool) -> None:
    parsed = parse_ip(ip)
    assert parsed is not None
    assert (is_private(parsed), is_metadata(parsed), is_loopback(parsed)) == (private, metadata, loopback)


@pytest.mark.parametrize("text", ["0x7f.1", "2130706433", "0177.0.0.1", "127.1", "0x7f000001"])
def test_legacy_spellings_are_the_address_that_they_mean(text: str) -> None:
    assert parse_legacy_ip(text) == parse_ip("127.0.0.1")


def test_a_name_is_no_address() -> None:
    assert parse_legacy_ip("1password.com") is None
    assert parse_legacy_ip("face.b00c") is None
