"""What every test has: the marker ``@pytest.mark.requires("landlock", abi=4)``, a state folder of its own, and, on
demand, a page in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from agent_safety_layer import Supervisor, session
from asl_hooks.value import replace
from tests import replayed
from tests.browser import Browser, Page
from tests.requirements import BACKEND, missing, requires


def pytest_configure(config: pytest.Config) -> None:
    if BACKEND:
        _choose(BACKEND[0].partition("=")[2])
    hypothesis.settings.register_profile("any machine", deadline=None)  # a busy one is no reason to fail
    hypothesis.settings.load_profile("any machine")
    config.addinivalue_line("markers", "requires(*mechanisms, abi=1): skip, or fail where it must work, without them")


def _choose(backend: str) -> None:
    """What this process supervises through the library is on that backend, too."""
    made, request = session.Session.__init__, Supervisor._request

    def begin(self: session.Session, settings: session.Settings, host: session.Host | None = None) -> None:
        made(self, replace(settings, backend=backend) if settings.backend == "auto" else settings, host)

    def requested(self: Supervisor, *given: Any) -> dict[str, Any]:
        asked = request(self, *given)
        asked["settings"]["backend"] = backend
        return asked

    session.Session.__init__ = begin  # type: ignore[method-assign]
    Supervisor._request = requested  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _requirements(request: pytest.FixtureRequest) -> None:
    for mark in request.node.iter_markers("requires"):
        requires(*mark.args, **mark.kwargs)


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the state of the user who runs it."""
    state: Path = tmp_path_factory.getbasetemp() / "state"
    monkeypatch.setenv("ASL_STATE", str(state))


@pytest.fixture(autouse=True)
def _replayed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever the test recorded is replayed under its own policy, and nothing changes."""
    yield
    state = tmp_path_factory.getbasetemp() / "state"
    own = [folder for folder in (request.node.funcargs.get("tmp_path"),) if folder is not None]
    for path in [trace for folder in (state, *own) for trace in replayed.traces(folder) if trace not in _CHECKED]:
        _CHECKED.add(path)
        replayed.check(path)


_CHECKED: set[Path] = set()


@pytest.fixture(scope="module")  # not longer: other tests count the processes of this user
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The one Chromium of a module's tests."""
    try:
        browser = Browser(str(tmp_path_factory.mktemp("chromium")))
    except OSError as error:
        missing("chromium", f"{error}. Install the package chromium.")
    yield browser
    browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page. Skips where there is no Chromium, and fails there if ``ASL_MUST_WORK`` names ``chromium``."""
    page = browser.page()
    yield page
    page.close()
