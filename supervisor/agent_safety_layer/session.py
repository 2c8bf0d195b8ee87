"""One supervised run, from policy to report: everything that must hold is set up before the child's first instruction.

    policy ─ plan ─ filter, ruleset ─ launch (bounded child waits) ─ trace header ─ go ─ loop ─ end of the tree ─
    footer, report

Nothing starts when a part of the policy cannot be enforced here, unless ``best_effort`` says so; then the trace's
header and the report list what is not.
"""

from __future__ import annotations

import _signal
import os
import select
import struct
from time import monotonic, time

from agent_safety_layer import state
from agent_safety_layer.errors import AslError, TraceError, UnsupportedError, UsageError
from agent_safety_layer.report import Ending, ReportFile, footer, report
from agent_safety_layer.tally import Tally
from agent_safety_layer.terminal import Stderr, colour_wanted
from asl_hooks import warden
from asl_hooks._abi import linux
from asl_hooks.value import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from agent_safety_layer.engine.gate import Gate
    from agent_safety_layer.engine.loop import Engine, Kernel
    from agent_safety_layer.policy import Plan, Policy
    from asl_hooks.launch import Launched

GRACE_S = 5.0
_FORWARDED = (
    *(_signal.SIGTERM, _signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGUSR1, _signal.SIGUSR2),
    *(_signal.SIGWINCH, _signal.SIGCONT),
)
_FROM_TERMINAL = (_signal.SIGINT, _signal.SIGQUIT)


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
        self._outcome = ""
        self._signals = 0
        self._deadlines: list[tuple[float, str]] = []

    # -- set-up ----------------------------------------------------------------------------------------------------

    def run(self) -> Ending:
        """Run the command under the policy. Raises ``AslError`` when it may not or cannot start; nothing is left
        running then.
        """
        settings = self.settings
        started = monotonic()
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
        from agent_safety_layer.policy import Bounds as Prefixes
        from agent_safety_layer.trace.header import header
        from agent_safety_layer.trace.writer import TraceWriter
        from asl_hooks.launch import LaunchSpec, launch
        from asl_hooks.notify import Listener

        machine = _Machine(settings.without)
        ruleset, readable, writable = machine.ruleset(plan)
        bounds = machine.bounds(policy, ruleset >= 0)
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
            enforced=dict(bounds.enforced),
            not_enforced=bounds.missing,
        )
        self.trace_path = (
            os.path.abspath(settings.trace) if settings.trace else f"{state_dir}/traces/{self.run_id}.jsonl"
        )
        writer = TraceWriter(self.trace_path, self._header)
        denials = Denials(self._stderr, fd=private.denials, colour=self._colour, quiet=settings.verbosity < 0)
        recorder = Recorder(writer, self.tally, denials)
        environment = self._environment(policy, private)
        program, kernel = machine.filters(ruleset >= 0)
        try:
            launched = launch(
                LaunchSpec(
                    argv=settings.command,
                    environment=environment,
                    filter=program,
                    ruleset=ruleset,
                    ruleset_log=machine.log,
                    limits=_rlimits(policy),
                )
            )
        except BaseException:
            writer.close({"outcome": "refused", "exit_code": 125})
            raise
        finally:
            if ruleset >= 0:
                os.close(ruleset)
        engine = Engine(
            Listener(launched.listener),
            policy,
            plan,
            (Prefixes(readable), Prefixes(writable)),
            recorder,
            _Late(),
            Names(),
            warden=launched.warden,
            verify_exec="ptrace" in dict(bounds.enforced),
            kernel=kernel,
            max_processes=policy.limits.processes or 0,
        )
        gate = self._gate(policy, engine)
        engine.gate = gate
        tree = _Tree(self, engine, launched, policy, recorder)
        try:
            ending = tree.live(started)
        finally:
            gate.close()
            tree.end()
            engine.close()
        return self._close(ending, writer, denials)

    def _gate(self, policy: Policy, engine: Engine) -> Gate:
        from agent_safety_layer.engine.gate import Nobody, Terminal

        if self.settings.approve == "tty":
            try:
                return Terminal(policy.approvals.timeout_s, engine.later)
            except OSError as error:
                raise UsageError(
                    f"--approve tty needs a terminal, and there is none ({error.strerror}).",
                    remedy="Run it from a terminal, or with --approve deny.",
                ) from error
        return Nobody()

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


class _Late:
    """Stands in for the gate until there is a loop to answer to."""

    def ask(self, event: object, decision: object, answered: Any) -> None:
        answered(False, "nobody could be asked yet")

    def close(self) -> None:
        """Nothing is open."""


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


def _rlimits(policy: Policy) -> tuple[tuple[int, int, int], ...]:
    import resource

    limits = policy.limits
    wanted = (
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_FSIZE, limits.file_size_bytes),
        (resource.RLIMIT_CPU, None if limits.cpu_time_s is None else int(limits.cpu_time_s) + 1),
    )
    chosen = [(which, amount, amount) for which, amount in wanted if amount is not None]
    return (*chosen, (resource.RLIMIT_CORE, 0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


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

    def filters(self, landlocked: bool) -> tuple[bytes, Kernel]:
        """The seccomp program, and what the engine needs to know of the kernel's part."""
        from agent_safety_layer.engine.loop import FILE_TAGS, NETWORK_TAGS, OTHER_TAGS, Kernel
        from asl_hooks import bpf, filters, syscalls

        scoped = landlocked and "scope.signal" not in self.lost
        notified = {*FILE_TAGS, *NETWORK_TAGS, *OTHER_TAGS, "kill", *(() if scoped else ("setown",))}
        arch = syscalls.native_arch()
        program = bpf.assemble(filters.build(arch, notified, report=True, keep_dumpable=True))
        silent = filters.build(arch, notified, keep_dumpable=True)
        return program, Kernel(silent, scoped, landlocked and "fs.truncate" not in self.lost)

    def bounds(self, policy: Policy, landlocked: bool) -> Bounds:
        """What will hold, and what of *policy* nothing here can hold."""
        enforced = [
            (
                "seccomp",
                "every file, network and exec call is stopped and judged; calls that no agent needs are refused",
            ),
            ("rlimits", "open files, file size, CPU time of each process"),
        ]
        if landlocked:
            enforced.append(("landlock", f"ABI {self.abi}: what is waved through stays inside the allowed folders"))
        missing = []
        if "ptrace" not in self._without:
            enforced.append(("ptrace", "what an exec really runs is verified before its first instruction"))
        elif any(layer.exec is not None for layer in policy.enforced.layers):
            missing.append("exec rules need ptrace to verify what runs")
        if policy.limits.output_bytes is not None:
            missing.append("limits.output: output is not counted")
        return Bounds(tuple(enforced), tuple(missing))


class _Tree:
    """The life of a launched tree: signals, limits, its end."""

    def __init__(self, session: Session, engine: Engine, launched: Launched, policy: Policy, recorder: Any) -> None:
        self._session = session
        self._engine = engine
        self._launched = launched
        self._policy = policy
        self._recorder = recorder
        self._status: tuple[int, ...] | None = None
        self._usage = (0.0, 0.0, 0)
        self._kill_at = 0.0
        self._outcome = ""
        self._interrupts = 0
        self._ended = False
        self._saved: dict[int, Any] = {}

    def live(self, started: float) -> Ending:
        """Let the child go and serve the tree until the child has ended; then end what is left."""
        engine, launched = self._engine, self._launched
        engine.watch(launched.status)
        engine.on_signal = self._signalled
        engine.on_violation = lambda: self._stop("violation", 0)
        self._take_signals()
        try:
            os.write(launched.go, b"g")
            limits = self._policy.limits
            wall = started + limits.wall_time_s if limits.wall_time_s is not None else 0.0
            sampled = limits.cpu_time_s is not None or limits.memory_bytes is not None
            while self._status is None:
                self._turn(wall, sampled)
            self.end()
        finally:
            self._give_back_signals()
        return self._ending(monotonic() - started)

    def _turn(self, wall: float, sampled: bool) -> None:
        from agent_safety_layer.engine.loop import Exited

        now = monotonic()
        engine = self._engine
        waits = [0.2] if self._recorder.pending or sampled else []
        for at in (wall if not self._outcome else 0.0, self._kill_at):
            if at:
                waits.append(max(at - now, 0.0))
        try:
            ready = engine.turn(min(waits, default=-1))
        except Exited:
            ready = [self._launched.status]
        now = monotonic()
        try:
            engine.tick(now)
        except TraceError as error:
            self._session._stderr.write(f"asl-supervise: {error}\n")
            self._stop("trace_full", 0)
        if self._launched.status in ready:
            self._read_status()
        if wall and now >= wall and not self._outcome:
            self._stop("wall_time", GRACE_S)
        if sampled and not self._outcome:
            self._sample()
        if self._kill_at and now >= self._kill_at:
            self.end()

    def _read_status(self) -> None:
        data = os.read(self._launched.status, warden.STATUS.size)
        if len(data) != warden.STATUS.size:  # the warden died: nothing of the tree may live on
            self._status = (9, 0)
            self._outcome = self._outcome or "failed"
            return
        status, pid, user, system, peak = warden.STATUS.unpack(data)
        if pid:
            self._status = (status, pid)
        self._usage = (user, system, peak)

    def _sample(self) -> None:
        """Limits on the whole tree where no cgroup holds them: add up what its processes use."""
        limits = self._policy.limits
        ticks = os.sysconf("SC_CLK_TCK")
        cpu, memory = 0.0, 0
        for pid in warden.descendants(self._launched.warden):
            try:
                with open(f"/proc/{pid}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            cpu += sum(int(field) for field in fields[11:15]) / ticks
            memory += int(fields[21]) * 4096
        if limits.cpu_time_s is not None and cpu >= limits.cpu_time_s:
            self._stop("cpu_time", GRACE_S)
        elif limits.memory_bytes is not None and memory >= limits.memory_bytes:
            self._stop("memory", 0)

    def _stop(self, outcome: str, grace_s: float) -> None:
        """End the tree because of *outcome*: ask the child first if there is grace, then kill everything."""
        if self._outcome:
            return
        self._outcome = outcome
        if grace_s:
            self._send(_signal.SIGTERM)
            self._send(_signal.SIGCONT)
            self._kill_at = monotonic() + grace_s
        else:
            self.end()

    def _send(self, number: int) -> None:
        try:
            os.kill(self._launched.pid, number)
        except ProcessLookupError:
            pass

    # -- signals ---------------------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        try:
            for number in (*_FORWARDED, _signal.SIGCHLD):
                self._saved[number] = _signal.getsignal(number)
                if self._saved[number] is not _signal.SIG_IGN or number == _signal.SIGCHLD:
                    _signal.signal(number, lambda *_: None)
            self._saved[-1] = _signal.set_wakeup_fd(self._engine.wake_fd, warn_on_full_buffer=False)
        except ValueError as error:  # not in the main thread
            raise UsageError(
                "A supervised run needs the main thread, for its signals.", remedy="Start it there."
            ) from error

    def _give_back_signals(self) -> None:
        _signal.set_wakeup_fd(self._saved.pop(-1, -1))
        for number, handler in self._saved.items():
            _signal.signal(number, handler if handler is not None else _signal.SIG_DFL)

    def _signalled(self, number: int) -> None:
        if number in _FROM_TERMINAL:
            self._interrupts += 1
            if self._interrupts > 1:
                self._stop("signaled", 0)
                return
            if self._shares_foreground():
                return  # the terminal sent it to the child as well
        self._send(number)

    def _shares_foreground(self) -> bool:
        """Whether a signal typed on the terminal reaches the child by itself: it is in our group, and that is in
        front.
        """
        try:
            return os.getpgid(self._launched.pid) == os.getpgrp() == os.tcgetpgrp(2)
        except OSError:
            return False

    # -- the end ---------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """End everything that is left of the tree. Postcondition: none of it lives. A second call does nothing."""
        if self._ended:
            return
        self._ended = True
        self._engine.closing = True
        launched = self._launched
        try:
            os.write(launched.control, b"e")
        except BrokenPipeError:
            pass
        os.close(launched.go)
        poll = select.poll()
        poll.register(launched.status, select.POLLIN)
        while True:
            poll.poll(1000)
            try:
                data = os.read(launched.status, warden.STATUS.size)
            except OSError:
                break
            if len(data) != warden.STATUS.size:
                break
            status, pid, user, system, peak = warden.STATUS.unpack(data)
            if pid and self._status is None:
                self._status = (status, pid)
            self._usage = (user, system, peak)
        os.waitpid(launched.warden, 0)
        for fd in (launched.control, launched.status, launched.pidfd):
            os.close(fd)
        if self._status is None:
            self._status = (9, 0)

    def _ending(self, wall_s: float) -> Ending:
        assert self._status is not None
        status = self._status[0]
        user, system, peak = self._usage
        signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = 128 + signal if signal else os.WEXITSTATUS(status)
        outcome = self._outcome or ("signaled" if signal else "exited")
        if outcome in ("wall_time", "cpu_time"):
            code = 124
        elif outcome == "memory":
            code = 137
        elif outcome in ("violation", "trace_full", "failed"):
            code = 125 if outcome != "violation" else code
        return Ending(outcome, code, signal, wall_s, user, system, peak)


_ = (AslError, struct, linux)
if TYPE_CHECKING:
    _m: Mapping[str, str]
