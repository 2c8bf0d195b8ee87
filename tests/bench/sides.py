"""Who is measured: nothing, us in three settings, and the tools that others would take. Public releases only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("strace", "bubblewrap", "firejail", "runsc")  # Debian's
WHEELS = ("sandlock==0.9.0", "nono-py==0.16.0")  # PyPI's; exact, for their interfaces are young

# Reads all but secrets, writes the working directory, no network: what the others are set up to hold as well.
UNSEEN = "version: 1\nextends: [workspace]\nrecord: changes\n"
EVERYTHING = "version: 1\nextends: [workspace]\nfiles: {block: ['/**/*.nothing-has-this-name']}\n"

SANDLOCK = """\
import os, sys
from sandlock import Sandbox
here = os.getcwd()
done = Sandbox(fs_readable=["/"], fs_writable=[here, "/tmp", "/dev"], cwd=here).run(sys.argv[1:])
sys.stdout.buffer.write(done.stdout); sys.stderr.buffer.write(done.stderr or b""); sys.exit(done.exit_code)
"""
NONO = """\
import os, sys
from nono_py import AccessMode, CapabilitySet, sandboxed_exec
rights = CapabilitySet()
rights.allow_path("/", AccessMode.READ)
for path in (os.getcwd(), "/tmp", "/dev"): rights.allow_path(path, AccessMode.READ_WRITE)
rights.block_network()
done = sandboxed_exec(rights, sys.argv[1:], cwd=os.getcwd(), inherit_env=True)
sys.stdout.buffer.write(done.stdout); sys.stderr.buffer.write(done.stderr); sys.exit(done.exit_code)
"""


@dataclass(frozen=True)
class Side:
    """One way to run a command. ``prefix`` goes before it; ``{here}`` in it is the working directory."""

    name: str
    prefix: tuple[str, ...]
    enforces: str
    records: str

    def command(self, here: Path, argv: list[str]) -> list[str]:
        """*argv* run this way in *here*."""
        return [*(word.replace("{here}", str(here)) for word in self.prefix), *argv]


def sides(folder: Path, only: frozenset[str] = frozenset()) -> tuple[list[Side], list[str]]:
    """Those that work here, native first, and a line about each that does not. Scripts and policies go to *folder*."""
    made, absent = [], []
    for side in _all(folder):
        if only and side.name not in only and side.name != "native":
            continue
        try:
            done = subprocess.run(
                side.command(folder, ["true"]), cwd=folder, capture_output=True, timeout=60, check=False
            )
            why = "" if done.returncode == 0 else done.stderr.decode(errors="replace").strip()[-200:] or "it failed"
        except (OSError, subprocess.TimeoutExpired) as error:
            why = str(error)
        if why:
            absent.append(f"{side.name}: {why}")
        else:
            made.append(side)
    return made, absent


def _all(folder: Path) -> list[Side]:
    ours = str(Path(sys.executable).with_name("asl-supervise"))
    unseen, everything = folder / "unseen.yaml", folder / "everything.yaml"
    unseen.write_text(UNSEEN)
    everything.write_text(EVERYTHING)
    for name, text in (("sandlock.py", SANDLOCK), ("nono.py", NONO)):
        (folder / f"run-{name}").write_text(text)
    python = sys.executable
    gvisor = ("--network=none", "--ignore-cgroups") if os.geteuid() == 0 else ("--rootless", "--network=none")
    bwrap = ("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--bind", "{here}", "{here}")
    strace = ("-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=%file,%network,%process")
    files = "files by path, network, programs, limits"
    return [
        Side("native", (), "nothing", "nothing"),
        Side("ours, enforcement only", (ours, "-q", "-p", str(unseen), "--"), files, "changes, programs, network"),
        Side("ours, default", (ours, "-q", "--"), files, "every open, change, program, connection"),
        Side("ours, everything served", (ours, "-q", "-p", str(everything), "--"), f"{files}; any pattern", "the same"),
        Side("strace", (_path("strace"), *strace), "nothing", "file, network and process calls, as text"),
        Side(
            "bubblewrap",
            (_path("bwrap"), *bwrap, "--unshare-pid", "--unshare-net", "--die-with-parent"),
            "files by mounts, no network",
            "nothing",
        ),
        Side(
            "firejail",
            (_path("firejail"), "--quiet", "--noprofile", "--net=none", "--read-only=/", "--read-write={here}", "--"),
            "files by mounts, no network",
            "nothing",
        ),
        Side("gVisor", (_path("runsc"), *gvisor, "do", "-cwd", "{here}"), "a kernel of its own, an overlay", "nothing"),
        Side("sandlock", (python, str(folder / "run-sandlock.py")), "files by path, no network", "nothing"),
        Side("nono", (python, str(folder / "run-nono.py")), "files by path, no network", "nothing"),
    ]


def _path(program: str) -> str:
    return shutil.which(program) or program
