"""Sockets that the supervisor dials and sends on: as whom, for how long, with what signals, and how much it holds."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from asl_hooks._abi import linux
from tests.kernel import supervised

SIGPIPE = """
import os, signal, socket, sys
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
near, far = socket.socketpair()
far.close()
try:
    near.sendmsg([b"x"], (), socket.MSG_NOSIGNAL)
except BrokenPipeError:
    print("EPIPE", flush=True)
near.sendmsg([b"x"])
print("went on", flush=True)
"""


def test_a_broken_stream_gives_its_sender_sigpipe(tmp_path: pathlib.Path) -> None:
    done = supervised.python(SIGPIPE, tmp_path)
    assert done.out == "EPIPE\n"
    assert done.code == -signal.SIGPIPE


WAITS = """
import os, signal, socket, sys

class Rang(Exception):
    pass

def ring(*_):
    raise Rang

signal.signal(signal.SIGALRM, ring)

def interrupted(act):
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        act()
    except Rang:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return False

server = socket.socket(socket.AF_UNIX)
server.bind("s.sock")
server.listen(0)
first = socket.socket(socket.AF_UNIX)
first.connect("s.sock")
print("connect", interrupted(lambda: socket.socket(socket.AF_UNIX).connect("s.sock")))
full = socket.create_server(("127.0.0.1", 0), backlog=0)
ones = [socket.create_connection(full.getsockname())]
late = socket.socket()
print("tcp", interrupted(lambda: late.connect(full.getsockname())))
full.accept()
late.connect(full.getsockname())
print("tcp later", late.getpeername() == full.getsockname())
near, far = socket.socketpair()
print("sendmsg", interrupted(lambda: near.sendmsg([bytes(1 << 24)])))
one, other = socket.socketpair(type=socket.SOCK_DGRAM)
def flood():
    while True:
        one.sendmsg([bytes(1000)])
print("datagrams", interrupted(flood))
near, far = socket.socketpair()
near.settimeout(None)
import struct
near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 200000))
print("limit", near.sendmsg([bytes(1 << 24)]) < 1 << 24)
"""


def test_who_waits_hears_signals(tmp_path: pathlib.Path) -> None:
    done = supervised.python(WAITS, tmp_path)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        *("connect True", "tcp True", "tcp later True"),
        *("sendmsg True", "datagrams True", "limit True"),
    ]


AGAIN = """
import errno, socket
with socket.create_server(("127.0.0.1", 0)) as first:
    at = first.getsockname()
s = socket.socket()
print(errno.errorcode[s.connect_ex(at)])
server = socket.create_server(at)
print(s.connect_ex(at), s.getpeername() == at)
print(errno.errorcode[s.connect_ex(at)])
hurried = socket.socket()
hurried.setblocking(False)
print(errno.errorcode[hurried.connect_ex(at)])
hurried.setblocking(True)
print(hurried.connect_ex(at), errno.errorcode[hurried.connect_ex(at)])
"""


def test_a_socket_is_left_as_its_own_connect_would_leave_it(tmp_path: pathlib.Path) -> None:
    outside = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, check=True).stdout
    assert outside.split() == ["ECONNREFUSED", "0", "True", "EISCONN", "EINPROGRESS", "0", "EISCONN"]
    done = supervised.python(AGAIN, tmp_path)
    assert done.out == outside, done.err


WHOLE = """
import hashlib, os, socket
near, far = socket.socketpair()
data = os.urandom(1 << 20) * 5
if not os.fork():
    near.close()
    got = b""
    while piece := far.recv(1 << 16):
        got += piece
    print(got == data, flush=True)
    os._exit(0)
far.close()
print(near.sendmsg([data[:100], data[100:1 << 21], b"", data[1 << 21:]]) == len(data), flush=True)
near.close()
os.wait()
"""


def test_a_long_message_on_a_stream_arrives_whole(tmp_path: pathlib.Path) -> None:
    done = supervised.python(WHOLE, tmp_path)
    assert sorted(done.out.split()) == ["True", "True"], done.err


HOLDS = """
import ctypes, mmap, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
class Message(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("name_len", ctypes.c_uint), ("iov", ctypes.POINTER(Part)),
                ("iov_len", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_len", ctypes.c_size_t),
                ("flags", ctypes.c_int), ("sent", ctypes.c_uint), ("pad", ctypes.c_int)]
size = 1 << 20
memory = mmap.mmap(-1, size)
memory[:] = b"x" * size
part = Part(ctypes.addressof(ctypes.c_char.from_buffer(memory)), size)
messages = (Message * 64)(*[Message(None, 0, ctypes.pointer(part), 1)] * 64)
for _ in range(24):
    if not os.fork():
        near, far = socket.socketpair()
        libc.syscall(307, near.fileno(), messages, 64, 0)
        os._exit(0)
print("all", flush=True)
os.wait()
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of sendmmsg")
def test_little_is_held_of_what_waits_to_be_sent(tmp_path: pathlib.Path) -> None:
    (tmp_path / "policy.yaml").write_text(supervised.OPEN)
    supervised.prepare(tmp_path / "ws", supervised.OPEN)
    command = [*supervised.SUPERVISE, "-p", str(tmp_path / "policy.yaml"), "--", sys.executable, "-c", HOLDS]
    with subprocess.Popen(
        command, cwd=tmp_path / "ws", env=supervised.environment(tmp_path / "state"), stdout=subprocess.PIPE, text=True
    ) as run:
        try:
            assert run.stdout is not None
            assert run.stdout.readline() == "all\n"
            until = time.monotonic() + 20
            while _field(run.pid, "Threads") < 24 and time.monotonic() < until:
                time.sleep(0.05)
            assert _field(run.pid, "Threads") >= 24, "they all wait"
            assert _field(run.pid, "VmHWM") < 150_000, "kB; the messages are 1.5 GB"
        finally:
            run.terminate()


def _field(pid: int, name: str) -> int:
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(f"{name}:")).split()[1])


PEER = """
import json, os, socket, struct, sys
def peer(s):
    return struct.unpack("3i", s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1:]
os.chmod(".", 0o777)
server = socket.socket(socket.AF_UNIX)
server.bind("s.sock"); os.chmod("s.sock", 0o777); server.listen(4)
receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
receiver.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
receiver.bind("d.sock"); os.chmod("d.sock", 0o777)
if not os.fork():
    os.setgroups([]); os.setresgid(1234, 1234, 1234); os.setresuid(4321, 4321, 4321)
    client = socket.socket(socket.AF_UNIX); client.connect("s.sock"); client.recv(1)
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", "d.sock")
    mine = socket.socket(socket.AF_UNIX); mine.bind("m.sock"); mine.listen(1); client.send(b"x"); client.recv(1)
    os._exit(0)
near, _ = server.accept()
seen = [peer(near)]
near.send(b"x"); near.recv(1)
_, control, _, _ = receiver.recvmsg(10, 100)
seen.append(struct.unpack("3i", control[0][2])[1:])
back = socket.socket(socket.AF_UNIX); back.connect("m.sock"); seen.append(peer(back))
near.send(b"x"); os.wait()
print(json.dumps(seen))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_other_side_sees_who_one_has_become() -> None:
    with tempfile.TemporaryDirectory() as folder:  # others can get into this one
        os.chmod(folder, 0o755)
        done = supervised.python(PEER, pathlib.Path(folder))
    assert done.code == 0, done.err
    assert json.loads(done.out) == [[4321, 1234]] * 3


LINGERS = """
import socket, struct
with socket.socket() as s:
    for on, seconds in ((1, 5), (1, 0), (0, 0)):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", on, seconds))
        print(*struct.unpack("ii", s.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)))
    try:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 1)
    except OSError as error:
        print(error.strerror)
"""


def test_no_close_waits_and_one_that_resets_still_does(tmp_path: pathlib.Path) -> None:
    done = supervised.python(LINGERS, tmp_path)
    assert done.out.splitlines() == ["0 0", "1 0", "0 0", "Invalid argument"], done.err


# A number means one thing in the thread and another in its process; then the first thread ends, and another goes on.
THREADS = """
import ctypes, os, socket, sys, threading
libc = ctypes.CDLL(None)

def works(name):
    server, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    server.bind(name)
    server.listen()
    client.connect(name)
    client.sendmsg([name.encode()])
    os.fchmod(server.fileno(), 0o700)
    print(server.accept()[0].recv(9).decode(), flush=True)

def apart():
    assert libc.unshare(0x400) == 0
    os.closerange(3, 100)
    works("apart")

def alone():
    while b"State:\\tZ" not in open("/proc/self/status", "rb").read():
        pass
    works("alone")
    os._exit(0)

thread = threading.Thread(target=apart)
thread.start()
thread.join()
threading.Thread(target=alone).start()
libc.pthread_exit(None)
"""


def _knows_threads() -> bool:
    try:
        os.close(os.pidfd_open(threading.get_native_id(), linux.PIDFD_THREAD))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _knows_threads(), reason="before Linux 6.9 nobody can copy the descriptors of a thread")
def test_a_thread_has_descriptors_of_its_own(tmp_path: pathlib.Path) -> None:
    done = supervised.python(THREADS, tmp_path)
    assert done.out.split() == ["apart", "alone"], done.err
