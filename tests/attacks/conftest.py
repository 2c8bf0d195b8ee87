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
# the namespaces away, or ask for no record of reads.
KINDS = ("waved", "served", "landlock")


@pytest.fixture(params=KINDS)
def scene(request: pytest.FixtureRequest, tmp_path: Path, programs: Path) -> Iterator[Scene]:
    kind = request.param
    without = kind if kind.startswith(("landlock", "userns")) else ""
    made = Scene(tmp_path, programs, served=kind == "served", without=without, unseen=kind == "unseen")
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
