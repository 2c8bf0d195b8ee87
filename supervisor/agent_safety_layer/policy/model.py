"""What a policy says: layers, each with its sections, every entry with the place where it stands.

All of it is immutable. A ``Policy`` is a tuple of layers that are judged one by one; the strictest answer wins.
``load`` makes them from files; ``decide`` and ``plan`` read them.
"""

from __future__ import annotations

from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TypeVar

    from agent_safety_layer.trace.encode import Encoded

    Amount = TypeVar("Amount", int, float)


@value
class Entry:
    """One line of a list of paths, commands or names.

    ``text`` is what was written, ``origin`` where (``policy.yaml:12`` or the flag ``--allow-read``), ``forms`` the
    patterns that it stands for: variables and braces filled in, links resolved.
    """

    text: str
    origin: str = ""
    forms: tuple[str, ...] = ()


@value
class Address:
    """A host pattern with ports. ``name`` is a name or wildcard, or empty for an address range.

    A range is ``network`` (the leading ``bits`` bits of an address, as an integer) of ``family`` 4 or 6. Ports run from
    ``low`` to ``high``, both included.
    """

    name: str = ""
    family: int = 0
    bits: int = 0
    network: int = 0
    low: int = 0
    high: int = 65535


@value
class Host:
    """One line of a list of hosts, and the addresses and names that it stands for (``localhost`` stands for three)."""

    text: str
    origin: str = ""
    addresses: tuple[Address, ...] = ()


@value
class Files:
    """The ``files`` section. ``protect`` is readable but not changeable; ``block`` neither.

    ``read_list`` and ``write_list`` are where the allowlists stand; empty means that there is none, so that what is
    unlisted is allowed. Writing has an allowlist as soon as reading has one.
    """

    read: tuple[Entry, ...] = ()
    write: tuple[Entry, ...] = ()
    block: tuple[Entry, ...] = ()
    ask: tuple[Entry, ...] = ()
    protect: tuple[Entry, ...] = ()
    read_list: str = ""
    write_list: str = ""


@value
class Network:
    """The ``network`` section. ``origin`` is where it stands, empty when the layer has none of its own.

    ``allow_list`` is where the allowlist stands, as for files; ``listen`` and ``unix`` are None when not given.
    """

    allow: tuple[Host, ...] = ()
    block: tuple[Host, ...] = ()
    ask: tuple[Host, ...] = ()
    listen: tuple[Host, ...] | None = None
    unix: tuple[Entry, ...] | None = None
    private_ips: bool = False
    allow_list: str = ""
    origin: str = ""


@value
class Exec:
    """The ``exec`` section: command patterns."""

    allow: tuple[Entry, ...] = ()
    block: tuple[Entry, ...] = ()
    ask: tuple[Entry, ...] = ()
    allow_list: str = ""


@value
class Limits:
    """What the whole tree may use; None is no limit. ``wall_time_s`` is real time, ``cpu_time_s`` its CPU time.

    ``idle_time_s`` is time without any event, output or CPU use; ``cpu_percent`` slows the tree down (100 is one CPU);
    ``grace_s`` passes between the request to end and the end.
    """

    wall_time_s: float | None = None
    cpu_time_s: float | None = None
    memory_bytes: int | None = None
    processes: int | None = None
    open_files: int | None = None
    file_size_bytes: int | None = None
    output_bytes: int | None = None
    written_bytes: int | None = None
    operations: int | None = None
    idle_time_s: float | None = None
    cpu_percent: float | None = None
    grace_s: float | None = None


@value
class Approvals:
    """How long a question waits for its answer, and whether silence is ``deny`` or ``allow``."""

    timeout_s: float = 300.0
    on_timeout: str = "deny"


@value
class Environment:
    """Which variables the child gets: not ``secrets`` unless ``keep`` names them, never ``block``; then ``put``."""

    keep: tuple[Entry, ...] = ()
    block: tuple[Entry, ...] = ()
    secrets: tuple[Entry, ...] = ()
    put: tuple[tuple[str, str], ...] = ()


@value
class Condition:
    """What an event must be like. Empty fields do not matter; the others must all hold.

    ``on`` holds kinds. ``path`` fits when either of the event's paths does.
    """

    on: tuple[str, ...]
    path: Entry | None = None
    host: Host | None = None
    argv: Entry | None = None
    match: str = ""


@value
class After:
    """What must have happened before: in this process or one it descends from, or (``same_path``) to this path."""

    condition: Condition
    same_path: bool = False


@value
class Rule:
    """One of ``rules``: when the condition holds (and what ``after`` asks for has happened), the action."""

    name: str
    action: str
    condition: Condition
    after: After | None = None
    reason: str = ""
    origin: str = ""

    @property
    def key(self) -> str:
        """What tells this rule's marks in a state from another's."""
        return f"{self.origin} {self.name}"


@value
class Layer:
    """One policy with all that it extends. A section that is None has no opinion."""

    name: str
    mode: str = "enforce"
    files: Files | None = None
    network: Network | None = None
    exec: Exec | None = None
    limits: Limits = Limits()
    rules: tuple[Rule, ...] = ()
    approvals: Approvals = Approvals()
    on_violation: str = "continue"
    environment: Environment = Environment()
    record: str = ""


class Policy:
    """Layers that hold all at once. ``sources`` are the files that it was made of, with their SHA-256.

    Equal when the layers are. What ``decide`` compiles of it is kept on it, made when first needed.
    """

    __slots__ = ("_enforced", "judge", "layers", "sources", "told")

    layers: tuple[Layer, ...]
    sources: tuple[tuple[str, str], ...]
    judge: Any
    told: Encoded | None  # as JSON; see ``trace.header``
    _enforced: Policy | None

    def __init__(self, layers: tuple[Layer, ...], sources: tuple[tuple[str, str], ...] = ()) -> None:
        self.layers = layers
        self.sources = sources
        self.judge = None
        self.told = None
        self._enforced = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policy) and self.layers == other.layers

    def __hash__(self) -> int:
        return hash(self.layers)

    def __repr__(self) -> str:
        return f"Policy({', '.join(layer.name for layer in self.layers)})"

    @property
    def name(self) -> str:
        """The names of the layers, joined by ``+``."""
        return "+".join(layer.name for layer in self.layers)

    @property
    def mode(self) -> str:
        """``enforce``, or ``observe`` when every layer only observes."""
        return "enforce" if any(layer.mode == "enforce" for layer in self.layers) else "observe"

    @property
    def guards_network(self) -> bool:
        """Whether any layer speaks of the network."""
        return any(layer.network is not None for layer in self.layers)

    @property
    def stateful(self) -> bool:
        """Whether any rule looks at what happened earlier: otherwise ``advance`` has nothing to do."""
        return any(rule.after is not None for layer in self.layers for rule in layer.rules)

    @property
    def sha256(self) -> str:
        """A hash of all that the layers say, variables filled in: equal for equal policies."""
        from agent_safety_layer.policy.draft import sha256
        from agent_safety_layer.trace.encode import encoded

        return sha256(encoded(self.layers).encode())

    @property
    def enforced(self) -> Policy:
        """The layers whose answers are carried out: all but those that observe. Often this very policy."""
        if self._enforced is None:
            layers = tuple(layer for layer in self.layers if layer.mode == "enforce")
            self._enforced = self if len(layers) == len(self.layers) else Policy(layers, self.sources)
        return self._enforced

    @property
    def limits(self) -> Limits:
        """The tightest of each limit."""
        every = [layer.limits for layer in self.layers]
        return Limits(
            wall_time_s=_tightest(limits.wall_time_s for limits in every),
            cpu_time_s=_tightest(limits.cpu_time_s for limits in every),
            memory_bytes=_tightest(limits.memory_bytes for limits in every),
            processes=_tightest(limits.processes for limits in every),
            open_files=_tightest(limits.open_files for limits in every),
            file_size_bytes=_tightest(limits.file_size_bytes for limits in every),
            output_bytes=_tightest(limits.output_bytes for limits in every),
            written_bytes=_tightest(limits.written_bytes for limits in every),
            operations=_tightest(limits.operations for limits in every),
            idle_time_s=_tightest(limits.idle_time_s for limits in every),
            cpu_percent=_tightest(limits.cpu_percent for limits in every),
            grace_s=_tightest(limits.grace_s for limits in every),
        )

    @property
    def approvals(self) -> Approvals:
        """The shortest patience; silence is ``allow`` only when every layer says so."""
        deny = any(layer.approvals.on_timeout == "deny" for layer in self.layers)
        timeout_s = min((layer.approvals.timeout_s for layer in self.layers), default=300.0)
        return Approvals(timeout_s, "deny" if deny or not self.layers else "allow")

    @property
    def on_violation(self) -> str:
        """``kill`` when any enforcing layer says so."""
        return "kill" if any(layer.on_violation == "kill" for layer in self.enforced.layers) else "continue"

    @property
    def record(self) -> str:
        """``changes`` when a layer says so, and none says ``all``, observes, counts or looks back: allowed reads
        are then not written down.
        """
        if self.stateful:
            return "all"
        wanted = {
            "all" if layer.mode == "observe" or layer.limits.operations is not None else layer.record
            for layer in self.layers
        }
        return "changes" if "changes" in wanted and "all" not in wanted else "all"


def _tightest(amounts: Iterable[Amount | None]) -> Amount | None:
    """The least of those that are given."""
    return min((amount for amount in amounts if amount is not None), default=None)
