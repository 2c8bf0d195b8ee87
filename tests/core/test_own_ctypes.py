"""``asl_hooks._abi.ctypes`` does what ``ctypes`` does, as far as it goes."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys

import pytest

from asl_hooks._abi import ctypes as own

TYPES = [name for name in own.__all__ if name.startswith("c_")]


@pytest.mark.parametrize("name", TYPES)
def test_types_are_as_large_as_those_of_ctypes(name: str) -> None:
    mine, theirs = getattr(own, name), getattr(ctypes, name)
    assert ctypes.sizeof(mine) == ctypes.sizeof(theirs)
    value = {"c_char": b"x", "c_char_p": b"text"}.get(name, 7)
    assert mine(value).value == theirs(value).value == value


@pytest.mark.parametrize("name", [name for name in TYPES if name not in ("c_char", "c_char_p", "c_void_p")])
def test_integers_wrap_around_as_those_of_ctypes(name: str) -> None:
    mine, theirs = getattr(own, name), getattr(ctypes, name)
    assert [mine(n).value for n in (-1, 2**31, 2**63)] == [theirs(n).value for n in (-1, 2**31, 2**63)]


@pytest.mark.parametrize("given", [(b"abc",), (b"abc", 3), (b"abc", 10), (b"",), (5,)])
def test_buffers(given: tuple[bytes | int, ...]) -> None:
    mine, theirs = own.create_string_buffer(*given), ctypes.create_string_buffer(*given)  # type: ignore[arg-type]
    assert mine.raw == theirs.raw
    assert ctypes.string_at(own.addressof(mine), len(mine)) == mine.raw
    with pytest.raises(ValueError, match="too long"):
        own.create_string_buffer(b"abc", 2)


def test_functions_of_the_c_library_and_their_errno() -> None:
    libc = own.CDLL(None, use_errno=True)
    assert libc.getpid() == os.getpid()
    assert libc.getpid is libc.getpid
    assert libc["close"] is not libc["close"]
    close = libc["close"]
    close.argtypes = (own.c_int,)
    assert close(-1) == -1
    assert own.get_errno() == errno.EBADF
    getenv = libc["getenv"]
    getenv.restype, getenv.argtypes = own.c_char_p, (own.c_char_p,)
    assert getenv(b"PATH") == os.environb.get(b"PATH")
    with pytest.raises(ctypes.ArgumentError):
        getenv(1.5)
    with pytest.raises(AttributeError):
        libc["no_such_function"]
    assert own.PyDLL(None)["getpid"]() == os.getpid()


def test_structures_and_arrays() -> None:
    class Pair(own.Structure):
        _fields_ = (("first", own.c_int), ("second", own.c_uint64))

    pair = Pair(1, 2**63)
    assert (pair.first, pair.second, ctypes.sizeof(pair)) == (1, 2**63, 16)
    words = (own.c_char_p * 3)(b"one", b"two", None)
    assert list(words) == [b"one", b"two", None]


def test_ctypes_itself_is_not_imported() -> None:
    code = "import sys; from asl_hooks import landlock, launch, netns; print('ctypes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
