"""Boundaries: which paths, hosts, how much time and which resources operations may use.

    PathBoundary      files and folders         NetworkBoundary    hosts, ports, private addresses
    TimeBoundary      seconds                   ResourceBoundary   memory, CPU, descriptors, operations
    BoundarySet       several, checked together

A boundary judges the context of an operation: arguments by name. They hold for what is said to be done, in this
process. What a program does in spite of it is for ``asl-supervise`` to stop.
"""

from __future__ import annotations

import copy
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from agent_safety_layer.policies import checked_list
from agent_safety_layer.policy.hosts import METADATA_NAMES, is_private, parse_legacy_ip
from agent_safety_layer.resources import Destination, destinations_of, paths_of

_LOOPBACK_NAMES = frozenset(("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"))
_CPU_WINDOW_S = 0.1
_counting = threading.Lock()  # guards all counters: boundaries stay picklable, and each holds it for nanoseconds


def _renew_lock() -> None:
    global _counting
    _counting = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)  # another thread may have held it while this one forked


@dataclass
class BoundaryViolation:
    """What crossed a boundary: the value that was attempted, and what would be within."""

    boundary_type: str
    boundary_name: str
    reason: str
    attempted_value: Any
    allowed_values: Any | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class Boundary(ABC):
    """The base of all boundaries. Your own derive from it and answer in ``check``."""

    def __init__(self, name: str, description: str | None = None) -> None:
        self.name = name
        self.description = description or name

    @abstractmethod
    def check(self, context: dict[str, Any]) -> BoundaryViolation | None:
        """The violation that an operation with this context would be, or None. Called before each operation."""

    def finished(self, seconds: float, *, nested: bool = False) -> BoundaryViolation | None:
        """The violation that an operation turns out to be, having run this long. Called after each operation.

        ``nested`` operations run within another one of the same layer. Unless overridden, never a violation.
        """
        return None

    def fresh(self) -> Boundary:
        """A copy that has counted nothing yet, for a replay."""
        return copy.copy(self)


class PathBoundary(Boundary):
    """Confines file access to folders. Blocked folders and patterns beat allowed ones; without any, all is allowed.

    Paths are looked at with links, ``..`` and ``~`` resolved. Patterns are those of ``fnmatch`` over the whole path
    (``*`` crosses ``/``); a blocked pattern also stands for the file's name, and for the path as it was written.

    >>> boundary = PathBoundary(allowed_paths=["/tmp"], block_patterns=["*.exe"])
    >>> boundary.check({"path": "/tmp/../etc/passwd"}).reason
    'Path not in allowed list'
    >>> boundary.check({"path": "/tmp/notes.txt"}) is None
    True
    """

    def __init__(
        self,
        allowed_paths: list[str] | None = None,
        blocked_paths: list[str] | None = None,
        allow_patterns: list[str] | None = None,
        block_patterns: list[str] | None = None,
        name: str = "path_boundary",
    ) -> None:
        super().__init__(name, "File system access boundary")
        self.allowed_paths = {Path(_real(path)) for path in allowed_paths or ()}
        self.blocked_paths = {Path(_real(path)) for path in blocked_paths or ()}
        self.allow_patterns = allow_patterns or []
        self.block_patterns = block_patterns or []

    def check(self, context: dict[str, Any]) -> BoundaryViolation | None:
        """The violation of the first path that crosses the boundary.

        Paths are what ``path``, ``file_path`` and names like them hold, every ``PathLike``, and what a command names.
        """
        for path in paths_of(context):
            violation = self._judge(path)
            if violation is not None:
                return violation
        return None

    def _judge(self, path: str) -> BoundaryViolation | None:
        if "\0" in path:
            return self._violation("Path holds a NUL byte", path, self.allowed_paths)
        real = _real(path)
        # Whoever opens "~/x" without expanding it reaches a folder of that name.
        spellings = {real, os.path.realpath(path)} if path.startswith("~") else {real}
        if self.block_patterns:
            names = {path, os.path.abspath(path), *spellings}
            names |= {os.path.basename(name) for name in names}
            if any(fnmatchcase(name, pattern) for name in names for pattern in self.block_patterns):
                return self._violation("Path matches blocked pattern", real, self.allow_patterns or self.allowed_paths)
        for spelling in spellings:
            for folder in self.blocked_paths:
                if _below(spelling, folder):
                    reason = f"Path is under blocked directory: {folder}"
                    return self._violation(reason, spelling, self.allowed_paths)
        if not self.allowed_paths and not self.allow_patterns:
            return None
        if any(_below(real, folder) for folder in self.allowed_paths):
            return None
        if any(fnmatchcase(real, pattern) for pattern in self.allow_patterns):
            return None
        return self._violation("Path not in allowed list", real, [*sorted(self.allowed_paths), *self.allow_patterns])

    def _violation(self, reason: str, path: str, allowed: set[Path] | list[Any]) -> BoundaryViolation:
        return BoundaryViolation(
            "path", self.name, reason, path, sorted(allowed) if isinstance(allowed, set) else list(allowed)
        )


def _real(path: str | os.PathLike[str]) -> str:
    return os.path.realpath(os.path.expanduser(path))


def _below(path: str, folder: Path) -> bool:
    base = str(folder)
    return path == base or path.startswith(base if base.endswith("/") else f"{base}/")


class NetworkBoundary(Boundary):
    """Confines connections to hosts and ports. What is blocked beats what is allowed.

    ``*.x.com`` stands for ``x.com`` and every name below it. Private addresses (loopback, link-local, metadata services
    and the like, in whatever spelling) are refused unless ``allow_private_ips``; the name ``localhost`` is one of them
    unless it is in ``allowed_hosts``. Names are not looked up: what a name resolves to is for the supervisor to judge.

    >>> boundary = NetworkBoundary(allowed_hosts=["api.openai.com", "*.anthropic.com"], blocked_ports=[22])
    >>> boundary.check({"url": "https://evil.com/"}).reason
    'Host not in allowed list'
    >>> boundary.check({"host": "0x7f.1"}).reason
    'Private IP addresses are not allowed'
    >>> boundary.check({"url": "https://api.anthropic.com/v1"}) is None
    True
    """

    def __init__(
        self,
        allowed_hosts: list[str] | None = None,
        blocked_hosts: list[str] | None = None,
        allowed_ports: list[int] | None = None,
        blocked_ports: list[int] | None = None,
        allow_private_ips: bool = False,
        name: str = "network_boundary",
    ) -> None:
        super().__init__(name, "Network access boundary")
        self.allowed_hosts = set(allowed_hosts or ())
        self.blocked_hosts = set(blocked_hosts or ())
        self.allowed_ports = set(allowed_ports or ())
        self.blocked_ports = set(blocked_ports or ())
        self.allow_private_ips = allow_private_ips

    def check(self, context: dict[str, Any]) -> BoundaryViolation | None:
        """The violation of the first destination that crosses the boundary.

        Destinations are what ``url``, ``host`` and names like them hold, with ``port``, and the URLs in a command. One
        that cannot be understood is a violation.
        """
        try:
            places = destinations_of(context)
        except ValueError as error:
            return BoundaryViolation("network", self.name, f"Not an address: {error}", _attempt(context))
        for place in places:
            violation = self._judge(place)
            if violation is not None:
                return violation
        return None

    def _judge(self, place: Destination) -> BoundaryViolation | None:
        host, port = place.host, place.port
        allowed = sorted(self.allowed_hosts)
        address = parse_legacy_ip(host)
        if not self.allow_private_ips and address is not None and is_private(address):
            return self._private(host)
        for pattern in sorted(self.blocked_hosts):
            if _host_fits(host, pattern):
                return BoundaryViolation("network", self.name, f"Host is blocked: {pattern}", host, allowed)
        if not self.allow_private_ips and self._named_private(host):
            return self._private(host)
        if port is not None and port in self.blocked_ports:
            return BoundaryViolation("network", self.name, f"Port {port} is blocked", port, sorted(self.allowed_ports))
        if self.allowed_hosts and not any(_host_fits(host, pattern) for pattern in self.allowed_hosts):
            return BoundaryViolation("network", self.name, "Host not in allowed list", host, allowed)
        if port is not None and self.allowed_ports and port not in self.allowed_ports:
            return BoundaryViolation("network", self.name, "Port not in allowed list", port, sorted(self.allowed_ports))
        return None

    def _private(self, host: str) -> BoundaryViolation:
        reason = "Private IP addresses are not allowed"
        return BoundaryViolation("network", self.name, reason, host, None, {"is_private_ip": True})

    def _named_private(self, host: str) -> bool:
        if host in METADATA_NAMES:
            return True
        local = host in _LOOPBACK_NAMES or host.endswith(".localhost")
        return local and not any(_host_fits(host, pattern) for pattern in self.allowed_hosts if "*" not in pattern)


def _host_fits(host: str, pattern: str) -> bool:
    pattern = pattern.lower().strip("[]").rstrip(".")
    if pattern.startswith("*.") and "*" not in pattern[2:]:
        return host == pattern[2:] or host.endswith(pattern[1:])
    if "*" in pattern:
        return fnmatchcase(host, pattern.replace("[", "[[]"))
    if host == pattern:
        return True
    address = parse_legacy_ip(pattern)
    return address is not None and parse_legacy_ip(host) == address


def _attempt(context: dict[str, Any]) -> Any:
    return context.get("url", context.get("host"))


class TimeBoundary(Boundary):
    """Limits how long an operation runs, and all of them together, in seconds.

    Time is measured around each operation. An async operation is cancelled when its time is over; one that is not
    async is refused its result. ``max_total_time`` is over everything that this boundary has seen; no further
    operation starts then. ``execution_time`` in a context is taken as a measurement.

    >>> TimeBoundary(max_execution_time=1.0).check({"execution_time": 1.5}).reason
    'Execution time 1.50s exceeds limit 1.00s'
    """

    def __init__(
        self, max_execution_time: float = 60.0, max_total_time: float | None = None, name: str = "time_boundary"
    ) -> None:
        super().__init__(name, "Execution time boundary")
        self.max_execution_time = max_execution_time
        self.max_total_time = max_total_time
        self._total_time = 0.0

    def check(self, context: dict[str, Any]) -> BoundaryViolation | None:
        """The violation of a measurement in the context, or of a total that has been used up."""
        seconds = context.get("execution_time")
        if seconds is not None:
            return self._too_long(seconds) or self.finished(seconds)
        if self.max_total_time is not None and self._total_time > self.max_total_time:
            return self._total_violation(self._total_time, self.max_total_time)
        return None

    def finished(self, seconds: float, *, nested: bool = False) -> BoundaryViolation | None:
        """The violation of an operation that took this long. Nested ones are part of a total already."""
        violation = self._too_long(seconds)
        if nested:
            return violation
        with _counting:
            self._total_time += seconds
            total = self._total_time
        if violation is None and self.max_total_time is not None and total > self.max_total_time:
            return self._total_violation(total, self.max_total_time)
        return violation

    def remaining(self) -> float:
        """Seconds that an operation starting now may take."""
        if self.max_total_time is None:
            return self.max_execution_time
        return min(self.max_execution_time, max(0.0, self.max_total_time - self._total_time))

    def reset_total_time(self) -> None:
        """Start counting the total from zero."""
        with _counting:
            self._total_time = 0.0

    def fresh(self) -> TimeBoundary:
        """A copy with a total of zero."""
        made = copy.copy(self)
        made._total_time = 0.0
        return made

    def _too_long(self, seconds: float) -> BoundaryViolation | None:
        limit = self.max_execution_time
        if seconds <= limit:
            return None
        return self._violation(f"Execution time {seconds:.2f}s exceeds limit {limit:.2f}s", seconds, limit)

    def _total_violation(self, total: float, limit: float) -> BoundaryViolation:
        return self._violation(f"Total time {total:.2f}s exceeds limit {limit:.2f}s", total, limit)

    def _violation(self, reason: str, seconds: float, limit: float) -> BoundaryViolation:
        return BoundaryViolation("time", self.name, reason, seconds, limit)


class ResourceBoundary(Boundary):
    """Limits this process's memory (resident, in MB of 2**20 bytes), CPU share, open descriptors, and operations.

    Measured when an operation is about to start, and only what has a limit. ``memory_mb``, ``cpu_percent`` and
    ``open_files`` in a context are taken instead of a measurement (None: it is not known). CPU is over all cores since
    the last measurement but at least a tenth of a second: 100 is one core.

    >>> boundary = ResourceBoundary(max_operations=1)
    >>> boundary.check({}) is None
    True
    >>> boundary.check({}).reason
    'Operation count 2 exceeds limit 1'
    """

    def __init__(
        self,
        max_memory_mb: float | None = None,
        max_cpu_percent: float | None = None,
        max_open_files: int | None = None,
        max_operations: int | None = None,
        name: str = "resource_boundary",
    ) -> None:
        super().__init__(name, "Resource usage boundary")
        self.max_memory_mb = max_memory_mb
        self.max_cpu_percent = max_cpu_percent
        self.max_open_files = max_open_files
        self.max_operations = max_operations
        self._operation_count = 0
        self._cpu = (time.monotonic(), time.process_time(), 0.0)  # when, CPU seconds until then, percent before it

    def check(self, context: dict[str, Any]) -> BoundaryViolation | None:
        """The violation of the first limit that is exceeded. Counts one operation."""
        with _counting:
            self._operation_count += 1
            count = self._operation_count
        if self.max_memory_mb is not None:
            memory = context["memory_mb"] if "memory_mb" in context else _memory_mb()
            if memory is not None and memory > self.max_memory_mb:
                reason = f"Memory usage {memory:.2f}MB exceeds limit {self.max_memory_mb:.2f}MB"
                return self._violation(reason, memory, self.max_memory_mb)
        if self.max_cpu_percent is not None:
            percent = context["cpu_percent"] if "cpu_percent" in context else self._cpu_percent()
            if percent is not None and percent > self.max_cpu_percent:
                reason = f"CPU usage {percent:.1f}% exceeds limit {self.max_cpu_percent:.1f}%"
                return self._violation(reason, percent, self.max_cpu_percent)
        if self.max_open_files is not None:
            files = context["open_files"] if "open_files" in context else _open_files()
            if files is not None and files > self.max_open_files:
                return self._violation(
                    f"Open files {files} exceeds limit {self.max_open_files}", files, self.max_open_files
                )
        if self.max_operations is not None and count > self.max_operations:
            reason = f"Operation count {count} exceeds limit {self.max_operations}"
            return self._violation(reason, count, self.max_operations)
        return None

    def reset_operation_count(self) -> None:
        """Start counting operations from zero."""
        with _counting:
            self._operation_count = 0

    def fresh(self) -> ResourceBoundary:
        """A copy that has counted no operation."""
        made = copy.copy(self)
        made._operation_count = 0
        return made

    def _cpu_percent(self) -> float:
        with _counting:
            since, used_then, percent = self._cpu
            now, used = time.monotonic(), time.process_time()
            if used < used_then:  # a forked child or an unpickled copy: another process's clock
                since, used_then = now, used
                self._cpu = (now, used, 0.0)
            if now - since >= _CPU_WINDOW_S:
                percent = 100.0 * (used - used_then) / (now - since)
                self._cpu = (now, used, percent)
            return percent

    def _violation(self, reason: str, attempted: float, limit: float) -> BoundaryViolation:
        return BoundaryViolation("resource", self.name, reason, attempted, limit)


def _memory_mb() -> float:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd")) - 1  # without the one that lists them


_HOW = "Folders go to PathBoundary, hosts to NetworkBoundary, seconds to TimeBoundary."


class BoundarySet:
    """Boundaries checked together. ``boundaries`` is the list that was given; it can be changed at any time."""

    def __init__(self, boundaries: list[Boundary] | None = None) -> None:
        self.boundaries: list[Boundary] = checked_list(boundaries, "boundaries", "check", _HOW)

    def add(self, boundary: Boundary) -> None:
        """Add a boundary."""
        checked_list([boundary], "boundaries", "check", _HOW)
        self.boundaries.append(boundary)

    def remove(self, boundary_name: str) -> bool:
        """Remove the first boundary of that name; False when there is none."""
        for boundary in self.boundaries:
            if boundary.name == boundary_name:
                self.boundaries.remove(boundary)
                return True
        return False

    def check_all(self, context: dict[str, Any]) -> list[BoundaryViolation]:
        """The violations of all boundaries, in the boundaries' order."""
        found = [boundary.check(context) for boundary in tuple(self.boundaries)]
        return [violation for violation in found if violation is not None]

    def check_first(self, context: dict[str, Any]) -> BoundaryViolation | None:
        """The first violation, or None; the boundaries after it are not asked."""
        found = (boundary.check(context) for boundary in tuple(self.boundaries))
        return next((violation for violation in found if violation is not None), None)

    def finished(self, seconds: float, *, nested: bool = False) -> list[BoundaryViolation]:
        """The violations of an operation that ran this long."""
        found = [
            boundary.finished(seconds, nested=nested)
            for boundary in tuple(self.boundaries)
            if isinstance(boundary, Boundary)
        ]
        return [violation for violation in found if violation is not None]

    def seconds_left(self) -> float | None:
        """Seconds that an operation starting now may take; None when nothing limits it."""
        return min(
            (boundary.remaining() for boundary in self.boundaries if isinstance(boundary, TimeBoundary)), default=None
        )

    def __iter__(self) -> Iterator[Boundary]:
        return iter(self.boundaries)

    def __len__(self) -> int:
        return len(self.boundaries)


__all__ = [
    "Boundary",
    "BoundarySet",
    "BoundaryViolation",
    "NetworkBoundary",
    "PathBoundary",
    "ResourceBoundary",
    "TimeBoundary",
]
