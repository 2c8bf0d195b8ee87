"""Starts run from one file of byte code, as long as that is the code of the sources as they are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent_safety_layer import bytecode

PROGRAM = """\
import sys
sys.path.insert(0, {root!r})
from agent_safety_layer import bytecode
imports = bytecode.start({kept!r})
how = "kept" if "agent_safety_layer.first" in sys.modules else "imported"
from agent_safety_layer import first
print(first.NAME, first.outer.second.NAME, first.__file__, first.__spec__.origin, first.__package__)
print(how)
if imports is not None:
    bytecode.keep({kept!r}, imports)
import agent_safety_layer.outer.later
"""
REAL = Path(__file__).resolve().parents[2] / "supervisor/agent_safety_layer/bytecode.py"


class Package:
    """A package of the name of ours with little in it, and the file that its starts keep."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "agent_safety_layer"
        (self.folder / "outer").mkdir(parents=True)
        (self.folder / "__init__.py").touch()
        (self.folder / "bytecode.py").write_text(REAL.read_text())
        (self.folder / "first.py").write_text("from agent_safety_layer import outer\nNAME = 'one'\n")
        (self.folder / "outer/__init__.py").write_text("import agent_safety_layer.outer.second\n")
        (self.folder / "outer/second.py").write_text("import marshal, colorsys\nNAME = 'two'\n")
        (self.folder / "outer/later.py").touch()
        self.kept = root / "start.pyc"

    def start(self, *flags: str) -> tuple[list[str], str]:
        """What the modules say of themselves, and whether they were kept or imported."""
        program = PROGRAM.format(root=str(self.root), kept=str(self.kept))
        env = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        command = [sys.executable, *flags, "-c", program]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        said, how = done.stdout.splitlines()
        return said.split(" "), how


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return Package(tmp_path)


def test_the_second_start_runs_the_same_modules_from_one_file(package: Package) -> None:
    said, how = package.start()
    assert how == "imported"
    assert said[:3] == ["one", "two", str(package.folder / "first.py")]
    assert package.start() == (said, "kept")


def test_only_our_own_modules_are_in_it(package: Package) -> None:
    package.start()
    assert b"outer/second.py" in package.kept.read_bytes()
    assert b"colorsys.py" not in package.kept.read_bytes()


@pytest.mark.parametrize("source", ["first.py", "outer/second.py"])
def test_a_source_that_has_changed_is_read(package: Package, source: str) -> None:
    package.start()
    file = package.folder / source
    file.write_text(file.read_text().replace("NAME = '", "NAME = 'new-"))
    said, how = package.start()
    assert how == "imported"
    assert "new-" in " ".join(said[:2])
    assert package.start() == (said, "kept")


def test_a_change_of_the_same_size_is_seen(package: Package) -> None:
    package.start()
    source = package.folder / "first.py"
    source.write_text("from agent_safety_layer import outer\nNAME = 'uno'\n")
    os.utime(source, (1, 1))  # Python's own files tell whole seconds only
    said, how = package.start()
    assert (said[0], how) == ("uno", "imported")


def test_a_source_that_is_gone(package: Package) -> None:
    package.start()
    (package.folder / "outer/second.py").rename(package.folder / "outer/other.py")
    (package.folder / "outer/__init__.py").write_text("from agent_safety_layer.outer import other as second\n")
    said, how = package.start()
    assert (said[1], how) == ("two", "imported")


def test_a_file_that_was_cut_off(package: Package) -> None:
    said, _ = package.start()
    data = package.kept.read_bytes()
    package.kept.write_bytes(data[:-1])
    assert package.start() == (said, "imported")
    assert package.kept.read_bytes() == data


def test_what_every_start_takes_from_python_itself_is_in_it(package: Package) -> None:
    """Modules of machine code by their place only; a program that has one built in finds it where it is."""
    first = package.folder / "first.py"
    first.write_text(
        "import struct, _struct\nfrom agent_safety_layer import outer\n"
        "where = (struct.__file__, getattr(_struct, '__file__', 'built in'), struct.pack is _struct.pack)\n"
        "NAME = ascii(where).replace(' ', '')\n"
    )
    said, how = package.start()
    assert how == "imported"
    assert said[0].endswith("True)")
    assert b"struct.py" in package.kept.read_bytes()
    assert package.start() == (said, "kept")


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\xe9\x00\x00\x00\x00"])
def test_a_file_that_is_no_such_file(package: Package, data: bytes) -> None:
    package.kept.write_bytes(data)
    assert package.start()[1] == "imported"
    assert package.start()[1] == "kept"


def test_nothing_is_written_when_python_may_write_no_byte_code(package: Package) -> None:
    assert package.start("-B")[1] == "imported"
    assert not package.kept.exists()
    package.start()
    assert package.kept.exists()


def test_what_only_some_starts_need_is_not_in_it(package: Package) -> None:
    (package.folder / "policy").mkdir()
    for name in ("__init__", "reader", "readers"):
        (package.folder / f"policy/{name}.py").touch()
    first = package.folder / "first.py"
    first.write_text("import agent_safety_layer.policy.reader, agent_safety_layer.policy.readers\n" + first.read_text())
    assert package.start()[1] == "imported"
    data = package.kept.read_bytes()
    assert b"policy/readers.py" in data
    assert b"policy/reader.py" not in data
    assert package.start()[1] == "kept"


def test_another_copy_of_the_packages_is_another_program(package: Package) -> None:
    package.start()
    copy = package.root / "copy"
    shutil.copytree(package.folder, copy / "agent_safety_layer")
    package.root, package.folder = copy, copy / "agent_safety_layer"
    (package.folder / "first.py").write_text("from agent_safety_layer import outer\nNAME = 'other'\n")
    said, how = package.start()
    assert (said[0], how) == ("other", "imported")


def test_a_folder_that_cannot_be_written_is_no_error(package: Package) -> None:
    package.kept = package.root / "none" / "start.pyc"
    assert package.start()[1] == "imported"
    assert package.start()[1] == "imported"


def test_interpreters_with_libraries_of_their_own_keep_files_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = bytecode.file()
    assert ours == bytecode.file()
    monkeypatch.setattr(sys, "base_exec_prefix", "/elsewhere")
    assert bytecode.file() != ours
    assert os.path.dirname(bytecode.file()) == os.path.dirname(ours)
