"""``scene``: a place to attack, once with waved and once with served reads; ``build``: compiles attack programs."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.attacks.bystander import Bystander
from tests.attacks.scene import MARK, Scene
from tests.requirements import BACKEND

Build = Callable[[str], Path]
_PREAMBLE = Path(__file__).parent / "attack.h"


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bin")


@pytest.fixture(scope="session")
def build(programs: Path) -> Build:
    """Compiles C source, with ``attack.h`` in front, once a session; skips where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")

    def compiled(source: str) -> Path:
        if compiler is None:
            pytest.skip("no C compiler")
        program = programs / hashlib.sha256(source.encode()).hexdigest()[:12]
        if not program.exists():
            made = subprocess.run(
                [compiler, "-O1", "-w", "-pthread", "-include", _PREAMBLE, "-x", "c", "-", "-o", program],
                input=source,
                text=True,
                capture_output=True,
                check=False,
            )
            assert made.returncode == 0, made.stderr
        return program

    return compiled


# How much of it the kernel bounds: all that it can, no reads, nothing. Some tests add its first Landlock ABI, take
# the namespaces away, or ask for no record of reads. A few are always made on the ptrace backend, too;
# ASL_BACKEND=ptrace scripts/attack makes all of them there.
KINDS = ("waved", "served", "landlock")
TRACED = ("waved, traced", "served, traced")
TRACED_MODULES = (
    *("test_abi", "test_descriptors", "test_exec", "test_own_filter", "test_race_path", "test_unreadable_memory"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the traced kinds to the modules named above."""
    items[:] = [item for item in items if ", traced" not in item.name or item.module.__name__.endswith(TRACED_MODULES)]


@pytest.fixture(params=KINDS if BACKEND else KINDS + TRACED)
def scene(request: pytest.FixtureRequest, tmp_path: Path, programs: Path) -> Iterator[Scene]:
    kind, traced = request.param.removesuffix(", traced"), request.param.endswith(", traced")
    without = kind if kind.startswith(("landlock", "userns")) else ""
    made = Scene(tmp_path, programs, served=kind == "served", without=without, unseen=kind == "unseen")
    if traced:
        made.backend = ("--backend=ptrace",)
    yield made
    made.close()


@pytest.fixture
def bystander() -> Iterator[Callable[[Path], Bystander]]:
    """Starts programs outside of the tree; they end with the test."""
    started: list[Bystander] = []

    def start(folder: Path) -> Bystander:
        started.append(Bystander(folder, MARK))
        return started[-1]

    yield start
    for program in started:
        program.close()
