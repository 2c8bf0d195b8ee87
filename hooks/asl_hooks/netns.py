"""Network namespaces: an empty one for the tree, and beside it one that catches everything which leaves the tree's.

    tree's namespace                        capture namespace                     host
    lo    127.0.0.1 ::1, the tree's own
    eth0  198.18.0.1  ── veth pair ──  egress  198.18.0.2
    default via 198.18.0.2                  local 0.0.0.0/0, ::/0: every         (no link: only sockets that were
                                            address in the world is its own       made in there are served from here)

The tree's loopback stays its own; whatever it sends elsewhere arrives in the capture namespace, where a listener on a
port receives what was dialled to that port of *any* address, and ``getsockname`` tells which. Without a listener the
answer is a reset or "port unreachable". Neither namespace has a way out, so nothing depends on a packet filter.

The launched child calls ``enter`` between fork and exec. ``join``, ``build_capture`` and ``switch`` are for a helper
process that keeps nothing else, because joining a user namespace cannot be undone. Source: namespaces(7), veth(4).
"""

from __future__ import annotations

import errno
import fcntl
import os

from asl_hooks import rtnetlink
from asl_hooks._abi import ctypes
from asl_hooks.errors import UnsupportedError

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
TREE4, GATE4 = bytes((198, 18, 0, 1)), bytes((198, 18, 0, 2))
TREE6, GATE6 = (bytes.fromhex("fd61736c656700000000000000000001"), bytes.fromhex("fd61736c656700000000000000000002"))
_LO, _VETH = 1, 2
_NS_GET_USERNS = 0xB701
_libc = ctypes.CDLL(None, use_errno=True)


def enter(also: int = 0) -> bool:
    """The calling process is in a network namespace of its own in which only ``lo`` exists, up, with an address.

    True when a user namespace was needed for it (an ordinary user, or a root without CAP_SYS_ADMIN): the process then
    has its own uid and gid in there (all others are "nobody", setgroups is denied) and holds all capabilities *there*
    until it drops them or executes as a user other than root, and is in new namespaces of the kinds ``also`` as well,
    which others can make directly. For single-threaded callers. ``UnsupportedError`` if this machine refuses.
    """
    try:
        _unshare(CLONE_NEWNET)
        owned = False
    except PermissionError:
        _enter_user_and_net(also)
        owned = True
    try:
        _set_up_loopback()
    except OSError as error:  # Ubuntu's AppArmor lets the namespace be made, without any capability in it
        raise _refused("setting up lo in the new network namespace", error) from error
    return owned


def _enter_user_and_net(also: int) -> None:
    uid, gid = os.geteuid(), os.getegid()
    try:
        _unshare(CLONE_NEWUSER | CLONE_NEWNET | also)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
    except OSError as error:
        raise _refused("unshare(CLONE_NEWUSER|CLONE_NEWNET)", error) from error


def _set_up_loopback() -> None:
    """``lo`` is up, with an address outside 127/8 in each family, so that resolvers with AI_ADDRCONFIG ask for both."""
    rtnetlink.apply((rtnetlink.link_up(_LO), rtnetlink.address(_LO, TREE4, 32)))
    if _has_ipv6():
        rtnetlink.apply((rtnetlink.address(_LO, TREE6, 128),))


def open_namespace(pid: int) -> int:
    """A descriptor (close-on-exec) of the process's network namespace; take it before the process executes anything."""
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def join(net_fd: int) -> None:
    """The calling process is in the network namespace, and in the user namespace that owns it if that is another one.

    Needs the rights of the user who made it, or root. Single-threaded callers only; there is no way back.
    """
    user_fd = fcntl.ioctl(net_fd, _NS_GET_USERNS)
    try:
        theirs, ours = os.fstat(user_fd), os.stat("/proc/self/ns/user")
        if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino):
            _setns(user_fd, CLONE_NEWUSER)
    finally:
        os.close(user_fd)
    switch(net_fd)


def build_capture(tree_fd: int) -> int:
    """A descriptor of a new namespace that receives everything the tree's sends elsewhere; the caller is then in it.

    Call it in the tree's namespace (after ``join``). Establishes: the links, addresses and routes drawn above. About
    2 ms. ``UnsupportedError`` when this kernel has no veth.
    """
    try:
        _unshare(CLONE_NEWNET)
        capture_fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        switch(tree_fd)
        rtnetlink.apply((rtnetlink.veth_pair(_VETH, "eth0", _VETH, "egress", capture_fd), rtnetlink.link_up(_VETH)))
        switch(capture_fd)
        rtnetlink.apply((rtnetlink.link_up(_LO), rtnetlink.link_up(_VETH), rtnetlink.address(_VETH, GATE4, 30)))
        rtnetlink.apply((rtnetlink.everything_local(rtnetlink.AF_INET, _LO),))
        ipv6 = _has_ipv6()
        if ipv6:
            rtnetlink.apply((rtnetlink.address(_VETH, GATE6, 64), rtnetlink.everything_local(rtnetlink.AF_INET6, _LO)))
        switch(tree_fd)
        rtnetlink.apply((rtnetlink.address(_VETH, TREE4, 30), rtnetlink.default_route(_VETH, GATE4)))
        if ipv6:
            rtnetlink.apply((rtnetlink.address(_VETH, TREE6, 64), rtnetlink.default_route(_VETH, GATE6)))
        switch(capture_fd)
    except OSError as error:
        remedy = "Load the veth module (modprobe veth), or run with the network off or without a network namespace."
        raise UnsupportedError("a veth pair to capture the tree's traffic is needed", str(error), remedy) from error
    return capture_fd


def switch(net_fd: int) -> None:
    """The calling thread is in that network namespace; sockets it makes from now on belong there."""
    _setns(net_fd, CLONE_NEWNET)


def _has_ipv6() -> bool:
    try:
        with open("/proc/self/net/if_inet6", "rb") as addresses:  # absent without IPv6, empty where it is disabled
            return bool(addresses.read(1))
    except OSError:
        return False


def _unshare(flags: int) -> None:
    if _libc.unshare(flags) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"unshare: {os.strerror(error)}")


def _setns(fd: int, kind: int) -> None:
    if _libc.setns(fd, kind) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


def _refused(what: str, error: OSError) -> UnsupportedError:
    found = f"{what} failed: {os.strerror(error.errno or 0)}"
    return UnsupportedError("an empty network namespace is needed", found, _remedy(error.errno or 0))


def _remedy(error: int) -> str:
    if error == errno.ENOSPC or _sysctl("user/max_user_namespaces") == "0":
        return "Raise user.max_user_namespaces (sysctl -w user.max_user_namespaces=15000)."
    if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "AppArmor restricts user namespaces here: give the Python interpreter an AppArmor profile with `userns,`, "
            "or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0."
        )
    if _sysctl("kernel/unprivileged_userns_clone") == "0":
        return "Allow user namespaces (sysctl -w kernel.unprivileged_userns_clone=1)."
    return "In a container, allow user namespaces in its seccomp profile or give it CAP_SYS_ADMIN."


def _sysctl(name: str) -> str:
    try:
        with open(f"/proc/sys/{name}", encoding="ascii") as value:
            return value.read().strip()
    except OSError:
        return ""
