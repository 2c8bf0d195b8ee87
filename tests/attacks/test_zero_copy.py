"""Against the supervisor: a message that is sent later, from its memory, when something else lies there."""

from __future__ import annotations

from tests.attacks.conftest import Build
from tests.attacks.scene import Scene

# The receiver reads nothing at first, so that what was handed over waits where it lay.
SOURCE = r"""
#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#define MSG_ZEROCOPY 0x4000000
#endif
int main(int argc, char **argv) {
    int own = argc > 1, one = 1, small = 4096, large = 8 << 20; socklen_t n = sizeof(struct sockaddr_in);
    struct sockaddr_in a = { AF_INET }; a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int l = socket(AF_INET, SOCK_STREAM, 0), s = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(l, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    bind(l, (void *)&a, n); listen(l, 1); getsockname(l, (void *)&a, &n);
    if (connect(s, (void *)&a, n)) { perror("connect"); return 1; }
    setsockopt(s, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof one);
    setsockopt(s, SOL_SOCKET, SO_SNDBUF, &large, sizeof large);
    int r = accept(l, 0, 0); fcntl(s, F_SETFL, O_NONBLOCK);
    static char said[60000], got[1 << 16]; long sent = 0, lent = 0, others = 0;
    memset(said, 'A', sizeof said);
    for (int i = 0; i < 60; i++) {
        struct iovec v = { said, sizeof said }; struct msghdr m = { 0, 0, &v, 1 };
        ssize_t k = sendmsg(s, &m, MSG_ZEROCOPY);
        lent += k > 0;
        if (k < 0 && errno == ENOBUFS) k = sendmsg(s, &m, 0);
        if (k < 0) break;
        sent += k;
    }
    if (own) memset(said, 'B', sizeof said);
    for (int i = 0; i < 2000; i++) {
        char name[160]; snprintf(name, sizeof name, "/etc/nothing-%0130d", i); close(open(name, O_RDONLY));
    }
    shutdown(s, SHUT_WR);
    for (long have = 0, k; have < sent && (k = read(r, got, sizeof got)) > 0; have += k)
        for (long i = 0; i < k; i++) others += got[i] != 'A';
    printf("sent %ld others %ld lent %ld\n", sent, others, lent);
}
"""


def test_memory_of_the_supervisor(scene: Scene, build: Build) -> None:
    program = build(SOURCE)
    done = scene.bound(program, policy=scene.policy(allow=["127.0.0.1:*"]))
    _, sent, _, others, _, lent = done.stdout.split()
    assert int(sent) > 1_000_000, done.stdout + done.stderr
    assert lent == others == "0", f"of {sent} bytes that arrived, {others} are not what was sent"
    _, _, _, others, _, lent = scene.free(program, "changed").stdout.split()
    assert int(others) > 0 or lent == "0", "what is changed after it was handed over arrives changed"
