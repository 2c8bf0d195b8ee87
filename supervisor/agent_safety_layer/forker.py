"""The helper process: imports what runs import, does once what each would do, and forks a supervisor for each of them.

It has neither threads nor the modules for them: what they do in each forked process takes half a millisecond, and a run
forks three times.
"""

from __future__ import annotations

import _signal
import gc
import os
import socket
import sys
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


__all__ = ["main", "warm"]
