"""Names that are not what they seem: folders and files held by descriptor, by O_PATH or received over SCM_RIGHTS."""

from __future__ import annotations

import array
import os
import socket
import threading
from pathlib import Path

import pytest

from tests.attacks.conftest import Build
from tests.attacks.scene import Scene

SOURCE = r"""
char *names[] = { "secret", "victim", 0 };
int tried;
void attempt(int fd, int flags) {  // every way from a descriptor to a file below or behind it
    char path[64]; tried++;
    char *forms[] = { "/proc/self/fd/%d/%s", "/dev/fd/%d/%s", "/proc/thread-self/fd/%d/%s", 0 };
    for (char **n = names; *n; n++) {
        int got = openat(fd, *n, flags);
        if (got >= 0 && flags == O_RDONLY) keep_(got); else if (got >= 0) write(got, "OWNED", 5);
        struct open_how_ how = { flags };
        got = syscall(SYS_openat2, fd, *n, &how, sizeof how);
        if (got >= 0 && flags == O_RDONLY) keep_(got); else if (got >= 0) write(got, "OWNED", 5);
        for (char **f = forms; *f; f++) {
            snprintf(path, 64, *f, fd, *n); got = open(path, flags);
            if (got >= 0 && flags == O_RDONLY) keep_(got); else if (got >= 0) write(got, "OWNED", 5);
        }
    }
    if (!fchdir(fd)) {  // and back again for the loot
        for (char **n = names; *n; n++) { int got = open(*n, flags); if (got >= 0) {
            char text[64]; int k = pread(got, text, 64, 0);
            if (flags != O_RDONLY) write(got, "OWNED", 5);
            else if (k > 0) { chdir(getenv("PWD")); keep_(got); fchdir(fd); }
        } }
        chdir(getenv("PWD"));
    }
    mkdirat(fd, "made", 0755); linkat(fd, "victim", AT_FDCWD, "alias", 0); renameat(fd, "victim", fd, "renamed");
    fchmodat(fd, "victim", 0777, 0); symlinkat("x", fd, "made2");
}
int main(int argc, char **argv) {  // receive SOCKET | opath FOLDER
    setenv("PWD", getcwd(0, 0), 1);
    int fd = 0;
    if (!strcmp(argv[1], "receive")) {
        int s = socket(AF_UNIX, SOCK_STREAM, 0); struct sockaddr_un a = { AF_UNIX }; strcpy(a.sun_path, argv[2]);
        if (connect(s, (void *)&a, sizeof a)) { perror("connect"); return 1; }
        char byte, control[64]; struct iovec v = { &byte, 1 };
        struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = 64 };
        if (recvmsg(s, &m, 0) < 0) { perror("recvmsg"); return 1; }
        fd = *(int *)CMSG_DATA(CMSG_FIRSTHDR(&m));
    } else if (!strcmp(argv[1], "opath")) fd = open(argv[2], O_PATH);
    attempt(fd, O_RDONLY); attempt(fd, O_WRONLY);
    printf("tried %d\n", tried);
}
"""


def _give(path: Path, folder: Path) -> threading.Thread:
    """Serves a descriptor of *folder*, opened outside, to whoever connects."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, listener:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            connection.sendmsg([b"x"], [rights])
            connection.recv(1)
            os.close(fd)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize("way", ["receive", "opath"])
def test_held_folder(scene: Scene, build: Build, way: str) -> None:
    program = build(SOURCE)
    path = scene.base / "giver.sock"
    argv = [program, way, *({"receive": [path], "opath": [scene.outside]}.get(way, []))]
    for bound in (True, False):
        giver = _give(path, scene.outside) if way == "receive" else None
        command = scene.command(argv, policy=scene.policy(unix=[str(path)])) if bound else argv
        done = scene.free(*command)
        if giver is not None:
            giver.join()
            path.unlink()
        assert "tried 2" in done.stdout, done.stdout + done.stderr
        if bound:
            assert not scene.stolen
            assert not scene.changed
            assert not (scene.ws / "alias").exists()
        else:
            assert scene.stolen, "without a supervisor it works"
            assert scene.changed, "without a supervisor it works"
