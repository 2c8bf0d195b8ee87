"""Network: every way to open a connection or to send a datagram to an address that the policy does not name."""

from __future__ import annotations

from collections.abc import Callable

from tests.attacks.bystander import Bystander
from tests.attacks.conftest import Build
from tests.attacks.scene import Scene

SOURCE = r"""
#ifndef MSG_FASTOPEN
#define MSG_FASTOPEN 0x20000000
#endif
int tcp4, udp4, tcp6, udp6, good;
struct sockaddr_in in4(int port) {
    struct sockaddr_in a = { AF_INET, htons(port) }; a.sin_addr.s_addr = htonl(INADDR_LOOPBACK); return a;
}
struct sockaddr_in6 in6(int port, int mapped) {
    struct sockaddr_in6 a = { AF_INET6, htons(port) };
    inet_pton(AF_INET6, mapped ? "::ffff:127.0.0.1" : "::1", &a.sin6_addr); return a;
}
void tcp(int family, int proto, struct sockaddr *a, int size) {
    int s = socket(family, SOCK_STREAM, proto); connect(s, a, size); close(s);
    s = socket(family, SOCK_STREAM, proto); sendto(s, "fast", 4, MSG_FASTOPEN, a, size); close(s);
    s = socket(family, SOCK_STREAM, proto); struct iovec v = { "fast", 4 };
    struct msghdr m = { a, size, &v, 1 }; sendmsg(s, &m, MSG_FASTOPEN); close(s);
    s = socket(family, SOCK_STREAM, proto); struct mmsghdr mm = { m }; sendmmsg(s, &mm, 1, MSG_FASTOPEN); close(s);
    s = socket(family, SOCK_STREAM, proto); int one = 1;
    setsockopt(s, IPPROTO_TCP, 30 /* TCP_FASTOPEN_CONNECT */, &one, 4); connect(s, a, size); write(s, "x", 1); close(s);
    // A high half full of garbage.
    s = syscall(SYS_socket, family | 0x5500000000, SOCK_STREAM | 0x6600000000, proto | 0x7700000000);
    syscall(SYS_connect, s | 0x100000000, a, size | 0x900000000); close(s);
}
void udp(int family, struct sockaddr *a, int size) {
    struct iovec v = { "msg", 3 }, w = { "second", 6 };
    int s = socket(family, SOCK_DGRAM, 0); sendto(s, "sendto", 6, 0, a, size);
    struct msghdr m = { a, size, &v, 1 }; sendmsg(s, &m, 0);
    struct sockaddr_in g = in4(good); struct sockaddr_in6 g6 = in6(good, 1);
    struct mmsghdr mm[2] = { { { family == AF_INET ? (void *)&g : (void *)&g6, family == AF_INET ? 16 : 28, &v, 1 } },
                             { { a, size, &w, 1 } } };
    sendmmsg(s, mm, 2, 0); sendto(s, "high", 4 | 0ull, 0, a, size);
    connect(s, a, size); send(s, "connected", 9, 0); write(s, "written", 7); close(s);
    // Connected to what is allowed, then elsewhere.
    s = socket(family, SOCK_DGRAM, 0);
    connect(s, mm[0].msg_hdr.msg_name, mm[0].msg_hdr.msg_namelen); sendto(s, "again", 5, 0, a, size);
    struct sockaddr none = { AF_UNSPEC }; connect(s, &none, sizeof none);
    connect(s, a, size); send(s, "re", 2, 0); close(s);
}
struct race { struct sockaddr_in a; volatile int stop; } *r;
void *flip(void *_) {
    while (!r->stop) { r->a.sin_port = htons(good); for (volatile int i = 0; i < 200; i++);
                       r->a.sin_port = htons(udp4); for (volatile int i = 0; i < 200; i++); }
}
int main(int argc, char **argv) {  // TCP4 UDP4 TCP6 UDP6 ALLOWED-UDP4
    signal(SIGPIPE, SIG_IGN);
    tcp4 = atoi(argv[1]); udp4 = atoi(argv[2]); tcp6 = atoi(argv[3]); udp6 = atoi(argv[4]); good = atoi(argv[5]);
    struct sockaddr_in a = in4(tcp4), u = in4(udp4), zero = a; struct sockaddr_in6 m = in6(tcp4, 1), um = in6(udp4, 1);
    zero.sin_addr.s_addr = 0;
    struct sockaddr_in6 six = in6(tcp6, 0), u6 = in6(udp6, 0), any6 = m; memset(&any6.sin6_addr, 0, 16);
    for (int proto = 0; proto < 3; proto++) {
        int number = (int[]){ 0, IPPROTO_TCP, 262 /* MPTCP */ }[proto];
        tcp(AF_INET, number, (void *)&a, sizeof a); tcp(AF_INET, number, (void *)&zero, sizeof a);
        tcp(AF_INET6, number, (void *)&m, sizeof m); tcp(AF_INET6, number, (void *)&any6, sizeof m);
        if (tcp6) tcp(AF_INET6, number, (void *)&six, sizeof six);
    }
    udp(AF_INET, (void *)&u, sizeof u); udp(AF_INET6, (void *)&um, sizeof um); udp(AF_INET6, (void *)&u, sizeof u);
    if (udp6) udp(AF_INET6, (void *)&u6, sizeof u6);
    struct sockaddr_in unspec = u; unspec.sin_family = AF_UNSPEC;  // delivered as IPv4
    int s = socket(AF_INET, SOCK_DGRAM, 0); sendto(s, "unspec", 6, 0, (void *)&unspec, sizeof unspec);
    // The port flips between an allowed one and another; so does what the descriptor stands for.
    r = shared_(sizeof *r); r->a = u; pthread_t t; pthread_create(&t, 0, flip, 0);
    if (!fork()) { flip(0); _exit(0); }
    for (double until = now_() + 0.8; now_() < until;) {
        sendto(s, "raced", 5, 0, (void *)&r->a, sizeof r->a);
        struct iovec v = { "raced", 5 }; struct msghdr h = { &r->a, sizeof r->a, &v, 1 }; sendmsg(s, &h, 0);
        int c = socket(AF_INET, SOCK_DGRAM, 0);
        if (!connect(c, (void *)&r->a, sizeof r->a)) send(c, "raced", 5, 0);
        close(c);
    }
    r->stop = 1;
    puts("tried");
}
"""


def test_loopback(scene: Scene, build: Build, bystander: Callable[..., Bystander]) -> None:
    program = build(SOURCE)
    for bound in (True, False):
        other = bystander(scene.outside if bound else scene.base)
        allowed = bystander(scene.base / "home")
        ports = [other.ready.get(name, 0) for name in ("stream", "dgram", "stream6", "dgram6")]
        good = allowed.ready["dgram"]
        if bound:
            done = scene.bound(program, *ports, good, policy=scene.policy(allow=[f"127.0.0.1:{good}"]))
        else:
            done = scene.free(program, *ports, good)
        assert "tried" in done.stdout, done.stderr
        told, expected = other.told(), allowed.told()
        assert any("raced" in line for line in expected), "what is allowed arrives"
        if bound:
            assert not told
            assert any("msg" in line for line in expected), "the allowed half of a sendmmsg"
        else:
            wanted = ("inet stream: connected", "sendto", "msg", "second", "connected", "unspec", "again", "raced")
            for noticed in wanted:
                assert any(noticed in line for line in told), (noticed, told[:40])
        for folder in (scene.outside, scene.base, scene.base / "home"):
            for path in folder.glob("*.sock"):
                path.unlink()
