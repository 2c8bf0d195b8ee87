"""Check, then use: the page of the path cannot be read while the supervisor looks, and can when the kernel does."""

from __future__ import annotations

import pytest

from tests.attacks.conftest import Build
from tests.attacks.scene import Scene

SOURCE = r"""
volatile int stop; char *page; char *bad, *good;
void *flip(void *_) {
    while (!stop) {
        strcpy(page + 4096 - 200, bad); mprotect(page, 4096, PROT_NONE); mprotect(page, 4096, PROT_READ | PROT_WRITE);
        madvise(page, 4096, MADV_DONTNEED); strcpy(page + 4096 - 200, good);
    }
}
int main(int argc, char **argv) {  // GOOD BAD
    good = argv[1]; bad = argv[2]; signal(SIGSEGV, SIG_DFL);
    page = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); munmap(page + 4096, 4096);
    strcpy(page + 4096 - 200, good);
    pthread_t t; pthread_create(&t, 0, flip, 0); long n = 0;
    for (double until = now_() + 1; now_() < until; n++) {
        int fd = syscall(SYS_openat, AT_FDCWD, page + 4096 - 200, O_RDWR);
        if (fd < 0) continue;
        char text[64] = ""; pread(fd, text, 60, 0);
        if (strstr(text, "f3a9")) { keep_(fd); break; }
        close(fd);
    }
    stop = 1; printf("tried %ld\n", n);
}
"""


@pytest.mark.parametrize("scene", ["waved", "served", "landlock"], indirect=True)
def test_unreadable_for_a_moment(scene: Scene, build: Build) -> None:
    program = build(SOURCE)
    good = scene.ws / "good"
    good.write_text("harmless")
    done = scene.bound(program, good, scene.secret)
    assert "tried" in done.stdout, done.stderr
    assert not scene.stolen
    scene.free(program, good, scene.secret)
    assert scene.stolen, "without a supervisor it works"
