"""Check, then use: openat2's flags lie in memory: O_PATH at the check, O_RDONLY when the kernel looks."""

from __future__ import annotations

import pytest

from tests.attacks.conftest import Build
from tests.attacks.scene import MARK, Scene

SOURCE = r"""
struct shared { struct open_how_ how; char path[256]; volatile int stop; } *s;
char *good, *bad; uint64_t cover;
void *flip(void *_) {
    while (!s->stop) {
        s->how.flags = cover; strcpy(s->path, good);
        for (volatile int i = 0; i < 300; i++);
        s->how.flags = O_RDONLY; strcpy(s->path, bad);
        for (volatile int i = 0; i < 300; i++);
    }
}
int main(int argc, char **argv) {  // GOOD BAD FLAGS SECONDS
    s = shared_(sizeof *s); good = argv[1]; bad = argv[2]; cover = strtoul(argv[3], 0, 0);
    pthread_t t; pthread_create(&t, 0, flip, 0);
    if (!fork()) { flip(0); _exit(0); }
    long opened = 0, refused = 0; double until = now_() + atof(argv[4]);
    while (now_() < until) {
        int fd = syscall(SYS_openat2, AT_FDCWD, s->path, &s->how, sizeof s->how);
        if (fd < 0) { refused++; continue; }
        opened++;
        char text[64] = ""; struct stat st;
        if (pread(fd, text, 60, 0) > 0 && strstr(text, "f3a9")) { keep_(fd); s->stop = 1; break; }
        close(fd);
    }
    s->stop = 1;
    printf("opened %ld refused %ld\n", opened, refused);
}
"""


@pytest.mark.parametrize("scene", ["waved", "served"], indirect=True)
def test_flags_flipped_between_check_and_use(scene: Scene, build: Build) -> None:
    program = build(SOURCE)
    blocked = scene.ws / ".env"
    blocked.write_text(MARK)
    good = scene.ws / "good"
    good.write_text("harmless")
    targets = [scene.secret, blocked] if scene.served else [scene.secret]
    covers = (0o10000000, 1)  # O_PATH, O_WRONLY
    for target in targets:
        for cover in covers:
            scene.reset()
            scene.free(program, good, target, cover, 0.5)
            assert scene.stolen, "without a supervisor the race is won"
            scene.reset()
            done = scene.bound(program, good, target, cover, 1)
            assert "opened" in done.stdout, done.stderr
            assert not scene.stolen
