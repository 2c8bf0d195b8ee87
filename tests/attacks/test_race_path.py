"""Check, then use: threads and processes that share the path's memory swap it between the check and the use."""

from __future__ import annotations

import pytest

from tests.attacks.conftest import Build
from tests.attacks.scene import Scene

SOURCE = r"""
struct shared { char path[2][256]; volatile int stop; volatile long done[16], refused[16]; } *s;
char *good, *bad, *new;  // s->path[0] is good or bad, s->path[1] good or new
const char *acts[] = { "read", "write", "trunc", "truncate", "unlink", "rename", "link", "chmod",
                       "create", "mkdir", "symlink", 0 };
void *flip(void *_) {
    while (!s->stop) {
        strcpy(s->path[0], good); strcpy(s->path[1], good); for (volatile int i = 0; i < 200; i++);
        strcpy(s->path[0], bad); strcpy(s->path[1], new); for (volatile int i = 0; i < 200; i++);
    }
}
void touch(void) { close(open(good, O_CREAT | O_WRONLY, 0644)); }
int act(const char *what) {
    char *path = s->path[0], *fresh = s->path[1]; int fd; char text[64] = "";
    if (!strcmp(what, "read")) {
        touch(); if ((fd = open(path, O_RDONLY)) < 0) return -1;
        if (pread(fd, text, 60, 0) > 0 && strstr(text, "f3a9")) { keep_(fd); s->stop = 1; }
        return close(fd);
    }
    if (!strcmp(what, "write")) {
        touch(); if ((fd = open(path, O_WRONLY)) < 0) return -1;
        write(fd, "OWNED", 5); return close(fd);
    }
    if (!strcmp(what, "trunc")) { touch(); return close(open(path, O_RDONLY | O_TRUNC)); }
    if (!strcmp(what, "truncate")) { touch(); return truncate(path, 0); }
    if (!strcmp(what, "unlink")) { touch(); return unlink(path); }
    if (!strcmp(what, "rename")) { touch(); return rename(path, "moved"); }
    if (!strcmp(what, "chmod")) { touch(); return chmod(path, 0777); }
    if (!strcmp(what, "link")) {
        touch(); unlink("alias"); int r = link(path, "alias"); struct stat a, b;
        if (!r && !stat("alias", &a) && !stat(bad, &b) && a.st_ino == b.st_ino) s->stop = 1;
        return r;
    }
    unlink(good); rmdir(good);
    if (!strcmp(what, "create")) return close(open(fresh, O_WRONLY | O_CREAT, 0644));
    if (!strcmp(what, "mkdir")) return mkdir(fresh, 0755);
    return symlink("x", fresh);
}
char *only; double until;
void *work(void *_) {
    while (!s->stop && now_() < until)
        for (int i = 0; acts[i]; i++)
            if (!only || !strcmp(only, acts[i])) {
                if (act(acts[i]) < 0) s->refused[i]++; else s->done[i]++;
                struct stat a;
                if (only && (stat(bad, &a) || a.st_size < 9 || !lstat(new, &a))) s->stop = 1;
            }
}
int main(int argc, char **argv) {  // GOOD BAD NEW SECONDS [ACT]
    s = shared_(sizeof *s); good = argv[1]; bad = argv[2]; new = argv[3]; only = argc > 5 ? argv[5] : 0;
    until = now_() + atof(argv[4]); pthread_t t[3];
    pthread_create(&t[0], 0, flip, 0); pthread_create(&t[1], 0, work, 0); pthread_create(&t[2], 0, work, 0);
    int pid = fork();
    if (!pid) { work(0); _exit(0); }
    pthread_join(t[1], 0); pthread_join(t[2], 0); waitpid(pid, 0, 0);
    s->stop = 1;
    for (int i = 0; acts[i]; i++) printf("%s %ld %ld\n", acts[i], s->done[i], s->refused[i]);
}
"""


@pytest.mark.parametrize("scene", ["waved", "served", "unseen", "landlock=1", "served, traced"], indirect=True)
def test_path_flipped_between_check_and_use(scene: Scene, build: Build) -> None:
    program = build(SOURCE)
    good, bad, new = scene.ws / "good", scene.victim, scene.outside / "new"
    for target, act in ((scene.secret, ["read"]), (bad, [])):
        before = target.stat().st_mode
        done = scene.bound(program, good, target, new, 2, *act)
        counts = {name: (int(went), int(refused)) for name, went, refused in map(str.split, done.stdout.splitlines())}
        for name, (went, refused) in counts.items():
            if not act or name in act:
                assert went, f"the harmless half must work: {name}, {done.stdout}{done.stderr}"
                assert refused, f"and the attack must have been tried: {name}, {done.stdout}{done.stderr}"
        assert not scene.stolen
        assert not scene.changed
        assert target.stat().st_mode == before
        assert target.stat().st_nlink == 1
    if scene.served or scene.without:
        return
    for name in counts:  # each works without a supervisor
        scene.reset()
        scene.victim.chmod(0o644)
        target = scene.secret if name == "read" else bad
        scene.free(program, good, target, new, 1, name)
        won = scene.stolen or scene.changed or target.stat().st_mode & 0o7777 != 0o644 or target.stat().st_nlink != 1
        assert won, f"without a supervisor the race is won: {name}"
        for path in (new, scene.ws / "alias", scene.ws / "moved"):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
