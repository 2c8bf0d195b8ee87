"""Against the supervisor: signals to processes outside, and steering how they are scheduled and limited."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.attacks.bystander import Bystander
from tests.attacks.conftest import Build
from tests.attacks.scene import Scene

# Ways that end at one process; each sends a signal that the bystander tells of.
SOURCE = r"""
#include <sys/time.h>
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#define SYS_pidfd_send_signal 424
#endif
struct f_owner_ { int type, pid; };
volatile int stop; int foreign, own, number;
void *swap(void *_) { while (!stop) { dup2(foreign, number); dup2(own, number); } }
int main(int argc, char **argv) {
    int pid = atoi(argv[1]); siginfo_t info = { .si_signo = SIGUSR1, .si_code = SI_QUEUE };
    kill(pid, SIGUSR1); syscall(SYS_tkill, pid, SIGUSR1); syscall(SYS_tgkill, pid, pid, SIGUSR1);
    syscall(SYS_rt_sigqueueinfo, pid, SIGUSR1, &info); syscall(SYS_rt_tgsigqueueinfo, pid, pid, SIGUSR1, &info);
    kill(-pid, SIGUSR1);  // it leads a group of its own
    foreign = syscall(SYS_pidfd_open, pid, 0);
    syscall(SYS_pidfd_send_signal, foreign, SIGUSR1, 0, 0); syscall(SYS_pidfd_send_signal, foreign, SIGUSR1, 0, 4);
    // A registered owner, by each call that registers one; then something to tell it of.
    for (int way = 0; way < 5; way++) {
        int s[2]; socketpair(AF_UNIX, SOCK_STREAM, 0, s); int group = -pid;
        struct f_owner_ ex = { 1, pid };
        if (way == 0) fcntl(s[0], F_SETOWN, pid);
        if (way == 1) fcntl(s[0], F_SETOWN, -pid);
        if (way == 2) fcntl(s[0], 15, &ex);
        if (way == 3) ioctl(s[0], 0x8901, &pid);
        if (way == 4) ioctl(s[0], 0x8902, &pid);
        fcntl(s[0], 10 /* F_SETSIG */, SIGUSR2); fcntl(s[0], F_SETFL, O_ASYNC);
        write(s[1], "x", 1); close(s[0]); close(s[1]);
    }
    // A descriptor that means a process of ours when it is looked at, and the other when it is used.
    int child = fork();
    if (!child) { signal(SIGUSR1, SIG_IGN); for (;;) pause(); }
    own = syscall(SYS_pidfd_open, child, 0); number = 60; dup2(own, number);
    pthread_t t; pthread_create(&t, 0, swap, 0);
    for (double until = now_() + 0.7; now_() < until;) syscall(SYS_pidfd_send_signal, number, SIGUSR1, 0, 0);
    stop = 1; pthread_join(t, 0); kill(child, SIGKILL); waitpid(child, 0, 0);
    puts("tried");
}
"""


def test_signals(scene: Scene, build: Build, bystander: Callable[..., Bystander]) -> None:
    program = build(SOURCE)
    other = bystander(scene.outside)
    done = scene.bound(program, other.pid)
    assert "tried" in done.stdout, done.stderr
    assert other.alive
    assert not other.told()
    other = bystander(scene.base)
    scene.free(program, other.pid)
    told = other.told()
    assert "SIGUSR1" in told, "without a supervisor they arrive"
    assert {"SIGUSR2", "SIGIO"}.intersection(told), "without a supervisor they arrive"


# Signals to numbers that nobody has yet: who gets one between the look and the signal is hit. SIGURG does no harm.
AHEAD = r"""
int main(int argc, char **argv) {
    for (int i = 0; i < 3; i++) if (!fork()) for (double until = now_() + 3; ; ) {
        FILE *f = fopen("/proc/loadavg", "r"); int last = 0; fscanf(f, "%*s %*s %*s %*s %d", &last); fclose(f);
        for (int ahead = 1; ahead < 12; ahead++) {
            siginfo_t info = { .si_signo = SIGURG, .si_code = SI_QUEUE };
            kill(last + ahead, SIGURG); syscall(SYS_tgkill, last + ahead, last + ahead, SIGURG);
            syscall(SYS_rt_sigqueueinfo, last + ahead, SIGURG, &info);
        }
        if (now_() > until) _exit(0);
    }
    while (wait(0) > 0);
    puts("tried");
}
"""
NEWCOMERS = r"""
int main(void) {  // until its input ends; prints how many of the processes that it made had a signal
    sigset_t urgent; sigemptyset(&urgent); sigaddset(&urgent, SIGURG); sigprocmask(SIG_BLOCK, &urgent, 0);
    int hit = 0, status; struct pollfd end = { 0, POLLIN };
    while (!poll(&end, 1, 0)) {
        if (!fork()) { usleep(2000); sigset_t got; sigpending(&got); _exit(sigismember(&got, SIGURG)); }
        wait(&status); hit += WEXITSTATUS(status);
    }
    printf("%d\n", hit);
}
"""


@pytest.mark.parametrize("scene", ["waved", "landlock=5", "landlock"], indirect=True)
def test_newcomers(scene: Scene, build: Build) -> None:
    """A process that starts between the look at a number and the signal to it is not of the tree either."""
    ahead, newcomers = build(AHEAD), build(NEWCOMERS)

    def hit(run: Callable[..., subprocess.CompletedProcess[str]]) -> int:
        with subprocess.Popen([newcomers], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as outside:
            done = run(ahead)
            told, _ = outside.communicate()
        assert "tried" in done.stdout, done.stdout + done.stderr
        return int(told)

    assert hit(scene.bound) == 0
    assert hit(scene.free) > 0, "without a supervisor they are hit"


def test_everybody(scene: Scene, bystander: Callable[..., Bystander]) -> None:
    """Only SIGURG: ignored by default, should it ever get out."""
    other = bystander(scene.outside)
    code = """
import os, signal
for target in (-1, 0, -os.getpgid(0)):
    try: os.kill(target, signal.SIGURG)
    except OSError: pass
"""
    done = scene.bound(sys.executable, "-c", code + "print('tried')")
    assert "tried" in done.stdout, done.stderr
    assert not other.told()


@pytest.mark.parametrize("target", ["bystander", "supervisor"])
def test_scheduling_and_limits(scene: Scene, bystander: Callable[..., Bystander], target: str) -> None:
    code = r"""
import ctypes, os, resource, sys
libc = ctypes.CDLL(None); pid = int(sys.argv[1]) or int(open(f"/proc/{os.getppid()}/stat").read().split()[3])
def state():
    return os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid), sorted(os.sched_getaffinity(pid)), \
        resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
before = state()
def attempt(act, *args):
    try: act(*args)
    except OSError: pass
attempt(os.setpriority, os.PRIO_PROCESS, pid, 10)
attempt(os.setpriority, os.PRIO_PGRP, os.getpgid(pid), 10)
attempt(os.sched_setscheduler, pid, os.SCHED_IDLE, os.sched_param(0))
attempt(os.sched_setaffinity, pid, {0})
attempt(resource.prlimit, pid, resource.RLIMIT_NOFILE, (16, 16))
print("changed" if state() != before else "unchanged", before, state())
"""
    other = bystander(scene.outside)
    pid = other.pid if target == "bystander" else 0
    done = scene.bound(sys.executable, "-c", code, pid)
    assert done.stdout.startswith("unchanged"), done.stdout + done.stderr
    other.told()
    if target == "bystander":
        other = bystander(scene.base)
        assert scene.free(sys.executable, "-c", code, other.pid).stdout.startswith("changed")
        other.told()


def test_supervisor_is_not_stopped(scene: Scene) -> None:
    """The run goes on to its end although the tree signals every ancestor."""
    code = r"""
import os, signal
pid = os.getpid()
for _ in range(2):
    pid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
    for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM):
        for act in (os.kill, lambda p, n: os.killpg(os.getpgid(p), n) if os.getpgid(p) != os.getpgid(0) else None):
            try: act(pid, number)
            except OSError: pass
open("alive", "w").write("yes")
"""
    done = scene.bound(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert (scene.ws / "alive").read_text() == "yes"
