"""FIFOs, terminals, /proc and threads."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import probing
from probing import (
    opened,
    says,
    text,
    write,
)


def fifos() -> None:
    """Both ends of a FIFO wait for each other; opening without blocking does not."""
    print("fifo r nonblock", says(lambda: opened("fifo", os.O_RDONLY | os.O_NONBLOCK)))
    print("fifo w nonblock", says(lambda: opened("fifo", os.O_WRONLY | os.O_NONBLOCK)))
    print("fifo rw", says(lambda: opened("fifo", os.O_RDWR)))
    got = []

    def read() -> None:
        with open("fifo", "rb") as file:
            got.append(file.read())

    reader = threading.Thread(target=read)
    reader.start()
    with open("fifo", "wb") as file:
        file.write(b"through")
    reader.join()
    print("fifo", got)

    class Alarm(Exception):
        pass

    def rang(*_: object) -> None:
        raise Alarm

    signal.signal(signal.SIGALRM, rang)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        os.close(os.open("fifo", os.O_RDONLY))
        print("fifo alarm: opened")
    except Alarm:
        print("fifo alarm: interrupted")
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        os.open("fifo", os.O_RDONLY)
        os._exit(1)
    print("fifo killed", os.waitpid(child, 0)[1])


def terminals() -> None:
    """A terminal of one's own."""
    import pty

    pid, fd = pty.fork()
    if not pid:
        here = os.open("/dev/tty", os.O_RDWR)
        os.write(here, f"tty {os.isatty(here)} {os.tcgetpgrp(here) == os.getpgrp()}".encode())
        os._exit(0)
    said = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(fd, 1000):
            said += chunk
    os.close(fd)
    print(said.decode(), os.waitpid(pid, 0)[1])
    child = os.fork()
    if not child:
        os.setsid()
        said = says(lambda: opened("/dev/tty", os.O_RDWR)).encode()
        os.write(1, b"no terminal: " + said + b"\n")
        os._exit(0)
    os.waitpid(child, 0)


def processes() -> None:
    """What /proc tells about oneself and others."""
    print("stat self", says(lambda: text("/proc/self/stat").split()[0] == str(os.getpid())))
    print("mounts", says(lambda: "/proc" in text("/proc/mounts")), says(lambda: "/proc" in text("/etc/mtab")))
    print("net", says(lambda: "lo:" in text("/proc/net/dev")))
    print("maps", says(lambda: "[stack]" in text("/proc/self/maps")))
    print("task", says(lambda: str(os.getpid()) in os.listdir("/proc/self/task")))
    print("thread-self", says(lambda: text("/proc/thread-self/comm") == text(f"/proc/self/task/{os.getpid()}/comm")))
    print("fd list", says(lambda: {"0", "1", "2"} <= set(os.listdir("/dev/fd"))))
    print("fdinfo", says(lambda: "pos:" in text("/proc/self/fdinfo/1")))
    print("comm", says(lambda: write("/proc/self/comm", "renamed")), says(lambda: text("/proc/self/comm")))
    print("oom", says(lambda: write("/proc/self/oom_score_adj", "500")))
    child = os.fork()
    if not child:
        said = says(lambda: f"Tgid:\t{os.getppid()}" in text(f"/proc/{os.getppid()}/status"))
        os.write(1, f"parent {said} {says(lambda: len(text(f'/proc/{os.getppid()}/environ')) > 10)}\n".encode())
        os._exit(0)
    os.waitpid(child, 0)
    reader, writer = os.pipe()
    os.write(writer, b"piped")
    print("dev fd pipe", says(lambda: os.read(os.open(f"/dev/fd/{reader}", os.O_RDONLY), 9)))
    print("kernel", says(lambda: len(text("/proc/sys/kernel/ostype"))))
    print("cpuinfo", says(lambda: "processor" in text("/proc/cpuinfo")))


def threads() -> None:
    """Files from many threads at once, created by one alone."""
    wins = []

    def race(number: int) -> None:
        for turn in range(5):
            try:
                os.close(os.open(f"race{turn}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                wins.append(turn)
            except FileExistsError:
                pass
            with open(f"race{turn}", "a") as file:
                file.write(str(number % 10))
            fd = os.open("shared", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
            os.write(fd, b".")
            os.close(fd)

    crew = [threading.Thread(target=race, args=(i,)) for i in range(8)]
    for one in crew:
        one.start()
    for one in crew:
        one.join()
    print("one winner each", sorted(wins), os.path.getsize("shared"), [os.path.getsize(f"race{i}") for i in range(5)])


if __name__ == "__main__":
    probing.main(fifos, terminals, processes, threads)
