"""What Landlock does not cover: what is in a folder that must not be listed, told by watching it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.attacks.conftest import Build
from tests.attacks.scene import Scene

# Watches a folder under several names, says so, and tells what it saw once somebody has used what is in it.
SOURCE = r"""
#include <sys/inotify.h>
int q, stop;
char *shared;
void *swap(void *_) {
    while (!stop) { strcpy(shared, "../outside"); for (volatile int i = 0; i < 300; i++); strcpy(shared, "."); }
}
int main(void) {
    q = inotify_init1(IN_NONBLOCK); shared = shared_(4096); strcpy(shared, "."); char at[64];
    inotify_add_watch(q, "../outside", IN_ALL_EVENTS); inotify_add_watch(q, "../outside", IN_ALL_EVENTS | IN_ONLYDIR);
    symlink("../outside", "link"); inotify_add_watch(q, "link", IN_ALL_EVENTS);
    int held = open("../outside", O_PATH); sprintf(at, "/proc/self/fd/%d", held);
    inotify_add_watch(q, at, IN_ALL_EVENTS);
    if (!fchdir(held)) { inotify_add_watch(q, ".", IN_ALL_EVENTS); chdir("../ws"); }
    pthread_t t; pthread_create(&t, 0, swap, 0);
    for (double until = now_() + 0.8; now_() < until;) inotify_add_watch(q, shared, IN_ACCESS | IN_OPEN);
    stop = 1; pthread_join(t, 0);
    char events[1 << 16]; mkdir("watching", 0700);
    while (access("enough", F_OK)) usleep(1000);
    ssize_t n;
    while ((n = read(q, events, sizeof events)) > 0)
        for (char *p = events; p < events + n; p += sizeof(struct inotify_event) + ((struct inotify_event *)p)->len)
            if (((struct inotify_event *)p)->len) printf("%s\n", ((struct inotify_event *)p)->name);
    puts("tried");
}
"""


@contextmanager
def _somebody_works(scene: Scene) -> Iterator[None]:
    """Once the program watches, somebody outside opens the secret, and then says so."""
    over = Event()

    def work() -> None:
        while not (scene.ws / "watching").exists() and not over.is_set():
            over.wait(0.001)
        scene.secret.read_text()
        Path(scene.ws / "enough").touch()

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        (scene.ws / "watching").rmdir()
        (scene.ws / "enough").unlink()
        (scene.ws / "link").unlink()


@pytest.mark.parametrize("scene", ["waved", "served", "unseen", "landlock"], indirect=True)
def test_names_of_a_blocked_folder(scene: Scene, build: Build) -> None:
    program = build(SOURCE)
    with _somebody_works(scene):
        done = scene.bound(program)
    assert "tried" in done.stdout, done.stdout + done.stderr
    assert "secret" not in done.stdout
    with _somebody_works(scene):
        assert "secret" in scene.free(program).stdout, "without a supervisor it tells"
