"""Which sockets count as the tree's own: this process serves as one of the tree."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from agent_safety_layer.engine.listeners import Listeners
from asl_hooks.processes import Process, Processes

V4, V6 = socket.AF_INET, socket.AF_INET6
LOOPBACK = ("127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::")


@pytest.fixture
def process() -> Iterator[Process]:
    known = Processes()
    yield known.find(os.getpid())[0]
    known.close()


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    made: list[socket.socket] = []
    yield made
    for one in made:
        one.close()


def bound(host: str, *, only6: bool = False, type_: int = socket.SOCK_STREAM) -> socket.socket:
    made = socket.socket(V6 if ":" in host else V4, type_)
    if ":" in host:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only6)
    made.bind((host, 0))
    if type_ == socket.SOCK_STREAM:
        made.listen()
    return made


def reaches(own: Listeners, port: int, proto: str = "tcp") -> set[str]:
    """The addresses at which the port is the tree's own."""
    with socket.socket(V4) as client:
        return {ip for ip in LOOPBACK if own.has_port(proto, ip, port, client.fileno(), os.getpid())}


@pytest.mark.parametrize("type_", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(
    ("host", "only6", "expected"),
    [
        ("127.0.0.1", False, {"127.0.0.1"}),
        ("0.0.0.0", False, {"127.0.0.1", "127.0.0.2", "0.0.0.0"}),
        ("::1", False, {"::1"}),
        ("::", False, set(LOOPBACK)),
        ("::", True, {"::1"}),
        ("::ffff:127.0.0.1", False, {"127.0.0.1"}),
    ],
)
@pytest.mark.parametrize("moved", [False, True])
def test_a_port_is_own_where_its_socket_receives(
    host: str,
    only6: bool,
    expected: set[str],
    type_: int,
    moved: bool,
    process: Process,
    sockets: list[socket.socket],
) -> None:
    try:
        listener = bound(host, only6=only6, type_=type_)
    except OSError:
        pytest.skip("no IPv6 here")
    sockets.append(listener)
    proto = "tcp" if type_ == socket.SOCK_STREAM else "udp"
    own = Listeners()
    own.add_port(proto, listener.fileno(), process, 0x7FFF if moved else listener.fileno())
    port = listener.getsockname()[1]
    assert reaches(own, port, proto) == expected
    assert not reaches(own, port, "udp" if proto == "tcp" else "tcp")
    listener.close()
    assert not reaches(own, port, proto)


def test_the_same_port_of_several_addresses(process: Process, sockets: list[socket.socket]) -> None:
    own = Listeners()
    first = bound("127.0.0.1")
    port = first.getsockname()[1]
    second = socket.create_server(("127.0.0.2", port))
    sockets += (first, second)
    for listener in sockets:
        own.add_port("tcp", listener.fileno(), process, listener.fileno())
    assert reaches(own, port) == {"127.0.0.1", "127.0.0.2"}
    first.close()
    assert reaches(own, port) == {"127.0.0.2"}


def test_who_no_longer_listens_does_not_receive(process: Process, sockets: list[socket.socket]) -> None:
    for fd in (0x7FFF, None):  # looked for among all, and where it is
        own, listener = Listeners(), bound("127.0.0.1")
        sockets.append(listener)
        own.add_port("tcp", listener.fileno(), process, listener.fileno() if fd is None else fd)
        port = listener.getsockname()[1]
        assert reaches(own, port) == {"127.0.0.1"}
        listener.shutdown(socket.SHUT_RDWR)
        assert not reaches(own, port)


def test_another_thing_under_that_number_is_not_it(process: Process, sockets: list[socket.socket]) -> None:
    own, listener, other = Listeners(), bound("127.0.0.1"), bound("127.0.0.1")
    sockets += (listener, other)
    own.add_port("tcp", listener.fileno(), process, listener.fileno())
    port = listener.getsockname()[1]
    kept = os.dup(listener.fileno())
    os.dup2(other.fileno(), listener.fileno())
    assert reaches(own, port) == {"127.0.0.1"}, "it lives under another number"
    os.close(kept)
    assert not reaches(own, port)


def test_a_process_that_has_gone_holds_nothing(sockets: list[socket.socket]) -> None:
    known, own, listener = Processes(), Listeners(), bound("127.0.0.1")
    sockets.append(listener)
    process, _ = known.find(os.getpid())
    own.add_port("tcp", listener.fileno(), process, listener.fileno())
    known.close()
    port = listener.getsockname()[1]
    assert reaches(own, port) == {"127.0.0.1"}, "others may hold it"
    listener.close()
    assert not reaches(own, port)
