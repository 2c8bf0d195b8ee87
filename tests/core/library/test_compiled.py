"""Policies and boundaries of a layer, as a policy: what the kernel is held to says what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from agent_safety_layer import (
    Boundary,
    NetworkBoundary,
    PathBoundary,
    Policy,
    ResourceBoundary,
    SafetyLayer,
    TimeBoundary,
    load_policy,
)
from agent_safety_layer.compiled import policy_of
from agent_safety_layer.events import Event
from agent_safety_layer.policy import State, decide


def action(layer: SafetyLayer, kind: str, **fields: Any) -> str:
    return decide(policy_of(layer), State(), Event(kind, **fields)).action


def bounded(*boundaries: Boundary) -> SafetyLayer:
    return SafetyLayer(boundaries=list(boundaries))


@pytest.mark.parametrize(
    "path",
    [
        *("/srv/a/x", "/srv/ab", "/srv/a/no/x", "/srv/a/run.exe", "/data/x.csv", "/data/y/x.csv", "/srv/a/.env"),
        *("/srv/a/deep/secret.txt", "/tmp/notes.md", "/etc/shadow"),
    ],
)
def test_a_path_boundary_allows_no_more_in_the_kernel_than_here(path: str) -> None:
    boundary = PathBoundary(["/srv/a"], ["/srv/a/no"], ["/data/*.csv", "*.md"], ["*.exe", "/srv/*/secret*", ".env"])
    layer = bounded(boundary)
    here = boundary.check({"path": path}) is None
    assert (action(layer, "file.write", path=path) == "allow") == here
    assert (action(layer, "file.read", path=path) == "allow") == here


def test_both_names_of_a_rename_are_looked_at() -> None:
    layer = bounded(PathBoundary(["/srv"], block_patterns=["*.exe"]))
    for first, second in (("/srv/a", "/srv/b.exe"), ("/srv/b.exe", "/srv/a")):
        assert action(layer, "file.rename", path=first, path2=second) == "block"
    assert action(layer, "file.rename", path="/srv/a", path2="/srv/b") == "allow"


def test_python_itself_can_be_read_where_only_some_folders_are_allowed() -> None:
    layer = bounded(PathBoundary(["/srv"]))
    for path in (re.__file__, pytest.__file__, "/usr/lib/x.so", "/proc/self/status"):
        assert action(layer, "file.read", path=path) == "allow"
        assert action(layer, "file.write", path=path) == "block"


def test_a_boundary_that_only_blocks_allows_the_rest() -> None:
    layer = bounded(PathBoundary(blocked_paths=["/srv/no"]))
    assert action(layer, "file.write", path="/srv/no/x") == "block"
    assert action(layer, "file.write", path="/anywhere") == "allow"


@pytest.mark.parametrize(
    ("host", "port"),
    [
        *(("api.ok.com", 443), ("ok.com", 443), ("x.ok.com", 443), ("bad.ok.com", 443), ("evil.com", 443)),
        *(("ok.com", 80), ("ok.com", 22)),
    ],
)
def test_a_network_boundary_says_the_same_to_the_kernel(host: str, port: int) -> None:
    boundary = NetworkBoundary(["*.ok.com"], ["bad.ok.com"], [443, 22], [22])
    here = boundary.check({"host": host, "port": port}) is None
    assert (action(bounded(boundary), "net.connect", host=host, port=port, proto="tcp") == "allow") == here


def test_a_network_boundary_of_ports_only() -> None:
    layer = bounded(NetworkBoundary(allowed_ports=[443]))
    assert action(layer, "net.connect", host="any.com", port=443, proto="tcp") == "allow"
    assert action(layer, "net.connect", host="any.com", port=80, proto="tcp") == "block"


def test_patterns_are_looked_for_in_command_lines() -> None:
    layer = SafetyLayer(
        [Policy.block_pattern(r"RM\s+-rf\s+/", "no"), Policy.warn_pattern("curl", "hm")], [PathBoundary(["/srv"])]
    )
    assert action(layer, "process.exec", argv=("rm", "-rf", "/")) == "block"
    assert action(layer, "process.exec", argv=("curl", "x")) == "warn"
    assert action(layer, "process.exec", argv=("ls",)) == "allow"


def test_a_pattern_that_re2_cannot_express_is_left_to_this_process() -> None:
    policy = policy_of(SafetyLayer([Policy.block_pattern(r"pay(?!roll)", "no")], [PathBoundary(["/srv"])]))
    assert [layer.name for layer in policy.layers] == ["path_boundary"]


def test_limits() -> None:
    time, more = TimeBoundary(5), ResourceBoundary(max_memory_mb=100, max_open_files=50)
    limits = policy_of(bounded(time, more, ResourceBoundary(max_memory_mb=90))).limits
    assert (limits.wall_time_s, limits.memory_bytes, limits.open_files) == (5, 90 << 20, 50)
    assert policy_of(SafetyLayer()).limits.wall_time_s is None


def test_where_nothing_speaks_of_files_or_network_the_default_profile_does(tmp_path: Path) -> None:
    assert policy_of(SafetyLayer([Policy.block_pattern("x", "y")])).layers[0].name == "workspace"
    loaded = load_policy("offline", workspace=tmp_path)
    assert policy_of(SafetyLayer.from_policy(loaded)).layers == loaded.layers
    assert [layer.name for layer in policy_of(SafetyLayer(), "strict").layers] == ["strict"]
    assert policy_of(SafetyLayer(), loaded).layers == loaded.layers


def test_a_boundary_that_changes_is_compiled_anew() -> None:
    boundary = PathBoundary(["/srv"])
    layer = bounded(boundary)
    assert action(layer, "file.write", path="/opt2/x") == "block"
    boundary.allowed_paths.add(Path("/opt2"))
    assert action(layer, "file.write", path="/opt2/x") == "allow"
