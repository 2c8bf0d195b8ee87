"""One supervised run, from policy to report: everything that must hold is set up before the child's first instruction.

    policy ─ plan ─ filter, ruleset ─ launch (bounded child waits) ─ trace header ─ go ─ loop ─ end of the tree ─
    footer, report      ▲
                        └ up to here nothing hangs on the process that it is done in: ``prepare``

Nothing starts when a part of the policy cannot be enforced here, unless ``best_effort`` says so; then the trace's
header and the report list what is not.
"""

from __future__ import annotations

import gc
import os
import sys
from _functools import partial
from time import monotonic, time

from agent_safety_layer import state
from agent_safety_layer.errors import (
    AslError,
    InternalError,
    TraceError,
    UnsupportedError,
    UsageError,
)
from agent_safety_layer.events import ASK
from agent_safety_layer.private import Private
from agent_safety_layer.report import Ending, ReportFile, footer, report
from agent_safety_layer.tally import Tally
from agent_safety_layer.terminal import Stderr, colour_wanted
from asl_hooks.stdio import hold_places, out_of_places
from asl_hooks.value import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from agent_safety_layer.approvals.approver import Approver
    from agent_safety_layer.engine.custom import Custom
    from agent_safety_layer.engine.egress import Egress
    from agent_safety_layer.engine.gate import Gate
    from agent_safety_layer.engine.loop import Engine
    from agent_safety_layer.engine.recorder import Recorder
    from agent_safety_layer.engine.view import View
    from agent_safety_layer.events import Decision, Event
    from agent_safety_layer.live import LiveLine
    from agent_safety_layer.machine import Domain, Machine
    from agent_safety_layer.output import Output
    from agent_safety_layer.policy import Layer, Limits, Plan, Policy
    from agent_safety_layer.policy.remembered import Plans
    from agent_safety_layer.tree import Tree
    from asl_hooks.backend import Backend
    from asl_hooks.cgroup import Subtree
    from asl_hooks.launch import Launched, LaunchSpec
else:
    Protocol = object


@value
class Settings:
    """What the user asked for. ``extra`` joins the first policy; ``without`` takes mechanisms away (tests only).

    ``given`` holds further layers, loaded already; the child's ``environment`` is the supervisor's where it is None.
    ``custom`` are the names of Python policies that the session's host has.
    """

    command: tuple[str, ...]
    policies: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()
    observe: bool = False
    approve: str = "deny"
    trace: str = ""
    trace_split: str = ""
    report: str = ""
    name: str = ""
    backend: str = "auto"
    best_effort: bool = False
    verbosity: int = 0
    colour: str = "auto"
    without: frozenset[str] = frozenset()
    given: Policy | None = None
    environment: tuple[tuple[str, str], ...] | None = None
    custom: tuple[str, ...] = ()


@value
class Prepared:
    """What a run needs before its tree is there. ``started`` is when that began, in monotonic seconds."""

    started: float
    policy: Policy
    plan: Plan
    state_dir: str
    private: Private
    machine: Machine
    ruleset: Domain
    environment: tuple[tuple[str, str], ...]


class Host(Protocol):
    """The program that a session runs for, where that is not a person at a terminal."""

    span: str  # of the operation that the run is a part of, if it is
    call: Callable[[], int] | None  # what runs in place of a program
    keep: tuple[int, ...]  # descriptors above 2 that it gets
    plans: Plans | None  # of earlier runs
    place: str  # the name of the run's private folder, if not after the run

    def begins(self, session: Session, engine: Engine, tree: Tree, pid: int) -> None:
        """The child is there and waits for the word."""

    def approver(self, state_dir: str, stderr: Stderr) -> Approver:
        """Whom questions go to, where ``Settings.approve`` is not ``deny``."""

    def custom(self) -> Custom:
        """The Python policies (``Settings.custom`` are their names)."""


def _remedy(policy: Policy, ask: str, event: Event, decision: Decision) -> str:
    """What would allow the event; *ask* says how to be asked, where somebody could have been and was not."""
    from agent_safety_layer.policy import remedy

    said = remedy(policy, event, decision)
    return " or ".join(filter(None, (said, ask))) if decision.action == ASK else said


def _with_tmp(layer: Layer, tmp: str) -> Layer:
    """A layer that was loaded before the run had its private folder, with that folder to write in."""
    from agent_safety_layer.policy.globs import escape
    from agent_safety_layer.policy.model import Entry

    if layer.files is None or not layer.files.write_list:
        return layer
    own = Entry("${TMP}", layer.files.write_list, (escape(tmp),))
    return replace(layer, files=replace(layer.files, write=(*layer.files.write, own)))


class Session:
    """One run. ``run`` blocks until the tree is gone and returns how it ended; ``result`` then is the report."""

    def __init__(self, settings: Settings, host: Host | None = None) -> None:
        if not settings.command:
            raise UsageError("No command to run.", remedy="Give its words: ['python', 'agent.py'].")
        self.settings = settings
        self.result: dict[str, object] = {}
        self._host = host
        self.run_id = state.new_run_id()
        self.tally = Tally()
        self.trace_path = ""
        self._report = ReportFile(settings.report) if settings.report else None
        self._stderr = Stderr()
        self._colour = colour_wanted(settings.colour, 2)
        self._header: dict[str, object] = {}
        self._variables: dict[str, str] = {}
        self._given: Policy  # without what holds in every run
        self._closed: tuple[int, ...] = ()  # of 0, 1 and 2
        self._line: LiveLine | None = None
        self._approver: Approver | None = None
        self._prepared: Prepared | None = None

    # -- set-up ----------------------------------------------------------------------------------------------------

    def run(self) -> Ending:
        """Run the command under the policy.

        Raises ``AslError`` when it may not or cannot start, or when we fail; nothing is left running then.
        """
        self._closed = hold_places()
        self.prepare()
        prepared = self._prepared
        assert prepared is not None
        try:
            return self._supervise(prepared)
        finally:
            prepared.private.remove()

    def prepare(self) -> None:
        """Establishes: what can be done before the tree is launched has been done; ``run`` goes on from there, in this
        process or in a fork of it, which needs ``descriptors``. Give them up here then (``hand_over``).

        Raises ``AslError`` when the run may not or cannot start.
        """
        if self._prepared is not None:
            return
        started = monotonic()
        self._refuse_to_nest()
        self._split()  # so that a mistake is told before anything is made
        state_dir = state.state_dir()
        if self._host is not None:
            self._approver = self._host.approver(state_dir, self._stderr) if self.settings.approve != "deny" else None
        elif self.settings.approve != "deny":
            from agent_safety_layer.approvals.approver import approver

            self._approver = approver(self.settings.approve, state_dir, self._stderr)
        from agent_safety_layer.machine import Machine

        private = Private((self._host.place if self._host is not None else "") or f"asl-{self.run_id}")
        try:
            policy, plan = self._policy(state_dir, private.tmp)
            environment = self._environment(policy, private)
            machine = Machine(self.settings.without)
            ruleset = machine.ruleset(plan)
        except BaseException:
            private.remove()
            raise
        private.denials = out_of_places(private.denials)
        ruleset = replace(ruleset, fd=out_of_places(ruleset.fd))
        self._prepared = Prepared(started, policy, plan, state_dir, private, machine, ruleset, environment)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What is open for the run."""
        prepared = self._prepared
        return () if prepared is None else (prepared.private.denials, prepared.ruleset.fd)

    def hand_over(self, *, forked: bool) -> None:
        """Give up what is open for the run in this process; without a fork that has it, all that was made for it."""
        assert self._prepared is not None
        self._prepared.ruleset.close()
        if forked:
            self._prepared.private.close()
        else:
            self._prepared.private.remove()

    def _refuse_to_nest(self) -> None:
        """One chain of filters has one listener, so what is supervised cannot be supervised once more; the outer run
        holds it, and all that it starts, anyway.
        """
        if "ASL_RUN_ID" not in os.environ:
            return
        from agent_safety_layer.spans import outer_run

        outer = outer_run()
        if outer:
            raise UnsupportedError(
                "A tree can have one supervisor",
                f"this process is supervised already, by run {outer}, which holds whatever it starts",
                "Run the command without asl-supervise; for stricter rules give the outer run one more -p.",
            )

    def _policy(self, state_dir: str, tmp: str) -> tuple[Policy, Plan]:
        from agent_safety_layer.policy import ADMINISTRATOR, DEFAULT, Policy, System, load, plan

        settings = self.settings
        variables = {
            "WORKSPACE": state.working_directory(),
            "HOME": os.path.expanduser("~"),
            "TMP": tmp,
            "USER": os.environ.get("USER", str(os.getuid())),
            "STATE": state_dir,
        }
        self._variables = variables
        sources = settings.policies or (() if settings.given else (DEFAULT,))
        if os.path.lexists(ADMINISTRATOR):
            sources = (*sources, ADMINISTRATOR)
        policy = Policy(())
        if sources:
            policy = load(
                sources,
                variables=variables,
                extra={section: dict(entries) for section, entries in settings.extra},
                cache=os.path.join(state_dir, "cache"),
                observe=settings.observe,
            )
        if settings.given:
            given = (_with_tmp(layer, tmp) for layer in settings.given.layers)
            policy = Policy((*given, *policy.layers), (*settings.given.sources, *policy.sources))
        self._given = policy
        self._tell_gaps(policy)
        self._tell_vain(policy)
        policy = self._guarded(policy, state_dir)
        record = policy.record if not settings.custom else "all"  # which of what went unseen would be nobody's say
        asks = self._approver is not None
        if self._host is not None and self._host.plans is not None:
            return self._host.plans.plan(policy, record=record, asks=asks)
        return policy, plan(policy.enforced, System(), record=record, asks=asks)

    def _tell_gaps(self, policy: Policy) -> None:
        """Say what no policy speaks of: there all is allowed."""
        missing = [name for name in ("files", "network") if not any(getattr(layer, name) for layer in policy.layers)]
        if missing and self.settings.verbosity >= 0:
            what = " and ".join(missing)
            self._stderr.write(
                f"asl: no policy speaks of {what}, so all is allowed there; `extends: [workspace]` would\n"
            )

    def _tell_vain(self, policy: Policy) -> None:
        """Say which flags change nothing."""
        if not self.settings.extra or self.settings.verbosity < 0:
            return
        from agent_safety_layer.policy.vain import vain
        from agent_safety_layer.terminal import visible

        for flag, event, decision in vain(policy):
            because = f"{decision.reason} [{decision.rule} {decision.where}]"
            remedy = _remedy(policy, "", event, decision)
            said = f"{flag.origin} {flag.text} changes nothing: {because}" + (f"; to allow: {remedy}" if remedy else "")
            self._stderr.write(f"asl: {visible(said, 600)}\n")

    def _guarded(self, policy: Policy, state_dir: str) -> Policy:
        from agent_safety_layer.own import forms, guarded, odd_mounts
        from agent_safety_layer.policy import ADMINISTRATOR
        from agent_safety_layer.trace.header import key_path
        from asl_hooks.mounts import mounts

        mounted = mounts()
        given = (path for path in (self.settings.trace, self.settings.report) if path)
        read = (source for source, _ in policy.sources if os.path.exists(source))
        key = key_path(state_dir)  # whoever can read it can sign a forged trace
        approvals = os.path.join(state_dir, "approvals")
        hidden = (
            *(*odd_mounts(mounted), *(forms(key) if key else ())),
            *(forms(approvals) if os.path.exists(approvals) else ()),
        )
        asker = self._approver
        return guarded(
            policy,
            (state_dir, os.path.dirname(ADMINISTRATOR), *given, *read),
            (*hidden, *(asker.hidden if asker is not None else ())),
            mounted=mounted,
            asked=asker.asked if asker is not None else (),
            hosts=asker.hosts if asker is not None else (),
            split=self.settings.trace if self.settings.trace_split else "",
        )

    def _supervise(self, prepared: Prepared) -> Ending:
        from agent_safety_layer.denials import Denials
        from agent_safety_layer.engine.recorder import Recorder
        from agent_safety_layer.limits import holders
        from agent_safety_layer.trace.header import told, with_policy
        from agent_safety_layer.trace.writer import TraceWriter
        from agent_safety_layer.tree import Tree
        from asl_hooks.launch import abandon

        settings = self.settings
        policy, plan, state_dir = prepared.policy, prepared.plan, prepared.state_dir
        private, machine, ruleset = prepared.private, prepared.machine, prepared.ruleset
        group = machine.group(policy.limits, self.run_id)
        try:
            missing = machine.missing(policy, custom=bool(settings.custom) and not settings.observe)
            if missing and not settings.best_effort:
                raise UnsupportedError(
                    "This policy cannot be enforced here: " + "; ".join(missing),
                    "nothing was started",
                    "Remove those lines, or run with --best-effort to go on without them.",
                )
            spec, output = self._spec(policy, machine, ruleset, group, private.tmp, prepared.environment)
            view = self._view(policy, plan, machine, ruleset, state_dir)
            self._header = self._describe(missing)
            told(policy)  # the greater part of it: what memory is written to while children share it, is copied
            launched = self._launched(spec, machine)
            view.warden = launched.warden
            backend = self._backend(launched, machine)
        except BaseException:
            ruleset.close()
            if group:
                group.remove()
            raise
        engine = None
        try:
            enforced = machine.enforced(policy, backend.name, isolated=launched.network >= 0)
            held = holders(policy.limits, group.holds if group else frozenset())
            self._header |= {"backend": backend.name, "enforced": dict((*enforced, *held))}
            where = os.path.abspath(settings.trace) if settings.trace else f"{state_dir}/traces/{self.run_id}.jsonl"
            sign, self._header["signed_by"] = self._signer(state_dir)
            writer = TraceWriter(
                where, with_policy(self._header, policy, self._variables), sign=sign, split=self._split()
            )
            self.trace_path = where
            remedy = partial(_remedy, policy, "--approve tty" if settings.approve == "deny" and not self._host else "")
            self.tally = Tally(remedy=remedy)
            quiet = settings.verbosity < 0
            denials = Denials(self._stderr, fd=private.denials, colour=self._colour, quiet=quiet, remedy=remedy)
            recorder = Recorder(writer, self.tally, denials, reads=policy.record == "all")
            engine = self._engine(policy, view, machine, launched, backend, recorder, state_dir)
            tree = Tree(engine, launched, policy.limits, recorder, self._stderr, group, output, self._line)
            if self._host is not None:
                self._host.begins(self, engine, tree, launched.pid)
            ending, failure = self._live(tree, prepared.started)
            ending = self._close(ending, writer, denials)
            tree.reap()
        finally:
            if engine is None:
                abandon(launched)
            else:
                engine.close()
            ruleset.close()
            if group:
                group.remove()
        if failure is not None:
            raise failure
        return ending

    def _split(self) -> tuple[int, float]:
        """How large, in bytes, and how old, in seconds, a file of the trace may become; 0 for no limit."""
        given = self.settings.trace_split
        if not given:
            return 0, 0.0
        from agent_safety_layer.policy.quantities import seconds, size

        bytes_, age_s = 0, 0.0
        for piece in given.split(","):
            try:
                age_s = seconds(piece)
            except ValueError:
                try:
                    bytes_ = size(piece)
                except ValueError:
                    raise UsageError(
                        f"--trace-split: {piece!r} is neither a size nor a duration.",
                        remedy="Write 100MiB, 1h, or both with a comma.",
                    ) from None
        return bytes_, age_s

    def _signer(self, state_dir: str) -> tuple[Callable[[str], bytes] | None, str]:
        """What signs the trace and the name of its key, when one is configured."""
        from agent_safety_layer.trace.header import key_path

        key = key_path(state_dir)
        if not key:
            return None, ""
        from agent_safety_layer.trace.signing import signer

        return signer(key)

    def _describe(self, missing: tuple[str, ...]) -> dict[str, object]:
        """The trace's header; what intercepts the calls, and what holds what, is known once the child is there."""
        from agent_safety_layer.trace.header import header

        return header(
            run=self.run_id,
            name=self.settings.name,
            time=time(),
            command=self.settings.command,
            cwd=os.getcwd(),
            policies=[*(layer.name for layer in self._given.layers), *self.settings.custom],
            policy_hash=self._given.sha256,
            mode=self._given.mode,
            backend="",
            enforced={},
            not_enforced=missing,
        )

    def _spec(
        self,
        policy: Policy,
        machine: Machine,
        ruleset: Domain,
        group: Subtree | None,
        scratch: str,
        environment: tuple[tuple[str, str], ...],
    ) -> tuple[LaunchSpec, Output | None]:
        """What is to be launched; and where its output passes through us to be counted."""
        from agent_safety_layer.limits import rlimits
        from asl_hooks.launch import LaunchSpec

        limits = policy.limits
        output = self._output(limits)
        kernel = machine.kernel()
        wanted = self.settings.backend
        traced = wanted == "ptrace" or (wanted == "auto" and "notify" in self.settings.without)
        if traced and not machine.verifies_exec:
            raise UnsupportedError(f"--backend {wanted}", "ptrace is not to be had here", "See asl doctor.")
        spec = LaunchSpec(
            argv=self.settings.command,
            environment=environment,
            filter=kernel.program(traced=traced),
            ruleset=ruleset.fd,
            ruleset_log=ruleset.log,
            limits=rlimits(limits),
            stdio=tuple(output.given) if output else (),
            closed=self._closed,
            groups=group.enter if group else (),
            kill_all=group.kill_all if group else -1,
            folders=group.folders if group else (),
            scratch=scratch,
            keep=self._host.keep if self._host is not None else (),
            call=self._host.call if self._host is not None else None,
            network=self._guards_network(policy) and machine.isolates,
            ipc=machine.isolates,
            shared=partial(kernel.program, shares_ipc=True, traced=traced),
            traced=traced,
        )
        return spec, output

    def _launched(self, spec: LaunchSpec, machine: Machine) -> Launched:
        """The child, bounded, waiting for the word to go."""
        from asl_hooks.launch import NoListenerError, launch

        launched = None
        asked = self.settings.backend
        lost = "taken away" if spec.traced and asked == "auto" else ""
        try:
            launched = launch(spec)
        except NoListenerError as refused:
            if asked != "auto" or not machine.verifies_exec:
                raise
            lost = os.strerror(refused.errno)
        if lost and self.settings.verbosity >= 0:
            self._stderr.write(f"asl: no seccomp listener to be had here ({lost}); calls are intercepted with ptrace\n")
        if launched is None:
            kernel = machine.kernel()
            shared = partial(kernel.program, shares_ipc=True, traced=True)
            launched = launch(replace(spec, traced=True, filter=kernel.program(traced=True), shared=shared))
        return launched

    def _backend(self, launched: Launched, machine: Machine) -> Backend:
        """What intercepts the calls of the launched child."""
        if launched.listener >= 0:
            from asl_hooks.notify import Listener

            return Listener(launched.listener)
        from asl_hooks.tracer import Tracer, listener_above

        asks = machine.kernel().asks(shares_ipc=not launched.ipc) if listener_above() else None
        return Tracer(launched.pid, tells=self.settings.backend == "ptrace", asks=asks)

    @property
    def _custom(self) -> Custom | None:
        return self._host.custom() if self.settings.custom and self._host is not None else None

    def _view(self, policy: Policy, plan: Plan, machine: Machine, ruleset: Domain, state_dir: str) -> View:
        """What the engine knows from the start; the warden is yet to come."""
        from agent_safety_layer.engine.view import View
        from agent_safety_layer.policy import Bounds

        custom = self._custom is not None
        view = View(
            policy,
            Bounds(ruleset.read),
            Bounds(() if custom else ruleset.write),  # what a Python policy allowed is done here, as it was
            wave_reads=plan.wave_reads and not custom,
            domain=ruleset.fd >= 0,
            kernel=machine.kernel(),
            warden=0,
        )
        view.serving = f"{state_dir}/approvals/serving"
        return view

    def _engine(
        self,
        policy: Policy,
        view: View,
        machine: Machine,
        launched: Launched,
        backend: Backend,
        recorder: Recorder,
        state_dir: str,
    ) -> Engine:
        from agent_safety_layer.engine.egress import Guarded, Open
        from agent_safety_layer.engine.loop import Engine

        custom = self._custom

        def egress(engine: Engine) -> Egress:
            if not self._guards_network(policy):
                return Open()
            return Guarded(view, recorder, launched.network, engine.watch, custom)

        return Engine(
            backend,
            view,
            recorder,
            gate=lambda engine: self._gate(policy, engine, recorder, launched, state_dir),
            egress=egress,
            verify_exec=machine.verifies_exec,
            max_processes=policy.limits.processes or 0,
            span=self._host.span if self._host is not None else "",
            custom=custom,
        )

    def _guards_network(self, policy: Policy) -> bool:
        """Whether somebody has a say about the network."""
        return policy.guards_network or bool(self.settings.custom)

    def _live(self, tree: Tree, started: float) -> tuple[Ending, AslError | None]:
        """Serve the tree until it is gone. Postcondition: nothing of it lives.

        How it ended, and our own failure, if it was that, to be raised once that is written down.
        """
        gc.freeze()  # what is there now stays: the collector need not look at it again
        gc.enable()
        try:
            return tree.live(started), None
        except Exception as error:  # whatever it was: the tree ends, what happened is written down, the user is told
            sys.excepthook(*sys.exc_info())
            failure = InternalError(f"{type(error).__name__} in the run loop; the run was ended")
            return Ending("failed", failure.exit_code, wall_s=monotonic() - started), failure
        finally:
            tree.end()

    def _output(self, limits: Limits) -> Output | None:
        line = self._line = self._live_line()
        if limits.output_bytes is None and line is None:
            return None
        from agent_safety_layer.output import Output

        return Output(limits.output_bytes, self._closed, line, lambda: self._stderr.muted)

    def _live_line(self) -> LiveLine | None:
        """With -v, on a terminal that is ours to write to."""
        if self.settings.verbosity <= 0 or 2 in self._closed or os.environ.get("TERM") == "dumb" or not os.isatty(2):
            return None
        from agent_safety_layer.live import LiveLine

        return LiveLine(self._stderr)

    def _gate(self, policy: Policy, engine: Engine, recorder: Recorder, launched: Launched, state_dir: str) -> Gate:
        if self._approver is not None:
            return self._approver.gate(policy, engine.later, recorder, launched.warden, self._about(), self.trace_path)
        from agent_safety_layer.engine.gate import Nobody

        overlay = f"{state_dir}/approvals/always.yaml"
        if self._host is not None:
            return Nobody("nobody was asked (there is no approval gate)", overlay)
        return Nobody(overlay=overlay)

    def _about(self) -> dict[str, Any]:
        """What questions say of the run."""
        return {"run": self.run_id, "name": self.settings.name, "command": list(self.settings.command)}

    def _environment(self, policy: Policy, private: Private) -> tuple[tuple[str, str], ...]:
        from agent_safety_layer.policy import brief, environment

        settings = self.settings
        given = os.environ if settings.environment is None else dict(settings.environment)
        variables = environment(policy, given, cache=os.path.join(self._variables["STATE"], "cache"))
        if self._approver is not None:
            for name in self._approver.variables:
                variables.pop(name, None)
        variables |= {"TMPDIR": private.tmp, "ASL_RUN_ID": self.run_id, "ASL_DENIALS": private.denials_path}
        if self._host is None or self._host.call is None:  # for a program, which may be an agent
            variables["ASL_POLICY_SUMMARY"] = brief(
                self._given, os.getcwd(), private.tmp, attended=self.settings.approve != "deny"
            )
        return tuple(variables.items())

    def _close(self, ending: Ending, writer: Any, denials: Any) -> Ending:
        from agent_safety_layer.summary import summary

        denials.close()
        try:
            writer.close(footer(self.tally, ending))
        except TraceError as error:
            self._stderr.write(f"asl-supervise: {error}\n")
            ending = replace(ending, outcome="trace_full", exit_code=125)
        if self._report is not None or self._host is not None:
            self.result = report(self.tally, self._header, ending, self.trace_path)
        if self._report is not None:
            self._report.write(self.result)
        self._stderr.write(
            summary(self.tally, ending, self.trace_path, verbosity=self.settings.verbosity, colour=self._colour)
        )
        return ending
