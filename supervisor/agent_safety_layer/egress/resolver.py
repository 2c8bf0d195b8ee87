"""What names resolve to on the host, without ever making the loop wait.

``getaddrinfo`` blocks and cannot be called off, so it runs in threads; a look-up that takes too long is answered with a
failure, and its thread ends when it ends.
"""

from __future__ import annotations

import errno
import socket
import time
from collections import deque
from collections.abc import Callable

from agent_safety_layer.egress.addresses import canonical
from agent_safety_layer.egress.loop import Loop
from asl_hooks.value import value

Lookup = Callable[[str], tuple[str, ...]]
FRESH_S = 30.0
TIMEOUT_S = 10.0
THREADS = 16
WAITING = 1024
REMEMBERED = 4096
NO_SUCH_NAME = "no such name"


@value
class Resolution:
    """Addresses in the order in which to try them; when there are none, ``error`` says why."""

    addresses: tuple[str, ...]
    error: str


def system_lookup(host: str) -> tuple[str, ...]:
    """The name's addresses by the host's own configuration (hosts file, DNS, ...), best first. ``OSError`` if none."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(canonical(str(sockaddr[0])) for *_, sockaddr in found))


def is_own_address(ip: str) -> bool:
    """Whether the address belongs to one of this host's interfaces (found by binding a socket to it)."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((ip, 0))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True


class Resolver:
    """Looks names up, each once at a time, and remembers what it found for half a minute."""

    def __init__(self, loop: Loop, lookup: Lookup = system_lookup, timeout_s: float = TIMEOUT_S) -> None:
        self._loop = loop
        self._lookup = lookup
        self._timeout_s = timeout_s
        self._known: dict[str, tuple[float, Resolution]] = {}
        self._asking: dict[str, list[Callable[[Resolution], None]]] = {}
        self._queue: deque[str] = deque()
        self._busy = 0

    def known(self, host: str) -> Resolution | None:
        """What is known of the name and still fresh."""
        entry = self._known.get(host)
        return entry[1] if entry and time.monotonic() - entry[0] < FRESH_S else None

    def resolve(self, host: str, done: Callable[[Resolution], None]) -> None:
        """*done* is called once, in the loop, with what the name resolves to; within the timeout in any case."""
        known = self.known(host)
        if known is not None:
            done(known)
            return
        waiting = self._asking.get(host)
        if waiting is not None:
            waiting.append(done)
            return
        if len(self._asking) >= WAITING:
            done(Resolution((), "too many look-ups at once"))
            return
        self._asking[host] = [done]
        self._loop.later(self._timeout_s, lambda: self._answer(host, Resolution((), "the look-up took too long"), done))
        self._queue.append(host)
        self._start()

    def _start(self) -> None:
        from threading import Thread  # here, as it makes each fork of the helper's more expensive

        while self._queue and self._busy < THREADS:
            host = self._queue.popleft()
            if host in self._asking:  # not given up meanwhile
                try:
                    Thread(target=self._look_up, args=(host,), daemon=True).start()
                except RuntimeError as error:  # the user may have no more threads
                    self._answer(host, Resolution((), str(error)))
                else:
                    self._busy += 1

    def _look_up(self, host: str) -> None:
        try:
            found = Resolution(self._lookup(host), "")
        except socket.gaierror as error:
            missing = error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
            found = Resolution((), NO_SUCH_NAME if missing else str(error.strerror))
        except (OSError, UnicodeError) as error:
            found = Resolution((), str(error))
        self._loop.hand_over(lambda: self._looked_up(host, found))

    def _looked_up(self, host: str, found: Resolution) -> None:
        self._busy -= 1
        self._answer(host, found)
        self._start()

    def _answer(self, host: str, found: Resolution, only_for: Callable[[Resolution], None] | None = None) -> None:
        waiting = self._asking.get(host)
        if waiting is None or (only_for is not None and only_for not in waiting):
            return
        del self._asking[host]
        if found.addresses or found.error == NO_SUCH_NAME:
            while len(self._known) >= REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known.pop(host, None)
            self._known[host] = (time.monotonic(), found)
        for done in waiting:
            done(found)
