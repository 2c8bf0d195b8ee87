"""What the kernel does for a run: which calls it stops, which it refuses, and what it bounds by itself."""

from __future__ import annotations

from asl_hooks import bpf, filters, syscalls
from asl_hooks._abi.constants import SECCOMP_RET_ERRNO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asl_hooks.backend import Call
    from asl_hooks.bpf import Filter

# Groups of calls (tags of ``asl_hooks.syscalls``) by the describer that answers them.
OPEN_TAGS = ("open",)
ENTRY_TAGS = ("mkdir", "mknod", "unlink", "rename", "link", "symlink")
METADATA_TAGS = ("truncate", "chmod", "chown", "utime", "xattr", "fd_meta")
NETWORK_TAGS = ("connect", "bind", "listen", "send", "sendmsg")
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


_programs: dict[tuple[frozenset[str], bool], bytes] = {}  # a process that forks supervisors assembles them once


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

    def program(self, *, shares_ipc: bool = False) -> bytes:
        """The seccomp program to install. ``shares_ipc``: in a tree that has no IPC namespace of its own."""
        notified = self.notified.union(IPC_TAGS) if shares_ipc else self.notified
        made = _programs.get((notified, self.bounds_reads))
        if made is None:
            arch, reads = syscalls.native_arch(), not self.bounds_reads
            made = bpf.assemble(filters.build(arch, notified, report=True, keep_dumpable=True, reads=reads))
            _programs[notified, self.bounds_reads] = made
        return made

    def refusal(self, call: Call) -> int:
        """The errno with which *call* is refused whatever the policy says; 0 when it is not."""
        if self._silent is None:
            self._silent = filters.build(call.arch, self.notified, keep_dumpable=True)
        verdict = self._silent.verdict(call.nr, call.args)
        return verdict & 0xFFFF if verdict & 0xFFFF0000 == SECCOMP_RET_ERRNO else 0
