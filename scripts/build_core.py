"""Builds the compiled core (``_core.c``) into the wheel, or for an editable install into the checkout.

It is an option: where there is no C compiler or no ``Python.h``, the package is installed without it, and is slower.
One file serves every Python from 3.11 on (the limited API).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "supervisor/agent_safety_layer"
FLAGS = ("-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2")


class CoreHook(BuildHookInterface):
    """A build hook of hatchling's."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and add what came of it."""
        package = Path(self.root, PACKAGE)
        folder = package if version == "editable" else Path(tempfile.mkdtemp())
        built = folder / "_core.abi3.so"
        why = compile_core(package / "_core.c", built)
        if why:
            built.unlink(missing_ok=True)
            self.app.display_warning(f"The compiled core is left out: {why}")
        elif version != "editable":
            build_data["force_include"][str(built)] = "agent_safety_layer/_core.abi3.so"
            build_data["pure_python"] = False
            build_data["tag"] = f"cp311-abi3-{sysconfig.get_platform().replace('-', '_')}"


def compile_core(source: Path, built: Path) -> str:
    """Make *built*; why not, where that is not to be had."""
    include = sysconfig.get_path("include")
    if not Path(include, "Python.h").exists():
        return f"there is no {include}/Python.h"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    scratch = built.with_suffix(f".{os.getpid()}")  # a process may run the one that is there
    try:
        command = [*compiler, *FLAGS, f"-I{include}", "-o", str(scratch), str(source), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{compiler[0]} failed: {done.stderr.strip()[-500:]}"
        scratch.replace(built)
    except OSError as error:
        return f"{compiler[0]}: {error.strerror}"
    finally:
        scratch.unlink(missing_ok=True)
    return ""
