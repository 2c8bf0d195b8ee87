"""Check, then use: what a rule looks back on, read while another path is seen, or by an open for writing."""

from __future__ import annotations

import pytest

from tests.attacks.conftest import Build
from tests.attacks.scene import MARK, Scene

# Each process reads once, and when that was what it should not know, says so by a program that must then not run.
SOURCE = r"""
char path[4096]; volatile int stop;
void *swap(void *good_and_bad) {
    char **paths = good_and_bad;
    while (!stop) {
        strcpy(path, paths[1]); for (volatile int i = 0; i < 300; i++);
        strcpy(path, paths[0]); for (volatile int i = 0; i < 300; i++);
    }
}
int main(int argc, char **argv) {  // GOOD BAD SECONDS
    int status, read_it = 0, both = 0; char text[64];
    for (double until = now_() + atof(argv[3]); now_() < until || (!read_it && now_() < until + 15);) {
        if (!fork()) {
            pthread_t t; strcpy(path, argv[1]); pthread_create(&t, 0, swap, argv + 1); usleep(100);
            int fd = open(path, O_RDONLY); stop = 1; pthread_join(t, 0);
            if (fd < 0 || read(fd, text, 60) <= 0 || !strstr(text, "f3a9")) _exit(3);
            execl("/bin/sh", "sh", "-c", ": > leaked", NULL); _exit(4);
        }
        wait(&status); read_it += WEXITSTATUS(status) != 3;
    }
    if (!fork()) {
        int fd = open(argv[2], O_RDWR);
        if (fd < 0 || read(fd, text, 60) <= 0) _exit(3);
        execl("/bin/sh", "sh", "-c", ": > leaked", NULL); _exit(4);
    }
    wait(&status); both = WEXITSTATUS(status) != 3;
    if (!fork()) { close(open(argv[1], O_RDONLY)); execl("/bin/sh", "sh", "-c", ": > harmless", NULL); }
    wait(&status);
    printf("read %d both %d\n", read_it, both);
}
"""
RULE = """
rules:
  - {name: no-telling, on: process.exec, argv: "sh -c *", after: {on: file.read, path: "${WORKSPACE}/customers/**"},
     action: block}
"""


@pytest.mark.parametrize("scene", ["waved", "served", "landlock"], indirect=True)
def test_reading_unseen(scene: Scene, build: Build) -> None:
    program = build(SOURCE)
    secret, good, leaked = scene.ws / "customers" / "list", scene.ws / "good", scene.ws / "leaked"
    secret.parent.mkdir()
    secret.write_text(MARK)
    good.write_text("harmless")
    policy = scene.policy()
    policy.write_text(policy.read_text() + RULE)
    done = scene.bound(program, good, secret, 2, policy=policy)
    _, raced, _, both = done.stdout.split()
    assert int(raced) > 0, "some win the race for what is opened"
    assert both == "1"
    assert not leaked.exists()
    assert (scene.ws / "harmless").exists(), "who has not read it goes on"
    scene.free(program, good, secret, 0.5)
    assert leaked.exists()
