"""What was missing is known to be missing for as long as that is so."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from errno import ENOENT

import pytest

from agent_safety_layer.engine import absent
from agent_safety_layer.engine.absent import Absent
from tests.core.engine.scene import AT_FDCWD, Scene

MISSING = ("x", "a/x", "a/b/x", "full/x", "full/inner/x")
CHANGES: dict[str, Callable[[], object]] = {
    "a file": lambda: pathlib.Path("x").write_text(""),
    "a link": lambda: os.symlink("full", "a"),
    "a link to nothing": lambda: os.symlink("nowhere", "x"),
    "a folder": lambda: os.makedirs("a/b"),
    "a rename": lambda: os.rename("full", "a"),
    "a hard link": lambda: os.link("full/file", "full/x"),
}


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    top = pathlib.Path(os.path.realpath(tmp_path)) / "top"
    (top / "full/inner").mkdir(parents=True)
    (top / "full/file").write_text("")
    for folder in (top, top / "full", top / "full/inner"):
        os.utime(folder, (0, 0))  # what changes within one tick of the clock has the same time
    monkeypatch.chdir(top)
    return os.fsencode(top) + b"/"


@pytest.mark.parametrize("change", CHANGES)
def test_what_came_to_be_there_is_not_missing(change: str, here: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absent, "_SETTLED_S", -60.0)
    known = Absent()
    for name in MISSING:
        assert not known.still(here + name.encode()), "nothing is known of it"
        known.note(here + name.encode())
        assert known.still(here + name.encode())
    CHANGES[change]()
    assert not any(known.still(here + name.encode()) for name in MISSING if os.path.lexists(name))


def test_it_lasts_for_moments(here: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absent, "_SETTLED_S", -60.0)
    monkeypatch.setattr(absent, "_LASTS_S", 0.0)
    known = Absent()
    known.note(here + b"x")
    assert not known.still(here + b"x")


def test_a_folder_that_changed_just_now_is_looked_at_each_time(here: bytes) -> None:
    known = Absent()
    known.note(here + b"x")
    assert not known.still(here + b"x")


def test_what_is_there_is_not_missing(here: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absent, "_SETTLED_S", -60.0)
    known = Absent()
    known.note(here + b"full/file")
    assert not known.still(here + b"full/file")


def test_a_search_that_fails_each_time_until_it_does_not(
    scene: Scene, workspace: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absent, "_SETTLED_S", -60.0)
    wanted = workspace / "some/where"
    os.utime(workspace, (0, 0))
    for _ in range(3):
        assert scene.make("openat", AT_FDCWD, str(wanted), os.O_RDONLY, 0) == ("fail", ENOENT)
    wanted.parent.mkdir()
    os.utime(wanted.parent, (0, 0))
    assert scene.make("openat", AT_FDCWD, str(wanted), os.O_RDONLY, 0) == ("fail", ENOENT)
    wanted.write_text("here")
    assert scene.make("openat", AT_FDCWD, str(wanted), os.O_RDONLY, 0)[0] == "inject"
    names = {event.path for event, *_ in scene.recorder.entries}
    assert names == {str(wanted)}, "however it was found"
