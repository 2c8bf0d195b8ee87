"""The helper process: warm, small and with a main thread of its own, it forks the supervisor of each run.

    program ── start, once ──► helper (all modules loaded, no threads)
       │  one end of a socket pair for each run ──►  │ fork
       │ ◄───────── settings, control, report ─────► supervisor of the run ── warden ── child …

A supervisor needs signals, its own children and a main thread; a program that embeds the library has a Jupyter kernel,
a web server or a test runner in those places, and may be too big to fork quickly. So runs are none of its business: it
may start them from any thread, and has no child but the helper. When the program dies its sockets close, and every run
ends.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

from agent_safety_layer.errors import AslError
from agent_safety_layer.link import Link

_lock = threading.Lock()
_helper: Helper | None = None


class Helper:
    """The helper of this process, as its other side sees it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [_interpreter(), "-I", "-c", _program(), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        self._socket = ours
        self._identity = _identity()

    def serves(self) -> bool:
        """Whether it is alive, and was started by who we are now."""
        return self._identity == _identity() and self._process.poll() is None

    def connect(self) -> Link:
        """A new run's supervisor, which waits for its settings. Raises ``OSError`` when the helper is gone."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._socket, [b"r"], [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        link = Link(ours)
        if link.receive() is None:  # the helper was killed before it came to this
            link.close()
            raise BrokenPipeError
        return link

    def forget(self) -> None:
        """Give up our end, as in a forked child: the helper is the parent's."""
        self._socket.close()
        self._process.returncode = 0  # not ours to wait for

    def close(self) -> None:
        """End the helper. Runs go on."""
        self._socket.close()
        self._process.wait()


def connect() -> Link:
    """A supervisor for a run, which waits for its settings. Starts the helper if there is none."""
    global _helper
    with _lock:
        for _ in range(2):
            if _helper is None or not _helper.serves():
                if _helper is not None:
                    _helper.close()
                else:
                    import atexit

                    atexit.register(close)
                _helper = Helper()
            try:
                return _helper.connect()
            except OSError:  # it was killed just now
                _helper.close()
                _helper = None
    raise AslError("The helper process that runs are started by dies at once.", remedy="Its stderr says why.")


def close() -> None:
    """End the helper, if there is one; the next run starts another."""
    global _helper
    with _lock:
        if _helper is not None:
            _helper.close()
            _helper = None


def _forked() -> None:
    global _helper, _lock
    _lock = threading.Lock()
    if _helper is not None:
        _helper.forget()
        _helper = None


os.register_at_fork(after_in_child=_forked)


def _identity() -> tuple[object, ...]:
    return os.getresuid(), os.getresgid()


def _interpreter() -> str:
    """A Python to run the helper: this one, unless the program is not called through one."""
    for path in (sys.executable, os.path.join(sys.prefix, "bin", "python3")):
        if path and os.path.basename(path).startswith("python") and os.access(path, os.X_OK):
            return path
    raise AslError("No Python interpreter to start runs with.", remedy="sys.executable must name one.")


def _program() -> str:
    """Isolated from the environment and the working directory, which an agent may have written to."""
    import asl_hooks
    from agent_safety_layer import __file__ as package

    roots = [os.path.dirname(os.path.dirname(os.path.abspath(str(file)))) for file in (package, asl_hooks.__file__)]
    others = [path for path in sys.path if os.path.isabs(path)]
    paths = f"sys.path[:0] = {roots!r}; sys.path += {others!r}"
    return f"import sys; {paths}; from agent_safety_layer.forker import main; main()"


__all__ = ["close", "connect"]
