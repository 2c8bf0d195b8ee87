"""Host patterns: names, wildcards, addresses and ranges, with ports; and an index that answers for one host at once.

``api.x.com`` is that name, ``*.x.com`` every name below it (not ``x.com`` itself), ``*`` everything; a wildcard
elsewhere stays within its label. ``10.0.0.0/16`` is a range, ``localhost`` the name and the loopback ranges. A port
or a range of ports may follow: ``:443``, ``:8000-8100``, ``:*``; an IPv6 address then stands in brackets.
"""

from __future__ import annotations

from agent_safety_layer.policy.globs import Wildcard
from agent_safety_layer.policy.model import Address, Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agent_safety_layer.events import Event

_BITS = {4: 32, 6: 128}
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")


def parse_ip(text: str) -> tuple[int, int] | None:
    """Family (4 or 6) and the address as an integer; None when *text* is no address. IPv4 within IPv6 is IPv4."""
    from _socket import AF_INET, AF_INET6, inet_pton

    try:
        if ":" in text:
            return _unmapped(int.from_bytes(inet_pton(AF_INET6, text.partition("%")[0]), "big"))
        return (4, int.from_bytes(inet_pton(AF_INET, text), "big"))
    except (OSError, ValueError):
        return None


def parse_legacy_ip(text: str) -> tuple[int, int] | None:
    """Like ``parse_ip``, also for the spellings that C libraries take: ``0x7f.1``, ``2130706433``, ``0177.0.0.1``."""
    found = parse_ip(text)
    if found is None and text[:1].isdigit() and not set(text) - set("0123456789abcdefxABCDEFX."):
        from _socket import inet_aton

        try:
            return (4, int.from_bytes(inet_aton(text), "big"))
        except OSError:
            return None
    return found


def event_ip(event: Event) -> tuple[str, tuple[int, int] | None]:
    """The event's host name in lower case, and its address (the name, where that is an address in any spelling)."""
    host = event.host.lower().rstrip(".")
    return host, parse_ip(event.ip) if event.ip else parse_legacy_ip(host) if host else None


def _unmapped(number: int) -> tuple[int, int]:
    return (4, number & 0xFFFFFFFF) if number >> 32 == 0xFFFF else (6, number)


def parse_host(text: str, origin: str = "") -> Host:
    """The host pattern that *text* means; ``ValueError`` says what is wrong with it."""
    bare = text.strip()
    if "://" in bare:
        raise ValueError(f"it is a URL; write the host alone: {bare.split('://')[1].split('/')[0]}")
    name, ports = _split(bare)
    low, high = _ports(ports)
    if not name:
        raise ValueError("it names no host")
    address, slash, bits = name.partition("/")
    found = parse_ip(address)
    if found is not None:
        family, number = found
        width = _BITS[family]
        length = width
        if slash:
            if not bits.isdigit():
                raise ValueError(f"/{bits} is not the length of a prefix")
            length = int(bits)
            if ":" in address and family == 4:
                length -= 96
            if not 0 <= length <= width:
                raise ValueError(f"/{bits} is longer than an address")
        network = number >> (width - length)
        if network << (width - length) != number:
            raise ValueError(f"{address} has bits set beyond its prefix /{bits}")
        return Host(text, origin, (Address("", family, length, network, low, high),))
    if slash:
        raise ValueError("a host has no '/' in it; write the name alone, or an address range such as 10.0.0.0/8")
    name = name.lower().rstrip(".")
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError("it is not a host name") from None
    if set(name) - _LETTERS - {"*"} or not all(name.split(".")) or len(name) > 253:
        raise ValueError("it is not a host name, a wildcard such as *.example.com, or an address")
    if name.replace(".", "").isdigit():
        raise ValueError("it is not a complete address; write a range such as 10.0.0.0/8")
    addresses = [Address(name, low=low, high=high)]
    if name == "localhost":
        addresses += [Address("", 4, 8, 127, low, high), Address("", 6, 128, 1, low, high)]
    return Host(text, origin, tuple(addresses))


def _split(text: str) -> tuple[str, str]:
    """Host and port parts of ``host:port``, ``[v6]:port``, ``[v6]/64:port`` and a bare IPv6 address."""
    if text.startswith("["):
        inside, closed, rest = text[1:].partition("]")
        if not closed:
            raise ValueError("its bracket is never closed")
        bits, colon, ports = rest.partition(":")
        if bits and not bits.startswith("/"):
            raise ValueError(f"{bits!r} after the bracket means nothing")
        return inside + bits, ports if colon else "*"
    if text.count(":") > 1:
        return text, "*"
    name, colon, ports = text.partition(":")
    return name, ports if colon else "*"


def _ports(text: str) -> tuple[int, int]:
    if text == "*":
        return 0, 65535
    first, dash, last = text.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        raise ValueError(f"{text!r} is not a port, a range such as 8000-8100, or *")
    low, high = int(first), int(last or first)
    if not low <= high <= 65535:
        raise ValueError(f"{text!r} is not within 0-65535, lowest first")
    return low, high


class HostIndex:
    """Hosts with ports; ``find(host, ip, port)`` gives the first entry that covers it, in a few look-ups."""

    __slots__ = ("_any", "_exact", "_globs", "_ranges", "_tails")

    def __init__(self, hosts: Iterable[Host]) -> None:
        self._any: list[tuple[Address, Host]] = []
        self._exact: dict[str, list[tuple[Address, Host]]] = {}
        self._tails: dict[str, list[tuple[Address, Host]]] = {}
        self._globs: list[tuple[list[Wildcard], Address, Host]] = []
        self._ranges: dict[tuple[int, int], dict[int, list[tuple[Address, Host]]]] = {}
        for host in hosts:
            for address in host.addresses:
                self._add(address, host)

    def _add(self, address: Address, host: Host) -> None:
        name = address.name
        if not name:
            shift = _BITS[address.family] - address.bits
            table = self._ranges.setdefault((address.family, shift), {})
            table.setdefault(address.network, []).append((address, host))
        elif name == "*":
            self._any.append((address, host))
        elif "*" not in name:
            self._exact.setdefault(name, []).append((address, host))
        elif name.startswith("*.") and "*" not in name[2:]:
            self._tails.setdefault(name[2:], []).append((address, host))
        else:
            self._globs.append(([Wildcard(label) for label in name.split(".")], address, host))

    def find(self, host: str, ip: tuple[int, int] | None, port: int) -> Host | None:
        """The first entry that names the host or its address; port -1 fits every entry. ``*`` alone is left out."""
        for address, entry in self._named(host):
            if port < 0 or address.low <= port <= address.high:
                return entry
        return self.find_ip(ip, port) if ip is not None else None

    def find_ip(self, ip: tuple[int, int], port: int) -> Host | None:
        """The first entry that names this very address or a range that holds it."""
        family, number = ip
        for (kind, shift), table in self._ranges.items():
            if kind == family:
                for address, entry in table.get(number >> shift, ()):
                    if port < 0 or address.low <= port <= address.high:
                        return entry
        return None

    def find_any(self, port: int) -> Host | None:
        """The first entry whose host is ``*`` and whose ports include this one."""
        for address, entry in self._any:
            if port < 0 or address.low <= port <= address.high:
                return entry
        return None

    def _named(self, host: str) -> Iterator[tuple[Address, Host]]:
        if not host:
            return
        yield from self._exact.get(host, ())
        if self._tails:
            rest = host
            while "." in rest:
                rest = rest.partition(".")[2]
                yield from self._tails.get(rest, ())
        if self._globs:
            labels = host.split(".")
            for wildcards, address, entry in self._globs:
                if len(wildcards) == len(labels) and all(
                    wildcard.matches(label) for wildcard, label in zip(wildcards, labels, strict=True)
                ):
                    yield address, entry


def _range(text: str) -> Address:
    return parse_host(text).addresses[0]


def _holds(ranges: tuple[Address, ...], ip: tuple[int, int]) -> bool:
    family, number = ip
    return any(a.family == family and number >> (_BITS[family] - a.bits) == a.network for a in ranges)


# Where clouds hand credentials to whoever asks. 168.63.129.16 is Azure's, 192.0.0.192 Oracle's, 100.100.100.200
# Alibaba's, 169.254.170.* ECS's and EKS's; the rest answer at 169.254.169.254.
_METADATA = (
    *("169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fe80::a9fe:a9fe"),
)
METADATA_NAMES = frozenset(("metadata.google.internal", "metadata.goog", "metadata", "instance-data"))
# RFC 6890 and successors: nothing in here is a public destination.
_PRIVATE = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3", "::/127", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
)
_LOOPBACK = ("127.0.0.0/8", "0.0.0.0/32", "::/127")
_ranges_of: dict[tuple[str, ...], tuple[Address, ...]] = {}


def _within(names: tuple[str, ...], ip: tuple[int, int]) -> bool:
    """Whether *ip* lies in one of the ranges, which are parsed when first asked for."""
    ranges = _ranges_of.get(names)
    if ranges is None:
        ranges = _ranges_of[names] = tuple(_range(name) for name in names)
    return _holds(ranges, ip) or any(_holds(ranges, inner) for inner in _embedded(ip))


def _embedded(ip: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The IPv4 addresses that a translator on the way would take out of this IPv6 one: NAT64, 6to4, IPv4-compatible."""
    family, number = ip
    if family == 6:
        if number >> 32 == 0x0064FF9B << 64 or number >> 80 == 0x0064FF9B0001:
            yield 4, number & 0xFFFFFFFF
        if number >> 112 == 0x2002:
            yield 4, number >> 80 & 0xFFFFFFFF
        if number >> 32 == 0 and number > 0xFFFF:
            yield 4, number


def is_metadata(ip: tuple[int, int]) -> bool:
    """Whether a cloud's metadata service, which gives out credentials, answers at this address."""
    return _within(_METADATA, ip)


def is_private(ip: tuple[int, int]) -> bool:
    """Whether the address is not a public one: private, loopback, link-local, shared, multicast, reserved."""
    return _within(_PRIVATE, ip)


def is_loopback(ip: tuple[int, int]) -> bool:
    """Whether a connection to the address stays on this machine (the unspecified address does, too)."""
    return _within(_LOOPBACK, ip)
