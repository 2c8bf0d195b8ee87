"""Network: Unix sockets of processes outside, by path and by abstract name, connected and by datagram."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tests.attacks.bystander import Bystander
from tests.attacks.scene import Scene

CODE = r"""
import os, socket, sys, threading, time
folder, abstract = sys.argv[1], "\0" + sys.argv[2]
kept = []
def attempt(act):
    try: return act()
    except OSError: return None
for address in (folder + "/{}.sock", abstract + "-{}"):
    stream, dgram = address.format("stream"), address.format("dgram")
    # An abstract name that is taken is not one's own because binding it was tried, or worked for another type.
    for type_ in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        for name in (stream, dgram):
            if name.startswith("\0"):
                s = socket.socket(socket.AF_UNIX, type_); kept.append(s)
                attempt(lambda: s.bind(name))
    attempt(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect(stream))
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    attempt(lambda: s.sendto(b"sendto", dgram))
    attempt(lambda: s.sendmsg([b"sendmsg"], [], 0, dgram))
    attempt(lambda: s.connect(dgram)); attempt(lambda: s.send(b"send"))
    # by a detour
    if not address.startswith("\0"):
        for way in ("/proc/self/root" + stream, "link"):
            attempt(lambda: os.symlink(stream, "link"))
            attempt(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect(way))
# Within the run both kinds work.
mine = socket.socket(socket.AF_UNIX); mine.bind("mine.sock"); mine.listen()
socket.socket(socket.AF_UNIX).connect("mine.sock")
mine = socket.socket(socket.AF_UNIX); mine.bind("\0mine-%d" % os.getpid()); mine.listen()
socket.socket(socket.AF_UNIX).connect("\0mine-%d" % os.getpid())
print("tried")
"""


def test_sockets_outside(scene: Scene, bystander: Callable[..., Bystander]) -> None:
    for bound in (True, False):
        other = bystander(scene.base)
        argv = [sys.executable, "-c", CODE, str(other.folder), other.ready["abstract"]]
        run = scene.bound if bound else scene.free
        done = run(*argv, **({"policy": scene.policy(unix=["${WORKSPACE}", "@mine-*"])} if bound else {}))
        assert "tried" in done.stdout, done.stderr
        told = other.told()
        if bound:
            assert not told
        else:
            for noticed in ("connected", "sendto", "sendmsg", "'send'"):
                assert any(noticed in line for line in told), told
        for name in ("mine.sock", "link", "../stream.sock", "../dgram.sock"):
            (scene.ws / name).unlink(missing_ok=True)
