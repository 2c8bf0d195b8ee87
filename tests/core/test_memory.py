"""A tracee's memory is read exactly, or the read fails: this process's own serves as one."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from errno import E2BIG, EFAULT, ENAMETOOLONG

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asl_hooks import memory

PAGE = mmap.PAGESIZE


class Pages:
    """Two pages that can be read, and one that cannot: it lies behind the end of its file. (mprotect(2) would not do:
    reading by way of /proc disregards it.)
    """

    def __init__(self) -> None:
        fd = os.memfd_create("pages")
        os.ftruncate(fd, 3 * PAGE)
        self.map = mmap.mmap(fd, 3 * PAGE)
        os.ftruncate(fd, 2 * PAGE)
        os.close(fd)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))

    @property
    def end(self) -> int:
        """Where what can be read ends."""
        return self.start + 2 * PAGE

    def before_end(self, content: bytes) -> int:
        """Where *content* lies when it ends with the last byte that can be read."""
        return self.at(2 * PAGE - len(content), content)

    def at(self, offset: int, content: bytes) -> int:
        """Where *content* lies, *offset* bytes behind the start."""
        self.map[offset : offset + len(content)] = content
        return self.start + offset


@pytest.fixture(scope="module")
def mem() -> Iterator[int]:
    """Our own memory."""
    fd = os.open("/proc/self/mem", os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture(scope="module")
def pages() -> Pages:
    return Pages()


@given(text=st.binary(max_size=5000).map(lambda raw: raw.replace(b"\0", b".")), gap=st.integers(0, 300))
@settings(max_examples=150, deadline=None, database=None)
def test_strings_are_read_whole_wherever_they_lie(mem: int, pages: Pages, text: bytes, gap: int) -> None:
    at = pages.before_end(text + b"\0" + b"x" * gap)
    if len(text) < memory.PAGE:
        assert memory.read_string(mem, at) == text
    else:
        with pytest.raises(OSError) as error:
            memory.read_string(mem, at)
        assert error.value.errno == ENAMETOOLONG
    assert memory.read_string(mem, at, 2 * PAGE) == text


@pytest.mark.parametrize("size", [0, 1, 100, 255, 256, 257, PAGE - 1])
def test_a_string_without_an_end_before_unreadable_memory_is_a_fault(mem: int, pages: Pages, size: int) -> None:
    at = pages.before_end(b"x" * size)
    for read in (memory.read_string, lambda mem, at: memory.read(mem, at, size + 1)):
        with pytest.raises(OSError) as error:
            read(mem, at)
        assert error.value.errno == EFAULT
    assert memory.read(mem, at, size) == b"x" * size if size else True


@pytest.mark.parametrize("address", [0, 1, 2**47 - 1, 2**47, 2**63 - 100, 2**63, 2**64 - 1])
def test_no_address_is_anything_but_a_fault(mem: int, address: int) -> None:
    for act in (
        lambda: memory.read(mem, address, 8),
        lambda: memory.read_string(mem, address),
        lambda: memory.write(mem, address, b"x"),
        lambda: memory.read_strings(mem, address) if address else memory.read(mem, 0, 1),
    ):
        with pytest.raises(OSError) as error:
            act()
        assert error.value.errno == EFAULT


def argv_of(pages: Pages, *addresses: int) -> int:
    """An array of pointers, in the first page."""
    return pages.at(0, b"".join(address.to_bytes(8, "little") for address in (*addresses, 0)))


def test_argv_is_read_whole(mem: int, pages: Pages) -> None:
    assert memory.read_strings(mem, 0) == []
    assert memory.read_strings(mem, argv_of(pages)) == []
    words = [b"a", b"", b"long" * 100, b"\xff", b"last"]
    kept = [ctypes.create_string_buffer(word) for word in words]
    assert memory.read_strings(mem, argv_of(pages, *map(ctypes.addressof, kept))) == words
    last = pages.before_end(b"at the end\0")
    assert memory.read_strings(mem, argv_of(pages, last, last + 3, last)) == [b"at the end", b"the end", b"at the end"]


def test_argv_may_lie_across_pages_and_at_odd_addresses(mem: int) -> None:
    word = ctypes.create_string_buffer(b"word")
    wide = mmap.mmap(-1, 4 * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(wide))
    for offset in (0, 1, PAGE - 4, PAGE - 8, PAGE - 15):
        array = ctypes.addressof(word).to_bytes(8, "little") * 700 + bytes(8)
        wide[offset : offset + len(array)] = array
        assert memory.read_strings(mem, start + offset) == [b"word"] * 700


def test_argv_that_lies_about_itself_fails(mem: int, pages: Pages) -> None:
    for bad, errno in ((pages.end, EFAULT), (1, EFAULT), (pages.before_end(b"unended"), EFAULT)):
        with pytest.raises(OSError) as error:
            memory.read_strings(mem, argv_of(pages, bad))
        assert error.value.errno == errno
    endless = pages.before_end(pages.start.to_bytes(8, "little") * (PAGE // 8))
    pages.at(0, b"x\0")
    with pytest.raises(OSError) as error:
        memory.read_strings(mem, endless)
    assert error.value.errno == EFAULT
    long = ctypes.create_string_buffer(b"x" * 131072)
    with pytest.raises(OSError) as error:
        memory.read_strings(mem, argv_of(pages, ctypes.addressof(long)))
    assert error.value.errno == E2BIG
    with pytest.raises(OSError) as error:
        memory.read_strings(mem, argv_of(pages, pages.start + PAGE, pages.start + PAGE), limit_bytes=10)
    assert error.value.errno == E2BIG


def test_writing_is_whole_or_a_fault(mem: int, pages: Pages) -> None:
    at = pages.before_end(b"1234")
    memory.write(mem, at, b"abcd")
    assert memory.read(mem, at, 4) == b"abcd"
    with pytest.raises(OSError) as error:
        memory.write(mem, pages.end, b"x")
    assert error.value.errno in (EFAULT,)
