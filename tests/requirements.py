"""``requires("landlock", abi=4)``: a test that needs a mechanism is skipped where the machine lacks it.

What ``ASL_MUST_WORK`` names (comma-separated) fails instead, so that a run in CI never passes empty. ``ASL_WITHOUT``
names mechanisms to behave as if missing. The names are those of ``asl doctor``, and of programs that only tests use.
``ASL_BACKEND`` runs everything on that backend, ``ASL_PURE`` without the compiled core.
"""

from __future__ import annotations

import os
from functools import cache
from types import ModuleType
from typing import NoReturn

import pytest

from agent_safety_layer.native import built
from asl_hooks.probe import Finding, probe

# The options of asl-supervise that choose the backend of this run of the tests.
BACKEND = tuple(f"--backend={name}" for name in (os.environ.get("ASL_BACKEND"),) if name)


def named_in(variable: str) -> frozenset[str]:
    """The names that an environment variable lists."""
    return frozenset(filter(None, (name.strip() for name in os.environ.get(variable, "").split(","))))


@cache
def found(name: str, without: frozenset[str]) -> Finding:
    """The finding on a mechanism, probed once."""
    return probe(name, without)


def requires(*names: str, abi: int = 1) -> None:
    """Goes on only where every named mechanism works, Landlock with at least this ABI."""
    for name in names:
        finding = found(name, named_in("ASL_WITHOUT"))
        if finding.ok and (name != "landlock" or finding.level >= abi):
            continue
        wanted = f"{finding.wanted} (ABI {abi})" if name == "landlock" else finding.wanted
        missing(name, f"wanted {wanted}, found {finding.found}. {finding.remedy}")


def requires_core() -> ModuleType:
    """The compiled core, also where this run does without it."""
    core = built()
    if core is None:
        missing("core", "wanted the compiled core, found none. Install a C compiler and Python.h, and install anew.")
    return core


def missing(name: str, why: str) -> NoReturn:
    """Skips the test for want of what *name* says, or fails it where that must work."""
    message = f"{name}: {why}"
    if name in named_in("ASL_MUST_WORK"):
        pytest.fail(message)
    pytest.skip(message)
