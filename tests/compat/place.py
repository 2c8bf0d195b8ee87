"""A program run twice on equal copies of a folder, outside and inside of a run, and what differs.

    base/ws        the working directory; restored between the two, so that absolute paths are the same
    base/ws/p      where the program is and what is compared: names, kinds, modes, owners, contents, links
    base/home      its home folder

``waved`` is the default profile as it is. ``served`` has a blocked ``.env`` beside ``p``: with a hole in the working
directory every open is carried out by the supervisor. ``unseen`` asks for no record of reads, so that opens for
reading are not even stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch

import agent_safety_layer
import asl_hooks
from tests.requirements import BACKEND

ROOTS = [str(pathlib.Path(package.__path__[0]).parent) for package in (agent_safety_layer, asl_hooks)]
ENTRY = (
    "import os; from agent_safety_layer.cli.supervise import main; "
    "main(frozenset(os.environ.pop('ASL_WITHOUT', '').split(',')) - {''})"
)
MODES = ("waved", "served", "unseen")
UNSEEN = "version: 1\nextends: [workspace]\nrecord: changes\n"
Tree = dict[str, str]
Seed = Callable[[pathlib.Path], object]


@dataclass(frozen=True)
class Done:
    """How a run ended: its status as ``subprocess`` tells it, its output, the folder that it left."""

    code: int
    out: str
    err: str
    tree: Tree = field(default_factory=dict)


class Place:
    """One test's folder. ``mode`` is one of ``MODES``; ``without`` are mechanisms to go without."""

    def __init__(self, base: pathlib.Path, mode: str = "waved", without: str = "") -> None:
        self.base = base
        self.mode = mode
        self.without = without
        self.ws = base / "ws"
        self.home = base / "home"
        self.trace = base / "trace.jsonl"

    def prepare(self, seed: Seed | None = None) -> pathlib.Path:
        """Establishes: the working directory is as every run finds it. Returns ``p``."""
        for folder in (self.ws, self.home):
            if folder.exists():
                subprocess.run(["chmod", "-R", "u+rwX", folder], check=True)
                shutil.rmtree(folder)
            folder.mkdir()
        if self.mode == "served":
            (self.ws / ".env").write_text("KEY=1\n")
        below = self.ws / "p"
        below.mkdir()
        if seed is not None:
            seed(below)
        return below

    def environment(self, more: Mapping[str, str] = {}) -> dict[str, str]:
        """The variables of both runs."""
        kept = {name: os.environ[name] for name in ("PATH", "ASL_WITHOUT", "LD_LIBRARY_PATH") if name in os.environ}
        lacking = ",".join(filter(None, (kept.pop("ASL_WITHOUT", ""), self.without)))
        own = {"HOME": str(self.home), "ASL_STATE": str(self.base / "state"), "LC_ALL": "C.UTF-8"}
        python = {"PYTHONPATH": os.pathsep.join(ROOTS), "PYTHONDONTWRITEBYTECODE": "1", "PYTHON": sys.executable}
        return {**kept, **own, **python, "ASL_WITHOUT": lacking, **more}

    def supervised(self, argv: Sequence[object], options: Sequence[object] = ()) -> list[str]:
        """The command line that runs *argv* inside."""
        chosen = [*BACKEND, "-q", "-o", str(self.trace), *map(str, options)]
        if self.mode == "unseen":
            policy = self.base / "unseen.yaml"
            policy.write_text(UNSEEN)
            chosen += ["-p", str(policy)]
        return [sys.executable, "-c", ENTRY, *chosen, "--", *map(str, argv)]

    def outside(self, argv: Sequence[object], seed: Seed | None = None, *, timeout_s: float = 60, **more: str) -> Done:
        """The program as it is."""
        return self._run(list(map(str, argv)), seed, timeout_s, more)

    def inside(
        self,
        argv: Sequence[object],
        seed: Seed | None = None,
        *,
        options: Sequence[object] = (),
        timeout_s: float = 60,
        **more: str,
    ) -> Done:
        """The program supervised, under the default profile unless *options* say otherwise."""
        self.trace.unlink(missing_ok=True)
        done = self._run(self.supervised(argv, options), seed, timeout_s, more)
        assert '"outcome"' in self.trace.read_text().splitlines()[-1], "the trace has no end"
        return done

    def _run(self, argv: list[str], seed: Seed | None, timeout_s: float, more: Mapping[str, str]) -> Done:
        below = self.prepare(seed)
        with subprocess.Popen(
            argv,
            cwd=self.ws,
            env=self.environment(more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return Done(process.returncode, out, err, tree(below))

    def refused(self) -> list[str]:
        """What the last run inside was not allowed to do: kind, what and why."""
        found = []
        for line in self.trace.read_text().splitlines():
            entry = json.loads(line)
            if "kind" in entry and entry.get("effective", entry["decision"]["action"]) == "block":
                about = entry.get("path") or entry.get("argv") or entry.get("syscall") or entry.get("host")
                found.append(f"{entry['kind']} {about} [{entry['decision'].get('rule')}]")
        return found

    def same(
        self,
        script: str,
        seed: Seed | None = None,
        *,
        options: Sequence[object] = (),
        volatile: Sequence[str] = (),
        refused: Sequence[str] = (),
        timeout_s: float = 60,
        may_fail: bool = False,
        **more: str,
    ) -> Done:
        """Run a shell *script* in ``p``, outside and inside, and expect the same of both; what it did.

        Contents of files whose path matches one of *volatile* (fnmatch) are not compared: they hold times or inodes.
        Nothing may be refused but what *refused* names: what the profile keeps from every program, and is no loss here.
        Unless it *may_fail*, the script must succeed: one that could not start would be the same in both.
        """
        argv = ["bash", "-c", f"cd p\n{script}"]
        outside = self.outside(argv, seed, timeout_s=timeout_s, **more)
        assert may_fail or outside.code == 0, f"it does not even work outside:\n{outside.out}\n{outside.err}"
        inside = self.inside(argv, seed, options=options, timeout_s=timeout_s, **more)
        missed = [line for line in self.refused() if not any(fnmatch(line, pattern) for pattern in refused)]
        different = differences(outside, inside, volatile)
        assert not missed, "\n".join(missed + different)
        assert not different, "\n".join(different)
        return inside


def differences(outside: Done, inside: Done, volatile: Sequence[str] = ()) -> list[str]:
    """What is not the same, one line each."""
    found = []
    if outside.code != inside.code:
        found.append(f"status {outside.code} -> {inside.code}: {inside.err[-500:]}")
    for name, old, new in (("stdout", outside.out, inside.out), ("stderr", outside.err, inside.err)):
        if old != new:
            lines = [f"{name}: {a!r} -> {b!r}" for a, b in _pairs(old.splitlines(), new.splitlines()) if a != b]
            found += lines[:20]
    for path in sorted(outside.tree.keys() | inside.tree.keys()):
        there, here = outside.tree.get(path, "nothing"), inside.tree.get(path, "nothing")
        if any(fnmatch(path, pattern) for pattern in volatile):
            there, here = there.partition(" = ")[0], here.partition(" = ")[0]
        if there != here:
            found.append(f"{path}: {there} -> {here}")
    return found


def _pairs(old: list[str], new: list[str]) -> list[tuple[str, str]]:
    longest = max(len(old), len(new))
    return list(zip(old + ["(end)"] * (longest - len(old)), new + ["(end)"] * (longest - len(new)), strict=True))


def tree(folder: pathlib.Path) -> Tree:
    """What is below *folder*: a line about each name, its content after `` = ``."""
    found: Tree = {}
    for parent, folders, files in os.walk(folder):
        for name in folders + files:
            path = pathlib.Path(parent, name)
            there = path.lstat()
            about = f"{stat.filemode(there.st_mode)} {there.st_uid}:{there.st_gid}"
            if path.is_symlink():
                about += f" = {os.readlink(path)}"
            elif stat.S_ISREG(there.st_mode):
                about += f" {there.st_nlink} = {there.st_size} {hashlib.sha256(_content(path)).hexdigest()[:12]}"
            found[str(path.relative_to(folder))] = about
    return found


def _content(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except PermissionError:
        return b"(unreadable)"
