"""The shape of the code: which way imports run, what a run pays for at its start, what is installed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
ROOTS = {"agent_safety_layer": CHECKOUT / "supervisor", "asl_hooks": CHECKOUT / "hooks"}

# What costs more to import than the whole of a short run, measured against the bare interpreter.
HEAVY = {
    *("asyncio", "click", "ctypes.util", "dataclasses", "enum", "hashlib", "json", "msgspec", "pathlib", "psutil"),
    *("ptrace", "pyroute2", "re", "re2", "rich", "ruamel", "signal", "socket", "subprocess", "tempfile", "typing"),
}


def modules(package: str) -> list[Path]:
    return sorted((ROOTS[package] / package).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    """The absolute names that *tree* imports, wherever the statement stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


def importers(package: str, of: str) -> list[str]:
    """The modules of *package* that import *of* or something below it, as paths below their source root."""
    return [
        str(path.relative_to(ROOTS[package]))
        for path in modules(package)
        if any(name.split(".")[0] == of for name in imports(ast.parse(path.read_bytes())))
    ]


def run(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "ASL_STATE": str(cwd / "state"), "PYTHONPATH": os.pathsep.join(map(str, ROOTS.values()))}
    return subprocess.run([sys.executable, *argv], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def imported(*argv: str, cwd: Path) -> set[str]:
    """The modules that an interpreter running *argv* imports, with their parents."""
    done = run("-X", "importtime", *argv, cwd=cwd)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def test_hooks_never_import_the_supervisor() -> None:
    assert importers("asl_hooks", of="agent_safety_layer") == []
    assert importers("agent_safety_layer", of="asl_hooks"), "the search finds nothing, not even what is there"


def test_imports_are_absolute() -> None:
    relative = [
        path.name
        for package in ROOTS
        for path in modules(package)
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_nothing_imports_python_ptrace() -> None:
    """python-ptrace is GPL-2.0-only: tests compare the table of system calls with its own, and that is all."""
    assert [*importers("asl_hooks", of="ptrace"), *importers("agent_safety_layer", of="ptrace")] == []


def test_a_run_imports_nothing_heavy(tmp_path: Path) -> None:
    """From the second run on: the first one reads the policy's YAML and keeps what became of it."""
    main = "import sys; from agent_safety_layer.cli.supervise import main; sys.exit(main())"
    traces = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    bare = imported("-c", "pass", cwd=tmp_path)
    first, second = (imported("-c", main, "-q", "--trace", str(trace), "true", cwd=tmp_path) for trace in traces)
    assert "ruamel.yaml" in first, "the search would find what is heavy"
    assert all(trace.stat().st_size for trace in traces), "the runs did their whole job"
    assert not {name for name in second - bare if name in HEAVY or name.split(".")[0] in HEAVY}


@pytest.mark.parametrize("name", ["supervisor", "hooks"])
def test_the_source_roots_are_not_packages(name: str, tmp_path: Path) -> None:
    """Another distribution owns the import name ``supervisor``: ours must neither shadow it nor be shadowed by it."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(Path(package).name for package in packages) == sorted(ROOTS)
    assert not (CHECKOUT / name / "__init__.py").exists()
    look = f"import importlib.util as u; s = u.find_spec({name!r}); print(s and list(s.submodule_search_locations))"
    found = run("-c", look, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert str(CHECKOUT) not in found.stdout
