"""Check, then use: a folder on the way becomes a symbolic link to the forbidden place, and back."""

from __future__ import annotations

import pytest

from tests.attacks.conftest import Build
from tests.attacks.scene import Scene

SOURCE = r"""
volatile int stop; char *where, *prefix;
const char *acts[] = { "read", "write", "bind", "create", "mkdir", "mknod", "unlink", "chmod", "utime", 0 };
long done[16], refused[16];
void *flip(void *_) {  // where/d is a folder, where/l a link to the outside
    char d[512], l[512]; snprintf(d, 512, "%s/d", where); snprintf(l, 512, "%s/l", where);
    unsigned seed = getpid();
    while (!stop) {
        syscall(SYS_renameat2, AT_FDCWD, d, AT_FDCWD, l, 2);
        // At its own pace: taking turns, two of these would put the folder back each time before anybody else comes.
        for (int wait = rand_r(&seed) % 100000; wait; wait--) __asm__ volatile("");
    }
}
char *in(const char *name) {
    static __thread char path[512];
    if (!strcmp(prefix, "plain")) snprintf(path, 512, "%s/d/%s", where, name);
    else snprintf(path, 512, "%s/d/%s", prefix, name);
    return path;
}
int act(const char *what) {
    int fd; char text[64] = "";
    if (!strcmp(what, "read")) {
        if ((fd = open(in("secret"), O_RDONLY)) < 0) return -1;
        if (pread(fd, text, 60, 0) > 0 && strstr(text, "f3a9")) { keep_(fd); stop = 1; }
        return close(fd);
    }
    if (!strcmp(what, "write")) {
        if ((fd = open(in("victim"), O_WRONLY)) < 0) return -1;
        write(fd, "OWNED", 5); return close(fd);
    }
    if (!strcmp(what, "bind")) {
        struct sockaddr_un a = { AF_UNIX }; char *at = in("sock");
        strcpy(a.sun_path, strlen(at) < sizeof a.sun_path ? at : "d/sock"); unlink(a.sun_path);
        fd = socket(AF_UNIX, SOCK_STREAM, 0); int r = bind(fd, (void *)&a, sizeof a); close(fd); return r;
    }
    if (!strcmp(what, "create")) { unlink(in("new")); return close(open(in("new"), O_CREAT | O_EXCL, 0600)); }
    if (!strcmp(what, "mkdir")) { rmdir(in("dir")); return mkdir(in("dir"), 0755); }
    if (!strcmp(what, "mknod")) { unlink(in("fifo")); return mknod(in("fifo"), S_IFIFO | 0600, 0); }
    if (!strcmp(what, "unlink")) { close(open(in("other"), O_CREAT | O_WRONLY, 0600)); return unlink(in("victim")); }
    if (!strcmp(what, "chmod")) return chmod(in("victim"), 0777);
    struct timespec t[2] = {{1,0},{1,0}}; return utimensat(AT_FDCWD, in("victim"), t, 0);
}
void *work(void *until) {
    for (int i = 0; !stop && now_() < *(double *)until; i = acts[i + 1] ? i + 1 : 0)
        if (act(acts[i]) < 0) refused[i]++; else done[i]++;
}
int main(int argc, char **argv) {  // WHERE PREFIX OUTSIDE SECONDS
    where = !strcmp(argv[1], "TMP") ? getenv("TMPDIR") : argv[1]; prefix = argv[2];
    char d[512], l[512], f[512]; snprintf(d, 512, "%s/d", where); snprintf(l, 512, "%s/l", where);
    mkdir(d, 0755); symlink(argv[3], l);
    for (char **n = (char *[]){ "secret", "victim", 0 }; *n; n++) {
        snprintf(f, 512, "%s/%s", d, *n); int fd = open(f, O_CREAT | O_WRONLY, 0600);
        write(fd, "harmless", 8); close(fd);
    }
    double until = now_() + atof(argv[4]); pthread_t t[2]; int pid[2];
    for (int i = 0; i < 2; i++) if (!(pid[i] = fork())) { flip(0); _exit(0); }
    if (chdir(where)) return 1;
    pthread_create(&t[0], 0, work, &until); pthread_create(&t[1], 0, work, &until);
    pthread_join(t[0], 0); pthread_join(t[1], 0);
    for (int i = 0; i < 2; i++) { kill(pid[i], SIGKILL); waitpid(pid[i], 0, 0); }
    for (int i = 0; acts[i]; i++) printf("%s %ld %ld\n", acts[i], done[i], refused[i]);
}
"""
WAYS = (("TMP", "plain"), ("TMP", "/proc/self/cwd"), ("ws", "plain"), ("ws", "/proc/self/root"))


@pytest.mark.parametrize("scene", ["waved", "served"], indirect=True)
@pytest.mark.parametrize(("place", "prefix"), WAYS)
def test_folder_becomes_a_link(scene: Scene, build: Build, place: str, prefix: str) -> None:
    program = build(SOURCE)
    if prefix == "/proc/self/root":
        prefix += str(scene.ws)
    before = scene.victim.stat()
    done = scene.bound(program, "TMP" if place == "TMP" else scene.ws, prefix, scene.outside, 1.2)
    for line in done.stdout.splitlines():
        name, went, refused = line.split()
        if name in ("read", "mkdir", "bind"):
            assert int(went), f"the harmless half must work: {done.stdout}{done.stderr}"
            assert int(refused), f"and the attack must have been tried: {done.stdout}{done.stderr}"
    assert not scene.stolen
    assert not scene.changed
    after = scene.victim.stat()
    assert (before.st_mode, before.st_mtime) == (after.st_mode, after.st_mtime)


@pytest.mark.parametrize("scene", ["waved"], indirect=True)
def test_control(scene: Scene, build: Build) -> None:
    scene.free(build(SOURCE), scene.ws, "plain", scene.outside, 1)
    assert scene.stolen or scene.changed, "without a supervisor the race is won"
