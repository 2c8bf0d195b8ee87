"""One cgroup subtree per run, where the machine lets us have one: limits that the kernel holds, and figures for all.

    own cgroup ─┬─ the supervisor and its warden stay here
                └─ asl-<run>   the child enters before it executes anything; everything that it starts is born there

A run may need several such folders: version 1 has one hierarchy a controller, and a machine with version 1 controllers
usually has a version 2 tree beside them, which still counts CPU time and kills at one write. All lie below the
supervisor's own cgroups, so whatever holds for the supervisor holds for the tree too. Version 2 enables controllers
only below a cgroup that has no processes itself; a supervisor that is alone in its cgroup (a container, or
``systemd-run --scope -p Delegate=yes``) moves into a leaf for it. Source: cgroups(7), and the kernel's
admin-guide/cgroup-v2 and cgroup-v1.
"""

from __future__ import annotations

import os
import time
from errno import EBUSY

from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

MEMORY, PROCESSES, CPU = "memory", "pids", "cpu"
_PERIOD_US = 100_000
_STALE_S = 60  # an empty folder of this age was left behind by a run that was killed with its warden


@value
class Place:
    """A cgroup of this process: its folder, the version of its hierarchy, the controllers that are (v1) or could be
    (v2) in force below it.
    """

    path: str
    version: int
    controllers: frozenset[str]


@value
class Usage:
    """What all processes of a subtree have used. ``memory_bytes`` is what cannot be dropped, ``peak_bytes`` has page
    cache in it; ``refused`` forks and processes ``killed`` for memory are counts.
    """

    memory_bytes: int = 0
    peak_bytes: int = 0
    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    killed: int = 0
    refused: int = 0


def places() -> tuple[Place, ...]:
    """The cgroups of this process whose folders can be seen from here, one per hierarchy."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        mounted = parse_mounts(mounts)
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as groups:
        found = parse_own(groups, mounted)
    return tuple(place if place.version == 1 else _with_controllers(place) for place in found)


def parse_mounts(lines: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Hierarchy (its controllers as in ``/proc/<pid>/cgroup``, nothing for version 2) to mount point and its root."""
    mounted: dict[str, tuple[str, str]] = {}
    for line in lines:
        left, _, right = line.rstrip("\n").partition(" - ")
        kind, _, options = right.split(" ", 2)
        root, point = left.split(" ")[3:5]
        if kind == "cgroup2":
            mounted.setdefault("", (point, root))
        elif kind == "cgroup":
            for option in options.split(","):
                mounted.setdefault(option, (point, root))
    return mounted


def parse_own(lines: Iterable[str], mounted: dict[str, tuple[str, str]]) -> tuple[Place, ...]:
    """The folders of the cgroups that ``/proc/self/cgroup`` names, as far as they are below a mount."""
    found = []
    for line in lines:
        _, controllers, path = line.rstrip("\n").split(":", 2)
        point, root = mounted.get(controllers.partition(",")[0], ("", ""))
        inside = path if root == "/" else path[len(root) :] if path == root or path.startswith(root + "/") else None
        if point and inside is not None:
            version = 1 if controllers else 2
            found.append(
                Place(os.path.normpath(point + inside), version, frozenset(filter(None, controllers.split(","))))
            )
    return tuple(found)


def _with_controllers(place: Place) -> Place:
    return Place(place.path, 2, frozenset(_read(place.path, "cgroup.controllers").split()))


class Subtree:
    """The cgroups of one run. ``enter`` are the ``cgroup.procs`` that a process writes ``0`` into to be inside.

    ``holds`` names the limits that the kernel keeps; ``kill_all`` is an open ``cgroup.kill``, or -1. Descriptors are
    close-on-exec.
    """

    def __init__(self, name: str, own: Collection[Place], wanted: Collection[str]) -> None:
        self._folders: dict[str, str] = {}  # controller, or "" for version 2 itself: folder
        self._versions: dict[str, int] = {}
        self._made: list[str] = []
        self._left: tuple[str, str] | None = None  # where this process was, and the leaf that it is in now
        self.enter: tuple[int, ...] = ()
        self.kill_all = -1
        try:
            for place in own:
                if place.version == 1:
                    self._join_v1(place, name, wanted)
                else:
                    self._join_v2(place, name, wanted)
            self.enter = tuple(os.open(f"{folder}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for folder in self._made)
        except BaseException:
            self.remove()
            raise
        try:
            self.kill_all = os.open(f"{self._folders.get('', '')}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            pass  # before Linux 5.14, or no version 2 tree

    def _join_v1(self, place: Place, name: str, wanted: Collection[str]) -> None:
        useful = [controller for controller in (*wanted, "cpuacct") if controller in place.controllers]
        if not useful:
            return
        folder = self._make(place.path, name)
        if folder:
            for controller in useful:
                self._folders[controller], self._versions[controller] = folder, 1

    def _join_v2(self, place: Place, name: str, wanted: Collection[str]) -> None:
        missing = [controller for controller in wanted if controller in place.controllers]
        enabled = _read(place.path, "cgroup.subtree_control").split()
        if not set(missing) <= set(enabled):
            self._enable(place.path, name, missing)
            enabled = _read(place.path, "cgroup.subtree_control").split()
        folder = self._make(place.path, name)
        if folder:
            self._folders[""], self._versions[""] = folder, 2
            for controller in set(missing) & set(enabled):
                self._folders[controller], self._versions[controller] = folder, 2

    def _enable(self, path: str, name: str, controllers: Collection[str]) -> None:
        """Have the controllers below *path*; if only this process stands in the way, it moves down into a leaf."""
        line = " ".join(f"+{controller}" for controller in controllers)
        try:
            _write(path, "cgroup.subtree_control", line)
            return
        except OSError as error:
            if error.errno != EBUSY or _read(path, "cgroup.procs").split() != [str(os.getpid())]:
                return
        leaf = f"{path}/{name}.supervisor"
        try:
            os.mkdir(leaf)
            _write(leaf, "cgroup.procs", "0")
            self._left = (path, leaf)
            _write(path, "cgroup.subtree_control", line)
        except OSError:
            self._go_back()

    def _make(self, path: str, name: str) -> str:
        folder = f"{path}/{name}"
        try:
            _sweep(path)
            os.mkdir(folder)
        except OSError:
            return ""
        self._made.append(folder)
        return folder

    @property
    def folders(self) -> tuple[str, ...]:
        """The cgroups, as folders, for whoever has to remove them in this process's stead."""
        return tuple(self._made)

    @property
    def holds(self) -> frozenset[str]:
        """The controllers whose limits the kernel keeps for this subtree."""
        return frozenset(self._folders) - {"", "cpuacct"}

    def version(self, controller: str) -> int:
        """Of which cgroup version the controller is; 0 when it is not to be had."""
        return self._versions.get(controller, 0)

    def limit_memory(self, limit_bytes: int) -> None:
        """At most so much for all processes together: anonymous, page cache, tmpfs, memfd, kernel. Beyond, the kernel
        kills.
        """
        folder = self._folders[MEMORY]
        if self._versions[MEMORY] == 2:
            _write(folder, "memory.max", str(limit_bytes))
            _try(folder, "memory.swap.max", "0")
            _try(folder, "memory.oom.group", "1")
        else:
            _write(folder, "memory.limit_in_bytes", str(limit_bytes))
            _try(folder, "memory.memsw.limit_in_bytes", str(limit_bytes))

    def limit_processes(self, most: int) -> None:
        """At most so many processes and threads; beyond, forking fails with EAGAIN."""
        _write(self._folders[PROCESSES], "pids.max", str(most))

    def limit_cpu(self, percent: float) -> None:
        """At most so much of one CPU (200: of two); beyond, the processes wait."""
        quota = max(int(percent * _PERIOD_US / 100), 1000)
        folder = self._folders[CPU]
        if self._versions[CPU] == 2:
            _write(folder, "cpu.max", f"{quota} {_PERIOD_US}")
        else:
            _write(folder, "cpu.cfs_period_us", str(_PERIOD_US))
            _write(folder, "cpu.cfs_quota_us", str(quota))

    def usage(self) -> Usage:
        """What has been used until now; 0 for what no controller counts."""
        memory, pids = self._folders.get(MEMORY, ""), self._folders.get(PROCESSES, "")
        if self._versions.get(MEMORY) == 2:
            kinds, peak = _fields(memory, "memory.stat"), _number(memory, "memory.peak")
            used = kinds.get("anon", 0) + kinds.get("shmem", 0) + _number(memory, "memory.swap.current")
            killed = _fields(memory, "memory.events").get("oom_kill", 0)
        else:
            kinds, peak = _fields(memory, "memory.stat"), _number(memory, "memory.max_usage_in_bytes")
            used = sum(kinds.get(name, 0) for name in ("total_rss", "total_shmem", "total_swap"))
            killed = _fields(memory, "memory.oom_control").get("oom_kill", 0)
        user_s, system_s = self._cpu()
        return Usage(used, max(peak, used), user_s, system_s, killed, _fields(pids, "pids.events").get("max", 0))

    def _cpu(self) -> tuple[float, float]:
        if "" in self._folders:
            found = _fields(self._folders[""], "cpu.stat")
            return found.get("user_usec", 0) / 1e6, found.get("system_usec", 0) / 1e6
        ticks = os.sysconf("SC_CLK_TCK")
        found = _fields(self._folders.get("cpuacct", ""), "cpuacct.stat")
        return found.get("user", 0) / ticks, found.get("system", 0) / ticks

    def remove(self) -> None:
        """Close and remove all of it. The subtree must have no processes left; what still has some is left behind."""
        for fd in (*self.enter, self.kill_all):
            if fd >= 0:
                os.close(fd)
        self.enter, self.kill_all = (), -1
        remove_folders(self._made)
        self._made = []
        self._go_back()

    def _go_back(self) -> None:
        if self._left is None:
            return
        (path, leaf), self._left = self._left, None
        enabled = _read(path, "cgroup.subtree_control").split()
        _try(path, "cgroup.subtree_control", " ".join(f"-{controller}" for controller in enabled))
        _try(path, "cgroup.procs", "0")
        remove_folders((leaf,))


def remove_folders(folders: Iterable[str]) -> None:
    """Remove cgroups in which nothing lives any more.

    A dead process leaves its cgroup a moment after it was reaped, so this tries for as long as that may take.
    """
    for folder in folders:
        for _ in range(50):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.002)
                continue
            break


def _sweep(path: str) -> None:
    """Remove what dead runs left in *path*: the kernel lets nobody remove a cgroup that has processes."""
    oldest = time.time() - _STALE_S
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("asl-") and entry.is_dir() and entry.stat().st_mtime < oldest:
                try:
                    os.rmdir(entry.path)
                except OSError:
                    continue


def _read(folder: str, name: str) -> str:
    try:
        with open(f"{folder}/{name}", encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def _write(folder: str, name: str, text: str) -> None:
    fd = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _try(folder: str, name: str, text: str) -> None:
    try:
        _write(folder, name, text)
    except OSError:
        pass


def _number(folder: str, name: str) -> int:
    text = _read(folder, name).strip() if folder else ""
    return int(text) if text.isdigit() else 0


def _fields(folder: str, name: str) -> dict[str, int]:
    lines = (_read(folder, name) if folder else "").splitlines()
    return {key: int(number) for key, _, number in (line.partition(" ") for line in lines) if number.isdigit()}
