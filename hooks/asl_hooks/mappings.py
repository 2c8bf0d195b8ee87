"""Memory that a forked process has in common with others: made its own.

A fork copies private memory, but what was mapped MAP_SHARED (a file, ``multiprocessing``'s values, System V segments)
stays one memory: writing there is writing into the other process, or into the file, past everything that confines
opening it.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
from errno import ENOENT

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_PAGE = 1 << 20
_FAILED = ctypes.c_void_p(-1).value
# PROCMAP_QUERY (linux/fs.h); its bits for what may be done are those of mmap(2).
_QUERY = struct.Struct("=9Q4I2Q")
_PROCMAP_QUERY = 0xC0686611
_SHARED, _COVERING_OR_NEXT = 0x08, 0x10
_PROTECTION = ((b"r", mmap.PROT_READ), (b"w", mmap.PROT_WRITE), (b"x", mmap.PROT_EXEC))


def privatise(most_bytes: int) -> None:
    """Establishes: this process shares no memory with another. For a process of one thread.

    What was shared is copied while it is at most *most_bytes* in all; the rest can no longer be accessed. Raises
    ``OSError`` when the kernel refuses.
    """
    shared = _shared()
    if not shared:
        return
    memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for start, size, protection in shared:
            most_bytes -= size
            kept = most_bytes >= 0 and protection & mmap.PROT_READ
            content = _content(memory, start, size) if kept else []
            how = 0x10 | mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # MAP_FIXED
            writable = mmap.PROT_READ | mmap.PROT_WRITE if kept else 0
            if _libc.mmap(start, size, writable, how, -1, 0) == _FAILED:
                raise OSError(ctypes.get_errno(), "shared memory cannot be replaced")
            for at, data in content:
                ctypes.memmove(at, data, len(data))
            if kept and _libc.mprotect(start, size, protection):
                raise OSError(ctypes.get_errno(), "memory cannot be protected as before")
    finally:
        os.close(memory)


def _shared() -> list[tuple[int, int, int]]:
    """Start, size and protection of each mapping that is shared."""
    with open("/proc/self/maps", "rb") as file:
        try:
            return _asked(file.fileno())
        except OSError:  # before Linux 6.11
            return _listed(file.read())


def _asked(maps: int) -> list[tuple[int, int, int]]:
    """The same, by asking for shared ones only: to list all takes a millisecond."""
    found: list[tuple[int, int, int]] = []
    at = 0
    while True:
        query = bytearray(_QUERY.pack(_QUERY.size, _SHARED | _COVERING_OR_NEXT, at, *bytes(12)))
        try:
            fcntl.ioctl(maps, _PROCMAP_QUERY, query)
        except OSError as error:
            if error.errno == ENOENT:  # none from there on
                return found
            raise
        start, at, flags = _QUERY.unpack(query)[3:6]
        found.append((start, at - start, flags & (mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)))


def _listed(maps: bytes) -> list[tuple[int, int, int]]:
    found = []
    for line in maps.splitlines():
        if (b"-s " in line or b"xs " in line) and (parts := line.split(None, 2))[1][3:4] == b"s":
            place, rights = parts[:2]
            start, end = (int(part, 16) for part in place.split(b"-"))
            found.append((start, end - start, sum(flag for letter, flag in _PROTECTION if letter in rights)))
    return found


def _content(memory: int, start: int, size: int) -> list[tuple[int, bytes]]:
    """What can be read of it: pages behind the end of a mapped file cannot, and stay zero."""
    found = []
    for at in range(start, start + size, _PAGE):
        try:
            found.append((at, os.pread(memory, min(_PAGE, start + size - at), at)))
        except OSError:
            continue
    return found
