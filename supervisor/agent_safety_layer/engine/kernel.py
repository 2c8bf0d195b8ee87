"""What the kernel does for a run: which calls it stops, which it refuses, and what it bounds by itself."""

from __future__ import annotations

from asl_hooks._abi.constants import SECCOMP_RET_ERRNO
from asl_hooks.value import value

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
SIGNAL_TAGS = ("kill", "setown")
BOOKKEEPING_TAGS = ("umask", "fork")
CREDENTIAL_TAGS = ("creds",)  # only where the tree may change its identity: as root
NOTIFIED = (*OPEN_TAGS, *ENTRY_TAGS, *METADATA_TAGS, *NETWORK_TAGS, *EXEC_TAGS, "kill", *BOOKKEEPING_TAGS)


@value
class Kernel:
    """The kernel's part of a run.

    ``filter`` is the filter as it would be if it refused silently; the one installed reports what it refuses, so that
    it is on record. ``scopes_signals`` and ``bounds_truncate`` tell whether the Landlock domain does.
    """

    filter: Filter
    scopes_signals: bool = False
    bounds_truncate: bool = False

    def refusal(self, call: Call) -> int:
        """The errno with which *call* is refused whatever the policy says; 0 when it is not."""
        verdict = self.filter.verdict(call.nr, call.args)
        return verdict & 0xFFFF if verdict & 0xFFFF0000 == SECCOMP_RET_ERRNO else 0

    def refusals(self) -> frozenset[int]:
        """The numbers of calls that are refused, always or with some arguments."""
        return frozenset(
            number
            for number, rules in self.filter.by_number().items()
            if any(rule.verdict & 0xFFFF0000 == SECCOMP_RET_ERRNO for rule in rules)
        )
