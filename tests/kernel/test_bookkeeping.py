"""Many processes leave nothing behind in the supervisor. scripts/bench does the same with ten times as many."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.processes import footprints
from tests.kernel import runs


@pytest.mark.requires("notify")
def test_neither_memory_nor_descriptors_grow(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nname: test\n")
    command = runs.command("-q", "-p", policy)
    found = footprints(
        command, [sys.executable, "-S"], 1000, 100, env=runs.environment(tmp_path), stderr=subprocess.DEVNULL
    )
    resident = {step: mib for step, (mib, _) in found.items()}
    descriptors = {step: count for step, (_, count) in found.items()}
    assert max(resident.values()) < 60
    assert resident["gone"] - resident["ready"] < 5
    assert abs(descriptors["gone"] - descriptors["ready"]) <= 4  # those of a process that has just gone may be left
    assert descriptors["at once"] >= descriptors["ready"] + 100  # else nothing was counted
