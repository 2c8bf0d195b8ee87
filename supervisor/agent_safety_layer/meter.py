"""Measuring what a tree uses, when its limits need to know: from its cgroup where it has one, else from /proc."""

from __future__ import annotations

import os

from agent_safety_layer.limits import Crossing, Figures, Watch
from asl_hooks.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.engine.recorder import Recorder
    from agent_safety_layer.output import Output
    from asl_hooks.cgroup import Subtree

_IDLE_CPU_S = 0.05  # less CPU time than this between two looks is idling
_MEMORY_S = 1.0  # memory is counted exactly this often, and whenever the quick upper bound comes near the limit


class Meter:
    """Measures what the limits need, when they need it."""

    def __init__(
        self, watch: Watch, warden_pid: int, recorder: Recorder, group: Subtree | None, output: Output | None
    ) -> None:
        self._watch = watch
        self._warden = warden_pid
        self._recorder = recorder
        self._group = group
        self._output = output
        self._cpus = os.cpu_count() or 1
        self._started = self._active_at = self._exact_at = 0.0
        self._activity: tuple[float, ...] = ()
        self._memory = 0
        self._last = Figures()
        self.next_look = 0.0
        self.peak_bytes = 0
        self.limit = watch.limit
        self.most_events = int(min(watch.limit("operations"), 1 << 62))

    def start(self, now: float) -> None:
        """The run began at *now* (monotonic seconds)."""
        self._started = self._active_at = now
        self.next_look = now + self._watch.next_look_s(self._last, self._cpus)

    @property
    def deadline(self) -> float:
        """When the run's time is over, in monotonic seconds; infinite where it has no end."""
        return self._started + self._watch.limit("wall_time")

    def look(self, now: float) -> list[Crossing]:
        """The limits that have been crossed since the last look. Cheap when it is not yet time for one."""
        counted = self._recorder.count >= self.most_events or (
            self._output is not None and self._output.count >= self._watch.limit("output") * 0.8
        )
        if now < self.next_look and not counted:
            return []
        figures = self._last = self._measure(now)
        found = self._watch.crossings(figures)
        self.next_look = now + self._watch.next_look_s(figures, self._cpus)
        return found

    def memory_now(self) -> int:
        """Bytes of memory that the tree used at the last look; 0 where nobody measures it."""
        return self._last.memory_bytes

    def counted(self, written_bytes: int) -> list[Crossing]:
        """The limits on what is counted that have been reached since the last look, with what the whole tree wrote."""
        output = 0 if self._output is None else self._output.count
        figures = replace(self._last, output_bytes=output, written_bytes=written_bytes, operations=self._recorder.count)
        return [crossing for crossing in self._watch.crossings(figures) if crossing.hit]

    def _measure(self, now: float) -> Figures:
        watch = self._watch
        cpu_s, memory, written = 0.0, 0, 0
        if "cpu_time" in watch or "memory" in watch or "idle_time" in watch:
            cpu_s, memory = self._use(now)
        if "written" in watch:
            from asl_hooks.usage import written as count_written

            written = count_written(self._warden)
        operations = self._recorder.count
        output = 0 if self._output is None else self._output.count
        activity = (operations, output, cpu_s // _IDLE_CPU_S)
        if activity != self._activity:
            self._activity, self._active_at = activity, now
        return Figures(now - self._started, cpu_s, memory, output, written, operations, now - self._active_at)

    def _use(self, now: float) -> tuple[float, int]:
        """CPU seconds and memory of the tree: the cgroup's figures where there is one."""
        if self._group is not None and "memory" in self._group.holds:
            found = self._group.usage()
            limit = int(self._watch.limit("memory"))
            return found.cpu_user_s + found.cpu_system_s, limit if found.killed else min(found.memory_bytes, limit - 1)
        from asl_hooks import usage

        sample = usage.measure(self._warden)
        if "memory" in self._watch:
            near = sample.memory_bytes >= self._watch.limit("memory") * 0.8
            if near or now >= self._exact_at:
                self._exact_at = now + _MEMORY_S
                self._memory = usage.memory(self._warden)
            self.peak_bytes = max(self.peak_bytes, self._memory)
        return sample.cpu_s, self._memory
