"""One supervised run, from policy to report: everything that must hold is set up before the child's first instruction.

    policy ─ plan ─ filter, ruleset ─ launch (bounded child waits) ─ trace header ─ go ─ loop ─ end of the tree ─
    footer, report

Nothing starts when a part of the policy cannot be enforced here, unless ``best_effort`` says so; then the trace's
header and the report list what is not.
"""

from __future__ import annotations

import os
from time import monotonic, time

from agent_safety_layer import state
from agent_safety_layer.errors import TraceError, UnsupportedError, UsageError
from agent_safety_layer.report import Ending, ReportFile, footer, report
from agent_safety_layer.tally import Tally
from agent_safety_layer.terminal import Stderr, colour_wanted
from asl_hooks.stdio import hold_places
from asl_hooks.value import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent_safety_layer.engine.gate import Gate
    from agent_safety_layer.engine.kernel import Kernel
    from agent_safety_layer.engine.loop import Engine
    from agent_safety_layer.output import Output
    from agent_safety_layer.policy import Limits, Plan, Policy
    from asl_hooks.cgroup import Subtree


@value
class Settings:
    """What the user asked for. ``extra`` joins the first policy; ``without`` takes mechanisms away (tests only)."""

    command: tuple[str, ...]
    policies: tuple[str, ...] = ("workspace",)
    extra: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()
    observe: bool = False
    approve: str = "deny"
    trace: str = ""
    report: str = ""
    name: str = ""
    backend: str = "auto"
    best_effort: bool = False
    verbosity: int = 0
    colour: str = "auto"
    without: frozenset[str] = frozenset()


@value
class Bounds:
    """What this machine lets hold for the run: mechanisms with what each enforces, and rules that nothing holds."""

    enforced: tuple[tuple[str, str], ...]
    missing: tuple[str, ...] = ()


class Session:
    """One run. ``run`` blocks until the tree is gone and returns how it ended."""

    def __init__(self, settings: Settings) -> None:
        if not settings.command:
            raise UsageError("No command to run.", remedy="Usage: asl-supervise [OPTIONS] [--] COMMAND [ARG]...")
        self.settings = settings
        self.run_id = state.new_run_id()
        self.tally = Tally()
        self.trace_path = ""
        self._report = ReportFile(settings.report) if settings.report else None
        self._stderr = Stderr()
        self._colour = colour_wanted(settings.colour, 2)
        self._header: dict[str, object] = {}
        self._closed: tuple[int, ...] = ()  # of 0, 1 and 2

    # -- set-up ----------------------------------------------------------------------------------------------------

    def run(self) -> Ending:
        """Run the command under the policy. Raises ``AslError`` when it may not or cannot start; nothing is left
        running then.
        """
        settings = self.settings
        started = monotonic()
        self._closed = hold_places()
        self._check_terminal()
        state_dir = state.state_dir()
        private = _Private(self.run_id)
        try:
            policy, plan = self._policy(state_dir, private.tmp)
            return self._supervise(settings, policy, plan, state_dir, private, started)
        finally:
            private.remove()

    def _policy(self, state_dir: str, tmp: str) -> tuple[Policy, Plan]:
        from agent_safety_layer.policy import System, load, plan

        settings = self.settings
        home = os.path.expanduser("~")
        variables = {
            "WORKSPACE": os.getcwd(),
            "HOME": home,
            "TMP": tmp,
            "USER": os.environ.get("USER", str(os.getuid())),
            "STATE": state_dir,
        }
        policy = load(
            settings.policies,
            variables=variables,
            extra={section: dict(entries) for section, entries in settings.extra},
            cache=os.path.join(state_dir, "cache"),
            observe=settings.observe,
        )
        return policy, plan(policy.enforced, System())

    def _supervise(
        self, settings: Settings, policy: Policy, plan: Plan, state_dir: str, private: _Private, started: float
    ) -> Ending:
        from agent_safety_layer.denials import Denials
        from agent_safety_layer.engine.loop import Engine
        from agent_safety_layer.engine.names import Names
        from agent_safety_layer.engine.recorder import Recorder
        from agent_safety_layer.engine.view import View
        from agent_safety_layer.limits import holders, rlimits
        from agent_safety_layer.policy import Bounds as Prefixes
        from agent_safety_layer.trace.header import header
        from agent_safety_layer.trace.writer import TraceWriter
        from agent_safety_layer.tree import Tree
        from asl_hooks.launch import LaunchSpec, launch
        from asl_hooks.notify import Listener

        machine = _Machine(settings.without)
        ruleset, readable, writable = machine.ruleset(plan)
        bounds = machine.bounds(policy, ruleset >= 0)
        limits = policy.limits
        group = machine.group(limits, self.run_id)
        if bounds.missing and not settings.best_effort:
            raise UnsupportedError(
                "This policy cannot be enforced here: " + "; ".join(bounds.missing),
                "nothing was started",
                "Remove those lines, or run with --best-effort to go on without them.",
            )
        self._header = header(
            run=self.run_id,
            name=settings.name,
            time=time(),
            command=settings.command,
            cwd=os.getcwd(),
            policies=[layer.name for layer in policy.layers],
            policy_hash=policy.sha256,
            mode=policy.mode,
            backend="notify",
            enforced=dict((*bounds.enforced, *holders(limits, group.holds if group else frozenset()))),
            not_enforced=bounds.missing,
        )
        self.trace_path = (
            os.path.abspath(settings.trace) if settings.trace else f"{state_dir}/traces/{self.run_id}.jsonl"
        )
        writer = TraceWriter(self.trace_path, self._header)
        denials = Denials(self._stderr, fd=private.denials, colour=self._colour, quiet=settings.verbosity < 0)
        recorder = Recorder(writer, self.tally, denials)
        environment = self._environment(policy, private)
        kernel = machine.kernel(ruleset >= 0)
        output = self._output(limits)
        try:
            launched = launch(
                LaunchSpec(
                    argv=settings.command,
                    environment=environment,
                    filter=kernel.program(),
                    ruleset=ruleset,
                    ruleset_log=machine.log,
                    limits=rlimits(limits),
                    stdio=tuple(output.given) if output else (),
                    closed=self._closed,
                    groups=group.enter if group else (),
                    kill_all=group.kill_all if group else -1,
                )
            )
        except BaseException:
            if group:
                group.remove()
            writer.close({"outcome": "refused", "exit_code": 125})
            raise
        finally:
            if ruleset >= 0:
                os.close(ruleset)
        view = View(
            policy,
            Prefixes(readable),
            Prefixes(writable),
            wave_reads=plan.wave_reads,
            domain=ruleset >= 0,
            kernel=kernel,
            warden=launched.warden,
        )
        engine = Engine(
            Listener(launched.listener),
            view,
            recorder,
            Names(),
            gate=lambda engine: self._gate(policy, engine),
            verify_exec="ptrace" in dict(bounds.enforced),
            max_processes=limits.processes or 0,
        )
        tree = Tree(engine, launched, limits, recorder, self._stderr, group, output)
        try:
            ending = tree.live(started)
        finally:
            tree.end()
            engine.close()
            if group:
                group.remove()
        return self._close(ending, writer, denials)

    def _output(self, limits: Limits) -> Output | None:
        if limits.output_bytes is None:
            return None
        from agent_safety_layer.output import Output

        return Output(limits.output_bytes, self._closed)

    def _gate(self, policy: Policy, engine: Engine) -> Gate:
        from agent_safety_layer.engine.gate import Nobody, Terminal

        if self.settings.approve == "tty":
            return Terminal(policy.approvals.timeout_s, engine.later)
        return Nobody()

    def _check_terminal(self) -> None:
        if self.settings.approve == "tty":
            try:
                os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY))
            except OSError as error:
                raise UsageError(
                    f"--approve tty needs a terminal, and there is none ({error.strerror}).",
                    remedy="Run it from a terminal, or with --approve deny.",
                ) from error

    def _environment(self, policy: Policy, private: _Private) -> tuple[tuple[str, str], ...]:
        from agent_safety_layer.policy import environment

        variables = environment(policy, os.environ)
        variables |= {"TMPDIR": private.tmp, "ASL_RUN_ID": self.run_id, "ASL_DENIALS": private.denials_path}
        return tuple(variables.items())

    def _close(self, ending: Ending, writer: Any, denials: Any) -> Ending:
        from agent_safety_layer.summary import summary

        denials.close()
        try:
            writer.close(footer(self.tally, ending))
        except TraceError as error:
            self._stderr.write(f"asl-supervise: {error}\n")
            ending = replace(ending, outcome="trace_full", exit_code=125)
        if self._report is not None:
            self._report.write(report(self.tally, self._header, ending, self.trace_path))
        self._stderr.write(
            summary(self.tally, ending, self.trace_path, verbosity=self.settings.verbosity, colour=self._colour)
        )
        return ending


class _Private:
    """What the run has for itself: a temporary folder for the tree, and the file that it reads its denials from."""

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


class _Machine:
    """What of the mechanisms is to be had here, and the kernel's parts of a plan made for it."""

    def __init__(self, without: frozenset[str]) -> None:
        from asl_hooks import landlock

        self._without = without
        self.abi = 0 if "landlock" in without else landlock.abi()
        self.lost: tuple[str, ...] = ()  # of the Landlock rights and scopes that were wanted
        self.log = 0

    def ruleset(self, plan: Plan) -> tuple[int, tuple[str, ...], tuple[str, ...]]:
        """A Landlock ruleset for *plan* (or -1), and what its READ and WRITE parts cover."""
        if not self.abi:
            return -1, (), ()
        if plan.read == ("/",) and plan.write == ("/",):
            return -1, plan.read, plan.write  # nothing is forbidden, so there is nothing to bound
        from asl_hooks import landlock

        rights = [(path, landlock.READ) for path in plan.read]
        rights += [(path, landlock.WRITE) for path in plan.write]
        handled = landlock.READ | landlock.WRITE | landlock.MAKE_DEVICE
        wanted = landlock.Ruleset(fs=handled, scopes=landlock.SCOPES, paths=tuple(rights), log=landlock.LOG_OFF)
        fitting, self.lost = landlock.downgrade(wanted, self.abi)
        self.log = fitting.log
        fd, skipped = landlock.build(fitting)
        gone = set(skipped)
        return (
            fd,
            tuple(path for path in plan.read if path not in gone),
            tuple(path for path in plan.write if path not in gone),
        )

    def kernel(self, landlocked: bool) -> Kernel:
        """What the kernel will do for the run."""
        from agent_safety_layer.engine.kernel import CREDENTIAL_TAGS, NOTIFIED, Kernel

        scoped = landlocked and "scope.signal" not in self.lost
        notified = {*NOTIFIED, *(() if scoped else ("setown",)), *(CREDENTIAL_TAGS if os.geteuid() == 0 else ())}
        truncates = landlocked and "fs.truncate" not in self.lost
        return Kernel(frozenset(notified), scopes_signals=scoped, bounds_truncate=truncates)

    def bounds(self, policy: Policy, landlocked: bool) -> Bounds:
        """What will hold, and what of *policy* nothing here can hold."""
        enforced = [
            (
                "seccomp",
                "every file, network and exec call is stopped and judged; calls that no agent needs are refused",
            ),
        ]
        if landlocked:
            enforced.append(("landlock", f"ABI {self.abi}: what is waved through stays inside the allowed folders"))
        missing = []
        if "ptrace" not in self._without:
            enforced.append(("ptrace", "what an exec really runs is verified before its first instruction"))
        elif any(layer.exec is not None for layer in policy.enforced.layers):
            missing.append("exec rules need ptrace to verify what runs")
        return Bounds(tuple(enforced), tuple(missing))

    def group(self, limits: Limits, run_id: str) -> Subtree | None:
        """A cgroup for the tree, with its limits set, if a limit asks for one and the machine has it."""
        from agent_safety_layer.limits import wanted_controllers

        wanted = wanted_controllers(limits)
        if not wanted or "cgroup" in self._without:
            return None
        from asl_hooks import cgroup

        own = cgroup.places()
        if not any(place.controllers.intersection(wanted) for place in own):
            return None
        group = cgroup.Subtree(f"asl-{run_id}", own, wanted)
        if not group.holds:
            group.remove()
            return None
        if cgroup.MEMORY in group.holds and limits.memory_bytes is not None:
            group.limit_memory(limits.memory_bytes)
        if cgroup.PROCESSES in group.holds and limits.processes is not None:
            group.limit_processes(limits.processes)
        if cgroup.CPU in group.holds and limits.cpu_percent is not None:
            group.limit_cpu(limits.cpu_percent)
        return group
