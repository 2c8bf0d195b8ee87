"""What the kernel does for a run: which calls it stops, which it refuses, and what it bounds by itself."""

from __future__ import annotations

from asl_hooks import bpf, filters, syscalls
from asl_hooks._abi.constants import SECCOMP_RET_ERRNO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from asl_hooks.backend import Call
    from asl_hooks.bpf import Filter

# Groups of calls (tags of ``asl_hooks.syscalls``) by the describer that answers them.
OPEN_TAGS = ("open", "watch")
ENTRY_TAGS = ("mkdir", "mknod", "unlink", "rename", "link", "symlink")
METADATA_TAGS = ("truncate", "chmod", "chown", "utime", "xattr", "fd_meta")
NETWORK_TAGS = ("connect", "bind", "listen", "send", "sendmsg", "linger")
EXEC_TAGS = ("exec",)
SIGNAL_TAGS = ("kill", "setown", "sched")
QUEUE_TAGS = ("queue",)
BOOKKEEPING_TAGS = ("umask", "tell")
# Only where new processes have to be counted one by one. A notified call that a signal finds waiting returns EINTR to
# programs that do not ask for restarts, and shells take that for a failed fork.
COUNTED_TAGS = ("fork", "thread")
IPC_TAGS = ("ipc",)  # only where the tree has no IPC namespace of its own
CREDENTIAL_TAGS = ("creds",)  # only where the tree may change its identity: as root
NOTIFIED = (
    *OPEN_TAGS,
    *ENTRY_TAGS,
    *METADATA_TAGS,
    *NETWORK_TAGS,
    *EXEC_TAGS,
    "kill",
    "sched",
    *QUEUE_TAGS,
    *BOOKKEEPING_TAGS,
)


# What was assembled, by the groups that are notified and the other arguments. A process that forks supervisors does it
# once, and so does the first of many starts (``bytecode``).
programs: dict[tuple[frozenset[str], bool, bool, bool], bytes] = {}


def usual() -> dict[tuple[frozenset[str], bool, bool, bool], bytes]:
    """What was assembled here, as root and as anybody else would have it."""
    for notified, shares_ipc, bounds_reads, traced in tuple(programs):
        for tags in (notified.union(CREDENTIAL_TAGS), notified.difference(CREDENTIAL_TAGS)):
            Kernel(tags, bounds_reads=bounds_reads).program(shares_ipc=shares_ipc, traced=traced)
    return programs


class Kernel:
    """The kernel's part of a run: what its filter refuses for *notified* groups, and what its Landlock domain bounds.

    The installed filter reports what it refuses, so that it is on record; this one, which refuses silently, tells with
    which errno. It is built when first needed: most runs are refused nothing.
    """

    def __init__(
        self,
        notified: frozenset[str],
        *,
        scopes_signals: bool = False,
        bounds_truncate: bool = False,
        bounds_reads: bool = False,
    ) -> None:
        self.notified = notified
        self.bounds_reads = bounds_reads
        self.scopes_signals = scopes_signals
        self.bounds_truncate = bounds_truncate
        self._silent: Filter | None = None

    def program(self, *, shares_ipc: bool = False, traced: bool = False) -> bytes:
        """The seccomp program to install: what it asks about, it asks a listener, or with *traced* a tracer.

        ``shares_ipc``: in a tree that has no IPC namespace of its own.
        """
        key = (self.notified, shares_ipc, self.bounds_reads, traced)
        made = programs.get(key)
        if made is None:
            ask = bpf.trace(bpf.ASKED) if traced else bpf.NOTIFY
            made = programs[key] = bpf.assemble(self._asking(ask, shares_ipc))
        return made

    def asks(self, *, shares_ipc: bool) -> Callable[[int, tuple[int, ...]], bool]:
        """What tells of a call whether ``program`` asks about it."""
        rules = self._asking(bpf.NOTIFY, shares_ipc).by_number()

        def asks(nr: int, args: tuple[int, ...]) -> bool:
            found = rules.get(nr, ())
            return next((r.verdict for r in found if all(c.holds(args) for c in r.when)), bpf.ALLOW) == bpf.NOTIFY

        return asks

    def _asking(self, ask: int, shares_ipc: bool) -> Filter:
        notified = self.notified.union(IPC_TAGS) if shares_ipc else self.notified
        arch, reads = syscalls.native_arch(), not self.bounds_reads
        return filters.build(arch, notified, ask=ask, report=True, keep_dumpable=True, reads=reads)

    def refusal(self, call: Call) -> int:
        """The errno with which *call* is refused whatever the policy says; 0 when it is not."""
        if self._silent is None:
            self._silent = filters.build(call.arch, self.notified, keep_dumpable=True)
        verdict = self._silent.verdict(call.nr, call.args)
        return verdict & 0xFFFF if verdict & 0xFFFF0000 == SECCOMP_RET_ERRNO else 0
