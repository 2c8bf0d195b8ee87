"""The run's address book: every name that the tree may ask for has one address in each family, and keeps it.

Pure. A connection to such an address tells exactly which name was dialled, so what a name resolves to on the host never
enters the tree, and an answer cannot change between the question and the dial. The addresses come from 198.18.0.0/15
(RFC 2544, routed nowhere) and from a ULA prefix of our own; the first 256 belong to the namespace itself.
"""

from __future__ import annotations

CAPACITY = 65_280  # with the first 256, what one group of an IPv6 address can count
_FIRST = 256
_PREFIX6 = "fd61:736c:6567:1::"
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


def canonical_name(name: str) -> str:
    """The name in lower case without the final dot, or "" when it is no host name that could be allowed.

    Not host names: labels over 63 or names over 253 characters, anything but letters, digits, ``-`` and ``_``, and
    names whose last label is a number, which a resolver would read as an address (``127.1``, ``0x7f000001``).
    """
    name = name.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(0 < len(label) <= 63 and _LETTERS.issuperset(label) for label in labels):
        return ""
    last = labels[-1]
    is_number = last.isdigit() or (last.startswith("0x") and all(c in "0123456789abcdef" for c in last[2:]))
    return "" if is_number else name


def is_local_name(name: str) -> bool:
    """Whether the (canonical) name means this very machine by definition (RFC 6761)."""
    return name == "localhost" or name.endswith(".localhost")


def is_synthetic(ip: str) -> bool:
    """Whether an address is of the kind that the book gives out, given out or not."""
    return ip.startswith(("198.18.", "198.19.", "fd61:736c:6567:"))


class AddressBook:
    """Names and their addresses. One name, one pair of addresses, for the whole run."""

    def __init__(self) -> None:
        self._pairs: dict[str, tuple[str, str]] = {}
        self._hosts: dict[str, str] = {}

    def addresses_of(self, name: str) -> tuple[str, str]:
        """The IPv4 and the IPv6 address of a canonical name, given out now if need be. ``OverflowError`` when full."""
        pair = self._pairs.get(name)
        if pair is None:
            if len(self._pairs) >= CAPACITY:
                raise OverflowError(f"more than {CAPACITY} names in one run")
            number = _FIRST + len(self._pairs)
            pair = (f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", f"{_PREFIX6}{number:x}")
            self.enter(name, *pair)
        return pair

    def enter(self, name: str, ip4: str, ip6: str) -> None:
        """The book holds this entry (the supervisor keeps a copy of the egress process's book)."""
        self._pairs[name] = (ip4, ip6)
        self._hosts[ip4] = self._hosts[ip6] = name

    def host_of(self, ip: str) -> str:
        """The name behind a canonical address, "" when the book did not give it out."""
        return self._hosts.get(ip, "")

    def __contains__(self, name: str) -> bool:
        return name in self._pairs
