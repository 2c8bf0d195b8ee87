"""What the package offers: every name there, every name documented, and nothing imported for it too early."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import agent_safety_layer

CHECKOUT = Path(__file__).resolve().parents[3]

DESIGN = {
    *("SafetyLayer", "SafetyViolation", "SafetySession", "create_safety_layer", "Policy", "PolicyAction"),
    *("PolicyResult", "BlockPolicy", "WarnPolicy", "AuditPolicy", "ApprovalPolicy", "PatternPolicy"),
    *("CustomPolicy", "Boundary", "PathBoundary", "NetworkBoundary", "TimeBoundary", "ResourceBoundary"),
    *("Tracer", "Trace", "TraceEntry", "TraceExporter", "SessionRecorder", "SessionReplayer"),
    *("ReplayResult", "ApprovalGate", "AsyncApprovalGate", "ApprovalRequest", "ApprovalResponse"),
    *("ApprovalStatus", "InMemoryApprovalQueue", "load_policy"),
}

MODULES = ("core", "policies", "boundaries", "tracing", "replay", "approval")


def test_everything_that_is_promised_is_exported() -> None:
    assert set(agent_safety_layer.__all__) >= DESIGN


def test_the_list_is_sorted_and_each_name_comes_from_the_home_it_is_defined_in() -> None:
    names = agent_safety_layer.__all__
    assert names == sorted(set(names))
    assert set(agent_safety_layer._HOMES) == set(names)
    for name, home in agent_safety_layer._HOMES.items():
        module = importlib.import_module(f"agent_safety_layer.{home}")
        assert getattr(agent_safety_layer, name) is getattr(module, name)
        assert name in module.__all__


def test_a_star_import_brings_exactly_the_list() -> None:
    scope: dict[str, object] = {}
    exec("from agent_safety_layer import *", scope)
    assert set(scope) - {"__builtins__"} == set(agent_safety_layer.__all__)


@pytest.mark.parametrize("name", agent_safety_layer.__all__)
def test_each_name_and_its_public_members_are_documented(name: str) -> None:
    found = getattr(agent_safety_layer, name)
    assert inspect.getdoc(found)
    if inspect.isclass(found):
        members = [member for key, member in vars(found).items() if not key.startswith("_") and callable(member)]
        assert [member for member in members if not inspect.getdoc(member)] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = agent_safety_layer.nonsense
    assert "SafetyLayer" in dir(agent_safety_layer)


def test_modules_of_the_first_release_are_attributes() -> None:
    look = f"import agent_safety_layer as a; [getattr(a, name).__name__ for name in {MODULES}]"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0


def test_the_policy_of_the_library_is_not_the_policy_of_files() -> None:
    from agent_safety_layer import Policy
    from agent_safety_layer.policy import Policy as FilePolicies

    assert len({id(Policy), id(FilePolicies)}) == 2
    assert Policy.block_pattern("a", "b").name == "block_a"


def test_importing_the_package_imports_nothing_of_it() -> None:
    look = (
        "import sys; import agent_safety_layer; print([m for m in sys.modules if m.startswith('agent_safety_layer.')])"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    assert agent_safety_layer.__version__ == project["project"]["version"]


def test_types_are_shipped() -> None:
    assert (Path(agent_safety_layer.__file__).parent / "py.typed").exists()
