"""What Landlock does not cover: attributes changed by ioctl through a descriptor that may only read."""

from __future__ import annotations

import array
import fcntl
import os
import sys

import pytest

from tests.attacks.scene import Scene

CODE = r"""
import array, fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
flags = array.array("l", [0]); fcntl.ioctl(fd, 0x80086601, flags)
flags[0] |= 0x40  # FS_NODUMP_FL: anybody may set it on their own files
for number in (0x40086602, 0x40046602):
    try: fcntl.ioctl(fd, number, flags)
    except OSError: pass
attributes = bytearray(28)
try:
    fcntl.ioctl(fd, 0x801c581f, attributes); attributes[0] |= 0x80; fcntl.ioctl(fd, 0x401c5820, attributes)
except OSError: pass
print("tried")
"""


def _flags(path: object) -> int:
    fd = os.open(str(path), os.O_RDONLY)
    flags = array.array("l", [0])
    try:
        fcntl.ioctl(fd, 0x80086601, flags)  # FS_IOC_GETFLAGS
    finally:
        os.close(fd)
    return flags[0]


def test_file_flags(scene: Scene) -> None:
    readable = scene.base / "readable"
    readable.write_text("as it was")
    try:
        before = _flags(readable)
    except OSError:
        pytest.skip("this file system has no flags")
    done = scene.bound(sys.executable, "-c", CODE, readable)
    assert "tried" in done.stdout, done.stderr
    assert _flags(readable) == before
    scene.free(sys.executable, "-c", CODE, readable)
    if _flags(readable) == before:
        pytest.skip("this file system does not let them be set")
