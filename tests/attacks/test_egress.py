"""Network: out of a namespace of its own, past the process that is its only way to the host."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.bystander import Bystander
from tests.attacks.scene import Scene
from tests.requirements import found

CODE = r"""
import ctypes, errno, fcntl, glob, os, socket, struct, sys
tcp4, udp4, tcp6 = map(int, sys.argv[1:4]); own = sys.argv[4]; is_bound = sys.argv[5] == "bound"
libc = ctypes.CDLL(None)
def attempt(what, act):
    try: result = act()
    except OSError: return
    if result != -1: print("did", what, flush=True)
def netlink(kind, body):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
        s.settimeout(5)
        s.send(struct.pack("=IHHII", 16 + len(body), kind, 0x605, 1, 0) + body)
        answer = s.recv(4096); code = struct.unpack_from("=i", answer, 16)[0]
        if code: raise OSError(-code, "netlink")
def option(family, kind, level, name, value):
    with socket.socket(family, kind) as s: s.setsockopt(level, name, value)
# Other kinds of sockets
for family, kind, proto in ((17, 3, 0x300), (17, 2, 0x300), (2, 3, 255), (2, 3, 1), (2, 2, 1), (10, 3, 58), (2, 1, 132),
                            (2, 2, 136), (40, 1, 0), (40, 2, 0), (38, 5, 0), (44, 3, 0), (16, 3, 4), (16, 3, 12),
                            (16, 3, 16), (16, 3, 9), (31, 3, 0), (29, 3, 1), (43, 1, 0), (2, 1, 256), (21, 5, 0)):
    attempt(f"socket {family} {kind} {proto}", lambda: socket.socket(family, kind, proto).close())
def apart(act):
    pid = os.fork()
    if not pid:
        act(); os._exit(0)
    os.waitpid(pid, 0)
# Changing the network: a route, an address, a link, a rule. As a control in a namespace of its own: never the host's.
a = socket.inet_aton
def changes():
    if not is_bound and libc.unshare(0x50000000): return
    if os.readlink("/proc/self/ns/net") == sys.argv[6]: print("did stay in the host's namespace"); return
    route = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 3, 253, 1, 0) + struct.pack("=HHI", 8, 4, 1)
    to = struct.pack("=HH4s", 8, 1, a("203.0.113.99")); local = struct.pack("=HH4s", 8, 2, a("203.0.113.98"))
    attempt("address", lambda: netlink(20, struct.pack("=BBBBI", 2, 32, 0, 0, 1) + local))
    attempt("link up", lambda: netlink(16, struct.pack("=BBHiII", 0, 0, 0, 1, 1, 1)))
    attempt("route", lambda: netlink(24, route + to))
    attempt("link down", lambda: netlink(16, struct.pack("=BBHiII", 0, 0, 0, 1, 0, 1)))
    attempt("rule", lambda: netlink(32, struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0)))
apart(changes)
# Somebody else's namespace
for path in ("/proc/1/ns/net", f"/proc/{os.getppid()}/ns/net", "/proc/self/ns/net", "/proc/1/ns/user"):
    def into(path=path):
        fd = os.open(path, os.O_RDONLY)
        return libc.setns(fd, 0)
    apart(lambda: attempt(f"setns {path}", into))
for flags in (0x40000000, 0x50000000, 0x10000000):
    apart(lambda: attempt(f"unshare {flags:#x}", lambda: libc.unshare(flags)))
# Packets by way of somebody else
lsrr = struct.pack("!BBB4sB", 131, 7, 4, a("127.0.0.2"), 0)
attempt("source route", lambda: option(2, 2, 0, 4, lsrr))
attempt("source route tcp", lambda: option(2, 1, 0, 4, lsrr))
hop = socket.inet_pton(10, "::1")
attempt("routing header", lambda: option(10, 2, 41, 57, struct.pack("=BBBBI16s", 0, 2, 2, 1, 0, hop)))
attempt("old routing header", lambda: option(10, 2, 41, 5, struct.pack("=BBBBI16s", 0, 2, 2, 1, 0, hop)))
attempt("transparent", lambda: option(2, 1, 0, 19, 1)); attempt("mark", lambda: option(2, 1, 1, 36, 7))
# Whatever might be the host
def tcp(ip, port):
    with socket.socket(10 if ":" in ip else 2) as s:
        s.settimeout(5); s.connect((ip, port)); s.sendall(b"out"); return s.recv(1)
def udp(ip, port):
    with socket.socket(10 if ":" in ip else 2, 2) as s: s.sendto(b"out", (ip, port))
for ip in ("127.0.0.1", "127.0.0.2", own, "0.0.0.0", "198.18.0.1", "198.18.0.2", "169.254.169.254", "::ffff:127.0.0.1",
           "::1", "::", f"::ffff:{own}", "fd61:736c:6567::1", "fd61:736c:6567::2", "2130706433", "0x7f.1"):
    attempt(f"tcp {ip}", lambda: tcp(ip, tcp6 if ip == "::1" else tcp4)); attempt(f"udp {ip}", lambda: udp(ip, udp4))
# DNS as a tunnel: a name that is not allowed leaves no trace on the host, whatever the type, whoever is asked
def ask(name, kind, server, tcp=False):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    packet = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)
    with socket.socket(2, 1 if tcp else 2) as s:
        s.settimeout(5); s.connect((server, 53)); s.sendall(struct.pack("!H", len(packet)) + packet if tcp else packet)
        answer = s.recv(4096)[2 * tcp:]
        if answer[3] & 15 or not answer[6:8] != b"\0\0": raise OSError("no answer")
for kind in (1, 28, 16, 5, 15, 33, 65, 255):
    for tcp_ in (False, True):
        name = "secret-" + "x" * 50 + "." + "y" * 60 + ".tunnel.test"
        attempt(f"dns {kind}", lambda: ask(name, kind, "8.8.8.8" if is_bound else "127.0.0.1", tcp_))
# The process itself: more connections than it has room for, and all at once; it must live through it
held = []
for _ in range(3000):
    try:
        s = socket.socket(); s.setblocking(False); held.append(s)
        s.connect_ex(("8.8.8.8" if is_bound else "127.0.0.1", 53))
    except OSError: break
for s in held: s.close()
print("tried", flush=True)
"""


def _own_address() -> str:
    """An address of this machine other than loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@pytest.mark.requires("netns")
@pytest.mark.parametrize("scene", ["waved"], indirect=True)
def test_namespace(scene: Scene, bystander: Callable[[Path], Bystander]) -> None:
    here = os.readlink("/proc/self/ns/net")
    for bound in (True, False):
        other = bystander(scene.outside if bound else scene.base)
        ports = [other.ready.get(name, 0) for name in ("stream", "dgram", "stream6")]
        command = [sys.executable, "-c", CODE, *ports, _own_address(), "bound" if bound else "free", here]
        done = scene.bound(*command, timeout_s=90) if bound else scene.free(*command, timeout_s=90)
        did = [line for line in done.stdout.splitlines() if line.startswith("did ")]
        told = other.told()
        if bound:
            assert "tried" in done.stdout, done.stderr
            assert not told
            # A datagram socket may be sent to where nobody receives; routing to oneself is nobody's business.
            assert not [line for line in did if not line.startswith("did udp ")], did
        else:
            assert os.geteuid() or {"did source route", "did source route tcp"} <= set(did), did
            if found("userns", frozenset()).ok:
                assert {"did address", "did rule"} <= set(did), did
            assert any("stream" in line for line in told) and any("dgram" in line for line in told)
        for path in (*scene.outside.glob("*.sock"), *scene.base.glob("*.sock")):
            path.unlink()


PORT = r"""
import socket, sys
for ip in ("127.0.0.1", "::1"):
    try:
        with socket.create_connection((ip, int(sys.argv[1])), 10) as s: print(s.recv(9).decode(), flush=True)
    except OSError as error: print(type(error).__name__, flush=True)
"""


@pytest.mark.requires("netns", "userns")
@pytest.mark.parametrize("scene", ["waved"], indirect=True)
def test_a_port_of_the_host_without_listener_refuses(scene: Scene) -> None:
    with socket.socket() as held:  # taken, so that nobody listens there meanwhile
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        policy = scene.policy(allow=[f"localhost:{port}"])
        done = scene.bound(sys.executable, "-c", PORT, port, policy=policy)
        assert done.stdout.split() == ["ConnectionRefusedError"] * 2, done.stderr
        held.listen()
        pid = os.fork()
        if not pid:
            for _ in range(2):
                held.accept()[0].send(b"host")
            os._exit(0)
        try:
            done = scene.bound(sys.executable, "-c", PORT, port, policy=policy)
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    assert done.stdout.split() == ["host"] * 2, "with one it answers"


LATER = r"""
import os, socket, sys
port, kept = int(sys.argv[1]), sys.argv[2]
def apart(*acts):
    child = os.fork()
    if not child:
        for act in acts:
            try: act()
            except OSError as error: print(type(error).__name__, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
def send(data, connected):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(0.5)
        if connected: s.connect(("127.0.0.1", port)); s.send(data)
        else: s.sendto(data, ("127.0.0.1", port))
        try: s.recv(9)
        except TimeoutError: pass
# Somebody has the port opened, then somebody else, who may not use it, connects and sends.
apart(lambda: send(b"hello", True))
apart(lambda: open(kept).read(), lambda: send(b"sent", False), lambda: send(b"connected", True))
apart(lambda: send(b"bye", True))
"""


@pytest.mark.parametrize("scene", ["waved"], indirect=True)
def test_a_port_that_was_opened_for_somebody_else(scene: Scene) -> None:
    kept = scene.base / "home" / "kept"
    kept.write_text("x")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.bind(("127.0.0.1", 0))
        heard.settimeout(10)
        port = heard.getsockname()[1]
        policy = scene.policy(allow=[f"localhost:{port}", f"127.0.0.1:{port}"])
        rule = f"rules:\n  - {{name: after, on: net, after: {{on: file.read, path: {kept}}}, action: block}}\n"
        policy.write_text(policy.read_text() + rule)

        def told() -> list[bytes]:
            found = []
            while b"bye" not in found:
                found.append(heard.recv(99))
            return found

        done = scene.bound(sys.executable, "-c", LATER, port, kept, policy=policy)
        assert told() == [b"hello", b"bye"], done.stderr
        assert "PermissionError" in done.stdout
        scene.free(sys.executable, "-c", LATER, port, kept)
        assert told() == [b"hello", b"sent", b"connected", b"bye"], "without a supervisor it works"
