"""``Supervisor``: commands run under a policy that the kernel enforces, started from a program."""

from __future__ import annotations

import locale
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

from agent_safety_layer import helper
from agent_safety_layer.approval import ApprovalGate, AsyncApprovalGate
from agent_safety_layer.approvals.linked import PROGRAM
from agent_safety_layer.compiled import limits_from
from agent_safety_layer.errors import UsageError
from agent_safety_layer.filepolicy import loaded
from agent_safety_layer.outcome import Completed
from agent_safety_layer.policies import Policy
from agent_safety_layer.policy import PROFILES
from agent_safety_layer.policy import Policy as FilePolicies
from agent_safety_layer.policy.model import Layer, Limits
from agent_safety_layer.policy.plain import plain
from agent_safety_layer.run import Run
from agent_safety_layer.streams import Stream, Streams
from asl_hooks.value import replace

Source = str | os.PathLike[str] | FilePolicies | Policy
Command = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class Options(TypedDict, total=False):
    """What ``run``, ``popen`` and ``arun`` all take: as for ``subprocess.run``, and a name and a place for the run."""

    stdin: Stream
    stdout: Stream
    stderr: Stream
    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str] | None
    timeout: float | None
    name: str
    trace: str | os.PathLike[str]


class Supervisor:
    """Runs commands under a policy: what ``asl-supervise`` does, for programs. From any thread, any number at once.

    ``policy`` is a built-in profile, the path of a policy file, what ``load_policy`` returns, or several of these:
    layers, each of which must agree. ``extra`` joins the first one that is a name or a path, and is shaped like a
    policy file; ``limits`` hold in addition to the policies'. ``observe`` blocks nothing and records everything. What
    a policy asks a person waits at the ``approval_gate``, in threads of this program, while the run goes on; without
    one it is refused. The administrator's policy holds whatever is given here. Raises ``PolicyError`` when there is no
    such profile or file, or something is wrong with it; files are read again for each run.

    Python policies (``Policy.custom``) can be among them, or stand alone beside the default profile. They are asked
    here, in threads, about every operation that the files do not block, while the call waits: the operation is the
    command, or ``"file.write /path"``; the context has ``event``, ``operation_type`` (its kind), ``path``, ``command``,
    ``host``, ``port``, ``pid``, ``exe``. A connection is asked about at the call, and again for each address that would
    be dialled. What one raises is logged and blocks.

    The first run starts a helper process, which forks the supervisor of each run; when this program ends, so do the
    helper and every run.

    >>> supervisor = Supervisor("offline", limits={"wall_time": "1m"})
    >>> done = supervisor.run(["sh", "-c", "echo hello; cat /etc/shadow"], capture_output=True, text=True)
    >>> done.stdout
    'hello\\n'
    >>> [(denied.kind, denied.object) for denied in done.denials]
    [('file.read', '/etc/shadow')]
    """

    def __init__(
        self,
        policy: Source | Sequence[Source] = (),
        *,
        extra: Mapping[str, Any] | None = None,
        limits: Mapping[str, Any] | None = None,
        observe: bool = False,
        best_effort: bool = False,
        approval_gate: ApprovalGate | AsyncApprovalGate | None = None,
    ) -> None:
        given = _several(policy)
        self.sources = tuple(_source(each) for each in given if not isinstance(each, FilePolicies | Policy))
        self.loaded = [each for each in given if isinstance(each, FilePolicies)]
        self.custom = [each for each in given if isinstance(each, Policy)]
        if extra and self.loaded and not self.sources:
            raise UsageError("Nothing for `extra` to join.", remedy="Give it to load_policy instead.")
        self.extra = {section: dict(entries) for section, entries in (extra or {}).items()}
        if self.sources or self.extra:
            loaded(self.sources, None, tempfile.gettempdir(), self.extra)  # a mistake is told now, not at the first run
        self.limits = limits_from(limits or {})
        self.observe = observe
        self.best_effort = best_effort
        self.approval_gate = approval_gate
        self._without: frozenset[str] = frozenset()

    @overload
    def run(
        self,
        command: Command,
        *,
        input: bytes | None = None,
        capture_output: bool = False,
        text: Literal[False] = False,
        check: bool = False,
        **options: Unpack[Options],
    ) -> Completed[bytes]: ...

    @overload
    def run(
        self,
        command: Command,
        *,
        input: str | None = None,
        capture_output: bool = False,
        text: Literal[True],
        check: bool = False,
        **options: Unpack[Options],
    ) -> Completed[str]: ...

    def run(
        self,
        command: Command,
        *,
        input: str | bytes | None = None,
        capture_output: bool = False,
        text: bool = False,
        check: bool = False,
        **options: Unpack[Options],
    ) -> Completed[Any]:
        """The command, run to its end. Arguments are those of ``subprocess.run``, as far as they are named here and in
        ``Options``.

        After ``timeout`` seconds the tree is ended as by any time limit: the outcome is ``wall_time``, the status 124.
        ``env`` is the child's environment, from which the policy strips secrets; ``name`` and ``trace`` name the run
        and say where its trace goes. Raises ``AslError`` when it may not or cannot start, ``RunFailed`` with ``check``
        when the status is not 0.
        """
        run = self._start(command, input, capture_output, text, options)
        try:
            done = run.finish()
        except BaseException:
            run.abandon()
            raise
        if check:
            done.check()
        return done

    @overload
    def popen(
        self,
        command: Command,
        *,
        capture_output: bool = False,
        text: Literal[False] = False,
        **options: Unpack[Options],
    ) -> Run[bytes]: ...

    @overload
    def popen(
        self, command: Command, *, capture_output: bool = False, text: Literal[True], **options: Unpack[Options]
    ) -> Run[str]: ...

    def popen(
        self, command: Command, *, capture_output: bool = False, text: bool = False, **options: Unpack[Options]
    ) -> Run[Any]:
        """The command, started. Arguments are those of ``run``; ``stdin``, ``stdout`` and ``stderr`` may be ``PIPE``.

        With ``capture_output`` all that is printed is kept until the end.

        >>> with Supervisor("offline").popen(["true"]) as run:
        ...     kinds = {entry.event.kind for entry in run.events()}
        >>> sorted(kinds & {"process.exec", "process.exit"})
        ['process.exec', 'process.exit']
        """
        run = self._start(command, None, capture_output, text, options)
        run.go_on_aside()
        return run

    @overload
    async def arun(
        self,
        command: Command,
        *,
        input: bytes | None = None,
        capture_output: bool = False,
        text: Literal[False] = False,
        check: bool = False,
        **options: Unpack[Options],
    ) -> Completed[bytes]: ...

    @overload
    async def arun(
        self,
        command: Command,
        *,
        input: str | None = None,
        capture_output: bool = False,
        text: Literal[True],
        check: bool = False,
        **options: Unpack[Options],
    ) -> Completed[str]: ...

    async def arun(
        self,
        command: Command,
        *,
        input: str | bytes | None = None,
        capture_output: bool = False,
        text: bool = False,
        check: bool = False,
        **options: Unpack[Options],
    ) -> Completed[Any]:
        """Like ``run``, while the event loop goes on. Cancelled, it ends the tree first."""
        import asyncio

        run = await asyncio.to_thread(self._start, command, input, capture_output, text, options)
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        run.when_over(lambda: loop.call_soon_threadsafe(over.set))
        run.go_on_aside()
        try:
            await over.wait()
        except BaseException:
            run.kill()
            await asyncio.shield(asyncio.to_thread(run.wait))
            raise
        done = run.wait()
        if check:
            done.check()
        return done

    def _start(
        self, command: Command, data: str | bytes | None, capture: bool, text: bool, options: Options
    ) -> Run[Any]:
        """A run whose child is there, and with whose supervisor nobody talks yet."""
        if unknown := sorted(options.keys() - Options.__annotations__.keys()):
            shell = " For a shell's command line write ['sh', '-c', line]." if "shell" in unknown else ""
            raise TypeError(f"A run takes no argument {unknown[0]!r}.{shell}")
        args = (command,) if isinstance(command, str | os.PathLike) else tuple(command)
        given = [options.get("stdin"), options.get("stdout"), options.get("stderr")]
        encoding = (locale.getencoding(), "strict") if text else None
        kept = set()
        if capture:
            if given[1:] != [None, None]:
                raise UsageError("capture_output goes with neither stdout nor stderr.")
            given[1:] = [subprocess.PIPE] * 2
            kept = {1, 2}
        if data is not None:
            if given[0] is not None:
                raise UsageError("input goes with no stdin.")
            if isinstance(data, str):
                if encoding is None:
                    raise UsageError("Text as input needs text=True.")
                data = data.encode(*encoding)
            given[0] = subprocess.PIPE
            kept.add(0)
        streams = Streams(given)
        try:
            words = tuple(os.fspath(word) for word in args)
            run: Run[Any] = Run(helper.connect(), words, encoding, self.custom, self.approval_gate)
            run.take(streams, kept, data or b"")
            run.begin(self._request(run.args, list(streams.theirs), options), tuple(streams.theirs.values()))
        finally:
            streams.close()
        return run

    def _request(self, args: tuple[str, ...], places: list[int], options: Options) -> dict[str, Any]:
        layers = [layer for policy in self.loaded for layer in policy.layers]
        if self.observe:
            layers = [replace(layer, mode="observe") for layer in layers]
        sources = self.sources or (() if layers else ("workspace",))
        for limits in (self.limits, Limits(wall_time_s=options.get("timeout"))):
            if limits != Limits():
                layers.append(Layer("limits", limits=limits))
        env, trace = options.get("env"), options.get("trace")
        return {
            "settings": {
                "command": args,
                "policies": sources,
                "observe": self.observe,
                "best_effort": self.best_effort,
                "name": options.get("name", ""),
                "trace": os.path.abspath(trace) if trace else "",
                "verbosity": -1,
                "approve": "deny" if self.approval_gate is None else PROGRAM,
                "custom": [policy.name for policy in self.custom],
            },
            "layers": plain(FilePolicies(tuple(layers)), environment=True),
            "sources": [source for policy in self.loaded for source in policy.sources],
            "extra": self.extra,
            "environment": None if env is None else dict(env),
            "own_environment": dict(os.environ),
            "cwd": os.path.abspath(options.get("cwd") or "."),
            "umask": _umask(),
            "places": places,
            "without": sorted(self._without),
        }


def _several(policy: object) -> list[Source]:
    given = [policy] if isinstance(policy, str | os.PathLike | FilePolicies | Policy) else policy
    if isinstance(given, Iterable) and not isinstance(given, bytes | Mapping):
        found = list(given)
        if all(isinstance(each, str | os.PathLike | FilePolicies | Policy) for each in found):
            return found
        given = next(each for each in found if not isinstance(each, str | os.PathLike | FilePolicies | Policy))
    raise TypeError(
        "A policy is the name of a profile, the path of a policy file, what load_policy returns, a Python policy"
        f" (Policy.custom), or a list of these; {given!r} is none."
    )


def _source(given: str | os.PathLike[str]) -> str:
    """The name of a profile, or the absolute path of a file: where a run takes place does not change which is meant."""
    name = os.fspath(given)
    is_file = "/" in name or name.endswith((".yaml", ".yml")) or os.path.exists(name)
    return os.path.abspath(name) if is_file and name not in PROFILES else name


def _umask() -> int:
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    return 0o022


__all__ = ["Supervisor"]
