"""Getting past the interception: int 0x80, x32 numbers, unknown numbers, io_uring, and other calls that are refused."""

from __future__ import annotations

import os

import pytest

from tests.attacks.conftest import Build
from tests.attacks.scene import Scene

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="x86-64 has these other ABIs")
SOURCE = r"""
long int80(long nr, long a, long b, long c) {
    long r; asm volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
    return r;
}
char *low(const char *text) {
    char *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    return strcpy(p, text);
}
int main(int argc, char **argv) {  // VICTIM
    int status, pid = fork();
    if (!pid) {  // open, write, unlink, connect and fork by the i386 table
        long fd = int80(5, (long)low(argv[1]), O_WRONLY | O_TRUNC, 0);
        int80(4, fd, (long)low("OWNED"), 5); _exit(fd < 0);
    }
    waitpid(pid, &status, 0); printf("i386 %s\n", WIFSIGNALED(status) ? "killed" : "lived");
    pid = fork();
    if (!pid) {
        long fd = syscall(0x40000000 | SYS_open, argv[1], O_WRONLY); if (fd >= 0) write(fd, "OWNED", 5); _exit(0);
    }
    waitpid(pid, &status, 0); printf("x32 %s\n", WIFSIGNALED(status) ? "killed" : "lived");
    for (long nr = 335; nr < 1200; nr += nr == 335 ? 1 : 1) if (nr > 480) syscall(nr, argv[1], 1, 2, 3, 4, 5);
    char params[120] = { 0 };
    int ring = syscall(425, 4, params); printf("io_uring %d %d\n", ring >= 0, errno);
    printf("userfaultfd %d\n", (int)syscall(323, 1) >= 0);
    printf("namespace %d\n", unshare(0x10000000) >= 0);
    printf("memory %d\n", (int)syscall(311, getppid(), 0, 0, 0, 0, 0) >= 0 || errno != EPERM);
    printf("ptrace %d\n", (int)syscall(SYS_ptrace, 0x4206, getppid(), 0, 0) >= 0);
}
"""


def test_other_ways_into_the_kernel(scene: Scene, build: Build) -> None:
    program = build(SOURCE)
    done = scene.bound(program, scene.victim)
    assert "i386 killed" in done.stdout, done.stdout + done.stderr
    for name in ("io_uring 0 1", "userfaultfd 0", "namespace 0", "memory 0", "ptrace 0"):
        assert name in done.stdout
    assert not scene.changed
    free = scene.free(program, scene.victim)
    if "i386 lived" not in free.stdout or not scene.changed:
        pytest.skip("this kernel has no i386 calls")
