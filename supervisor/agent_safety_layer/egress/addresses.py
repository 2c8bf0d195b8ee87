"""What an address is, whoever spells it: public, or one of the kinds that a name must not lead to.

Pure. A name that an outsider controls can resolve to anything, so every address that a name resolves to is classified,
after every wrapping that carries an IPv4 address inside an IPv6 one is undone: mapped (::ffff:a.b.c.d), compatible
(::a.b.c.d), NAT64 (64:ff9b::/96), 6to4 and Teredo. Sources: RFC 6890 and the IANA special-purpose registries; the
metadata addresses are those that the cloud providers document.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

PUBLIC, PRIVATE, LOOPBACK, LINK_LOCAL, SHARED = "public", "private", "loopback", "link-local", "shared"
METADATA, MULTICAST, UNSPECIFIED, RESERVED = "metadata", "multicast", "unspecified", "reserved"
REMEMBERED = 1024  # answers of a pure function that takes 10 µs, several times for each connection
NEVER = frozenset({METADATA, MULTICAST, UNSPECIFIED, RESERVED})

_METADATA = frozenset(
    map(
        ip_address,
        (
            *("169.254.169.254", "fd00:ec2::254"),  # AWS, GCP, Azure, DigitalOcean and most others
            *("169.254.170.2", "169.254.170.23", "fd00:ec2::23"),  # AWS container credentials, EKS pod identity
            *("169.254.0.23", "169.254.10.10", "100.100.100.200"),  # Tencent, Alibaba
            *("168.63.129.16", "192.0.0.192"),  # Azure's wire server, Oracle
            *("fd20:ce::254", "fd00:42::42"),  # GCP and Scaleway over IPv6
        ),
    )
)
_SHARED = ip_network("100.64.0.0/10")
_NAT64 = ip_network("64:ff9b::/96")
_COMPATIBLE = ip_network("::/96")


@lru_cache(REMEMBERED)
def canonical(text: str) -> str:
    """The one spelling of an address: no zone, mapped IPv4 as IPv4. ``ValueError`` when it is no address."""
    return str(_unmapped(ip_address(text.partition("%")[0])))


def is_address(text: str) -> bool:
    """Whether the text is an IP address in its strict spelling; "127.1" and "0x7f.1" are not."""
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


@lru_cache(REMEMBERED)
def kind_of(text: str) -> str:
    """One of the kinds above. A wrapper counts as what is inside it, unless that is public: then as what it is."""
    address = _unmapped(ip_address(text.partition("%")[0]))
    inner = _embedded(address)
    if inner is not None:
        kind = _kind(inner)
        if kind != PUBLIC:
            return kind
    return _kind(address)


def objection(text: str, *, private: bool) -> str:
    """Why a name must not lead to this address; empty when it may. *private* admits all but the kinds in ``NEVER``."""
    kind = kind_of(text)
    if kind in NEVER or (kind != PUBLIC and not private):
        return f"{text} is a {kind} address"
    return ""


def _unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _embedded(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    if isinstance(address, IPv4Address):
        return None
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 0xFFFF):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _kind(address: IPv4Address | IPv6Address) -> str:
    if address in _METADATA:
        return METADATA
    if address.is_unspecified or (isinstance(address, IPv4Address) and address.packed[0] == 0):
        return UNSPECIFIED
    if address.is_loopback:
        return LOOPBACK
    if address.is_multicast:
        return MULTICAST
    if address.is_link_local:
        return LINK_LOCAL
    if isinstance(address, IPv4Address):
        if address in _SHARED:
            return SHARED
        if address.packed[0] >= 240:
            return RESERVED
    elif address in _NAT64:
        return PUBLIC
    elif address.is_site_local:
        return PRIVATE
    return PUBLIC if address.is_global else PRIVATE
