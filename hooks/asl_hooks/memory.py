"""Reading and writing a tracee's memory through ``/proc/<tid>/mem``.

The descriptor is opened once per address space and kept: one ``pread`` a string. A page that cannot be read gives
``OSError`` (EIO; never a hang, as ``process_vm_readv`` of a userfaultfd page would), and a failed read is never an
allow.
"""

from __future__ import annotations

import os
from errno import E2BIG, EFAULT, ENAMETOOLONG

PAGE = 4096
_CHUNK = 256
_WINDOW = 4 * PAGE
_LONGEST_ARGUMENT = 32 * PAGE  # MAX_ARG_STRLEN
_LONGEST_ARGV = 6 << 20  # three quarters of _STK_LIM: no exec takes more

_pread = os.pread


def read(mem: int, address: int, size: int) -> bytes:
    """Exactly *size* bytes at *address*; ``OSError(EFAULT)`` when any of them cannot be read."""
    try:
        data = _pread(mem, size, address)
    except (OSError, OverflowError) as error:
        raise OSError(EFAULT, "unreadable memory of a tracee") from error
    if len(data) != size:
        raise OSError(EFAULT, "unreadable memory of a tracee")
    return data


def read_string(mem: int, address: int, limit: int = PAGE) -> bytes:
    """The bytes at *address* up to a NUL, which must come within *limit* bytes.

    Raises ``OSError``: EFAULT when it cannot be read, ENAMETOOLONG when no NUL comes in time.
    """
    try:
        data = _pread(mem, _CHUNK, address)
    except OverflowError as error:
        raise OSError(EFAULT, "unreadable memory of a tracee") from error
    except OSError:
        data = b""  # the chunk crosses into an unmapped page: go page by page below
    end = data.find(0)
    if 0 <= end < limit:
        return data[:end]
    parts, at = [], address
    while at - address < limit:
        step = min(PAGE - at % PAGE, limit - (at - address))
        try:
            data = _pread(mem, step, at)
        except (OSError, OverflowError) as error:
            raise OSError(EFAULT, "unreadable memory of a tracee") from error
        if not data:
            raise OSError(EFAULT, "the tracee's address space is gone")
        end = data.find(0)
        if end >= 0:
            parts.append(data[:end])
            return b"".join(parts)
        parts.append(data)
        at += len(data)
    raise OSError(ENAMETOOLONG, "no end of string")


def read_strings(mem: int, address: int, limit_bytes: int = _LONGEST_ARGV) -> list[bytes]:
    """The strings of a NULL-terminated array of pointers, such as ``argv``; empty for a NULL array.

    Raises ``OSError``: EFAULT when any part cannot be read, E2BIG when they and their pointers exceed the limit.
    """
    if not address:
        return []
    strings: list[bytes] = []
    room = limit_bytes
    at = address
    window, start = b"", 0  # argv's strings mostly lie one behind the other: they are read many at a time
    while True:
        step = min(512, PAGE - at % PAGE)
        step = max(step, 8)  # a pointer may lie across two pages
        block = read(mem, at, step)
        for i in range(0, len(block) - 7, 8):
            pointer = int.from_bytes(block[i : i + 8], "little")
            if not pointer:
                return strings
            end = window.find(0, pointer - start) if start <= pointer < start + len(window) else -1
            if end < 0:
                window, start = _some(mem, pointer), pointer
                end = window.find(0)
            text = window[pointer - start : end] if end >= 0 else _long_string(mem, pointer)
            room -= len(text) + 9
            strings.append(text)
            if room <= 0:
                raise OSError(E2BIG, "argument list too long")
        at += len(block) // 8 * 8


def _some(mem: int, address: int) -> bytes:
    """What can be read at *address* without crossing more than a few pages; maybe nothing."""
    try:
        return _pread(mem, _WINDOW, address)
    except (OSError, OverflowError):
        return b""


def _long_string(mem: int, address: int) -> bytes:
    try:
        return read_string(mem, address, _LONGEST_ARGUMENT)
    except OSError as error:
        raise OSError(E2BIG if error.errno == ENAMETOOLONG else EFAULT, error.strerror) from error


def write(mem: int, address: int, data: bytes) -> None:
    """Write all of *data* at *address*; ``OSError(EFAULT)`` when that cannot be done."""
    try:
        done = os.pwrite(mem, data, address)
    except (OSError, OverflowError) as error:
        raise OSError(EFAULT, "unwritable memory of a tracee") from error
    if done != len(data):
        raise OSError(EFAULT, "unwritable memory of a tracee")
