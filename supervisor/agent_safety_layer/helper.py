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

import _signal
import gc
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from importlib import import_module

from agent_safety_layer.errors import AslError
from agent_safety_layer.link import Link, receive_with_fds
from agent_safety_layer.state import state_path

# What a run imports, so that none has to.
_NEEDED = (
    *(
        "denials",
        "engine.aliases",
        "hosted",
        "limits",
        "machine",
        "meter",
        "output",
        "own",
        "private",
        "report",
        "session",
        "state",
    ),
    *("summary", "tally", "terminal", "tree", "wording", "egress.client", "egress.gate", "engine.answers"),
    *("engine.describers", "engine.egress", "engine.execs", "engine.gate", "engine.loop", "engine.opens"),
    *("engine.recorder", "engine.view", "policy.commands", "policy.decision", "policy.draft", "policy.environ"),
    *("policy.files", "policy.globs", "policy.hosts", "policy.loading", "policy.model", "policy.network"),
    *("policy.paths", "policy.plain", "policy.planner", "policy.reader", "policy.remedies", "policy.ruleset"),
    *("policy.state", "policy.summary", "trace.encode", "trace.header", "trace.redact", "trace.writer"),
)
_HOOKS = (
    *("_abi.landlock", "cgroup", "filters", "landlock", "launch", "netns", "notify", "ptrace", "throttle", "usage"),
    "warden",
)
_REHEARSALS = 2
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
    return f"import sys; {paths}; from agent_safety_layer.helper import main; main()"


# -- in the helper -----------------------------------------------------------------------------------------------------


def main() -> None:
    """The helper: forks a supervisor for each end of a socket that arrives. Ends when the program does."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    for number in (_signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM, _signal.SIGHUP):
        if _signal.getsignal(number) is not _signal.SIG_IGN:
            _signal.signal(number, lambda *_: None)  # meant for the program, which shares our terminal
    _signal.signal(_signal.SIGCHLD, _reap)
    warm()
    gc.collect()
    gc.freeze()
    gc.disable()
    while True:
        data, fds = receive_with_fds(control, 1)
        if not data:
            os._exit(0)
        if os.fork() == 0:
            try:
                control.close()
                _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
                from agent_safety_layer.hosted import serve

                serve(Link(socket.socket(fileno=fds[0])))
            finally:
                os._exit(70)
        os.close(fds[0])


def warm() -> None:
    """Establishes: a run that starts here imports nothing more, and finds the usual filter assembled."""
    from agent_safety_layer.machine import Machine
    from agent_safety_layer.policy import Plan
    from agent_safety_layer.trace import writer

    for name in _NEEDED:
        import_module(f"agent_safety_layer.{name}")
    for name in _HOOKS:
        import_module(f"asl_hooks.{name}")
    writer.light_sha256()
    usual = Machine(frozenset())
    usual.ruleset(Plan((), (), True)).close()
    usual.kernel().program()
    with suppress(AslError, OSError):  # a run will say what is wrong
        _rehearse()


def _rehearse() -> None:
    """Establishes: what a run under the default profile does before its child starts has been done once, so that
    documents are parsed and the interpreter has adapted to the code.
    """
    from agent_safety_layer.policy import DEFAULT, System, brief, environment, load, plan, profile_path
    from agent_safety_layer.policy.environ import built_in
    from agent_safety_layer.trace.encode import dumps
    from agent_safety_layer.trace.header import with_policy

    cache = os.path.join(state_path(), "cache")
    variables = {"WORKSPACE": os.path.dirname(profile_path(DEFAULT)), "HOME": os.path.expanduser("~")}
    for _ in range(_REHEARSALS):
        policy = load(variables=variables, cache=cache)
        plan(policy, System())
        dumps(with_policy({"policy": {"sha256": policy.sha256}}, policy, variables))
        environment(policy, os.environ)
        brief(policy)
    built_in(cache)


def _reap(*_: object) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


__all__ = ["close", "connect", "main"]
