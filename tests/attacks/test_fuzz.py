"""Against the supervisor: calls with arguments that make no sense must be answered, not end it."""

from __future__ import annotations

import sys

import pytest

from tests.attacks.scene import Scene

CODE = r"""
import ctypes, os, random, signal, sys, time
from asl_hooks import syscalls
raw = ctypes.CDLL(None).syscall
names = [n for n in syscalls.numbers(syscalls.native_arch()) if syscalls.spec(n).tags
         and not {"fork", "kill", "refuse", "creds", "ipc", "stat"} & set(syscalls.spec(n).tags)]
numbers = syscalls.numbers(syscalls.native_arch()); rng = random.Random(int(sys.argv[1]))
buffers = [ctypes.create_string_buffer(data, 8192) for data in (
    b"good", b"", b".", b"/proc/self/fd/0", b"/proc/self/cwd/good", b"\xff\xfe\n\x1b[2J", b"a" * 5000,
    b"./" * 2000 + b"good",
    b"link", b"/proc/self/task/1/../../x", b"/dev/fd/99999999999", b"good/", b"sub", b"sub/..", b"sub/../good")]
os.mkdir("sub"); os.symlink("link", "link"); open("good", "w").close()
words = [0, 1, 2, 3, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 100]
words += [ctypes.addressof(b) for b in buffers] * 2 + [ctypes.addressof(buffers[0]) + 8190]
signal.signal(signal.SIGPIPE, signal.SIG_IGN); signal.alarm(0)
fds = [os.open("good", os.O_RDWR), os.open(".", os.O_RDONLY), *os.pipe()]
import socket
fds += [socket.socket(f, t).detach() for f, t in ((1, 1), (1, 2), (2, 1), (2, 2), (10, 1), (10, 2), (16, 3))]
for fd in fds[4:]: os.set_blocking(fd, False)
until = time.monotonic() + float(sys.argv[2]); n = 0
while time.monotonic() < until:
    name = rng.choice(names)
    args = [rng.choice(words + fds * 3) if rng.random() < 0.9 else rng.getrandbits(64) for _ in range(6)]
    flags = rng.getrandbits(rng.choice((24, 32, 64))) | os.O_NONBLOCK
    if name in ("open", "openat", "openat2"): args[2 if name == "openat" else 1] = flags
    if name == "execve" or name == "execveat": continue
    if "send" in name: args[2 if name == "sendmsg" else 3] = os.MSG_DONTWAIT if hasattr(os, "MSG_DONTWAIT") else 0x40
    raw(ctypes.c_long(numbers[name]), *map(ctypes.c_ulong, args)); n += 1
sys.stderr.flush(); os.write(1, b"tried %d\n" % n)
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_senseless_arguments(scene: Scene, seed: int) -> None:
    # Only names in the workspace, and random numbers: nothing of the machine is at stake, should anything get out.
    policy = scene.policy(unix=["${WORKSPACE}"])
    # The limit is for a FIFO that it makes and then opens: that waits for ever, as it should.
    done = scene.bound(sys.executable, "-c", CODE, seed, 1, policy=policy, options=["--timeout", "4s"])
    assert done.returncode in (0, 1, 124, -9, -11), done.stderr[-2000:]
    assert not scene.changed
