"""A tree in a namespace of its own, an egress process, and servers on the host's loopback that stand in for the world.

Everything runs in forked processes without threads of ours, as whoever runs the tests or as an ordinary user.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from agent_safety_layer.egress.client import EgressClient
from agent_safety_layer.egress.gate import Settings
from agent_safety_layer.egress.privileges import die_with_parent
from agent_safety_layer.egress.protocol import Ask, Happened, Lost, Resolved
from agent_safety_layer.events import ALLOW, BLOCK, Decision
from asl_hooks import netns

T = TypeVar("T")
NOBODY = 65534
_loaded_before_privileges_go = "x".encode("idna")


def become_nobody() -> None:
    """The process is an ordinary user's, as after a login: readable to itself, without capabilities."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)


def forked(act: Callable[[], object]) -> tuple[int, int]:
    """The pid of a process that runs *act*, and a descriptor from which ``result_of`` reads what came of it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        os.close(reader)
        try:
            said: tuple[bool, object] = (True, act())
        except BaseException as error:
            said = (False, error)
        try:
            data = pickle.dumps(said)
        except Exception:
            data = pickle.dumps((False, AssertionError(repr(said[1]))))
        with open(writer, "wb") as stream:
            stream.write(len(data).to_bytes(8, "big") + data)
    finally:
        os._exit(0)


def result_of(pid: int, reader: int) -> Any:
    with open(reader, "rb") as stream:  # not to its end: what *act* started may still hold the other one
        data = stream.read(int.from_bytes(stream.read(8), "big"))
    os.waitpid(pid, 0)
    assert data, "the process has died"
    good, result = pickle.loads(data)
    if not good:
        raise result
    return result


def as_user(user: str, act: Callable[[], T]) -> T:
    """What *act* returns or raises in a forked process of that user: "self" or "ordinary"."""

    def run() -> T:
        if user == "ordinary" and os.getuid() == 0:
            become_nobody()
        return act()

    result: T = result_of(*forked(run))
    return result


class Server:
    """A process that serves each TCP connection on the host's loopback with *act*, and tells what *act* returns."""

    def __init__(self, act: Callable[[socket.socket], bytes], host: str = "127.0.0.1", port: int = 0) -> None:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port = int(listening.getsockname()[1])
        self._reader, writer = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            die_with_parent(parent)
            while True:
                threading.Thread(target=self._serve, args=(listening.accept()[0], act, writer), daemon=True).start()
        os.close(writer)
        listening.close()

    @staticmethod
    def _serve(connection: socket.socket, act: Callable[[socket.socket], bytes], writer: int) -> None:
        with connection:
            told = act(connection)
        os.write(writer, len(told).to_bytes(4, "big") + told)

    def told(self) -> bytes:
        """What the next connection to end told; waits for it."""
        assert select.select([self._reader], [], [], 10)[0], "the server was not reached"
        return os.read(self._reader, int.from_bytes(os.read(self._reader, 4), "big"))

    def was_reached(self) -> bool:
        """Whether any connection has ended since the last ``told``."""
        return bool(select.select([self._reader], [], [], 0)[0])

    def close(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._reader)


def echo(connection: socket.socket) -> bytes:
    """Sends back what comes until the end comes, and tells all of it."""
    seen = b""
    while data := _received(connection):
        seen += data
        connection.sendall(data)
    return seen


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


class Scene:
    """The supervisor's part: starts tree and egress, judges by *judge*, and acts inside the tree's namespace."""

    def __init__(
        self,
        *,
        allowed: tuple[str, ...] = (),
        names: dict[str, tuple[str, ...]] | None = None,
        settings: Settings | None = None,
        judge: Callable[[Ask], Decision | None] | None = None,
        namespace: bool = True,
        lasting: bool = False,
    ) -> None:
        self.asked: list[Ask] = []
        self.happened: list[Happened | Lost] = []
        self._allowed = allowed
        self._judge = judge or self._by_list
        known = names or {}
        self._looked_up, telling = os.pipe()
        os.set_blocking(self._looked_up, False)

        def lookup(host: str) -> tuple[str, ...]:
            os.write(2, f"{host}\n".encode())
            if host not in known:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return known[host]

        self.net_fd = -1
        self._holder = 0
        if namespace:
            self._holder, self.net_fd = _tree()
        error = os.dup(2)  # the egress process keeps standard error only: through it the look-ups are told
        os.dup2(telling, 2)
        start = time.perf_counter()
        try:
            self.client = EgressClient(
                self.net_fd,
                judge=self._answer,
                happened=self.happened.append,
                settings=settings or Settings(private_ips=True),
                lookup=lookup,
                lasting=lasting,
            )
        finally:
            self.started_ms = (time.perf_counter() - start) * 1e3
            os.dup2(error, 2)
            for fd in (error, telling):
                os.close(fd)

    def lookups(self) -> list[str]:
        """The names that have been looked up on the host since the last call."""
        try:
            return os.read(self._looked_up, 65536).decode().split()
        except BlockingIOError:
            return []

    def _answer(self, question: Ask) -> Decision | None:
        self.asked.append(question)
        return self._judge(question)

    def _by_list(self, question: Ask) -> Decision:
        good = question.host in self._allowed or question.ip in self._allowed
        return Decision(ALLOW if good else BLOCK, "test", "", "" if good else "not in the list")

    def pump(self, until: Callable[[], bool]) -> None:
        """Deals with the egress process's messages until the condition holds."""
        while not until():
            assert select.select([self.client], [], [], 10)[0], "nothing happens any more"
            self.client.dispatch()
            assert self.client.alive or until(), "the egress process has died"

    def open(self, ip: str, port: int, proto: str = "tcp") -> int:
        """The errno with which the listener was opened."""
        answers: list[int] = []
        self.client.open(ip, port, proto, answers.append)
        self.pump(lambda: bool(answers))
        return answers[0]

    def resolve(self, ip: str, port: int) -> Resolved:
        answers: list[Resolved] = []
        self.client.resolve(ip, port, "tcp", answers.append)
        self.pump(lambda: bool(answers))
        return answers[0]

    def inside(self, act: Callable[[], T]) -> T:
        """What *act* returns or raises in a process of the tree; the egress process is served meanwhile."""

        def run() -> T:
            netns.join(self.net_fd)
            return act()

        pid, reader = forked(run)
        while not select.select([reader], [], [], 0)[0]:
            watched = [reader, self.client.fileno()] if self.client.alive else [reader]
            ready = select.select(watched, [], [], 20)[0]
            assert ready, "the act takes too long"
            if self.client.alive and self.client.fileno() in ready:
                self.client.dispatch()
        result: T = result_of(pid, reader)
        return result

    def reports(self, kind: str) -> list[Happened]:
        return [event for event in self.happened if isinstance(event, Happened) and event.kind == kind]

    def report(self, kind: str = "net.connect") -> Happened:
        """The next report of that kind; waits for it."""
        self.pump(lambda: bool(self.reports(kind)))
        first = self.reports(kind)[0]
        self.happened.remove(first)
        return first

    def close(self) -> None:
        self.client.close()
        os.close(self._looked_up)
        if self._holder:
            os.kill(self._holder, signal.SIGKILL)
            os.waitpid(self._holder, 0)
            os.close(self.net_fd)


def _tree() -> tuple[int, int]:
    """The pid of a process in a namespace of its own, which waits to be ended, and its network namespace."""
    ready_reader, ready = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            die_with_parent(parent)
            netns.enter()
            os.write(ready, b".")
            signal.pause()
        finally:
            os._exit(0)
    os.close(ready)
    assert os.read(ready_reader, 1), "the namespace could not be made"
    os.close(ready_reader)
    return pid, netns.open_namespace(pid)
