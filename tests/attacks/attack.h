/* What attack programs share. Each prints what it did; the host judges by what happened. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>

struct open_how_ { uint64_t flags, mode, resolve; };
#ifndef SYS_openat2
#define SYS_openat2 437
#endif

static double now_(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }

/* Shared by threads and forked processes alike. */
static void *shared_(size_t size) {
    return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

/* Adds what a descriptor gives to ./loot. */
static int keep_(int fd) {
    char text[256];
    ssize_t n = pread(fd, text, sizeof text, 0);
    if (n <= 0) return 0;
    int loot = open("loot", O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (write(loot, text, n) < 0) perror("loot");
    close(loot);
    return 1;
}
