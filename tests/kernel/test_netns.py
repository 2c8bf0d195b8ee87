"""The namespaces as they are drawn in asl_hooks.netns; links, addresses and routes are read back through pyroute2."""

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

import pyroute2
import pytest

from asl_hooks import netns, rtnetlink
from asl_hooks.errors import UnsupportedError
from tests.kernel.egress_scene import as_user, forked, result_of

USERS = ("self", "ordinary")


def errno_of(act: Callable[[], object]) -> int:
    try:
        act()
    except OSError as error:
        return error.errno or -1
    return 0


def described(_: object = None) -> tuple[set[Any], set[Any], set[Any]]:
    """(name, up) of links, (address, prefix) of addresses, (type, destination, gateway) of the default routes."""
    with pyroute2.IPRoute() as route:
        links = {(link.get("IFLA_IFNAME"), link["state"]) for link in route.get_links()}
        addresses = {
            (a.get("IFA_ADDRESS"), a["prefixlen"])
            for a in route.get_addr()
            if not a.get("IFA_ADDRESS").startswith("fe80")
        }
        routes = {
            (r["type"], f"{r.get('RTA_DST') or ''}/{r['dst_len']}", r.get("RTA_GATEWAY"))
            for r in route.get_routes(table=254)
            if r["dst_len"] == 0
        }
    return links, addresses, routes


LOOPBACK = {("127.0.0.1", 8), ("::1", 128), ("198.18.0.1", 32), ("fd61:736c:6567::1", 128)}


@pytest.mark.parametrize("user", USERS)
def test_the_namespace_is_empty_but_for_a_working_loopback(user: str) -> None:
    def act() -> tuple[bool, Any, int, int, bytes]:
        owned = netns.enter()
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname(), 5)
        server.accept()[0].sendall(b"own")
        outside = errno_of(lambda: socket.socket().connect(("192.0.2.1", 80)))
        outside6 = errno_of(lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)))
        return owned, [socket.if_nameindex(), os.getuid()], outside, outside6, client.recv(9)

    def run() -> Any:
        return act(), os.getuid()

    (owned, (links, uid), outside, outside6, data), real = as_user(user, run)
    assert owned == (real != 0)
    assert uid == real
    assert links == [(1, "lo")]
    assert (outside, outside6) == (errno.ENETUNREACH, errno.ENETUNREACH)
    assert data == b"own"


def test_addresses_are_there_before_any_egress_for_resolvers_that_ask_only_for_what_is_configured() -> None:
    def act() -> Any:
        netns.enter()
        return described()

    links, addresses, routes = as_user("self", act)
    assert links == {("lo", "up")}
    assert addresses == LOOPBACK
    assert routes == set()


def test_both_namespaces_are_as_drawn() -> None:
    def act() -> Any:
        netns.enter()
        tree = netns.open_namespace(os.getpid())
        capture = netns.build_capture(tree)
        netns.switch(tree)
        inside = described()
        netns.switch(capture)
        return inside, described()

    inside, capture = as_user("self", act)
    assert inside[0] == {("lo", "up"), ("eth0", "up")}
    assert inside[1] == LOOPBACK | {("198.18.0.1", 30), ("fd61:736c:6567::1", 64)}
    assert inside[2] == {(1, "/0", "198.18.0.2"), (1, "/0", "fd61:736c:6567::2")}
    assert capture[0] == {("lo", "up"), ("egress", "up")}
    assert capture[1] == {("127.0.0.1", 8), ("::1", 128), ("198.18.0.2", 30), ("fd61:736c:6567::2", 64)}
    assert capture[2] == {(2, "/0", None)}


@pytest.mark.parametrize("user", USERS)
def test_another_process_can_join_and_every_address_leads_to_the_capture_namespace(user: str) -> None:
    def act() -> list[tuple[str, str]]:
        reader, writer = os.pipe()
        stay, leave = os.pipe()

        def tree() -> None:
            netns.enter()
            os.write(writer, b".")
            os.read(stay, 1)

        holder, result = forked(tree)
        os.read(reader, 1)
        net_fd = netns.open_namespace(holder)

        def joined() -> list[tuple[str, str]]:
            netns.join(net_fd)
            netns.build_capture(net_fd)
            listening = socket.create_server(("::", 4433), family=socket.AF_INET6, dualstack_ipv6=True)
            netns.switch(net_fd)
            met = []
            for ip in ("93.184.216.34", "169.254.169.254", "2606:4700::1", "10.0.0.1"):
                client = socket.create_connection((ip, 4433), 5)
                met.append((ip, listening.accept()[0].getsockname()[0].removeprefix("::ffff:")))
                client.close()
            met.append(("127.0.0.1", str(errno_of(lambda: socket.create_connection(("127.0.0.1", 4433), 5)))))
            met.append(("closed", str(errno_of(lambda: socket.create_connection(("93.184.216.34", 4434), 5)))))
            return met

        met: list[tuple[str, str]] = result_of(*forked(joined))
        os.write(leave, b".")
        result_of(holder, result)
        return met

    met = as_user(user, act)
    assert met[:4] == [(ip, ip) for ip, _ in met[:4]]
    assert met[4:] == [("127.0.0.1", str(errno.ECONNREFUSED)), ("closed", str(errno.ECONNREFUSED))]


def test_a_refused_request_raises_what_the_kernel_said() -> None:
    def act() -> int:
        netns.enter()
        return errno_of(lambda: rtnetlink.apply((rtnetlink.link_up(77),)))

    assert as_user("self", act) == errno.ENODEV


def test_a_machine_without_user_namespaces_is_told_apart_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_flags: int) -> None:
        raise PermissionError(errno.EPERM, "unshare")

    monkeypatch.setattr(netns, "_unshare", refuse)
    settings = {"kernel/apparmor_restrict_unprivileged_userns": "1"}
    monkeypatch.setattr(netns, "_sysctl", lambda name: settings.get(name, ""))
    with pytest.raises(UnsupportedError, match=r"Operation not permitted.*AppArmor"):
        netns.enter()
    settings.clear()
    with pytest.raises(UnsupportedError, match="container"):
        netns.enter()
