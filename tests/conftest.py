"""What every test has: the marker ``@pytest.mark.requires("landlock", abi=4)``, and a state folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.requirements import requires


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requires(*mechanisms, abi=1): skip, or fail where it must work, without them")


@pytest.fixture(autouse=True)
def _requirements(request: pytest.FixtureRequest) -> None:
    for mark in request.node.iter_markers("requires"):
        requires(*mark.args, **mark.kwargs)


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the state of the user who runs it."""
    state: Path = tmp_path_factory.getbasetemp() / "state"
    monkeypatch.setenv("ASL_STATE", str(state))
