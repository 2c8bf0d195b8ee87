"""What the egress costs: set-up, DNS, connections, throughput; relayed against direct loopback. Prints only.

python tests/bench/egress.py [--ordinary]
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

from agent_safety_layer.egress.client import EgressClient  # noqa: F401  # its import is not part of what is measured
from asl_hooks import netns
from tests.core.egress.test_dns import question
from tests.kernel.egress_scene import Scene, Server, as_user, forked, result_of

SIZE = 256 << 20
CONNECTIONS = 400


def timed(act: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1e3


def serve(connection: socket.socket) -> bytes:
    """One byte asks for a byte; "D" asks for SIZE bytes, "U" takes all that come."""
    first = connection.recv(1)
    if first == b"D":
        piece = bytes(1 << 20)
        for _ in range(SIZE >> 20):
            connection.sendall(piece)
    elif first == b"U":
        buffer = bytearray(1 << 20)
        while connection.recv_into(buffer):
            pass
        connection.sendall(b".")
    else:
        connection.sendall(first)
    return b""


def connect(where: tuple[str, int]) -> float:
    """Median milliseconds to connect, send a byte and get one back."""

    def once() -> None:
        with socket.create_connection(where) as client:
            client.sendall(b"x")
            client.recv(1)

    return statistics.median(timed(once) for _ in range(CONNECTIONS))


def download(where: tuple[str, int]) -> float:
    """GB/s."""

    def once() -> None:
        with socket.create_connection(where) as client:
            client.sendall(b"D")
            buffer = bytearray(1 << 20)
            while client.recv_into(buffer):
                pass

    return SIZE / timed(once) / 1e6


def upload(where: tuple[str, int]) -> float:
    """GB/s."""

    def once() -> None:
        with socket.create_connection(where) as client:
            client.sendall(b"U")
            piece = bytes(1 << 20)
            for _ in range(SIZE >> 20):
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
            client.recv(1)

    return SIZE / timed(once) / 1e6


def look_up() -> list[float]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("192.0.2.53", 53))

        def once() -> None:
            asking.send(question("a.test"))
            asking.recv(999)

        return [timed(once) for _ in range(CONNECTIONS)]


def set_up() -> None:
    """Each step of making the namespaces, in milliseconds."""

    def enter() -> float:
        return timed(netns.enter)

    def capture() -> tuple[float, float]:
        netns.enter()
        tree = netns.open_namespace(os.getpid())
        return timed(lambda: netns.join(tree)), timed(lambda: netns.build_capture(tree))

    entered = [result_of(*forked(enter)) for _ in range(20)]
    captured = [result_of(*forked(capture)) for _ in range(20)]
    print(f"enter                         {statistics.median(entered):8.2f} ms")
    print(
        f"join / build_capture          {statistics.median(c[0] for c in captured):8.2f} / "
        f"{statistics.median(c[1] for c in captured):.2f} ms"
    )
    scene = Scene()
    scene.close()
    print(f"egress process, start to ready{scene.started_ms:8.2f} ms")


def run() -> None:
    set_up()
    server = Server(serve)
    for lasting in (False, True):
        measure(server, Scene(allowed=("a.test",), names={"a.test": ("127.0.0.1",)}, lasting=lasting))
    server.close()


def measure(server: Server, scene: Scene) -> None:
    first, *later = scene.inside(look_up)
    print(f"DNS, first / later            {first:8.2f} / {statistics.median(later):.2f} ms")
    print(f"open a port                   {timed(lambda: scene.open('198.18.1.0', server.port)):8.2f} ms")
    direct, relayed = ("127.0.0.1", server.port), ("198.18.1.0", server.port)
    for unit, act in (
        ("connect + 1 byte each way, ms", connect),
        ("download, GB/s", download),
        ("upload, GB/s", upload),
    ):
        pairs = [(act(direct), scene.inside(partial(act, relayed))) for _ in range(5)]
        outside, inside = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{unit:30}{outside:8.2f} direct, {inside:.2f} relayed")
    scene.close()


if __name__ == "__main__":
    as_user("ordinary" if "--ordinary" in sys.argv else "self", run)
