"""Against the supervisor: making it wait. However it is tried, the time limit ends the run in time."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.attacks.scene import Scene

SPINS = "\nimport time\nopen('going', 'w').close()\nwhile True: time.sleep(1)\n"
ATTACKS = {
    "fifo": """
import os, threading
for i in range(20):
    os.mkfifo(f"f{i}")
    threading.Thread(target=os.open, args=(f"f{i}", i % 2), daemon=True).start()
""",
    "fifo swapped in": """
import os, threading
open("f", "w").close(); os.mkfifo("g")
def swap():
    while True: os.rename("f", "t"); os.rename("g", "f"); os.rename("f", "g"); os.rename("t", "f")
def opens():
    while True:
        try: os.close(os.open("f", os.O_RDONLY))
        except OSError: pass
for act in (swap, opens, opens, opens): threading.Thread(target=act, daemon=True).start()
""",
    "lease": """
import fcntl, os, signal, subprocess
signal.signal(signal.SIGIO, signal.SIG_IGN); open("l", "w").close()
fd = os.open("l", os.O_RDONLY)
try: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
except OSError: pass
subprocess.Popen(["/bin/sh", "-c", "echo >l"])
""",
    "connect": """
import socket, threading
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(0)
def connects():
    try: socket.create_connection(s.getsockname(), 30)
    except OSError: pass
for _ in range(30): threading.Thread(target=connects, daemon=True).start()
""",
    "linger": """
import os, signal, socket, struct, threading, time
signal.signal(signal.SIGUSR1, lambda *_: None)
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen(); kept = []
for _ in range(3):  # the supervisor's copy is the last one, and closing it waits for a peer that reads nothing
    s = socket.create_connection(l.getsockname()); kept.append(l.accept())
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600)); s.setblocking(False)
    try:
        while s.send(bytes(1 << 20)): pass
    except BlockingIOError: s.setblocking(True)
    def sends():
        try: s.sendmsg([b"x"])
        except OSError: pass
    t = threading.Thread(target=sends); t.start(); time.sleep(0.1)
    os.close(s.fileno()); signal.pthread_kill(t.ident, signal.SIGUSR1); t.join(); s.detach()
""",
    "flood": """
import os
for _ in range(4):
    if not os.fork():
        while True:
            try: os.open("/nowhere", 0)
            except OSError: pass
""",
    "denials": """
import os
open("going", "w").close()
while True:
    os.write(2, b"x" * 4096)
    try: os.open("../outside/secret", 0)
    except OSError: pass
""",
    "signal storm": """
import os, signal
signal.signal(signal.SIGUSR1, lambda *_: None); me = os.getpid()
if not os.fork():
    while True: os.kill(me, signal.SIGUSR1)
open("going", "w").close()
while True:
    try: os.close(os.open("/etc/passwd", 0))
    except OSError: pass
""",
    "stopped": """
import os, signal
for _ in range(5):
    if not os.fork(): os.setsid(); os.kill(os.getpid(), signal.SIGSTOP)
""",
    "deaf": """
import os, signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
if not os.fork(): os.setsid(); os.fork()
""",
}


@pytest.mark.parametrize("scene", ["served"], indirect=True)
@pytest.mark.parametrize("attack", ATTACKS)
def test_stall(scene: Scene, attack: str) -> None:
    policy = scene.policy(allow=["127.0.0.1:*"])
    policy.write_text(policy.read_text() + "limits: {grace: 200ms}\n")
    command = scene.command([sys.executable, "-c", ATTACKS[attack] + SPINS], "--timeout", "1500ms", policy=policy)
    started = time.monotonic()
    # Nobody reads what it prints: the pipes fill up.
    with subprocess.Popen(
        command,
        cwd=scene.ws,
        env=scene.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            status = process.wait(timeout=12)
        finally:
            process.kill()
    assert (scene.ws / "going").exists(), "the attack did not get going"
    assert status == 124
    assert time.monotonic() - started < 8
    assert not _alive(str(scene.ws))


def _alive(folder: str) -> list[str]:
    """The processes whose working directory is *folder*."""
    import os

    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.readlink(f"/proc/{name}/cwd") == folder:
                found.append(name)
        except OSError:
            continue
    return found
