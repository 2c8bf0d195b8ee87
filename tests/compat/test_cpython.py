"""CPython's own tests of what a supervisor touches: the same pass, fail and are skipped inside as outside.

They come with some interpreters and not with others (``ASL_COMPAT_PYTHON`` names one that has them). ``scripts/compat``
runs all; the quick ones are part of every run of the tests.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from functools import cache

import pytest

from tests.compat.place import Place

pytestmark = pytest.mark.requires("notify", "landlock")

SUITE = pathlib.Path(__file__).with_name("cpython_suite.py")
QUICK = ("test_fileio", "test_fcntl", "test_pty", "test_glob", "test_mmap")
SLOW = (
    *("test_os", "test_posix", "test_shutil", "test_tempfile", "test_pathlib", "test_subprocess", "test_signal"),
    *("test_select", "test_selectors", "test_poll", "test_epoll", "test_threading", "test_dbm"),
    *("test_asyncio.test_subprocess", "test_asyncio.test_server", "test_asyncio.test_streams", "test_mailbox"),
    *("test_zipfile", "test_tarfile", "test_sqlite3", "test_file", "test_io", "test_largefile", "test_netrc"),
)
# What may differ, and why.
DIFFERENT = {
    "PosixTester.test_getgroups": "a user namespace shows others' groups as nobody",
    "POSIXProcessTestCase.test_group": "setgid(2) to an id outside of the user namespace is EINVAL, not EPERM",
    "POSIXProcessTestCase.test_user": "the same of setuid(2)",
    "StressTest.test_stress_delivery_simultaneous": "signals end kill(2) early: see test_interruptions",
    "StressTest.test_stress_delivery_dependent": "the same",
    "TestCopy.test_copy2_xattr": "trusted attributes take a capability that root does not keep",
    "TestCopy.test_copyxattr": "the same",
    "TestCopy.test_copyxattr_symlinks": "the same",
    "PyZipFileTests.test_write_filtered_python_package": "it looks whether the interpreter's own folder is writable",
    "PyZipFileTests.test_write_pyfile": "the same",
    "PyZipFileTests.test_write_python_package": "the same",
    "PyZipFileTests.test_write_with_optimization": "the same",
}


@cache
def interpreter() -> str:
    """An interpreter that ships CPython's tests, or nothing."""
    for name in (os.environ.get("ASL_COMPAT_PYTHON"), sys.executable, shutil.which("python3")):
        if name is None:
            continue
        importing = [name, "-I", "-c", "import test.test_os"]  # makes a file where it is
        looked = subprocess.run(importing, capture_output=True, check=False, cwd=tempfile.gettempdir())
        if looked.returncode == 0:
            return name
    return ""


def compare(module: str, place: Place, timeout_s: float) -> None:
    python = interpreter()
    if not python:
        pytest.skip("no interpreter here ships CPython's tests; ASL_COMPAT_PYTHON can name one")
    found = []
    for run in (place.outside, place.inside):
        result = place.base / "ws" / "p" / "result.json"
        done = run(
            ["sh", "-c", 'cd p; exec "$0" "$@"', python, "-W", "ignore", SUITE, module, result], timeout_s=timeout_s
        )
        assert result.exists(), done.err[-2000:]
        found.append(json.loads(result.read_text()))
    outside, inside = (part["outcomes"] for part in found)
    assert len(outside) > 1, outside
    different = [
        f"{name}: {outside.get(name)} -> {inside.get(name)}: {found[1]['why'].get(name, '')}"
        for name in sorted(outside.keys() | inside.keys())
        if outside.get(name) != inside.get(name) and not any(name.endswith(known) for known in DIFFERENT)
    ]
    assert not different, "\n".join(different)


@pytest.mark.parametrize("module", QUICK)
def test_quick_module(module: str, waved: Place) -> None:
    compare(module, waved, 60)


@pytest.mark.slow
@pytest.mark.parametrize("module", (*QUICK, *SLOW))
def test_module(module: str, place: Place) -> None:
    compare(module, place, 300)


@pytest.mark.slow
@pytest.mark.parametrize("module", ("test_os", "test_subprocess", "test_fileio"))
def test_module_in_the_machines_network(module: str, waved: Place) -> None:
    waved.without = "userns"
    compare(module, waved, 300)
