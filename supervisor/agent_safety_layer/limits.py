"""Limits: what is measured, against what, how often, and what comes of it. Pure, but for ``rlimits``.

ends the run     wall_time cpu_time memory output written operations idle_time
refuses the act  processes (EAGAIN), open_files (EMFILE), file_size (EFBIG): the kernel's rlimits, a cgroup, or the
                 engine's answer to fork
slows down       cpu
"""

from __future__ import annotations

from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent_safety_layer.policy import Limits

GRACE_S = 5.0  # when the policy sets none
WARN_AT = 0.8
TIMES_OUT = frozenset(("wall_time", "cpu_time", "idle_time"))  # exit status 124; the others 137
_FASTEST_GROWTH = 4 << 30  # bytes a second that a tree may gain, for how soon to look again
_SOONEST_S, _LATEST_S = 0.02, 0.5


@value
class Figures:
    """What a tree has used. What nobody measures stays 0."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    memory_bytes: int = 0
    output_bytes: int = 0
    written_bytes: int = 0
    operations: int = 0
    idle_s: float = 0.0


@value
class Crossing:
    """A limit that was reached, or (``hit`` false) of which 80 % were."""

    name: str
    figure: float
    limit: float
    hit: bool

    @property
    def text(self) -> str:
        """For the event, and for people: ``memory: 1.7 GiB of 2.0 GiB``."""
        return f"{self.name}: {shown(self.name, self.figure)} of {shown(self.name, self.limit)}"


def shown(name: str, figure: float) -> str:
    """The figure of the limit *name* with its unit."""
    if name.endswith("_time"):
        return f"{figure:.1f} s"
    if name in ("operations", "processes"):
        return f"{figure:.0f}"
    for unit in ("B", "KiB", "MiB"):
        if figure < 1024:
            return f"{figure:.0f} {unit}" if unit == "B" else f"{figure:.1f} {unit}"
        figure /= 1024
    return f"{figure:.1f} GiB"


_MEASURES = (
    ("wall_time", "wall_time_s", "wall_s"),
    ("cpu_time", "cpu_time_s", "cpu_s"),
    ("memory", "memory_bytes", "memory_bytes"),
    ("output", "output_bytes", "output_bytes"),
    ("written", "written_bytes", "written_bytes"),
    ("operations", "operations", "operations"),
    ("idle_time", "idle_time_s", "idle_s"),
)


class Watch:
    """Compares figures with limits. Each limit crosses twice at most: once at 80 %, once when it is reached."""

    def __init__(self, limits: Limits) -> None:
        self._limits = {
            name: (float(limit), measure)
            for name, field, measure in _MEASURES
            if (limit := getattr(limits, field)) is not None
        }
        self._warned: set[str] = set()
        self._hit: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._limits

    def __bool__(self) -> bool:
        return bool(self._limits)

    def limit(self, name: str) -> float:
        """The limit *name*; infinite when there is none."""
        return self._limits[name][0] if name in self._limits else float("inf")

    def crossings(self, figures: Figures) -> list[Crossing]:
        """What *figures* cross for the first time."""
        found = []
        for name, (limit, measure) in self._limits.items():
            figure = getattr(figures, measure)
            if figure >= limit and name not in self._hit:
                self._hit.add(name)
                self._warned.add(name)
                found.append(Crossing(name, figure, limit, True))
            elif figure >= limit * WARN_AT and name not in self._warned:
                self._warned.add(name)
                found.append(Crossing(name, figure, limit, False))
        return found

    def next_look_s(self, figures: Figures, cpus: int) -> float:
        """In how many seconds the next crossing could be, at the earliest; infinite when only counted ones are left.

        Between 20 and 500 ms for what has to be measured, so that neither a fast tree gets far beyond a limit nor the
        measuring of a slow one costs much.
        """
        waits = [float("inf")]
        for name, (limit, measure) in self._limits.items():
            if name in self._hit:
                continue
            target = limit if name in self._warned else limit * WARN_AT
            missing = max(target - getattr(figures, measure), 0.0)
            if name in ("wall_time", "idle_time"):
                waits.append(missing)
            elif name == "cpu_time":
                waits.append(min(max(missing / cpus, _SOONEST_S), _LATEST_S))
            elif name in ("memory", "written"):
                waits.append(min(max(missing / _FASTEST_GROWTH, _SOONEST_S), _LATEST_S))
        return min(waits)


def rlimits(limits: Limits) -> tuple[tuple[int, int, int], ...]:
    """The resource limits of each process, as ``(which, soft, hard)``; never a core file."""
    import resource

    wanted: Sequence[tuple[int, int | None]] = (
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_FSIZE, limits.file_size_bytes),
        (resource.RLIMIT_CPU, None if limits.cpu_time_s is None else int(limits.cpu_time_s) + 1),
    )
    chosen = []
    for which, amount in wanted:
        if amount is not None:
            hard = resource.getrlimit(which)[1]
            amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)  # noqa: PLW2901
            chosen.append((which, amount, amount))
    return (*chosen, (resource.RLIMIT_CORE, 0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def wanted_controllers(limits: Limits) -> tuple[str, ...]:
    """The cgroup controllers that would hold a part of *limits*."""
    wanted = (("memory", limits.memory_bytes), ("pids", limits.processes), ("cpu", limits.cpu_percent))
    return tuple(name for name, limit in wanted if limit is not None)


def holders(limits: Limits, in_cgroup: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """For each limit that is set, what holds it and how exactly, for the trace's header."""
    grouped = {
        "memory": "cgroup: the kernel refuses more, and the run ends",
        "processes": "cgroup: the kernel refuses more processes and threads",
        "cpu": "cgroup: the kernel throttles the tree",
    }
    otherwise = {
        "memory": "sampled every 20 to 500 ms: processes' memory and open memfds, not files in tmpfs",
        "processes": "every fork and thread is counted",
        "cpu": "the tree is stopped and continued in turns of 100 ms",
    }
    controllers = {"memory": "memory", "processes": "pids", "cpu": "cpu"}
    always = {
        "wall_time": "the supervisor's clock",
        "cpu_time": "sampled every 20 to 500 ms for the tree, RLIMIT_CPU for each process",
        "open_files": "RLIMIT_NOFILE for each process",
        "file_size": "RLIMIT_FSIZE for each process",
        "output": "standard output and error are counted on their way",
        "written": "sampled every 20 to 500 ms: bytes that write calls took, to whatever",
        "operations": "every event is counted",
        "idle_time": "no event, no output and no CPU time",
    }
    fields = {
        **{name: field for name, field, _ in _MEASURES},
        "processes": "processes",
        "open_files": "open_files",
        "file_size": "file_size_bytes",
        "cpu": "cpu_percent",
    }
    return tuple(
        (
            f"limits.{name}",
            always.get(name) or (grouped if controllers[name] in in_cgroup else otherwise)[name],
        )
        for name, field in fields.items()
        if getattr(limits, field) is not None
    )
