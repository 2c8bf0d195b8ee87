"""Where ``-o FILE`` writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from agent_safety_layer.errors import AslError
from asl_hooks.paths import is_special


@contextmanager
def output_file(path: str) -> Iterator[TextIO]:
    """A text file that stands at *path* once the block is left without an error; until then nothing there changes.

    What is no regular file there (a device, a pipe, ``/dev/stdout``) is written in place. Raises ``AslError``.
    """
    in_place = is_special(path) or (os.path.exists(path) and not os.path.isfile(path))
    path = path if in_place else os.path.realpath(path)
    scratch = path if in_place else f"{path}.{os.getpid()}"
    try:
        with open(scratch, "w" if in_place else "x", encoding="utf-8", newline="", errors="backslashreplace") as out:
            yield out
        if not in_place:
            os.replace(scratch, path)
    except OSError as error:
        said = error.strerror or str(error)
        raise AslError(f"Cannot write {path}: {said}.", remedy="Choose another file with -o.") from None
    finally:
        if not in_place and os.path.lexists(scratch):
            os.unlink(scratch)
