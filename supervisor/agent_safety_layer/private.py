"""What a run has for itself: a temporary folder for the tree, and the file that it reads its denials from."""

from __future__ import annotations

import os

from agent_safety_layer.errors import AslError


class Private:
    """Both, made anew. ``tmp`` is the folder; ``denials`` the open file at ``denials_path``, in it.

    The tree may do what it likes with that file: it is there for it, and nothing is ever read back from it.
    """

    def __init__(self, name: str) -> None:
        base = os.environ.get("TMPDIR") or "/tmp"
        self.tmp = os.path.join(os.path.realpath(base), name)  # which may be a link by now: that is not followed
        try:
            self._make()
        except FileExistsError:  # somebody has seen the name before
            self.tmp += f"-{os.urandom(4).hex()}"
            self._make()

    def _make(self) -> None:
        self.denials_path = os.path.join(self.tmp, ".denials.jsonl")
        how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        try:
            os.mkdir(self.tmp, 0o700)
            self.denials = os.open(self.denials_path, how, 0o600)
        except FileExistsError:
            raise
        except OSError as error:
            remedy = "Set TMPDIR to a folder that you can write."
            raise AslError(f"Cannot make {self.tmp}: {error.strerror}.", remedy=remedy) from error

    def close(self) -> None:
        """Give up this process's descriptor of the file."""
        os.close(self.denials)

    def remove(self) -> None:
        """Remove both. The tree is gone, but what it left may be anything: folders that nobody may enter included."""
        self.close()
        try:
            os.unlink(self.denials_path)
            os.rmdir(self.tmp)
        except OSError:
            from asl_hooks.scratch import remove

            remove(self.tmp)
