"""Runs of the product as a user starts it, in a folder of their own, and what came of them."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.requirements import BACKEND

ROOTS = [str(pathlib.Path(__file__).parents[2] / part) for part in ("supervisor", "hooks")]
SUPERVISE = (sys.executable, "-m", "agent_safety_layer.cli.supervise", *BACKEND)

# Reads everything, writes the workspace and its own tmp. Nothing has a hole, so the kernel bounds reads and changes.
OPEN = """
version: 1
name: open
files:
  read: ["/"]
  write: ["${WORKSPACE}", "${TMP}", "/dev", "/proc"]
"""

# The same with a hole in the middle of where the tree may create: every open and every change is served.
SERVED = (
    OPEN
    + """  block: ["${WORKSPACE}/**/.env"]
"""
)
MODES = {"waved": OPEN, "served": SERVED}


@dataclass
class Result:
    """One run: ``code`` as the shell would see it (negative for a signal), what it printed, its trace and report."""

    code: int
    out: str
    err: str
    trace: list[dict[str, Any]] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)

    def events(self, kind: str = "", **fields: object) -> list[dict[str, Any]]:
        """The trace's events of *kind* (all if empty) that have these *fields*."""
        return [
            entry
            for entry in self.trace
            if "kind" in entry
            and (not kind or entry["kind"] == kind)
            and all(entry.get(key) == wanted for key, wanted in fields.items())
        ]

    def blocked(self, kind: str = "", **fields: object) -> list[dict[str, Any]]:
        """The events that were refused."""
        return [
            entry
            for entry in self.events(kind, **fields)
            if entry.get("effective", entry["decision"]["action"]) == "block"
        ]


def environment(state: pathlib.Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment, with the run's state below *state* and no administrator's habits in it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ASL_", "PYTEST_")) or k == "ASL_PURE"}
    kept |= {"ASL_STATE": str(state), "PYTHONPATH": os.pathsep.join(ROOTS), **(extra or {})}
    return kept


def prepare(workspace: pathlib.Path, policy: str) -> None:
    """Establishes what the policies above are about: with a hole in the workspace, something is in it."""
    workspace.mkdir(exist_ok=True)
    if policy is SERVED:
        (workspace / ".env").write_text("SECRET=1\n")


def run(
    argv: Sequence[str],
    tmp: pathlib.Path,
    *,
    policy: str = OPEN,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float = 60,
) -> Result:
    """Run *argv* in ``tmp/ws`` under *policy* (the text of a file, or a profile's name)."""
    workspace = tmp / "ws"
    prepare(workspace, policy)
    policy_file = policy
    if "\n" in policy:
        (tmp / "policy.yaml").write_text(policy)
        policy_file = str(tmp / "policy.yaml")
    trace, report = tmp / "trace.jsonl", tmp / "report.json"
    for stale in (trace, report):
        stale.unlink(missing_ok=True)
    done = subprocess.run(
        [*SUPERVISE, "-p", policy_file, "-o", str(trace), "--report", str(report), *options, "--", *argv],
        cwd=workspace,
        env=environment(tmp / "state", env),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=timeout,
        check=False,
    )
    return Result(
        done.returncode,
        done.stdout,
        done.stderr,
        [json.loads(line) for line in trace.read_text().splitlines()] if trace.exists() else [],
        json.loads(report.read_text()) if report.exists() else {},
    )


def python(code: str, tmp: pathlib.Path, **how: Any) -> Result:
    """Run Python *code* supervised."""
    return run([sys.executable, "-I", "-S", "-c", code], tmp, **how)
