"""File calls answer inside a run exactly as they do outside, whether the kernel carries them out or the supervisor."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from tests.kernel.supervised import MODES, prepare, run

INSIDE = pathlib.Path(__file__).parent / "inside"
PYTHON = (sys.executable, "-E", "-S")
pytestmark = pytest.mark.requires("notify", "landlock")


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What every probe prints without supervision."""
    said = {}
    for script in ("names", "objects", "world"):
        folder = tmp_path_factory.mktemp("outside") / "ws"
        folder.mkdir()
        argv = [*PYTHON, str(INSIDE / f"{script}.py"), str(folder)]
        said[script] = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
        assert not [line for line in said[script] if " ended: " in line]
    return said


@pytest.mark.parametrize("script", ["names", "objects", "world"])
@pytest.mark.parametrize("mode", MODES)
def test_every_call_answers_the_same(
    mode: str, script: str, outside: dict[str, list[str]], tmp_path: pathlib.Path
) -> None:
    prepare(tmp_path / "ws", MODES[mode])
    inside = run([*PYTHON, str(INSIDE / f"{script}.py"), str(tmp_path / "ws")], tmp_path, policy=MODES[mode])
    assert inside.code == 0, inside.err
    lines, expected = inside.out.splitlines(), outside[script]
    if mode == "served":
        lines, expected = _without_name_only_openat2(lines), _without_name_only_openat2(expected)
    different = [f"{old} -> {new}" for old, new in zip(expected, lines, strict=False) if old != new]
    assert not different, "\n".join(different[:40])
    assert len(lines) == len(expected)
    assert not inside.blocked()


def _without_name_only_openat2(lines: list[str]) -> list[str]:
    """Without openat2(O_PATH): its flags lie in memory, so where reads are served it is ENOSYS."""
    return [line for line in lines if not (line.startswith("openat2 ") and "0o10400000" in line)]


def test_served_openat2_for_a_name_only_is_not_to_be_had(tmp_path: pathlib.Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(INSIDE)!r}); import os; from probing import openat2, says; "
    code += "print(says(lambda: openat2('.', os.O_PATH))[:6])"
    for mode, said in (("served", "ENOSYS\n"), ("waved", "drwxr-\n")):
        (tmp_path / mode).mkdir()
        assert run([*PYTHON, "-c", code], tmp_path / mode, policy=MODES[mode]).out == said
