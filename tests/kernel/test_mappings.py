"""What a process shares with others is found, by asking the kernel as well as from its list."""

from __future__ import annotations

import mmap
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

from asl_hooks import mappings


def test_shared_mappings_are_found_either_way_and_private_ones_are_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(3 * mmap.PAGESIZE))
    shared = SharedMemory(create=True, size=5 * mmap.PAGESIZE)
    try:
        with (
            file.open("rb") as reading,
            mmap.mmap(-1, 7 * mmap.PAGESIZE),
            mmap.mmap(reading.fileno(), 0, access=mmap.ACCESS_READ),
            mmap.mmap(-1, 9 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS),
            open("/proc/self/maps", "rb") as maps,
        ):
            listed = mappings._listed(maps.read())
            found = mappings._shared()
    finally:
        shared.close()
        shared.unlink()
    assert found == listed
    pages = [(size // mmap.PAGESIZE, protection) for _, size, protection in found]
    assert {(3, mmap.PROT_READ), (5, 3), (7, 3)} <= set(pages)
    assert 9 not in [size for size, _ in pages]
