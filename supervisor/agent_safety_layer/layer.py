"""``SafetyLayer``: policies, boundaries, approvals and traces around functions and sessions of this process."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, Unpack, overload

from agent_safety_layer.approval import ApprovalGate, ApprovalRequest, ApprovalStatus, AsyncApprovalGate
from agent_safety_layer.boundaries import Boundary, BoundarySet, NetworkBoundary, PathBoundary
from agent_safety_layer.guards import guarded, sandbox_of
from agent_safety_layer.operation import asyncio_runs
from agent_safety_layer.policies import Policy, PolicySet
from agent_safety_layer.replay import RecordedOperation, RecordedSession, ReplayResult, SessionReplayer
from agent_safety_layer.sessions import SafetySession
from agent_safety_layer.tracing import Trace, Tracer
from agent_safety_layer.violations import SafetyCheckResult, violation_of

if TYPE_CHECKING:
    from agent_safety_layer.compiled import Source
    from agent_safety_layer.events import TraceEntry
    from agent_safety_layer.outcome import Completed
    from agent_safety_layer.policy import Policy as FilePolicies
    from agent_safety_layer.supervisor import Command, Options, Supervisor

P = ParamSpec("P")
R = TypeVar("R")
_TRACE = "safety_layer"


class SafetyLayer:
    """Judges operations by policies and boundaries before they run, and records them.

    ``policies`` and ``boundaries`` may be changed at any time. An operation that needs approval waits at the
    ``approval_gate``; without one it is blocked. With ``trace`` guarded calls are recorded, and kept until
    ``reset_trace`` (sessions always are recorded). ``on_violation`` is called with the ``SafetyCheckResult`` of
    whatever may not run; then ``SafetyViolation`` is raised, or with ``raise_on_violation=False`` the operation's
    result is None.

    >>> safety = SafetyLayer(policies=[Policy.block_pattern(r"rm\\s+-rf\\s+/", "No recursive delete from root")])
    >>> @safety.guard
    ... def execute_command(cmd: str) -> str:
    ...     return f"ran {cmd}"
    >>> execute_command("ls -la /tmp")
    'ran ls -la /tmp'
    >>> execute_command("rm -rf /")
    Traceback (most recent call last):
        ...
    agent_safety_layer.violations.SafetyViolation: No recursive delete from root
    """

    def __init__(
        self,
        policies: list[Policy] | None = None,
        boundaries: list[Boundary] | None = None,
        approval_gate: ApprovalGate | AsyncApprovalGate | None = None,
        trace: bool = True,
        raise_on_violation: bool = True,
        on_violation: Callable[[SafetyCheckResult], None] | None = None,
    ) -> None:
        self.policy_set = PolicySet(policies)
        self.boundary_set = BoundarySet(boundaries)
        self.approval_gate = approval_gate
        self.trace = trace
        self.raise_on_violation = raise_on_violation
        self.on_violation = on_violation
        self.sinks: list[Callable[[TraceEntry], object]] = []
        self.tracer = Tracer(_TRACE) if trace else None

    @classmethod
    def from_policy(
        cls,
        policy: str | Path | FilePolicies = "workspace",
        *,
        policies: list[Policy] | None = None,
        boundaries: list[Boundary] | None = None,
        approval_gate: ApprovalGate | AsyncApprovalGate | None = None,
        trace: bool = True,
        raise_on_violation: bool = True,
        on_violation: Callable[[SafetyCheckResult], None] | None = None,
    ) -> SafetyLayer:
        """A layer under a policy file or built-in profile: the one that ``asl-supervise -p`` takes.

        Arguments whose names or annotations say path, url, host or command are judged as the files, connections and
        executions that they stand for. What the policy's limits say about wall time, memory and open files becomes
        boundaries. Further ``policies`` and ``boundaries`` hold as well. Raises ``PolicyError``.

        >>> from agent_safety_layer.filepolicy import load_policy
        >>> safety = SafetyLayer.from_policy(load_policy("strict", workspace="/srv/agent"))
        >>> @safety.guard
        ... def read_file(path): ...
        >>> read_file("/srv/agent/.env")
        Traceback (most recent call last):
            ...
        agent_safety_layer.violations.SafetyViolation: reading /srv/agent/.env is blocked by '${WORKSPACE}/**/.env'
        """
        from agent_safety_layer.filepolicy import FilePolicy, limits_of, load_policy
        from agent_safety_layer.policy import Policy as FilePolicies

        loaded = policy if isinstance(policy, FilePolicies) else load_policy(policy)
        return cls(
            [FilePolicy(loaded), *(policies or ())],
            [*limits_of(loaded), *(boundaries or ())],
            approval_gate,
            trace,
            raise_on_violation,
            on_violation,
        )

    def add_policy(self, policy: Policy) -> None:
        """Add a policy; it holds from the next operation on."""
        self.policy_set.add(policy)

    def remove_policy(self, policy_name: str) -> bool:
        """Remove the first policy of that name; False when there is none."""
        return self.policy_set.remove(policy_name)

    def add_boundary(self, boundary: Boundary) -> None:
        """Add a boundary; it holds from the next operation on."""
        self.boundary_set.add(boundary)

    def remove_boundary(self, boundary_name: str) -> bool:
        """Remove the first boundary of that name; False when there is none."""
        return self.boundary_set.remove(boundary_name)

    def check(self, operation: str, context: dict[str, Any] | None = None) -> SafetyCheckResult:
        """Whether the operation may run, without running it. Asks at the gate when approval is needed.

        Never raises ``SafetyViolation``; ``on_violation`` is called.

        >>> safety = SafetyLayer(boundaries=[PathBoundary(allowed_paths=["/tmp"])])
        >>> safety.check("read", {"path": "/etc/passwd"}).blocked_reason
        'Path not in allowed list'
        """
        given = context or {}
        result = self.judge(operation, given, operation, ())
        if result.requires_approval:
            self.ask(result, operation, given)
        if not result.allowed and self.on_violation is not None:
            self.on_violation(result)
        return result

    @overload
    def guard(
        self,
        func: Callable[P, R],
        *,
        operation: str | None = None,
        context: dict[str, Any] | None = None,
        sandbox: Source = False,
        limits: Mapping[str, Any] | None = None,
    ) -> Callable[P, R]: ...

    @overload
    def guard(
        self,
        func: None = None,
        *,
        operation: str | None = None,
        context: dict[str, Any] | None = None,
        sandbox: Source = False,
        limits: Mapping[str, Any] | None = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def guard(
        self,
        func: Callable[..., Any] | None = None,
        *,
        operation: str | None = None,
        context: dict[str, Any] | None = None,
        sandbox: Source = False,
        limits: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function, judged at each call by its name and its arguments before it runs.

        For functions, methods, async functions, generators and async generators alike, with or without parentheses.
        Patterns are looked for in the name (or ``operation``) and in every text among the arguments. Boundaries look at
        the arguments whose names or annotations say path, file, url, host, cmd and the like. ``context`` is added to
        what policies and boundaries see. Calls raise ``SafetyViolation``, and whatever the function raises.

        With ``sandbox=True`` each call runs in a forked child that the kernel confines to this layer's policies and
        boundaries (to the profile ``workspace`` where they speak of neither files nor the network); a profile, a
        policy file or what ``load_policy`` returns holds in addition, and so do ``limits``, as a policy file has them:
        ``{"wall_time": "10s", "memory": "1GiB", "processes": 8}``. Plain data and exceptions come back, and
        objects of the type that the function is annotated to return. A call that fails after something was refused,
        and one that reaches a limit, raises ``SafetyViolation`` naming the event. The child is a copy: what it changes
        in memory is lost, and it has no descriptors but 0, 1 and 2. Not for generators.

        >>> safety = SafetyLayer(boundaries=[PathBoundary(allowed_paths=["/tmp"])])
        >>> @safety.guard(operation="read a file")
        ... def read(file): ...
        >>> read("/etc/shadow")
        Traceback (most recent call last):
            ...
        agent_safety_layer.violations.SafetyViolation: Path not in allowed list
        """
        if func is None:
            return lambda wrapped: guarded(self, wrapped, operation, context, sandbox_of(sandbox, limits))
        return guarded(self, func, operation, context, sandbox_of(sandbox, limits))

    def session(self, name: str = "session", record: bool = False) -> SafetySession:
        """A session to enter with ``with`` or ``async with``; ``record=True`` keeps what a replay needs.

        >>> with SafetyLayer().session(name="demo") as session:
        ...     session.execute("add", lambda: 1 + 1)
        2
        >>> session.finish().entry_count
        1
        """
        return SafetySession(self, name, record)

    @overload
    def supervise(
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
    def supervise(
        self,
        command: Command,
        *,
        input: str | None = None,
        capture_output: bool = False,
        text: Literal[True],
        check: bool = False,
        **options: Unpack[Options],
    ) -> Completed[str]: ...

    def supervise(self, command: Command, **options: Any) -> Completed[Any]:
        """The command, run under the kernel's enforcement of this layer's policies and boundaries.

        Arguments and errors are those of ``Supervisor.run``. What the command does is refused, not raised: see
        ``denials`` of what comes back. Patterns are looked for in each command line of its tree.
        """
        return self.supervisor().run(command, **options)

    def supervisor(self, further: Source = True) -> Supervisor:
        """A ``Supervisor`` with this layer's policies and boundaries as they are now; *further* as for ``guard``."""
        from agent_safety_layer.compiled import policy_of
        from agent_safety_layer.supervisor import Supervisor

        return Supervisor(policy_of(self, further), approval_gate=self.approval_gate)

    def replay(
        self,
        session: RecordedSession,
        dry_run: bool = True,
        executor: Callable[[RecordedOperation], Any] | None = None,
    ) -> ReplayResult:
        """What this layer's policies and boundaries make of a recorded session."""
        replayer = SessionReplayer(self.policy_set.policies, executor, self.boundary_set.boundaries)
        return replayer.replay(session, dry_run)

    def get_trace(self) -> Trace | None:
        """The trace of guarded calls so far, ended now; None without tracing. Later calls are added to it."""
        return self.tracer.finish() if self.tracer is not None else None

    def reset_trace(self) -> None:
        """Begin a new trace of guarded calls."""
        if self.trace:
            self.tracer = Tracer(_TRACE)

    def subscribe(self, sink: Callable[[TraceEntry], object]) -> Callable[[], None]:
        """Have *sink* called with each operation once it is over, as an entry like those about system calls.

        The entry's event is of kind ``op.call`` or ``op.log`` and carries the span's id. Returns what ends it.

        >>> safety = SafetyLayer()
        >>> stop = safety.subscribe(lambda entry: print(entry.event.kind, entry.event.op, entry.decision.action))
        >>> safety.guard(print)("hello")
        hello
        op.call print allow
        >>> stop()
        """
        self.sinks.append(sink)

        def stop() -> None:
            if sink in self.sinks:
                self.sinks.remove(sink)

        return stop

    # -- what operations need --------------------------------------------------------------------------------------

    def judge(self, operation: str, context: dict[str, Any], line: str, arguments: Sequence[str]) -> SafetyCheckResult:
        """What policies and boundaries say, before anybody is asked; ``allowed`` as if the answer were yes."""
        results = self.policy_set.evaluate_call(operation, line, arguments, context)
        violations = self.boundary_set.check_all(context) if self.boundary_set.boundaries else []
        if not results and not violations:
            return SafetyCheckResult(True)
        blocked = bool(violations) or any(result.is_blocked for result in results)
        asks = not blocked and any(result.requires_approval for result in results)
        return SafetyCheckResult(not blocked, results, violations, asks)

    def ask(self, result: SafetyCheckResult, operation: str, context: dict[str, Any]) -> None:
        """Ask at the gate, and settle the result by the answer. Blocks this thread meanwhile."""
        gate = self.approval_gate
        if gate is None:
            _settle(result, None)
            return
        reason, timeout = _question(result)
        answer = gate.request_approval(operation=operation, reason=reason, context=context, timeout=timeout)
        if isinstance(answer, ApprovalRequest) or not inspect.isawaitable(answer):
            _settle(result, answer)
        elif asyncio_runs():
            # Waiting here would stop the very loop that the answer comes through.
            if inspect.iscoroutine(answer):
                answer.close()
            message = "an async gate cannot be waited for in a running event loop; guard an async function"
            refused = ApprovalRequest("", operation, reason, context, 0.0, 0.0, ApprovalStatus.CANCELLED)
            refused.response_message = message
            _settle(result, refused)
        else:
            from asyncio import run

            _settle(result, run(_awaited(answer)))

    async def ask_async(self, result: SafetyCheckResult, operation: str, context: dict[str, Any]) -> None:
        """Like ``ask``, while the event loop goes on; a gate of your own may be async or not."""
        gate = self.approval_gate
        if isinstance(gate, AsyncApprovalGate):
            wait: Callable[..., Awaitable[ApprovalRequest]] = gate.request_approval
        elif isinstance(gate, ApprovalGate) and asyncio_runs():
            wait = gate.request_approval_async
        elif gate is not None and inspect.iscoroutinefunction(gate.request_approval):
            wait = gate.request_approval
        else:
            self.ask(result, operation, context)
            return
        reason, timeout = _question(result)
        _settle(result, await wait(operation=operation, reason=reason, context=context, timeout=timeout))

    def violated(self, result: SafetyCheckResult) -> None:
        """Tell of an operation that may not run: ``on_violation``, then the exception if this layer raises."""
        if self.on_violation is not None:
            self.on_violation(result)
        if self.raise_on_violation:
            raise violation_of(result)

    def tell(self, entry: TraceEntry) -> None:
        """Give every sink the entry."""
        for sink in tuple(self.sinks):
            sink(entry)


def _question(result: SafetyCheckResult) -> tuple[str, float | None]:
    """The reason to ask with, and the shortest patience that any policy has (None: the gate's)."""
    asking = [found for found in result.policy_results if found.requires_approval]
    timeouts = [found.metadata["timeout"] for found in asking if found.metadata.get("timeout") is not None]
    reason = next((found.reason for found in asking if found.reason), "Approval required")
    return reason, min(timeouts, default=None)


def _settle(result: SafetyCheckResult, answer: ApprovalRequest | None) -> None:
    result.approval_request = answer
    result.allowed = answer is not None and bool(answer.is_approved)
    if answer is not None and answer.status is ApprovalStatus.TIMEOUT:
        asking = [found for found in result.policy_results if found.requires_approval]
        result.allowed = all(found.metadata.get("on_timeout") == "allow" for found in asking)


async def _awaited(answer: Awaitable[ApprovalRequest]) -> ApprovalRequest:
    return await answer


def create_safety_layer(
    block_dangerous_commands: bool = True,
    block_production_access: bool = True,
    allowed_paths: list[str] | None = None,
    allowed_hosts: list[str] | None = None,
    enable_tracing: bool = True,
    enable_approval: bool = False,
) -> SafetyLayer:
    """A layer with the usual rules: no recursive delete of root or home, no dropped tables, no formatted disks.

    ``allowed_paths`` and ``allowed_hosts`` become boundaries; ``enable_approval`` gives it a gate.

    >>> create_safety_layer().check("DROP TABLE users").blocked_reason
    'Blocking DROP TABLE/DATABASE commands'
    """
    policies: list[Policy] = []
    if block_dangerous_commands:
        policies += (Policy.block_pattern(*rule) for rule in _DANGEROUS)
    if block_production_access:
        policies += (Policy.block_pattern(*rule) for rule in _PRODUCTION)
    boundaries: list[Boundary] = []
    if allowed_paths:
        boundaries.append(PathBoundary(allowed_paths=allowed_paths, name="path_allowlist"))
    if allowed_hosts:
        boundaries.append(NetworkBoundary(allowed_hosts=allowed_hosts, name="network_allowlist"))
    gate = ApprovalGate() if enable_approval else None
    return SafetyLayer(policies, boundaries, approval_gate=gate, trace=enable_tracing)


# Pattern, reason, name. The options of rm may be many, long, and stand anywhere before what is deleted.
_DANGEROUS = (
    (
        r"\brm\s+(-[\w-]*(=\S*)?\s+)*[\"']?(/|~|\$\{?HOME)",
        "Blocking recursive delete from root or home",
        "block_rm_root",
    ),
    (r"DROP\s+(TABLE|DATABASE)", "Blocking DROP TABLE/DATABASE commands", "block_drop_table"),
    (r"TRUNCATE\s+TABLE", "Blocking TRUNCATE TABLE commands", "block_truncate"),
    (r">\s*/dev/(sd|hd|nvme)", "Blocking writes to raw block devices", "block_raw_device"),
    (r"mkfs|fdisk|parted", "Blocking disk formatting commands", "block_disk_format"),
)
_PRODUCTION = ((r"(prod|production)[_-]?(db|database|server)", "Blocking production database access", "block_prod_db"),)


__all__ = ["SafetyLayer", "create_safety_layer"]
