"""What a run has for itself: a temporary folder for the tree, and the file that it reads its denials from."""

from __future__ import annotations

import os

from agent_safety_layer import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Private:
    """Both, made anew. ``tmp`` is the folder, ``denials`` the open file at ``denials_path``."""

    def __init__(self, run_id: str) -> None:
        base = os.environ.get("TMPDIR") or "/tmp"
        self.tmp = os.path.realpath(os.path.join(base, f"asl-{run_id}"))
        os.mkdir(self.tmp, 0o700)
        self.denials_path = os.path.join(state.state_dir("denials"), run_id + ".jsonl")
        self.denials = os.open(
            self.denials_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600
        )

    def remove(self) -> None:
        """Remove both. The tree is gone, but what it left may be anything: folders that nobody may enter included."""
        os.close(self.denials)
        os.unlink(self.denials_path)
        try:
            os.rmdir(self.tmp)
        except OSError:
            _remove_tree(self.tmp)


def _remove_tree(path: str) -> None:
    from shutil import rmtree

    def open_up(function: Any, name: str, _: object) -> None:
        try:
            os.chmod(os.path.dirname(name), 0o700)
            function(name)
        except OSError:
            pass

    rmtree(path, onerror=open_up)
