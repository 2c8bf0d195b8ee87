"""A port of the tree's own: what listens on one address of the loopback opens nobody the same port of another."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.attacks.scene import Scene

# Each way to have the port somewhere on the loopback, and then to reach for where it is somebody else's.
SOURCE = """
import os, socket, sys
port = int(sys.argv[1])
HERE = "127.0.0.1"

def reach(host=HERE, family=socket.AF_INET, source=None):
    try:
        with socket.socket(family) as s:
            s.settimeout(5)
            if source:
                s.bind(source)
            s.connect((host, port))
            with open("loot", "ab") as loot:
                loot.write(s.recv(100))
    except OSError as error:
        print(error.strerror)

def listener(host, family=socket.AF_INET, only6=False):
    s = socket.socket(family)
    if only6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((host, port))
    s.listen()
    return s

def all_ways():
    reach()
    reach("0.0.0.0")
    if socket.has_ipv6:
        reach("::ffff:127.0.0.1", socket.AF_INET6)
        reach("::", socket.AF_INET6, ("::ffff:127.0.0.1", 0))

all_ways()
for host, family, only6 in (("127.0.0.2", socket.AF_INET, False), ("::1", socket.AF_INET6, False),
                            ("::", socket.AF_INET6, True)):
    try:
        own = listener(host, family, only6)
    except OSError as error:
        print(host, error.strerror)
        continue
    all_ways()
    own.close()
# What it listens on is handed on and another number by then.
own = listener("127.0.0.2")
if not os.fork():
    os.dup2(own.fileno(), 99)
    own.close()
    all_ways()
    os._exit(0)
own.close()
os.wait()
print("tried")
"""


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Greets whoever comes to its port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    near, _ = listening.accept()
                except OSError:
                    return
                with near:
                    near.sendall(b"f3a9-the-secret-that-must-not-get-out")

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("scene", ["waved", "userns"], indirect=True)
def test_the_same_port_of_another_address(scene: Scene, server: socket.socket) -> None:
    for bound in (True, False):
        done = (scene.bound if bound else scene.free)(sys.executable, "-c", SOURCE, server.getsockname()[1])
        assert "tried" in done.stdout, done.stderr
        assert scene.stolen is not bound, done.stdout
        scene.reset()
