"""Servers and clients that meet on the tree's own loopback and in its folder, with and without a network namespace."""

from __future__ import annotations

import pytest

from tests.compat.place import Place
from tests.compat.test_python import program

pytestmark = pytest.mark.requires("notify", "landlock")

ASYNCIO = """
import asyncio, os, socket, sys
async def serve(reader, writer):
    while data := await reader.read(65536):
        writer.write(data.upper()); await writer.drain()
    writer.close()
class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport): self.transport = transport
    def datagram_received(self, data, address): self.transport.sendto(data[::-1], address)
class Hear(asyncio.DatagramProtocol):
    def __init__(self): self.heard = asyncio.get_running_loop().create_future()
    def datagram_received(self, data, address): self.heard.set_result(data)
async def ask(reader, writer, data):
    writer.write(data); writer.write_eof(); answer = await reader.read(); writer.close(); return answer
async def main():
    loop = asyncio.get_running_loop()
    for host in ("127.0.0.1", "::1", "localhost"):
        server = await asyncio.start_server(serve, host, 0)
        port = server.sockets[0].getsockname()[1]
        answers = await asyncio.gather(*[asyncio.open_connection(server.sockets[0].getsockname()[0], port) for _ in range(20)])
        print(host, len(await ask(*answers[0], b"x" * 300000)), [await ask(*pair, b"%d a" % i) for i, pair in enumerate(answers[1:4])])
        [writer.close() for _, writer in answers]; server.close(); await server.wait_closed()
        family = socket.AF_INET6 if host == "::1" else socket.AF_INET
        here, _ = await loop.create_datagram_endpoint(Echo, local_addr=(host, 0), family=family)
        there, hear = await loop.create_datagram_endpoint(Hear, remote_addr=here.get_extra_info("sockname")[:2], family=family)
        there.sendto(b"abc"); print(await asyncio.wait_for(hear.heard, 5)); here.close(); there.close()
        try: await asyncio.open_connection(host, port, family=family)
        except OSError as error: print(type(error).__name__)
    server = await asyncio.start_unix_server(serve, "sock"); print(await ask(*await asyncio.open_unix_connection("sock"), b"unix")); server.close()
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1); print((await process.communicate(b"through cat"))[0], process.returncode)
    process = await asyncio.create_subprocess_shell("exec sleep 60"); process.terminate(); print(await process.wait())
    print(await asyncio.to_thread(os.listdir, "."), await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM))
    try: await asyncio.wait_for(asyncio.sleep(9), 0.05)
    except TimeoutError: print("timeout")
asyncio.run(main())
"""

THREADED = """
import array, http.client, http.server, os, select, selectors, socket, socketserver, struct, sys, threading, xmlrpc.client, xmlrpc.server
class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet); threading.Thread(target=server.serve_forever, daemon=True).start()
def fetch(found):
    client = http.client.HTTPConnection(*server.server_address); client.request("GET", "/program.py"); found.append(len(client.getresponse().read())); client.request("GET", "/none"); found.append(client.getresponse().status)
found = []; threads = [threading.Thread(target=fetch, args=(found,)) for _ in range(10)]; [t.start() for t in threads]; [t.join() for t in threads]; print(sorted(found)); server.shutdown()
rpc = xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False); rpc.register_function(pow); threading.Thread(target=rpc.serve_forever, daemon=True).start()
print(xmlrpc.client.ServerProxy("http://127.0.0.1:%d" % rpc.server_address[1]).pow(2, 10)); rpc.shutdown()
here, there = socket.socketpair()
file = open("passed", "w+"); socket.send_fds(here, [b"take"], [file.fileno(), 1]); data, fds, _, _ = socket.recv_fds(there, 9, 5); os.write(fds[0], b"by descriptor"); print(data, len(fds)); file.seek(0); print(file.read())
os.umask(0o027); os.mkdir("sub")
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
    name = f"unix-{int(kind)}"; listener = socket.socket(socket.AF_UNIX, kind); listener.bind(name); client = socket.socket(socket.AF_UNIX, kind)
    if kind == socket.SOCK_DGRAM:
        client.bind("client"); client.sendto(b"datagram", name); data, who = listener.recvfrom(99); listener.sendmsg([b"an", b"swer"], [], 0, who); print(data, who, client.recv(99)); client.connect(name); client.send(b"connected"); print(listener.recv(99))
        socket.send_fds(client, [b"fd"], [0]); print(len(socket.recv_fds(listener, 9, 3)[1]))
    else:
        listener.listen(); client.connect(name); peer, _ = listener.accept(); socket.send_fds(client, [b"one"], [file.fileno()]); print(len(socket.recv_fds(peer, 9, 3)[1]), client.getpeername(), peer.getsockname())
        pid, uid, gid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)); print(uid == os.getuid(), gid == os.getgid())
for path in ("sub/deep", "./sub/../dotted", os.path.abspath("sub/full"), f"/proc/self/fd/{os.open('sub', os.O_PATH)}/through"):
    s = socket.socket(socket.AF_UNIX); s.bind(path); print("/proc/" in path or s.getsockname(), oct(os.stat(path).st_mode))
abstract = socket.socket(socket.AF_UNIX); abstract.bind("\\0compat-%d" % os.getpid()); abstract.listen(); client = socket.socket(socket.AF_UNIX); client.connect(abstract.getsockname()); client.sendall(b"abstract"); print(abstract.accept()[0].recv(9))
for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    a, b = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM); a.bind((host, 0)); b.sendto(b"one", a.getsockname()); print(a.recvfrom(9)[0]); b.connect(a.getsockname()); b.send(b"two"); b.sendmsg([b"thr", b"ee"]); print(a.recv(9), a.recv(9)); b.sendto(b"x" * 60000, a.getsockname()); print(len(a.recv(65536)))
    listener = socket.create_server((host, 0), family=family, reuse_port=True); client = socket.socket(family); client.setblocking(False); print(client.connect_ex(listener.getsockname()) in (0, 115)); peer, _ = listener.accept(); select.select([], [client], []); print(client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)); client.setblocking(True)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1); client.sendall(b"y" * 100000); peer.settimeout(5); got = 0
    while got < 100000: got += len(peer.recv(65536))
    print(got); client.shutdown(socket.SHUT_WR); print(peer.recv(1)); peer.send(b"!", socket.MSG_OOB); client.close(); peer.close()
    dead = listener.getsockname(); listener.close(); print(socket.socket(family).connect_ex(dead))
dual = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True); client = socket.create_connection(("127.0.0.1", dual.getsockname()[1])); print(dual.accept()[1][0]); client.close()
for bad in (lambda: socket.socket().connect(("127.0.0.1", 1)), lambda: socket.socket(socket.AF_UNIX).connect("nowhere"), lambda: socket.socket(socket.AF_UNIX).connect("passed"), lambda: socket.socket(socket.AF_UNIX).bind("passed"), lambda: socket.socket().sendto(b"", ("127.0.0.1", 9)), lambda: socket.socket().listen(-1), lambda: os.open("unix-1", 0)):
    try: print(bad())
    except OSError as error: print(error.errno)
print(socket.gethostbyname("localhost"), [name for _, name in socket.if_nameindex()][:1])
"""

# Whose loopback it is makes a difference only to what nobody of the tree listens on, or what others can connect to.
LOOPBACK = """
version: 1
extends: [workspace]
network:
  allow: ["127.0.0.1", "[::1]"]
  listen: ["127.0.0.1", "[::1]", "0.0.0.0", "[::]"]
"""
PROGRAMS = {"asyncio": ASYNCIO, "threaded": THREADED}


@pytest.mark.parametrize("name", PROGRAMS)
def test_in_a_network_of_its_own(name: str, waved: Place) -> None:
    # Where nobody of the tree listens might be a port of the host, so asking for it is judged; it looks refused.
    waved.same('"$PYTHON" program.py', program(PROGRAMS[name]), refused=("net.connect connect *private_ips]",))


@pytest.mark.parametrize("name", PROGRAMS)
def test_in_the_machines_network(name: str, waved: Place) -> None:
    waved.without = "userns"
    policy = waved.base / "policy.yaml"
    policy.write_text(LOOPBACK)
    waved.same('"$PYTHON" program.py', program(PROGRAMS[name]), options=("-p", policy))
