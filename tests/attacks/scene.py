"""A place to attack: a workspace, a secret outside of it, and the same program run with and without the supervisor.

    base/ws        the working directory of the attacks; may be written
    base/outside   blocked; holds ``secret`` (its content is MARK) and ``victim``, which must stay as it is
    base/bin       compiled attack programs; may be read and run

What happened is judged from outside: whether ``victim`` changed, and whether MARK turned up in ``ws/loot``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import agent_safety_layer
import asl_hooks
from tests.requirements import BACKEND

MARK = "f3a9-the-secret-that-must-not-get-out"
INTACT = "as it was"

_ROOTS = [str(Path(package.__path__[0]).parent) for package in (agent_safety_layer, asl_hooks)]
_ENTRY = (
    "import os; from agent_safety_layer.cli.supervise import main; "
    "main(frozenset(os.environ.pop('ASL_WITHOUT', '').split(',')) - {''})"
)
_POLICY = """\
version: 1
name: attack
files:
  read: ["/"]
  write: ["${WORKSPACE}", "${TMP}"]
  block: [%(block)s]
network:
  allow: [%(allow)s]
  unix: [%(unix)s]
exec:
  block: ["forbidden", "forbidden *"]
"""


class Scene:
    """One attack's place. ``served``: a hole in the workspace, so that every open is carried out by the supervisor.
    ``without`` are mechanisms to go without.
    """

    def __init__(self, base: Path, programs: Path, *, served: bool, without: str = "", unseen: bool = False) -> None:
        self.base = base
        self.without = without
        self.served = served
        self.unseen = unseen
        self.ws = base / "ws"
        self.outside = base / "outside"
        self.programs = programs
        for folder in (self.ws, self.outside, base / "home"):
            folder.mkdir()
        self.secret = self.outside / "secret"
        self.secret.write_text(MARK)
        self.victim = self.outside / "victim"
        self.reset()
        if served:
            (self.ws / ".env").write_text(MARK)
        self.trace = base / "trace.jsonl"
        self.backend = BACKEND
        self.process: subprocess.Popen[str] | None = None

    def reset(self) -> None:
        """Put what attacks change back: the victim, the loot."""
        self.victim.write_text(INTACT)
        self.loot.unlink(missing_ok=True)

    @property
    def loot(self) -> Path:
        """Where an attack leaves what it could read."""
        return self.ws / "loot"

    @property
    def stolen(self) -> bool:
        """Whether the secret got out."""
        return self.loot.exists() and MARK in self.loot.read_text(errors="replace")

    @property
    def changed(self) -> bool:
        """Whether anything outside the workspace is other than it was."""
        names = sorted(path.name for path in self.outside.iterdir())
        return names != ["secret", "victim"] or self.victim.read_text() != INTACT or self.secret.read_text() != MARK

    def policy(self, *, block: Sequence[str] = (), allow: Sequence[str] = (), unix: Sequence[str] = ()) -> Path:
        """The attack policy as a file, with further entries."""
        blocked = [str(self.outside), *(["${WORKSPACE}/**/.env"] if self.served else []), *block]

        def listed(entries: Sequence[str]) -> str:
            return ", ".join(f'"{entry}"' for entry in entries)

        path = self.base / "policy.yaml"
        record = "record: changes\n" if self.unseen else ""
        path.write_text(record + _POLICY % {"block": listed(blocked), "allow": listed(allow), "unix": listed(unix)})
        return path

    def environment(self, more: Mapping[str, str] = {}) -> dict[str, str]:
        """The environment of both runs."""
        kept = {name: os.environ[name] for name in ("PATH", "ASL_WITHOUT", "LANG") if name in os.environ}
        lacking = ",".join(filter(None, (kept.get("ASL_WITHOUT"), self.without)))
        own = {"HOME": str(self.base / "home"), "ASL_STATE": str(self.base / "state"), "TMPDIR": str(self.base)}
        return {**kept, **own, "PYTHONPATH": ":".join(_ROOTS), "ASL_WITHOUT": lacking, **more}

    def command(self, argv: Sequence[object], *options: object, policy: Path | None = None) -> list[str]:
        """The command line that supervises *argv*."""
        chosen = ["-p", str(policy or self.policy()), "-o", str(self.trace), *map(str, options)]
        return [sys.executable, "-c", _ENTRY, *self.backend, *chosen, "--", *map(str, argv)]

    def free(self, *argv: object, timeout_s: float = 20, **more: str) -> subprocess.CompletedProcess[str]:
        """The positive control: the attack without a supervisor."""
        return _run(list(map(str, argv)), self.ws, self.environment(more), timeout_s)

    def bound(
        self,
        *argv: object,
        options: Sequence[object] = (),
        policy: Path | None = None,
        timeout_s: float = 30,
        **more: str,
    ) -> subprocess.CompletedProcess[str]:
        """The attack under the supervisor, which must have lived through it."""
        self.trace.unlink(missing_ok=True)
        done = _run(self.command(argv, *options, policy=policy), self.ws, self.environment(more), timeout_s)
        assert done.returncode != 125, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert '"outcome"' in self.trace.read_text().splitlines()[-1], "the trace has no end"
        return done

    def start(self, *argv: object, options: Sequence[object] = (), policy: Path | None = None) -> subprocess.Popen[str]:
        """The supervised attack, left running; ended with the test."""
        return self._start(self.command(argv, *options, policy=policy))

    def start_free(self, *argv: object) -> subprocess.Popen[str]:
        """The same without the supervisor."""
        return self._start(list(map(str, argv)))

    def _start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            command,
            cwd=self.ws,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def close(self) -> None:
        """End what a test left running."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


def _run(argv: list[str], cwd: Path, environment: dict[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run``; on a timeout the whole session is killed, so that no attack outlives its test."""
    with subprocess.Popen(
        argv,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
    return subprocess.CompletedProcess(argv, process.returncode, out, err)
