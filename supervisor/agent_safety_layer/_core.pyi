from collections.abc import Callable

from agent_safety_layer.engine.plans import Plan, Plans
from agent_safety_layer.engine.routine import Verdict
from agent_safety_layer.trace.lines import Lines as _Lines
from asl_hooks.backend import Call
from asl_hooks.processes import Process

VERSION: int

class Lines(_Lines): ...

class Core:
    def __new__(
        cls,
        listener: int,
        epoll: int,
        lines: _Lines,
        threads: dict[int, Process],
        plans: Plans,
        plan: type[Plan],
        verdicts: dict[tuple[str, bool, bytes], Verdict | None],
        verdict: Callable[[str, bool, bytes], Verdict | None],
        as_creator: Callable[[Process], None],
        flush: Callable[[], None],
        call: Callable[[tuple[object, ...]], Call],
    ) -> Core: ...
    def turn(self, timeout_s: float, until: float, pause_at: int) -> Call | list[tuple[int, int]]: ...
    def guard(self) -> None: ...
