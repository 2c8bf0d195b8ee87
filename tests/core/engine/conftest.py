"""A scene to make calls in."""

from __future__ import annotations

import gc
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.core.engine.scene import Scene, descriptors

EVERYTHING = 'version: 1\nfiles: {read: ["/"], write: ["/"]}\n'


@pytest.fixture
def workspace(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The tracee's working directory, with a few things in it."""
    place = pathlib.Path(os.path.realpath(tmp_path)) / "ws"
    (place / "dir").mkdir(parents=True)
    (place / "file").write_text("hello")
    (place / "dir" / "inner").write_text("inside")
    (place / "link").symlink_to("file")
    (place / "dirlink").symlink_to("dir")
    (place / "dangling").symlink_to("nowhere")
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def scenes(workspace: pathlib.Path) -> Iterator[Callable[..., Scene]]:
    """Makes scenes; checks that nothing that was described has leaked a descriptor."""
    gc.collect()  # what earlier tests left open is closed before it is counted
    before = descriptors()
    made = []

    def make(policy: str = EVERYTHING, **how: Any) -> Scene:
        made.append(Scene(workspace, policy, **how))
        return made[-1]

    yield make
    for scene in made:
        scene.close()
    assert descriptors() == before


@pytest.fixture
def scene(scenes: Callable[..., Scene]) -> Scene:
    """A scene where everything is allowed and nothing is bounded: all is served."""
    return scenes()
