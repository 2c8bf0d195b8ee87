"""Getting past the interception: filters and listeners of the tree's own, children that are not to be traced."""

from __future__ import annotations

from tests.attacks.conftest import Build
from tests.attacks.scene import Scene

# Each way in a process of its own: it prepares, opens the secret and leaves what it read.
SOURCE = r"""
#include <linux/filter.h>
#include <linux/seccomp.h>
#ifndef SECCOMP_RET_USER_NOTIF
#define SECCOMP_RET_USER_NOTIF 0x7fc00000U
#endif
char *secret;
int filter(unsigned action, unsigned flags) {  // for openat, and all else goes on
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { 4, code };
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return syscall(SYS_seccomp, 1, flags, &program);
}
void steal(void) { int fd = open(secret, O_RDONLY); if (fd >= 0) keep_(fd); }
void *answers(void *listener) {  // lets every call that it is asked about go on
    char asked[80], answer[24]; int fd = *(int *)listener;
    for (;;) {
        memset(asked, 0, 80); memset(answer, 0, 24);
        if (ioctl(fd, 0xC0502100, asked) < 0) return 0;
        memcpy(answer, asked, 8); answer[20] = 1; ioctl(fd, 0xC0182101, answer);
    }
}
int fd;
void listens(unsigned flags) {
    pthread_t t;
    if ((fd = filter(SECCOMP_RET_USER_NOTIF, 8 | flags)) >= 0) { pthread_create(&t, 0, answers, &fd); puts("listens"); }
    steal();
}
void own_listener(void) { listens(0); }
void own_listener_of_all_threads(void) { listens(1 | 16); }
void own_trace(void) { filter(SECCOMP_RET_TRACE | 77, 0); steal(); }
void own_log(void) { filter(SECCOMP_RET_LOG, 0); steal(); }
void nothing_happened(void) { filter(SECCOMP_RET_ERRNO, 0); steal(); }
void cloned(unsigned long flags) {
    int pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (!pid) { steal(); _exit(0); }
    if (pid > 0) waitpid(pid, 0, __WALL);
}
void untraced(void) { cloned(0x800000); }
void sibling(void) { cloned(0x8000); usleep(200000); }
void shared(void) { cloned(0x4000 | 0x100); }  // CLONE_VFORK | CLONE_VM
void *apart_(void *_) { unshare(CLONE_FILES | CLONE_FS); steal(); return 0; }
void apart(void) { pthread_t t; pthread_create(&t, 0, apart_, 0); pthread_join(t, 0); }
void dispatched(void) { prctl(59, 1, 0, 0, 0); steal(); }  // PR_SET_SYSCALL_USER_DISPATCH, for no address
void hidden(void) { prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); steal(); }
void strict(void) { prctl(PR_SET_SECCOMP, 1, 0, 0, 0); steal(); }
int main(int argc, char **argv) {
    void (*ways[])(void) = { own_listener, own_listener_of_all_threads, own_trace, own_log, nothing_happened, untraced,
                             sibling, shared, apart, dispatched, hidden, strict, 0 };
    secret = argv[1]; setbuf(stdout, 0);
    for (int i = 0; ways[i]; i++) {
        int pid = fork(); if (!pid) { alarm(10); ways[i](); _exit(0); }
        waitpid(pid, 0, 0);
        if (argc > 2) { int kept = !access("loot", F_OK); unlink("loot"); printf("%d", kept); }
    }
    puts("tried");
}
"""


def test_filters_and_children_of_its_own(scene: Scene, build: Build) -> None:
    program = build(SOURCE)
    done = scene.bound(program, scene.secret)
    assert "tried" in done.stdout, done.stdout + done.stderr
    assert "listens" not in done.stdout
    assert not scene.stolen
    free = scene.free(program, scene.secret, "count").stdout
    assert "listens" in free
    kept = free.replace("listens", "").replace("tried", "").split()
    # Without a tracer a call to be traced fails, an errno of 0 is a descriptor that is none, dispatched and strict die.
    assert "".join(kept).count("1") >= 8, free
