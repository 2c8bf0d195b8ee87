"""The egress process, in real namespaces, as root (when the tests run as root) and as an ordinary user.

The host's loopback stands in for the internet: names resolve to servers of our own there.
"""

import asyncio
import errno
import hashlib
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import pytest

from agent_safety_layer.egress.client import EgressClient
from agent_safety_layer.egress.gate import Settings
from agent_safety_layer.egress.protocol import Ask
from agent_safety_layer.errors import UnsupportedError
from agent_safety_layer.events import ALLOW, ASK, BLOCK, Decision
from asl_hooks import netns
from tests.core.egress.test_dns import question
from tests.core.egress.test_sniff import client_hello
from tests.kernel.egress_scene import Scene, Server, as_user, echo

T = TypeVar("T")
NAMES = {"a.test": ("127.0.0.1",), "b.test": ("127.0.0.1",), "six.test": ("::1",)}
# What a reset looks like, by the call that meets it: recv, send, shutdown.
RESET = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)
_loaded_before_privileges_go = client_hello("a.test")

pytestmark = pytest.mark.parametrize("user", ["self", "ordinary"])


def in_scene(user: str, act: Callable[[Scene], T], **options: Any) -> T:
    """What *act* returns or raises, given a scene in a process of that user."""

    def run() -> T:
        scene = Scene(**{"allowed": ("a.test", "six.test"), "names": NAMES, **options})
        try:
            return act(scene)
        finally:
            scene.close()

    return as_user(user, run)


def errno_of(act: Callable[[], object]) -> int:
    try:
        act()
    except OSError as error:
        return error.errno or -1
    return 0


def ask_dns(name: str, kind: int = 1, server: str = "192.0.2.53", *, tcp: bool = False) -> tuple[int, list[str]]:
    """The rcode and the addresses that a DNS server answers, asked from where the process is."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    packet = question(name, kind)
    with socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as asking:
        asking.settimeout(10)
        asking.connect((server, 53))
        if tcp:
            asking.sendall(struct.pack("!H", len(packet)) + packet)
            stream = asking.makefile("rb")
            answer = stream.read(struct.unpack("!H", stream.read(2))[0])
            stream.close()
        else:
            asking.send(packet)
            answer = asking.recv(2000)
    size = {1: 4, 28: 16}.get(kind, 0)
    count = struct.unpack_from("!H", answer, 6)[0]
    ends = range(len(answer), len(answer) - count * (12 + size), -(12 + size))
    found = [
        socket.inet_ntop(socket.AF_INET6 if size == 16 else socket.AF_INET, answer[end - size : end]) for end in ends
    ]
    return answer[3] & 15, found


def exchange(ip: str, port: int, data: bytes) -> bytes:
    """What comes back when *data* is sent and the sending side closed."""
    with socket.create_connection((ip, port), 10) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while piece := client.recv(65536):
            received += piece
        return received


def address(scene: Scene, name: str, kind: int = 1) -> str:
    """The address that the tree gets for an allowed name."""
    rcode, found = scene.inside(lambda: ask_dns(name, kind))
    assert rcode == 0
    return found[0]


def test_allowed_names_resolve_whichever_server_is_asked_and_others_do_not(user: str) -> None:
    def act(scene: Scene) -> None:
        def asks() -> list[tuple[int, list[str]]]:
            return [
                ask_dns("a.test"),
                ask_dns("A.TEST", server="8.8.8.8", tcp=True),
                ask_dns("a.test", 28, server="2001:db8::53"),
                ask_dns("a.test", 28, server="2001:db8::53", tcp=True),
                ask_dns("a.test", 65),
                ask_dns("localhost", 28),
                ask_dns("secret.a.test"),
                ask_dns("evil.test", tcp=True),
                ask_dns("1.0.0.127.in-addr.arpa", 12),
            ]

        first, over_tcp, first6, second6, https, local, below, evil, reverse = scene.inside(asks)
        assert first == over_tcp == (0, ["198.18.1.0"])
        assert first6 == second6 == (0, ["fd61:736c:6567:1::100"])
        assert https == (0, [])
        assert local == (0, ["::1"])
        assert below == evil == reverse == (3, [])
        assert scene.lookups() == ["a.test"], "what is not allowed must not leave the machine"
        assert scene.client.host_of("198.18.1.0") == scene.client.host_of("fd61:736c:6567:1::100") == "a.test"

    in_scene(user, act)


def test_a_resolver_of_the_trees_own_loopback_is_served_when_opened(user: str) -> None:
    def act(scene: Scene) -> None:
        assert scene.inside(lambda: errno_of(lambda: ask_dns("a.test", server="127.0.0.53"))) == errno.ECONNREFUSED
        assert scene.open("127.0.0.53", 53, "udp") == 0
        assert scene.inside(lambda: ask_dns("a.test", server="127.0.0.53")) == (0, ["198.18.1.0"])

    in_scene(user, act)


def test_the_c_library_resolves_and_reports_blocked_names_as_unknown(user: str) -> None:
    def act(scene: Scene) -> None:
        with open("/etc/resolv.conf", encoding="utf-8") as lines:
            servers = [line.split()[1] for line in lines if line.startswith("nameserver")] or ["127.0.0.1"]
        for server in servers:
            if netns_loopback(server):
                assert scene.open(server, 53, "udp") == 0

        def resolves() -> tuple[list[str], int]:
            found = socket.getaddrinfo("a.test", 80, socket.AF_INET, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            return [str(info[4][0]) for info in found], errno_of(lambda: socket.getaddrinfo("evil.test", 80))

        assert scene.inside(resolves) == (["198.18.1.0"], socket.EAI_NONAME)

    in_scene(user, act)


def netns_loopback(server: str) -> bool:
    return server.startswith("127.") or server == "::1"


def test_a_name_that_needs_approval_is_looked_up_only_after_it(user: str) -> None:
    granted: list[str] = []

    def judge(question: Ask) -> Decision:
        return Decision(ALLOW if question.host in granted else ASK)

    def act(scene: Scene) -> None:
        server = Server(echo)
        ip = address(scene, "a.test")
        scene.open(ip, server.port)
        assert scene.inside(lambda: errno_of(lambda: exchange(ip, server.port, b"early"))) in RESET
        assert scene.lookups() == []
        granted.append("a.test")
        assert scene.inside(lambda: exchange(ip, server.port, b"late")) == b"late"
        assert scene.lookups() == ["a.test"]
        assert server.told() == b"late"
        server.close()

    in_scene(user, act, judge=judge)


def test_names_that_do_not_exist_are_told_so(user: str) -> None:
    def act(scene: Scene) -> None:
        assert scene.inside(lambda: ask_dns("nowhere.test")) == (3, [])
        assert scene.report("net.dns").result == "NXDOMAIN"

    in_scene(user, act, allowed=("nowhere.test",))


@pytest.mark.parametrize("kind", [1, 28])
def test_a_connection_to_an_allowed_name_arrives(user: str, kind: int) -> None:
    def act(scene: Scene) -> None:
        server, server6 = Server(echo), Server(echo, "::1")
        for name, reached in (("a.test", server), ("six.test", server6)):
            ip = address(scene, name, kind)
            assert scene.open(ip, reached.port) == 0
            assert scene.inside(partial(exchange, ip, reached.port, b"hello")) == b"hello"
            assert reached.told() == b"hello"
            event = scene.report()
            assert (event.host, event.port, event.result, event.sent, event.received) == (name, reached.port, "", 5, 5)
        server.close()
        server6.close()

    in_scene(user, act)


def test_what_lasts_is_asked_once_and_what_is_refused_each_time(user: str) -> None:
    def act(scene: Scene) -> None:
        server = Server(echo)
        ip = address(scene, "a.test")
        scene.open(ip, server.port)
        for _ in range(3):
            assert scene.inside(lambda: exchange(ip, server.port, b"x")) == b"x"
            assert scene.inside(lambda: ask_dns("evil.test")) == (3, [])
        asked = [(question.kind, question.host) for question in scene.asked]
        assert asked == [("net.dns", "a.test"), ("net.connect", "a.test"), *[("net.dns", "evil.test")] * 3]
        server.close()

    in_scene(user, act, lasting=True)


def test_a_port_that_was_not_opened_refuses_and_one_that_was_still_judges(user: str) -> None:
    """The tree may swap the address after the supervisor has looked: what it dials is judged, not what it showed."""

    def act(scene: Scene) -> None:
        server = Server(echo)
        ip = address(scene, "a.test")
        assert scene.inside(lambda: errno_of(lambda: exchange(ip, server.port, b"x"))) == errno.ECONNREFUSED
        scene.open(ip, server.port)
        for other in ("93.184.216.34", "10.0.0.1", "2001:db8::1", "198.18.1.77", "198.18.0.2", "169.254.169.254"):
            swapped = scene.inside(partial(errno_of, partial(exchange, other, server.port, b"stolen")))
            assert swapped in RESET, other
        assert scene.inside(lambda: exchange(ip, server.port, b"control")) == b"control"
        assert server.told() == b"control"
        assert not server.was_reached()
        judged = [question.ip for question in scene.asked if question.kind == "net.connect"]
        assert judged == ["93.184.216.34", "10.0.0.1", "2001:db8::1", "127.0.0.1"]
        refused = {event.reason.split(" ")[0]: event.result for event in scene.reports("net.connect") if event.result}
        assert refused == {"198.18.1.77": "EHOSTUNREACH", "198.18.0.2": "EHOSTUNREACH", "169.254.169.254": "EACCES"}
        server.close()

    in_scene(user, act)


def test_a_literal_address_is_dialled_as_it_is(user: str) -> None:
    own = own_address()  # loopback cannot be dialled through the capture namespace

    def act(scene: Scene) -> None:
        server = Server(echo, own)
        scene.open(own, server.port)
        assert scene.inside(lambda: exchange(own, server.port, b"literal")) == b"literal"
        assert server.told() == b"literal"
        server.close()

    if not own:
        pytest.skip("this machine has no address but loopback")
    in_scene(user, act, allowed=(own,))


def own_address() -> str:
    """The IPv4 address from which this host would reach others (nothing is sent), "" when it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        if probe.connect_ex(("192.0.2.1", 9)):
            return ""
        return str(probe.getsockname()[0])


INSIDE = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "own"]


@pytest.mark.parametrize("leads_to", INSIDE)
def test_a_name_that_leads_inside_is_not_dialled(user: str, leads_to: str) -> None:
    def act(scene: Scene) -> None:
        server = Server(echo)
        rcode, found = scene.inside(lambda: ask_dns("a.test"))
        assert (rcode, found) == (3, [])
        assert scene.report("net.dns").result == "NXDOMAIN"
        assert not server.was_reached()
        server.close()

    def control(scene: Scene) -> None:
        assert scene.inside(lambda: ask_dns("a.test")) == (0, ["198.18.1.0"])

    to = (own_address() or "127.0.0.1") if leads_to == "own" else leads_to
    in_scene(user, act, names={"a.test": (to,)}, settings=Settings())
    in_scene(user, control, names={"a.test": ("93.184.216.34",)}, settings=Settings())


def test_an_answer_that_changes_after_the_look_up_is_checked_again(user: str) -> None:
    """The policy may look at the address: a name that is fine by itself is judged with where it leads."""

    def judge(question: Ask) -> Decision:
        return Decision(BLOCK if question.ip == "127.0.0.1" else ALLOW)

    def act(scene: Scene) -> None:
        server = Server(echo)
        ip = address(scene, "a.test")
        scene.open(ip, server.port)
        assert scene.inside(lambda: errno_of(lambda: exchange(ip, server.port, b"x"))) in RESET
        six = Server(echo, "::1")
        ip = address(scene, "six.test")
        scene.open(ip, six.port)
        assert scene.inside(lambda: exchange(ip, six.port, b"ok")) == b"ok"
        assert not server.was_reached()
        server.close()
        six.close()

    in_scene(user, act, judge=judge)


HTTP = b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n"


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (client_hello("a.test"), client_hello("evil.test")),
        (client_hello("A.Test"), client_hello(None)),
        (HTTP % b"a.test:80", HTTP % b"evil.test"),
        (HTTP % b"A.test.", b"GET http://evil.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"),
        (b"SSH-2.0-x\r\n", b"CONNECT evil.test:443 HTTP/1.1\r\n\r\n"),
    ],
)
def test_the_name_inside_must_be_allowed_too(user: str, good: bytes, bad: bytes) -> None:
    def act(scene: Scene) -> None:
        server = Server(echo)
        ip = address(scene, "a.test")
        scene.open(ip, server.port)
        assert scene.inside(lambda: exchange(ip, server.port, good)) == good
        assert server.told() == good
        scene.report()

        def in_pieces() -> int:
            with socket.create_connection((ip, server.port), 10) as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.sendall(bad[:8])
                client.recv(8)  # it has gone through: nothing is held back
                try:
                    client.sendall(bad[8:])
                except OSError as error:
                    return error.errno or -1
                return errno_of(lambda: client.recv(9))

        assert scene.inside(in_pieces) in RESET
        assert server.told() == bad[:8], "the server must never see the name"
        event = scene.report()
        assert (event.host, event.result) == ("a.test", "ECONNRESET")
        assert "evil.test" in event.reason or "without a server name" in event.reason
        server.close()

    in_scene(user, act)


@pytest.mark.parametrize(
    "later",
    [
        HTTP % b"evil.test",
        b"CONNECT evil.test:443 HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length : 50\r\n\r\n" + HTTP % b"evil.test",
    ],
)
def test_a_later_request_must_name_an_allowed_host_too(user: str, later: bytes) -> None:
    def act(scene: Scene) -> None:
        server = Server(echo)
        ip = address(scene, "a.test")
        scene.open(ip, server.port)
        body = HTTP % b"evil.test"  # which is no request, where it is
        first = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

        def keeps_alive() -> int:
            with socket.create_connection((ip, server.port), 10) as client:
                for _ in range(2):
                    client.sendall(first)
                    left = len(first)
                    while left:
                        left -= len(client.recv(left))
                client.sendall(later)
                return errno_of(lambda: client.recv(9))

        assert scene.inside(keeps_alive) in RESET
        assert server.told() == first * 2
        server.close()

    in_scene(user, act)


def test_observing_lets_what_would_be_refused_go_on_and_says_so(user: str) -> None:
    def act(scene: Scene) -> None:
        server = Server(echo)
        ip = address(scene, "a.test")
        scene.open(ip, server.port)
        hello = client_hello(None)
        assert scene.inside(lambda: exchange(ip, server.port, hello)) == hello
        assert scene.report().reason == "TLS without a server name"
        server.close()

    in_scene(user, act, settings=Settings(observe=True))


def test_a_server_that_speaks_first_is_heard_at_once(user: str) -> None:
    def greet(connection: socket.socket) -> bytes:
        connection.sendall(b"220 hello\r\n")
        return connection.recv(99)

    def act(scene: Scene) -> None:
        server = Server(greet)
        ip = address(scene, "a.test")
        scene.open(ip, server.port)

        def talk() -> bytes:
            with socket.create_connection((ip, server.port), 10) as client:
                greeting = client.recv(99)
                client.sendall(b"EHLO")
                return greeting

        assert scene.inside(talk) == b"220 hello\r\n"
        assert server.told() == b"EHLO"
        server.close()

    in_scene(user, act)


def test_much_data_and_slow_readers(user: str) -> None:
    size = 24 << 20

    def digest(connection: socket.socket) -> bytes:
        seen = hashlib.sha256()
        while data := connection.recv(1 << 16):
            seen.update(data)
        connection.sendall(seen.digest())
        connection.sendall(bytes(range(256)) * (size // 256))
        return b"done"

    def act(scene: Scene) -> None:
        server = Server(digest)
        ip = address(scene, "a.test")
        scene.open(ip, server.port)
        data = os.urandom(1 << 16) * (size >> 16)

        def transfer() -> tuple[bytes, bytes]:
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
                client.settimeout(20)
                client.connect((ip, server.port))
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                digest = client.recv(32, socket.MSG_WAITALL)
                back = hashlib.sha256()
                while piece := client.recv(3000):
                    back.update(piece)
                return digest, back.digest()

        there, back = scene.inside(transfer)
        assert there == hashlib.sha256(data).digest()
        assert back == hashlib.sha256(bytes(range(256)) * (size // 256)).digest()
        event = scene.report()
        assert (event.sent, event.received) == (size, size + 32)
        server.close()

    in_scene(user, act)


@pytest.mark.parametrize("who", ["server", "client"])
def test_resets_pass_through(user: str, who: str) -> None:
    def reset(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def serve(connection: socket.socket) -> bytes:
        connection.recv(9)
        if who == "server":
            reset(connection)
            return b""
        connection.sendall(b"2")
        try:
            return connection.recv(9)
        except ConnectionResetError:
            return b"was reset"

    def act(scene: Scene) -> None:
        server = Server(serve)
        ip = address(scene, "a.test")
        scene.open(ip, server.port)

        def talk() -> int:
            with socket.create_connection((ip, server.port), 10) as client:
                client.sendall(b"1")
                if who == "client":
                    client.recv(9)
                    reset(client)
                    return 0
                return errno_of(lambda: client.recv(9))

        assert scene.inside(talk) == (errno.ECONNRESET if who == "server" else 0)
        assert server.told() == (b"was reset" if who == "client" else b"")
        assert scene.report().reason
        server.close()

    in_scene(user, act)


def ticks(pid: int) -> int:
    """The processor time that the process has used, in hundredths of a second."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_many_connections_at_once(user: str) -> None:
    many = 400

    def act(scene: Scene) -> None:
        server = Server(echo)
        ip = address(scene, "a.test")
        scene.open(ip, server.port)

        def all_at_once() -> int:
            clients = [socket.create_connection((ip, server.port), 20) for _ in range(many)]
            for number, client in enumerate(clients):
                client.sendall(b"%d" % number)
            good = sum(client.recv(9) == b"%d" % number for number, client in enumerate(clients))
            for client in clients:
                client.close()
            return good

        assert scene.inside(all_at_once) == many
        scene.pump(lambda: len(scene.reports("net.connect")) == many)
        before = ticks(scene.client.pid)
        assert not select.select([scene.client], [], [], 0.3)[0], "all has been told"
        assert ticks(scene.client.pid) - before <= 3, "it must not be busy when nothing happens"
        server.close()

    in_scene(user, act)


def test_an_upstream_that_refuses_is_reported(user: str) -> None:
    def act(scene: Scene) -> None:
        server = Server(echo)
        server.close()
        ip = address(scene, "a.test")
        scene.open(ip, server.port)
        assert scene.inside(lambda: errno_of(lambda: exchange(ip, server.port, b"x"))) in RESET
        event = scene.report()
        assert (event.host, event.result) == ("a.test", "ECONNREFUSED")

    in_scene(user, act)


def test_localhost_reaches_the_host_where_opened_and_the_trees_own_server_first(user: str) -> None:
    def act(scene: Scene) -> None:
        server = Server(echo)
        port = server.port
        for ip in ("127.0.0.1", "::1"):
            to_host = partial(exchange, ip, port, b"to the host")
            assert scene.inside(partial(errno_of, to_host)) == errno.ECONNREFUSED
            assert scene.open(ip, port) == 0
            assert scene.inside(to_host) == b"to the host"
            assert server.told() == b"to the host"
        released: list[bool] = []
        scene.client.release(port, "tcp", lambda: released.append(True))
        scene.pump(lambda: bool(released))
        stay, leave = os.pipe()
        reader, ready = os.pipe()

        def own_server() -> None:
            own = socket.create_server(("127.0.0.1", port))
            os.write(ready, b".")
            connection = own.accept()[0]
            connection.sendall(b"own")
            connection.close()
            os.read(stay, 1)

        pid = os.fork()
        if pid == 0:
            try:
                netns.join(scene.net_fd)
                own_server()
            finally:
                os._exit(0)
        assert os.read(reader, 1)
        assert scene.open("127.0.0.1", port) == 0
        assert scene.inside(lambda: exchange("127.0.0.1", port, b"")) == b"own"
        assert not server.was_reached()
        os.write(leave, b".")
        os.waitpid(pid, 0)
        server.close()

    in_scene(user, act, allowed=("localhost",))


def test_udp_is_refused_unless_opened_and_judged(user: str) -> None:
    def act(scene: Scene) -> None:
        outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        outside.bind(("127.0.0.1", 0))
        outside.settimeout(10)
        port = outside.getsockname()[1]
        ip, other = address(scene, "a.test"), "203.0.113.7"

        def send(to: str, data: bytes) -> int:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(10)
                client.connect((to, port))
                client.send(data)
                return errno_of(lambda: client.recv(9))

        assert scene.inside(lambda: send(ip, b"early")) == errno.ECONNREFUSED
        assert scene.open(ip, port, "udp") == 0

        def both() -> bytes:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(10)
                client.sendto(b"stolen", (other, port))
                client.sendto(b"allowed", (ip, port))
                data, source = client.recvfrom(99)
                assert source == (ip, port)
                return data

        pid = os.fork()
        if pid == 0:
            try:
                data, peer = outside.recvfrom(99)
                outside.sendto(b"re: " + data, peer)
            finally:
                os._exit(0)
        assert scene.inside(both) == b"re: allowed"
        os.waitpid(pid, 0)
        outside.setblocking(False)
        assert errno_of(lambda: outside.recv(9)) == errno.EAGAIN
        assert [(q.host, q.ip) for q in scene.asked if q.proto == "udp"] == [("", other), ("a.test", "127.0.0.1")]

    in_scene(user, act)


def answer_http(connection: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nworld")
    return request.splitlines()[0]


def run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, check=False)


def test_curl_and_asyncio_need_no_proxy(user: str) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")

    def act(scene: Scene) -> None:
        server = Server(answer_http)
        for kind in (1, 28):
            ip = address(scene, "a.test", kind)
            scene.open(ip, server.port)
            where = f"a.test:{server.port}:{f'[{ip}]' if kind == 28 else ip}"
            command = ["curl", "-sS", "--noproxy", "*", "--resolve", where, f"http://a.test:{server.port}/x"]
            fetched = scene.inside(partial(run, command))
            assert fetched.stdout == b"world", fetched.stderr
            assert server.told() == b"GET /x HTTP/1.1"

        async def fetch(host: str) -> bytes:
            reader, writer = await asyncio.open_connection(ip, server.port)
            writer.write(f"GET /y HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            data = await reader.read()
            writer.close()
            await writer.wait_closed()
            return data[-5:]

        assert scene.inside(lambda: asyncio.run(fetch("a.test"))) == b"world"
        assert server.told() == b"GET /y HTTP/1.1"
        assert scene.inside(lambda: errno_of(lambda: asyncio.run(fetch("evil.test")))) in RESET
        server.close()

    in_scene(user, act)


def test_the_process_holds_nothing_and_dies_with_the_supervisor(user: str) -> None:
    def act(scene: Scene) -> None:
        with open(f"/proc/{scene.client.pid}/status", encoding="utf-8") as lines:
            status = {name: text.strip() for name, _, text in (line.partition(":") for line in lines)}
        assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0000000000000000"}
        assert status["NoNewPrivs"] == "1"
        egress = os.pidfd_open(scene.client.pid)
        children = os.listdir(f"/proc/{scene.client.pid}/task")
        assert children == [str(scene.client.pid)]
        scene.client._socket.close()
        assert os.waitid(os.P_PIDFD, egress, os.WEXITED)

    in_scene(user, act)


def test_without_the_process_nothing_gets_out_and_whoever_waits_is_told(user: str) -> None:
    def act(scene: Scene) -> None:
        server = Server(echo)
        ip = address(scene, "a.test")
        scene.open(ip, server.port)
        assert scene.inside(lambda: exchange(ip, server.port, b"before")) == b"before"
        os.kill(scene.client.pid, signal.SIGKILL)
        os.waitpid(scene.client.pid, 0)
        answers: list[int] = []
        scene.client.open(ip, server.port + 1, "tcp", answers.append)
        scene.client.dispatch()
        assert answers == [errno.ENETDOWN]
        assert not scene.client.alive
        gone = scene.inside(lambda: errno_of(lambda: exchange(ip, server.port, b"after")))
        assert gone in (errno.ECONNREFUSED, errno.ENETUNREACH)
        assert server.told() == b"before"
        assert not server.was_reached()
        server.close()

    in_scene(user, act)


def test_a_namespace_that_cannot_be_joined_is_told_before_anything_runs(user: str) -> None:
    def act() -> str:
        with open(os.devnull, "rb") as nothing, pytest.raises(UnsupportedError) as caught:
            EgressClient(nothing.fileno(), judge=lambda _question: None, happened=lambda _event: None)
        return caught.value.wanted

    assert "namespace must be joined" in as_user(user, act)


def test_without_a_namespace_the_supervisor_gets_checked_addresses_and_a_responder(user: str) -> None:
    def act(scene: Scene) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(10)
            asking.connect(("127.0.0.1", scene.client.dns_port))
            asking.send(question("a.test"))
            scene.pump(lambda: bool(scene.client.host_of("198.18.1.0")))
            ip = socket.inet_ntoa(asking.recv(999)[-4:])
        good = scene.resolve(ip, 443)
        assert (good.host, good.ip, good.reason) == ("a.test", "127.0.0.1", "")
        refused = {to: scene.resolve(to, 80) for to in ("93.184.216.34", "169.254.169.254", "198.18.9.9", "127.1")}
        assert {answer.ip for answer in refused.values()} == {""}
        assert refused["93.184.216.34"].reason == "not in the list"
        assert refused["169.254.169.254"].reason == "169.254.169.254 is a metadata address"
        assert "not the address of any name" in refused["198.18.9.9"].reason
        assert refused["127.1"].reason == "127.1 is not an address"

    in_scene(user, act, namespace=False)
