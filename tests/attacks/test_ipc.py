"""Past the file system: shared memory, semaphores and message queues of other programs of the user."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.attacks.conftest import Build
from tests.attacks.scene import MARK, Scene

SHARED = r"""
#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
struct message { long type; char text[100]; };
#define QSIZE 128
"""
OWNER = (
    SHARED
    + r"""
int main(int argc, char **argv) {  // KEY MARK: makes one of each, tells their ids, then what has become of them
    int key = atoi(argv[1]); char queue[64]; sprintf(queue, "/asl-%d", key);
    int shm = shmget(key, 4096, IPC_CREAT | 0600), sem = semget(key, 1, IPC_CREAT | 0600);
    int msg = msgget(key, IPC_CREAT | 0600), open_ = shmget(IPC_PRIVATE, 4096, 0600);
    char *text = shmat(shm, 0, 0), *other = shmat(open_, 0, 0); strcpy(text, argv[2]); strcpy(other, argv[2]);
    semctl(sem, 0, SETVAL, 7);
    struct message m = { 1 }; strcpy(m.text, argv[2]); msgsnd(msg, &m, sizeof m.text, 0);
    struct mq_attr attr = { .mq_maxmsg = 4, .mq_msgsize = QSIZE };
    mqd_t mq = mq_open(queue, O_CREAT | O_RDWR | O_NONBLOCK, 0600, &attr); mq_send(mq, argv[2], strlen(argv[2]), 0);
    printf("%d %d %d %d\n", shm, sem, msg, open_); fflush(stdout); getchar();
    struct msqid_ds left; int there = !msgctl(msg, IPC_STAT, &left); struct mq_attr now; mq_getattr(mq, &now);
    printf("%s %d %d %ld %s\n", text, semctl(sem, 0, GETVAL), there ? (int)left.msg_qnum : -1, now.mq_curmsgs, other);
    shmctl(shm, IPC_RMID, 0); shmctl(open_, IPC_RMID, 0); semctl(sem, 0, IPC_RMID); msgctl(msg, IPC_RMID, 0);
    mq_unlink(queue);
}
"""
)
ATTACK = (
    SHARED
    + r"""
void loot(char *text) {
    int fd = open("loot", O_WRONLY | O_CREAT | O_APPEND, 0644); write(fd, text, strlen(text)); close(fd);
}
void memory(int id) {
    char *p = shmat(id, 0, SHM_RDONLY); if (p != (void *)-1) loot(p);
    p = shmat(id, 0, 0); if (p != (void *)-1) strcpy(p, "forged");
    shmctl(id, IPC_RMID, 0);
}
void messages(int id) {
    struct message m = { 0 }; if (msgrcv(id, &m, sizeof m.text, 0, IPC_NOWAIT) > 0) loot(m.text);
    m.type = 1; msgsnd(id, &m, 5, IPC_NOWAIT);
}
int main(int argc, char **argv) {  // KEY SHM SEM MSG OTHER
    int key = atoi(argv[1]), shm = atoi(argv[2]), sem = atoi(argv[3]), msg = atoi(argv[4]), other = atoi(argv[5]);
    char queue[64]; sprintf(queue, "/asl-%d", key);
    // Our own first: what is private to the tree works.
    int own = shmget(IPC_PRIVATE, 8192, 0600); char *p = shmat(own, 0, 0); own >= 0 && (p[0] = 0);
    int named = semget(key + 1, 2, IPC_CREAT | IPC_EXCL | 0600); struct sembuf down = { 0, -1 }, up = { 0, 1 };
    int q = msgget(key + 1, IPC_CREAT | 0600);
    mqd_t mine = mq_open("/asl-own", O_CREAT | O_EXCL | O_RDWR, 0600, 0);
    if (!fork()) {
        char *c = shmat(shmget(key + 2, 0, 0) < 0 ? own : -1, 0, 0); strcpy(c, "from the child");
        struct message m = { 3, "hello" }; msgsnd(msgget(key + 1, 0), &m, 6, 0);
        mq_send(mq_open("/asl-own", O_WRONLY), "posix", 6, 0);
        semop(semget(key + 1, 2, 0), &up, 1); _exit(0);
    }
    semop(named, &down, 1); wait(0);
    struct message m; char buffer[8192]; msgrcv(q, &m, sizeof m.text, 3, 0); mq_receive(mine, buffer, 8192, 0);
    if (!strcmp(p, "from the child") && !strcmp(m.text, "hello") && !strcmp(buffer, "posix")
        && semget(key + 1, 2, IPC_CREAT | IPC_EXCL) < 0 && errno == EEXIST
        && mq_open("/asl-own", O_CREAT | O_EXCL | O_RDWR, 0600, 0) < 0 && errno == EEXIST)
        puts("own works");
    if (argc < 7) {
        shmctl(own, IPC_RMID, 0); semctl(named, 0, IPC_RMID); msgctl(q, IPC_RMID, 0); mq_unlink("/asl-own");
    }
    // Theirs, by key, by id, with garbage in the high half, by name.
    memory(other); memory(shmget(key, 0, 0)); memory(shmget(key, 4096, IPC_CREAT | 0600)); memory(shm);
    long p2 = syscall(SYS_shmat, shm | 0x700000000, 0, 0); if (p2 > 0) loot((char *)p2);
    messages(msgget(key, 0)); messages(msgget(key, IPC_CREAT | 0600)); messages(msg);
    union { int val; } one = { 1 };
    semop(sem, &down, 1); semop(semget(key, 1, 0), &down, 1); semctl(sem, 0, SETVAL, 1); semctl(sem, 0, IPC_RMID);
    mqd_t mq = mq_open(queue, O_RDWR | O_NONBLOCK);
    if (mq == (mqd_t)-1) mq = mq_open(queue, O_CREAT | O_RDWR | O_NONBLOCK, 0600, 0);
    int n = mq_receive(mq, buffer, sizeof buffer, 0); if (n > 0) { buffer[n] = 0; loot(buffer); }
    mq_unlink(queue); msgctl(msg, IPC_RMID, 0);
    puts("tried");
}
"""
)


@contextmanager
def _owner(program: Path, key: int) -> Iterator[tuple[list[str], subprocess.Popen[str]]]:
    """A program outside of the tree with one object of each kind: their ids, and the process, which waits."""
    with subprocess.Popen(
        [program, str(key), MARK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split(), process
        finally:
            if process.poll() is None:
                process.communicate("\n")


def _keys() -> set[tuple[str, int]]:
    """The kind and key of each System V object of this machine."""
    kinds = ("shm", "sem", "msg")
    tables = {kind: Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:] for kind in kinds}
    return {(kind, int(line.split()[0])) for kind, lines in tables.items() for line in lines}


@pytest.mark.parametrize("scene", ["waved", "served", "userns"], indirect=True)
def test_ipc(scene: Scene, build: Build) -> None:
    owner, attack = build(OWNER), build(ATTACK)
    key = os.getpid() * 16
    with _owner(owner, key) as (ids, process):
        done = scene.bound(attack, key, *ids, "leave")
        assert "tried" in done.stdout, done.stderr
        assert "own works" in done.stdout, done.stdout
        assert not scene.stolen
        assert not {("sem", key + 1), ("msg", key + 1)} & _keys(), "nothing of the tree is left"
        left, _ = process.communicate("\n")
        assert left.split() == [MARK, "7", "1", "1", MARK]
    with _owner(owner, key) as (ids, process):
        done = scene.free(attack, key, *ids)
        assert "own works" in done.stdout, done.stdout
        assert scene.stolen, "without a supervisor it works"
        left, _ = process.communicate("\n")
        assert left.split() != [MARK, "7", "1", "1", MARK]
