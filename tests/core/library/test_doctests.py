"""The examples in docstrings are run as they stand."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = (
    *("approval", "boundaries", "calls", "filepolicy", "layer", "policies", "replay", "resources", "tracing"),
    *("guards", "operation", "sessions", "violations"),
)
EXAMPLES = 60


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(f"agent_safety_layer.{name}")
    assert doctest.testmod(module).failed == 0


def test_there_are_examples() -> None:
    found = doctest.DocTestFinder(exclude_empty=True)
    modules = [importlib.import_module(f"agent_safety_layer.{name}") for name in MODULES]
    assert sum(len(test.examples) for module in modules for test in found.find(module)) >= EXAMPLES
