"""A program of the same user outside of the tree: what the tree must neither read, signal, reach nor steer.

Its environment, a memfd, an unlinked file and its sockets hold what must not get out; signals that reach it, and what
its sockets receive, are told on stdout. Run as a script; tests use ``Bystander``.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGURG, signal.SIGIO, signal.SIGTERM, signal.SIGWINCH)


class Bystander:
    """The program, running. ``told()`` ends it and gives what it noticed."""

    def __init__(self, folder: Path, mark: str) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            env={**os.environ, "SECRET": mark, "ASL_MARK": mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.ready: dict[str, Any] = json.loads(self._process.stdout.readline())
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def told(self) -> list[str]:
        out, _ = self._process.communicate()
        return [line for line in out.splitlines() if line]

    def close(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait()


def main(folder: str) -> None:
    mark = os.environ["ASL_MARK"].encode()
    for number in SIGNALS:
        signal.signal(number, lambda number, _: os.write(1, f"{signal.Signals(number).name}\n".encode()) and None)
    memfd = os.memfd_create("keys")
    os.write(memfd, mark)
    unlinked = os.open(f"{folder}/unlinked", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(unlinked, mark)
    os.unlink(f"{folder}/unlinked")
    name = f"\0asl-attack-{os.getpid()}"
    selector = selectors.DefaultSelector()
    kinds = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM}
    for address in (f"{folder}/{{}}.sock", name + "-{}"):
        for kind, type_ in kinds.items():
            listener = socket.socket(socket.AF_UNIX, type_)
            listener.bind(address.format(kind))
            if kind == "stream":
                listener.listen()
            selector.register(listener, selectors.EVENT_READ, f"unix {kind}")
    ports = {}
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        for kind, type_ in kinds.items():
            listener = socket.socket(family, type_)
            try:
                listener.bind((host, 0))
            except OSError:
                continue  # a machine without IPv6
            if kind == "stream":
                listener.listen()
            ports[f"{kind}{'6' if family == socket.AF_INET6 else ''}"] = listener.getsockname()[1]
            selector.register(listener, selectors.EVENT_READ, f"inet {kind}")
    selector.register(sys.stdin, selectors.EVENT_READ, "end")
    print(json.dumps({"memfd": memfd, "unlinked": unlinked, "abstract": name[1:], **ports}), flush=True)
    while True:
        for key, _ in selector.select():
            if key.data == "end":
                return
            held = key.fileobj
            assert isinstance(held, socket.socket)
            if key.data.endswith("stream"):
                held.accept()[0].close()
                print(f"{key.data}: connected", flush=True)
            else:
                print(f"{key.data}: {held.recv(100)!r}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
