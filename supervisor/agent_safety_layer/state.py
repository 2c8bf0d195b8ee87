"""Where runs keep what outlives them: ``<state>/traces`` and, later, queues. Private to the user who runs them."""

from __future__ import annotations

import errno
import os
import stat
import time

from agent_safety_layer.errors import AslError, UsageError
from agent_safety_layer.events import text_of

_REMEDY = "Set ASL_STATE to a folder of your own."


def working_directory() -> str:
    """The path of the folder that this process is in, spelled as in events. ``UsageError`` where it was deleted."""
    try:
        return text_of(os.getcwdb())
    except FileNotFoundError as error:
        raise UsageError("The working directory was deleted.", remedy="Change to one that is there.") from error


def state_path() -> str:
    """The state folder's absolute path: ``$ASL_STATE``, else ``$XDG_STATE_HOME/asl``, else ``~/.local/state/asl``."""
    given = os.environ.get("ASL_STATE")
    if given:
        return os.path.abspath(given)
    base = os.environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):  # the XDG specification: a relative path is to be ignored
        home = os.path.expanduser("~")
        if not home.startswith("/"):
            raise AslError("No state folder: this user has no home folder.", remedy=_REMEDY)
        base = os.path.join(home, ".local/state")
    return os.path.join(base, "asl")


def state_dir(name: str = "") -> str:
    """The state folder, or the folder *name* in it. Establishes: it exists, is ours, and nobody else can enter it.

    Raises ``AslError`` when it cannot be made or belongs to someone else.
    """
    path = state_path()
    try:
        make_private(path)
    except AslError as error:
        raise AslError(f"State folder {path}: {error.message}", remedy=_REMEDY) from None
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise AslError(f"State folder {path} is not a folder.", remedy=_REMEDY)
    if found.st_uid != os.geteuid():
        raise AslError(
            f"State folder {path} belongs to user {found.st_uid}, not to user {os.geteuid()}.", remedy=_REMEDY
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.chmod(path, 0o700)
    if name:
        path = os.path.join(path, name)
        make_private(path)
    return path


def make_private(path: str) -> None:
    """Establishes: the folder exists. Each folder that had to be made is open to its owner only (0700)."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        parent = os.path.dirname(path)
        if parent == path:
            break
        path = parent
    for folder in reversed(missing):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:  # another run made it meanwhile, or it is something else
            if not os.path.isdir(folder):
                raise AslError(f"{folder} is not a folder.", remedy="Move it away, or choose another path.") from None
        except OSError as error:
            what = os.strerror(error.errno or errno.EIO)
            raise AslError(
                f"Cannot make folder {folder}: {what}.", remedy="Choose a path that you can write."
            ) from None


def new_run_id(now: float | None = None) -> str:
    """A name for a run that sorts by its start (UTC, milliseconds) and is unique: ``20240131-235959.123-9f3ac2``."""
    now = time.time() if now is None else now
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}.{int(now * 1000) % 1000:03d}-{os.urandom(3).hex()}"
