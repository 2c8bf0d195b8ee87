"""What a socket is, and where: asked of its descriptor."""

from __future__ import annotations

import ctypes
import os

from asl_hooks import sockaddr

_libc = ctypes.CDLL(None, use_errno=True)
SOL_SOCKET, IPPROTO_IPV6 = 1, 41
SO_TYPE, SO_ACCEPTCONN, SO_PROTOCOL, SO_DOMAIN = 3, 30, 38, 39
_SO_NETNS_COOKIE, _IPV6_V6ONLY = 71, 26


def check(result: int) -> int:
    """The result of a call of the C library; ``OSError`` when it is negative."""
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return result


def option(fd: int, name: int, level: int = SOL_SOCKET) -> int:
    """An option that is a number, as getsockopt(2)."""
    value, size = ctypes.c_int(), ctypes.c_uint(4)
    check(_libc.getsockopt(fd, level, name, ctypes.byref(value), ctypes.byref(size)))
    return value.value


def name_of(fd: int) -> sockaddr.Address:
    """What a socket is bound to."""
    buffer, size = ctypes.create_string_buffer(sockaddr.LONGEST), ctypes.c_uint(sockaddr.LONGEST)
    check(_libc.getsockname(fd, buffer, ctypes.byref(size)))
    return sockaddr.parse(buffer.raw[: size.value])


def namespace(fd: int) -> int:
    """A number for the network namespace of a socket, which it never leaves; 0 before Linux 5.14."""
    value, size = ctypes.c_uint64(), ctypes.c_uint(8)
    done = _libc.getsockopt(fd, SOL_SOCKET, _SO_NETNS_COOKIE, ctypes.byref(value), ctypes.byref(size))
    return 0 if done < 0 else value.value


def takes_ipv4(fd: int) -> bool:
    """Whether what is sent to IPv4 addresses comes to the IPv6 socket, too."""
    return not option(fd, _IPV6_V6ONLY, IPPROTO_IPV6)
