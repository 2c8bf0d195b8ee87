"""The table of system calls: one line each, with what its arguments are and which groups it belongs to.

A line reads ``name(kinds) tags``. The kinds say how wide an argument is in the kernel and what it means:

    32 bits, signed     fd dirfd int pid sig        64 bits, a pointer   path str argv ptr sockaddr
    32 bits, unsigned   flags mode uid len          64 bits, a number    size word (unsigned), off (signed)

``dirfd`` may be AT_FDCWD; ``path`` names a file, ``str`` is any other string; ``len`` is the length of a ``sockaddr``.

Tags are what the filter and the engine dispatch on: ``refuse`` always fails with EPERM, ``absent`` with ENOSYS so that
libraries fall back, and the rest name what the call does to the world (``open unlink connect exec …``). Calls without
a tag touch only the caller or descriptors that it holds.

To add a call: a line here, its number in ``scripts/make-syscall-tables``. Nothing is parsed at import.
"""

from __future__ import annotations

import os

from asl_hooks._abi.constants import AUDIT_ARCH_AARCH64, AUDIT_ARCH_X86_64
from asl_hooks.errors import UnsupportedError
from asl_hooks.value import value

_TABLE = """
# files by path
open(path flags mode) open
openat(dirfd path flags mode) open
openat2(dirfd path ptr size) open
creat(path mode) open
open_by_handle_at(fd ptr flags) open_handle refuse
mkdir(path mode) mkdir
mkdirat(dirfd path mode) mkdir
mknod(path mode flags) mknod
mknodat(dirfd path mode flags) mknod
unlink(path) unlink
unlinkat(dirfd path flags) unlink
rmdir(path) unlink
rename(path path) rename
renameat(dirfd path dirfd path) rename
renameat2(dirfd path dirfd path flags) rename
link(path path) link
linkat(dirfd path dirfd path flags) link
symlink(str path) symlink
symlinkat(str dirfd path) symlink
truncate(path off) truncate
chmod(path mode) chmod
fchmodat(dirfd path mode) chmod
fchmodat2(dirfd path mode flags) chmod
chown(path uid uid) chown
lchown(path uid uid) chown
fchownat(dirfd path uid uid flags) chown
utime(path ptr) utime
utimes(path ptr) utime
futimesat(dirfd path ptr) utime
utimensat(dirfd path ptr flags) utime
setxattr(path str ptr size flags) xattr
lsetxattr(path str ptr size flags) xattr
setxattrat(dirfd path flags str ptr size) xattr
removexattr(path str) xattr
lremovexattr(path str) xattr
removexattrat(dirfd path flags str) xattr
file_setattr(dirfd path ptr size flags) absent
chdir(path) chdir
fchdir(fd) chdir

# files by path, looking only
stat(path ptr) stat
lstat(path ptr) stat
newfstatat(dirfd path ptr flags) stat
statx(dirfd path flags flags ptr) stat
access(path mode) stat
faccessat(dirfd path mode) stat
faccessat2(dirfd path mode flags) stat
readlink(path ptr int) stat
readlinkat(dirfd path ptr int) stat
getxattr(path str ptr size) stat
lgetxattr(path str ptr size) stat
getxattrat(dirfd path flags str ptr size) stat
listxattr(path ptr size) stat
llistxattr(path ptr size) stat
listxattrat(dirfd path flags ptr size) stat
name_to_handle_at(dirfd path ptr ptr flags) stat
statfs(path ptr) stat
inotify_add_watch(fd path flags) watch
file_getattr(dirfd path ptr size flags) stat

# files by descriptor
fchmod(fd mode) fd_meta
fchown(fd uid uid) fd_meta
fsetxattr(fd str ptr size flags) fd_meta
fremovexattr(fd str) fd_meta
fcntl(fd int word) setown
ioctl(fd flags word)
read(fd ptr size)
write(fd ptr size)
readv(fd ptr size)
writev(fd ptr size)
pread64(fd ptr size off)
pwrite64(fd ptr size off)
preadv(fd ptr size word word)
pwritev(fd ptr size word word)
preadv2(fd ptr size word word flags)
pwritev2(fd ptr size word word flags)
lseek(fd off int)
close(fd)
close_range(flags flags flags)
dup(fd)
dup2(fd fd)
dup3(fd fd flags)
fstat(fd ptr)
fstatfs(fd ptr)
ftruncate(fd off)
fallocate(fd int off off)
fadvise64(fd off size int)
readahead(fd off size)
sync_file_range(fd off off flags)
fsync(fd)
fdatasync(fd)
syncfs(fd)
sync()
flock(fd int)
getdents(fd ptr len)
getdents64(fd ptr len)
fgetxattr(fd str ptr size)
flistxattr(fd ptr size)
sendfile(fd fd ptr size)
splice(fd ptr fd ptr size flags)
tee(fd fd size flags)
vmsplice(fd ptr size flags)
copy_file_range(fd ptr fd ptr size flags)
cachestat(fd ptr ptr flags)
pipe(ptr)
pipe2(ptr flags)
eventfd(flags)
eventfd2(flags flags)
signalfd(fd ptr size)
signalfd4(fd ptr size flags)
timerfd_create(int flags)
timerfd_settime(fd flags ptr ptr)
timerfd_gettime(fd ptr)
inotify_init()
inotify_init1(flags)
inotify_rm_watch(fd int)
memfd_create(str flags)
memfd_secret(flags)
epoll_create(int)
epoll_create1(flags)
epoll_ctl(fd int fd ptr)
epoll_wait(fd ptr int int)
epoll_pwait(fd ptr int int ptr size)
epoll_pwait2(fd ptr int ptr ptr size)
poll(ptr len int)
ppoll(ptr len ptr ptr size)
select(int ptr ptr ptr ptr)
pselect6(int ptr ptr ptr ptr ptr)
io_setup(len ptr)
io_destroy(word)
io_submit(word size ptr)
io_cancel(word ptr ptr)
io_getevents(word size size ptr ptr)
io_pgetevents(word size size ptr ptr ptr)
umask(mode) umask
getcwd(ptr size)
ustat(flags ptr)
sysfs(int word word)
statmount(ptr ptr size flags)
listmount(ptr ptr size flags)

# network
socket(int flags int) socket
socketpair(int flags int ptr)
connect(fd sockaddr len) connect
bind(fd sockaddr len) bind
listen(fd int) listen
sendto(fd ptr size flags sockaddr len) send
sendmsg(fd ptr flags) sendmsg
sendmmsg(fd ptr len flags) sendmsg
accept(fd ptr ptr)
accept4(fd ptr ptr flags)
recvfrom(fd ptr size flags ptr ptr)
recvmsg(fd ptr flags)
recvmmsg(fd ptr len flags ptr)
shutdown(fd int)
getsockname(fd ptr ptr)
getpeername(fd ptr ptr)
setsockopt(fd int int ptr int) linger
getsockopt(fd int int ptr ptr)

# processes
execve(path argv argv) exec
execveat(dirfd path argv argv flags) exec
clone(flags ptr ptr ptr ptr) fork
clone3(ptr size) fork absent
fork() fork
vfork() fork
kill(pid sig) kill
tkill(pid sig) kill
tgkill(pid pid sig) kill
rt_sigqueueinfo(pid sig ptr) kill
rt_tgsigqueueinfo(pid pid sig ptr) kill
pidfd_send_signal(fd sig ptr flags) kill
pidfd_open(pid flags)
process_mrelease(fd flags)
exit(int)
exit_group(int)
wait4(pid ptr int ptr)
waitid(int pid ptr int ptr)
unshare(flags)
prctl(int word word word word) tell
arch_prctl(int word)
personality(flags)
seccomp(int flags ptr)
landlock_create_ruleset(ptr size flags)
landlock_add_rule(fd int ptr flags)
landlock_restrict_self(fd flags)
lsm_get_self_attr(int ptr ptr flags)
lsm_list_modules(ptr ptr flags)
prlimit64(pid int ptr ptr)
getrlimit(int ptr)
setrlimit(int ptr)
getrusage(int ptr)
setpriority(int pid int) sched
ioprio_set(int pid int) sched
sched_setaffinity(pid len ptr) sched
sched_setscheduler(pid int ptr) sched
sched_setparam(pid ptr) sched
sched_setattr(pid ptr flags) sched
migrate_pages(pid size ptr ptr) sched
move_pages(pid size ptr ptr ptr flags) sched
getpriority(int pid)
ioprio_get(int pid)
sched_getaffinity(pid len ptr)
sched_getscheduler(pid)
sched_getparam(pid ptr)
sched_getattr(pid ptr len flags)
sched_get_priority_max(int)
sched_get_priority_min(int)
sched_rr_get_interval(pid ptr)
sched_yield()
getpid()
gettid()
getppid()
getpgrp()
getpgid(pid)
setpgid(pid pid)
getsid(pid)
setsid()
getuid()
geteuid()
getgid()
getegid()
setuid(uid) creds
setgid(uid) creds
setreuid(uid uid) creds
setregid(uid uid) creds
getresuid(ptr ptr ptr)
setresuid(uid uid uid) creds
getresgid(ptr ptr ptr)
setresgid(uid uid uid) creds
setfsuid(uid) creds
setfsgid(uid) creds
getgroups(int ptr)
setgroups(int ptr) creds
capget(ptr ptr)
capset(ptr ptr)
set_tid_address(ptr)
set_robust_list(ptr size)
get_robust_list(pid ptr ptr)
rseq(ptr len flags sig)
rseq_slice_yield()
restart_syscall()
uretprobe()
uprobe()

# signals, time
rt_sigaction(sig ptr ptr size)
rt_sigprocmask(int ptr ptr size)
rt_sigpending(ptr size)
rt_sigtimedwait(ptr ptr ptr size)
rt_sigsuspend(ptr size)
rt_sigreturn()
sigaltstack(ptr ptr)
pause()
alarm(len)
nanosleep(ptr ptr)
clock_nanosleep(int flags ptr ptr)
clock_gettime(int ptr)
clock_getres(int ptr)
gettimeofday(ptr ptr)
time(ptr)
times(ptr)
getitimer(int ptr)
setitimer(int ptr ptr)
timer_create(int ptr ptr)
timer_settime(int flags ptr ptr)
timer_gettime(int ptr)
timer_getoverrun(int)
timer_delete(int)
futex(ptr int len ptr ptr len)
futex_wait(ptr word word flags ptr int)
futex_wake(ptr word int flags)
futex_requeue(ptr flags int int)
futex_waitv(ptr len flags ptr int)

# memory
brk(ptr)
mmap(ptr size word word fd off)
munmap(ptr size)
mremap(ptr size size word ptr)
mprotect(ptr size word)
pkey_mprotect(ptr size word int)
pkey_alloc(word word)
pkey_free(int)
msync(ptr size int)
mincore(ptr size ptr)
madvise(ptr size int)
mlock(ptr size)
mlock2(ptr size flags)
munlock(ptr size)
mlockall(flags)
munlockall()
mseal(ptr size word)
map_shadow_stack(ptr size flags)
remap_file_pages(ptr size word word word)
mbind(ptr size word ptr word flags)
set_mempolicy(int ptr word)
get_mempolicy(ptr ptr word ptr word)
set_mempolicy_home_node(word word word word)
membarrier(int flags int)
modify_ldt(int ptr word)

# interprocess communication with names outside the file system
shmget(int size flags) ipc
shmat(int ptr flags) ipc
shmctl(int int ptr) ipc
shmdt(ptr)
semget(int int flags) ipc
semop(int ptr len) ipc
semtimedop(int ptr len ptr) ipc
semctl(int int int word) ipc
msgget(int flags) ipc
msgsnd(int ptr size flags) ipc
msgrcv(int ptr size off flags) ipc
msgctl(int int ptr) ipc
mq_open(str flags mode ptr) queue
mq_unlink(str) queue
mq_timedsend(fd ptr size len ptr)
mq_timedreceive(fd ptr size ptr ptr)
mq_notify(fd ptr)
mq_getsetattr(fd ptr ptr)

# the system
uname(ptr)
sysinfo(ptr)
getcpu(ptr ptr ptr)
getrandom(ptr size flags)

# refused: they look into or steer other processes, or get past the interception
ptrace(int pid ptr ptr) refuse
process_vm_readv(pid ptr size ptr size size) refuse
process_vm_writev(pid ptr size ptr size size) refuse
process_madvise(fd ptr size int flags) refuse
pidfd_getfd(fd fd flags) refuse
kcmp(pid pid int word word) refuse
userfaultfd(flags) refuse
bpf(int ptr len) refuse
perf_event_open(ptr pid int fd flags) refuse
io_uring_setup(len ptr) refuse
io_uring_enter(fd len len flags ptr size) refuse
io_uring_register(fd len ptr len) refuse
add_key(str str ptr size int) refuse
request_key(str str str int) refuse
keyctl(int word word word word) refuse
fanotify_init(flags flags) refuse
fanotify_mark(fd flags word dirfd path) refuse
lookup_dcookie(word ptr size) refuse
lsm_set_self_attr(int ptr len flags) refuse
setns(fd flags) refuse

# refused: they change the system
mount(path path str word ptr) refuse
umount2(path flags) refuse
fsopen(str flags) refuse
fsconfig(fd flags str ptr int) refuse
fsmount(fd flags flags) refuse
fspick(dirfd path flags) refuse
move_mount(dirfd path dirfd path flags) refuse
open_tree(dirfd path flags) refuse
open_tree_attr(dirfd path flags ptr size) refuse
mount_setattr(dirfd path flags ptr size) refuse
pivot_root(path path) refuse
chroot(path) refuse
init_module(ptr size str) refuse
finit_module(fd str flags) refuse
delete_module(str flags) refuse
kexec_load(word size ptr word) refuse
kexec_file_load(fd fd size str word) refuse
reboot(int int flags ptr) refuse
swapon(path flags) refuse
swapoff(path) refuse
acct(path) refuse
quotactl(flags path uid ptr) refuse
quotactl_fd(fd flags uid ptr) refuse
settimeofday(ptr ptr) refuse
clock_settime(int ptr) refuse
clock_adjtime(int ptr) refuse
adjtimex(ptr) refuse
sethostname(ptr int) refuse
setdomainname(ptr int) refuse
iopl(flags) refuse
ioperm(word word int) refuse
vhangup() refuse
syslog(int ptr int) refuse
uselib(path) refuse
nfsservctl(int ptr ptr) refuse

# absent: the kernel has none, or none that anything depends on
listns(ptr ptr size flags) absent
_sysctl(ptr) absent
create_module(str size) absent
get_kernel_syms(ptr) absent
query_module(str int ptr size ptr) absent
getpmsg() absent
putpmsg() absent
afs_syscall() absent
tuxcall() absent
security() absent
vserver() absent
epoll_ctl_old() absent
epoll_wait_old() absent
set_thread_area(ptr) absent
get_thread_area(ptr) absent
"""

_SIGNED_32 = frozenset(("fd", "dirfd", "int", "pid", "sig"))
_UNSIGNED_32 = frozenset(("flags", "mode", "uid", "len"))


@value
class Syscall:
    """One line of the table: the kinds of its arguments in register order, and its tags."""

    name: str
    args: tuple[str, ...]
    tags: tuple[str, ...]

    def arguments(self, registers: tuple[int, ...]) -> tuple[int, ...]:
        """What the kernel takes from the *registers* (unsigned 64-bit): cut to each argument's width and signed as it
        is.

        Garbage in the high half of a 32-bit argument is dropped here as the kernel drops it.
        """
        taken = []
        for kind, register in zip(self.args, registers, strict=False):
            if kind in _SIGNED_32:
                low = register & 0xFFFFFFFF
                taken.append(low - (low >> 31 << 32))
            elif kind in _UNSIGNED_32:
                taken.append(register & 0xFFFFFFFF)
            elif kind == "off":
                taken.append(register - (register >> 63 << 64))
            else:
                taken.append(register)
        return tuple(taken)


_specs: dict[str, Syscall] = {}
_tags: dict[str, tuple[str, ...]] = {}
_tagged: dict[str, tuple[str, ...]] = {}
_numbers: dict[int, dict[str, int]] = {}
_names: dict[int, dict[int, str]] = {}


def native_arch() -> int:
    """The AUDIT_ARCH constant of this machine. ``UnsupportedError`` on anything but x86-64 and aarch64."""
    machine = os.uname().machine
    if machine == "x86_64":
        return AUDIT_ARCH_X86_64
    if machine in ("aarch64", "arm64"):
        return AUDIT_ARCH_AARCH64
    raise UnsupportedError("System calls are known on x86-64 and aarch64", f"this machine is {machine}", "")


def numbers(arch: int) -> dict[str, int]:
    """Name and number of every system call of *arch* (an AUDIT_ARCH constant), in the order of the numbers."""
    if arch not in _numbers:
        if arch == AUDIT_ARCH_X86_64:
            from asl_hooks._abi.numbers_x86_64 import NUMBERS as x86_64

            _numbers[arch] = x86_64
        elif arch == AUDIT_ARCH_AARCH64:
            from asl_hooks._abi.numbers_aarch64 import NUMBERS as aarch64

            _numbers[arch] = aarch64
        else:
            raise UnsupportedError("System calls are known on x86-64 and aarch64", f"asked for arch {arch:#x}", "")
    return _numbers[arch]


def number(name: str, arch: int) -> int | None:
    """The number of *name* on *arch*; None where that architecture has no such call."""
    return numbers(arch).get(name)


def name_of(nr: int, arch: int) -> str:
    """The name of call *nr* on *arch*; ``syscall_<nr>`` if it is unknown."""
    names = _names.get(arch)
    if names is None:
        names = _names[arch] = {number: name for name, number in numbers(arch).items()}
    return names.get(nr) or f"syscall_{nr}"


def spec(name: str) -> Syscall:
    """The table's line for *name*; six plain words and no tags for a name that is not in it."""
    found = _specs.get(name)
    if found is None:
        start = _TABLE.find(f"\n{name}(")
        if start < 0:
            return Syscall(name, ("word",) * 6, ())
        end = _TABLE.index("\n", start + 1)
        args, _, tags = _TABLE[start + len(name) + 2 : end].partition(")")
        found = _specs[name] = Syscall(name, tuple(args.split()), tuple(tags.split()))
    return found


def tags() -> dict[str, tuple[str, ...]]:
    """Every tag with the names that bear it, in the table's order."""
    if not _tags:
        named: dict[str, list[str]] = {}
        for line in _TABLE.splitlines():
            head, _, tail = line.partition(")")
            for tag in tail.split():
                named.setdefault(tag, []).append(head[: head.index("(")])
        _tags.update((tag, tuple(names)) for tag, names in named.items())
    return _tags


def tagged(tag: str) -> tuple[str, ...]:
    """The names of the calls that bear *tag*, on whichever architecture they exist. ``KeyError`` for an unknown tag."""
    found = _tagged.get(tag)
    if found is None:
        names = []
        at = _TABLE.find(f" {tag}")
        while at >= 0:  # without reading the other five hundred lines
            start, end = _TABLE.rfind("\n", 0, at) + 1, _TABLE.index("\n", at)
            head, _, tail = _TABLE[start:end].partition(")")
            if not head.startswith("#") and tag in tail.split():
                names.append(head[: head.index("(")])
            at = _TABLE.find(f" {tag}", end)
        if not names:
            raise KeyError(tag)
        found = _tagged[tag] = tuple(names)
    return found


def table() -> tuple[Syscall, ...]:
    """Every line of the table."""
    return tuple(spec(line[: line.index("(")]) for line in _TABLE.splitlines() if line and not line.startswith("#"))


__all__ = ["Syscall", "name_of", "native_arch", "number", "numbers", "spec", "table", "tagged", "tags"]
