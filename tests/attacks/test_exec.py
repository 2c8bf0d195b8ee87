"""Names that are not what they seem: a forbidden program under other names, and exec arguments that change in time."""

from __future__ import annotations

import shutil

import pytest

from tests.attacks.conftest import Build
from tests.attacks.scene import Scene

# The forbidden program: shows on the host that it ran.
FORBIDDEN = r"""
int main(int argc, char **argv) { close(open("ran", O_CREAT | O_WRONLY, 0644)); return 0; }
"""
SOURCE = r"""
#ifndef SYS_execveat
#define SYS_execveat 322
#endif
struct shared { char path[256], argv0[64]; volatile int stop; char *argv[3]; } *s;
char *bad, *good;
void *flip(void *_) {
    while (!s->stop) {
        strcpy(s->path, good); strcpy(s->argv0, "good"); for (volatile int i = 0; i < 300; i++);
        strcpy(s->path, bad); strcpy(s->argv0, "forbidden"); for (volatile int i = 0; i < 300; i++);
    }
}
void swap(char *a, char *b) {  // a link that leads to one, then to the other
    for (double until = now_() + 1.5; now_() < until;) {
        unlink("l1"); symlink(a, "l1"); rename("l1", "link"); unlink("l2"); symlink(b, "l2"); rename("l2", "link");
    }
}
int run(void (*act)(void)) {
    int pid = fork(), status; if (!pid) { act(); _exit(77); } waitpid(pid, &status, 0); return status;
}
char *none[] = { 0 };
char *args[] = { "forbidden", "x", 0 }, *other[] = { "innocent", 0 };
void plain(void) { execve(bad, args, none); }
void renamed(void) { execve(bad, other, none); }
void linked(void) { symlink(bad, "alias"); execve("alias", other, none); }
void fd(void) { int f = open(bad, O_RDONLY); syscall(SYS_execveat, f, "", other, none, AT_EMPTY_PATH); }
void proc(void) { int f = open(bad, O_PATH); char p[64]; sprintf(p, "/proc/self/fd/%d", f); execve(p, other, none); }
void script(void) {
    FILE *f = fopen("script", "w"); fprintf(f, "#!%s x\n", bad); fclose(f); chmod("script", 0755);
    execve("./script", other, none);
}
void empty(void) { execve(bad, none, none); }
void named(void) { execve(good, args, none); }
void memfd(void) {
    int f = open(bad, O_RDONLY), m = syscall(SYS_memfd_create, "forbidden", 0); char b[65536]; int n;
    while ((n = read(f, b, sizeof b)) > 0) write(m, b, n);
    syscall(SYS_execveat, m, "", args, none, AT_EMPTY_PATH);
}
void threaded_(void) {
    s->argv[0] = s->argv0; s->argv[1] = 0; strcpy(s->path, good); strcpy(s->argv0, "good");
    pthread_t t; pthread_create(&t, 0, flip, 0); usleep(200);
    execve(s->path, s->argv, none);
}
void *from_thread_(void *_) { execve(s->path, s->argv, none); }
void thread_execs(void) {
    s->argv[0] = s->argv0; s->argv[1] = 0; strcpy(s->path, good); strcpy(s->argv0, "good");
    pthread_t t; pthread_create(&t, 0, flip, 0); pthread_create(&t, 0, from_thread_, 0);
    pthread_create(&t, 0, from_thread_, 0); usleep(100000);
}
void stopped(void) {  // stopped and continued from outside while it execs
    int me = getpid();
    if (!fork()) { for (int i = 0; i < 200; i++) { kill(me, SIGSTOP); kill(me, SIGCONT); } _exit(0); }
    threaded_();
}
void through_link(void) { execve("link", other, none); }
int main(int argc, char **argv) {  // BAD GOOD
    bad = argv[1]; good = argv[2]; s = shared_(sizeof *s);
    void (*once[])(void) = { plain, renamed, linked, fd, proc, script, empty, named, memfd, 0 };
    char *names[] = { "plain", "renamed", "linked", "fd", "proc", "script", "empty", "named", "memfd" };
    for (int i = 0; once[i]; i++) {
        unlink("ran"); run(once[i]); printf("%s %s\n", names[i], access("ran", F_OK) ? "held" : "RAN");
        if (!access("ran", F_OK)) close(open("escaped", O_CREAT | O_WRONLY, 0644));
    }
    unlink("ran");
    int flipper = fork(); if (!flipper) { flip(0); _exit(0); }
    int swapper = fork(); if (!swapper) { swap(good, bad); _exit(0); }
    void (*raced[])(void) = { threaded_, thread_execs, stopped, through_link }; int killed = 0, ran = 0, refused = 0;
    for (double until = now_() + 2; now_() < until;) for (int i = 0; i < 4; i++) {
        int st = run(raced[i]);
        if (WIFSIGNALED(st)) killed++; else if (WEXITSTATUS(st) == 77) refused++; else ran++;
    }
    kill(flipper, SIGKILL); kill(swapper, SIGKILL);
    if (!access("ran", F_OK)) close(open("escaped", O_CREAT | O_WRONLY, 0644));
    printf("raced: killed %d ran %d refused %d\n", killed, ran, refused);
}
"""
GOOD = "int main() { return 0; }"


@pytest.mark.parametrize("scene", ["waved", "served"], indirect=True)
def test_forbidden_program(scene: Scene, build: Build) -> None:
    program = build(SOURCE)
    bad, good = scene.base / "forbidden", scene.base / "good"
    shutil.copy(build(FORBIDDEN), bad)
    shutil.copy(build(GOOD), good)
    done = scene.bound(program, bad, good)
    assert "raced" in done.stdout, done.stdout + done.stderr
    assert not (scene.ws / "escaped").exists(), done.stdout
    assert int(done.stdout.split()[-3]) > 0, f"the harmless one must run: {done.stdout}"
    for path in scene.ws.iterdir():
        if path.name != ".env":
            path.unlink()
    done = scene.free(program, bad, good)
    assert (scene.ws / "escaped").exists(), "without a supervisor it runs"
    for name in ("plain", "renamed", "linked", "fd", "proc", "script", "memfd"):
        assert f"{name} RAN" in done.stdout


@pytest.mark.parametrize("scene", ["waved"], indirect=True)
def test_nothing_starts_where_exec_cannot_be_verified(scene: Scene) -> None:
    done = scene.free(*scene.command(["/bin/sh", "-c", "echo x >started"]), ASL_WITHOUT="ptrace")
    assert done.returncode == 125
    assert "ptrace" in done.stderr
    assert not (scene.ws / "started").exists()
    assert scene.bound("/bin/sh", "-c", "echo x >started").returncode == 0
    assert (scene.ws / "started").exists()
