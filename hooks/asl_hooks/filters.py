"""The supervisor's seccomp filter: which calls are notified, refused or absent, and what holds whatever the policy.

The rules stand in this order, and the first that holds decides a call:

    absent       ENOSYS, so that libraries fall back (clone3 hides its flags behind a pointer)
    refused      EPERM: calls that look into other processes, change the system, or get past the interception
    conditions   namespaces, sockets, terminals …, as the tables below say
    notified     the groups that the caller asked for, each narrowed to what is worth a notification

What no rule names is allowed: it touches only the caller or descriptors that it holds.
"""

from __future__ import annotations

from errno import EAFNOSUPPORT, EBUSY, ENOSYS, EPERM, EPROTONOSUPPORT

from asl_hooks import syscalls
from asl_hooks._abi import constants as k
from asl_hooks.bpf import NOTIFY, Filter, Low, Nonzero, Rule, any_of, differs, equals, fail, none_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

_NAMESPACES = (
    k.CLONE_NEWNS
    | k.CLONE_NEWCGROUP
    | k.CLONE_NEWUTS
    | k.CLONE_NEWIPC
    | k.CLONE_NEWUSER
    | k.CLONE_NEWPID
    | k.CLONE_NEWNET
)
_INET = (k.AF_INET, k.AF_INET6)
# What makes an open more than reading a file, or less likely that. Folders are listed by O_DIRECTORY; who wants to know
# what something is, file or folder, opens it by O_NOFOLLOW.
_NO_READS = k.O_ACCMODE | k.O_CREAT | k.O_TRUNC | k.O_TMPFILE
_MORE = {
    k.AUDIT_ARCH_X86_64: _NO_READS | k.O_DIRECTORY_X86 | k.O_NOFOLLOW_X86,
    k.AUDIT_ARCH_AARCH64: _NO_READS | k.O_DIRECTORY_ARM | k.O_NOFOLLOW_ARM,
}

_CONDITIONS = (
    # CLONE_UNTRACED and CLONE_PARENT would put a child out of the supervisor's sight, or make it the supervisor's own.
    # CLONE_NEWTIME lies among the bits of the exit signal here and means nothing; unshare(2) does take it.
    Rule(("clone",), fail(EPERM), (any_of(0, _NAMESPACES | k.CLONE_UNTRACED | k.CLONE_PARENT),)),
    Rule(("unshare",), fail(EPERM), (any_of(0, _NAMESPACES | k.CLONE_NEWTIME),)),
    # Typing into the terminal, taking over the console, changing line disciplines; FIOSETOWN and SIOCSPGRP send SIGIO
    # to anyone, and nothing uses them on Linux; USERFAULTFD_IOC_NEW is userfaultfd(2) by way of its device.
    Rule(
        ("ioctl",),
        fail(EPERM),
        (
            equals(
                1,
                k.TIOCSTI,
                k.TIOCLINUX,
                k.TIOCCONS,
                k.TIOCSETD,
                k.TIOCVHANGUP,
                k.FIOSETOWN,
                k.SIOCSPGRP,
                k.USERFAULTFD_IOC_NEW,
            ),
        ),
    ),
    # Changes of attributes, of a file system's keys, and of btrfs' subvolumes, that a descriptor for reading suffices
    # for and Landlock does not know.
    Rule(
        ("ioctl",),
        fail(EPERM),
        (
            equals(
                1,
                k.FS_IOC_SETFLAGS,
                k.FS_IOC32_SETFLAGS,
                k.FS_IOC_FSSETXATTR,
                k.FS_IOC_SETVERSION,
                k.EXT4_IOC_SETVERSION_OLD,
                k.FS_IOC_ENABLE_VERITY,
                k.FS_IOC_SET_ENCRYPTION_POLICY,
                k.FS_IOC_REMOVE_ENCRYPTION_KEY,
                k.FAT_IOCTL_SET_ATTRIBUTES,
                k.BTRFS_IOC_SNAP_CREATE,
                k.BTRFS_IOC_SUBVOL_CREATE,
                k.BTRFS_IOC_SNAP_DESTROY,
                k.BTRFS_IOC_SNAP_CREATE_V2,
                k.BTRFS_IOC_SUBVOL_CREATE_V2,
                k.BTRFS_IOC_SNAP_DESTROY_V2,
                k.BTRFS_IOC_SUBVOL_SETFLAGS,
            ),
        ),
    ),
    # A lease, or (Linux 6.19) a delegation, makes whoever opens the file wait for its holder: the supervisor, for 45 s.
    Rule(("fcntl",), fail(EPERM), (equals(1, k.F_SETLEASE, k.F_SETDELEG),)),
    Rule(("prlimit64",), fail(EPERM), (differs(0, 0), Nonzero(2))),
    Rule(("socketpair",), fail(EAFNOSUPPORT), (differs(0, k.AF_UNIX),)),
    Rule(("socket",), fail(EAFNOSUPPORT), (differs(0, k.AF_UNIX, *_INET, k.AF_NETLINK),)),
    Rule(("socket",), fail(EPROTONOSUPPORT), (equals(0, k.AF_NETLINK), differs(2, k.NETLINK_ROUTE))),
    Rule(
        ("socket",),
        fail(EPERM),
        (equals(0, *_INET), Low(1, (k.SOCK_STREAM, k.SOCK_DGRAM), k.SOCK_TYPE_MASK, among=False)),
    ),
    Rule(
        ("socket",),
        fail(EPROTONOSUPPORT),
        (equals(0, *_INET), differs(2, k.IPPROTO_IP, k.IPPROTO_TCP, k.IPPROTO_UDP)),
    ),
    # These let connect(2) and sendto(2) do what the other was not judged for.
    Rule(
        ("setsockopt",),
        fail(EPERM),
        (equals(1, k.IPPROTO_TCP), equals(2, k.TCP_FASTOPEN, k.TCP_FASTOPEN_CONNECT)),
    ),
    # Source routes: packets to the address that was judged go by way of one that nobody has judged. A flow label can
    # hold one.
    Rule(("setsockopt",), fail(EPERM), (equals(1, k.IPPROTO_IP), equals(2, k.IP_OPTIONS))),
    Rule(
        ("setsockopt",),
        fail(EPERM),
        (
            equals(1, k.IPPROTO_IPV6),
            equals(2, k.IPV6_RTHDR, k.IPV6_2292RTHDR, k.IPV6_2292PKTOPTIONS, k.IPV6_FLOWLABEL_MGR),
        ),
    ),
    Rule(("personality",), fail(EPERM), (differs(0, k.PER_LINUX, k.PER_QUERY, k.ADDR_NO_RANDOMIZE),)),
    # A listener of the tracee's own would answer before a ptrace tracer is asked: USER_NOTIF outranks TRACE. Where we
    # are one ourselves the kernel says the same.
    Rule(
        ("seccomp",), fail(EBUSY), (equals(0, k.SECCOMP_SET_MODE_FILTER), any_of(1, k.SECCOMP_FILTER_FLAG_NEW_LISTENER))
    ),
    # They rewrite what /proc/<pid>/exe and cmdline tell, and steer on which cores others run.
    Rule(("prctl",), fail(EPERM), (equals(0, k.PR_SET_MM, k.PR_SCHED_CORE),)),
)

# What is worth a notification, where not every call of the name is. Several lines for a name: any of them.
_NARROWED: dict[str, tuple[tuple[Low | Nonzero, ...], ...]] = {
    "sendto": ((Nonzero(4),), (any_of(3, k.MSG_FASTOPEN),)),
    "clone": ((none_of(0, k.CLONE_THREAD),),),
    # Another task's scheduling or memory placement. Thread ids are not 0 either, so pthread_setaffinity_np is notified
    # too.
    "sched_setaffinity": ((differs(0, 0),),),
    "sched_setscheduler": ((differs(0, 0),),),
    "sched_setparam": ((differs(0, 0),),),
    "sched_setattr": ((differs(0, 0),),),
    "migrate_pages": ((differs(0, 0),),),
    "move_pages": ((differs(0, 0),),),
    "setpriority": ((differs(0, k.PRIO_PROCESS),), (differs(1, 0),)),
    "ioprio_set": ((differs(0, k.IOPRIO_WHO_PROCESS),), (differs(1, 0),)),
    "fcntl": ((equals(1, k.F_SETOWN),),),
    "setsockopt": ((equals(1, k.SOL_SOCKET), equals(2, k.SO_LINGER)),),
    "prctl": ((equals(0, k.PR_ASL_TELL),),),
}


def conditional() -> frozenset[str]:
    """The names of calls that ``build`` refuses with some arguments only."""
    return frozenset(name for rule in _CONDITIONS for name in rule.calls) | {"fcntl"}


def build(
    arch: int,
    notified: Collection[str],
    *,
    ask: int = NOTIFY,
    report: bool = False,
    keep_dumpable: bool = False,
    reads: bool = True,
) -> Filter:
    """The filter for *arch* under which the calls tagged with one of *notified* (tags of ``asl_hooks.syscalls``) are
    asked about, in addition to what always fails.

    ``ask`` is the verdict for asking: ``bpf.NOTIFY``, or ``bpf.trace(n)`` for a ptrace backend. With ``report``, what
    would fail with EPERM is asked about too, so that it can be recorded before it is refused: the same filter built
    without ``report`` tells the errno (``Filter.verdict``). With ``keep_dumpable``, ``prctl(PR_SET_DUMPABLE, 0)``
    returns success and does nothing: a supervisor without capabilities cannot read the memory of a process that is not
    dumpable.

    Without ``reads``, opens that neither write, create nor list are not asked about, so far as their flags are in a
    register: openat2(2) still is.

    ``thread`` among *notified* asks about new threads too, where ``fork`` alone asks about new processes.

    Tag ``setown`` notifies ``fcntl(F_SETOWN)`` and refuses ``F_SETOWN_EX``, whose target lies behind a pointer;
    without it (and where Landlock does not scope signals) a tracee can have SIGIO, or any signal by F_SETSIG, sent to
    the supervisor.
    """
    unknown = set(notified) - {"thread"} - (syscalls.tags().keys() - {"absent", "refuse"})
    if unknown:
        raise ValueError(f"not tags to ask about: {', '.join(sorted(unknown))}")
    rules = [
        Rule(syscalls.tagged("absent"), fail(ENOSYS)),
        Rule(syscalls.tagged("refuse"), fail(EPERM)),
        *_CONDITIONS,
    ]
    if "setown" in notified:
        rules.append(Rule(("fcntl",), fail(EPERM), (equals(1, k.F_SETOWN_EX),)))
    if keep_dumpable:
        rules.append(Rule(("prctl",), fail(0), (equals(0, k.PR_SET_DUMPABLE), equals(1, 0))))
    if report:
        rules = [Rule(r.calls, ask, r.when) if r.verdict == fail(EPERM) else r for r in rules]
    narrowed = {name: when for name, when in _NARROWED.items() if name != "clone" or "thread" not in notified}
    if not reads:
        narrowed |= {"open": ((any_of(1, _MORE[arch]),),), "openat": ((any_of(2, _MORE[arch]),),)}
    for tag in syscalls.tags():
        if tag in notified:
            names = syscalls.tagged(tag)
            whole = tuple(name for name in names if name not in narrowed)
            if whole:
                rules.append(Rule(whole, ask))
            rules.extend(Rule((name,), ask, when) for name in names for when in narrowed.get(name, ()))
    return Filter(arch, tuple(rules))
