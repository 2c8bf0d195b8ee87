"""``place``: where a program is run outside and inside, with waved and with served reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.compat.place import MODES, Place


@pytest.fixture(params=MODES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(tmp_path, request.param)


@pytest.fixture
def waved(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def needs() -> Callable[..., None]:
    """Skips the test where a program is missing."""

    def look(*programs: str) -> None:
        for program in programs:
            if shutil.which(program) is None:
                pytest.skip(f"no {program} here")

    return look
