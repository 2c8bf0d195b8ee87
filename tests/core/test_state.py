import os
import stat

import pytest

from agent_safety_layer.errors import AslError
from agent_safety_layer.state import make_private, new_run_id, state_dir, state_path


@pytest.fixture(autouse=True)
def no_state(monkeypatch):
    for name in ("ASL_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_where_the_state_is(monkeypatch):
    monkeypatch.setenv("HOME", "/home/u")
    assert state_path() == "/home/u/.local/state/asl"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state_path() == "/home/u/.local/state/asl"
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    assert state_path() == "/xdg/asl"
    monkeypatch.setenv("ASL_STATE", "/mine")
    assert state_path() == "/mine"


def test_the_state_folder_is_private(tmp_path, monkeypatch):
    monkeypatch.setenv("ASL_STATE", str(tmp_path / "a" / "b"))
    assert state_dir("traces") == str(tmp_path / "a" / "b" / "traces")
    for folder in ("a", "a/b", "a/b/traces"):
        assert mode_of(tmp_path / folder) == 0o700
    os.chmod(tmp_path / "a" / "b", 0o755)
    state_dir()
    assert mode_of(tmp_path / "a" / "b") == 0o700


def test_a_state_folder_that_is_no_folder_of_ours_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "file/below", "link"):
        monkeypatch.setenv("ASL_STATE", str(tmp_path / name))
        with pytest.raises(AslError) as caught:
            state_dir()
        assert caught.value.remedy


def test_a_place_that_cannot_be_written_is_refused(monkeypatch):
    monkeypatch.setenv("ASL_STATE", "/proc/state")  # root cannot either
    with pytest.raises(AslError, match="Cannot make folder"):
        state_dir()


def test_existing_folders_keep_their_mode(tmp_path):
    os.chmod(tmp_path, 0o755)
    make_private(str(tmp_path / "new"))
    make_private(str(tmp_path / "new"))
    assert (mode_of(tmp_path), mode_of(tmp_path / "new")) == (0o755, 0o700)


def test_run_ids_sort_by_time_and_differ():
    ids = [new_run_id(1700000000.0 + tick / 1000) for tick in (0, 1, 999, 1000, 86_400_000)]
    assert ids == sorted(ids)
    assert ids[0].startswith("20231114-221320.000-")
    assert new_run_id(1.0) != new_run_id(1.0)
    assert len(new_run_id()) == len(ids[0])
