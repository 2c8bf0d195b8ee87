"""What a run has for itself: a temporary folder for the tree, and the file that it reads its denials from."""

from __future__ import annotations

import os

from agent_safety_layer import state
from agent_safety_layer.errors import AslError


class Private:
    """Both, made anew. ``tmp`` is the folder, ``denials`` the open file at ``denials_path``."""

    def __init__(self, run_id: str) -> None:
        self.denials_path = os.path.join(state.state_dir("denials"), run_id + ".jsonl")
        base = os.environ.get("TMPDIR") or "/tmp"
        self.tmp = os.path.realpath(os.path.join(base, f"asl-{run_id}"))
        how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        try:
            self.denials = os.open(self.denials_path, how, 0o600)
        except OSError as error:
            raise _cannot_make(self.denials_path, error, "Set ASL_STATE to a folder that you can write.") from error
        try:
            os.mkdir(self.tmp, 0o700)
        except OSError as error:
            os.close(self.denials)
            os.unlink(self.denials_path)
            raise _cannot_make(self.tmp, error, "Set TMPDIR to a folder that you can write.") from error

    def remove(self) -> None:
        """Remove both. The tree is gone, but what it left may be anything: folders that nobody may enter included."""
        os.close(self.denials)
        os.unlink(self.denials_path)
        try:
            os.rmdir(self.tmp)
        except OSError:
            from asl_hooks.scratch import remove

            remove(self.tmp)


def _cannot_make(path: str, error: OSError, remedy: str) -> AslError:
    return AslError(f"Cannot make {path}: {error.strerror}.", remedy=remedy)
