"""Async functions, generators and sessions: guarded, cancelled in time, each with its own parent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent_safety_layer import (
    ApprovalGate,
    ApprovalRequest,
    AsyncApprovalGate,
    Policy,
    SafetyLayer,
    SafetyViolation,
    TimeBoundary,
    Trace,
)


def layer(**options: Any) -> SafetyLayer:
    return SafetyLayer([Policy.block_pattern("rm", "no"), Policy.require_approval("send", timeout=5)], **options)


def trace_of(safety: SafetyLayer) -> Trace:
    trace = safety.get_trace()
    assert trace is not None
    return trace


def test_coroutines_are_judged_when_awaited() -> None:
    safety = layer()
    ran: list[str] = []

    @safety.guard
    async def run(cmd: str) -> str:
        await asyncio.sleep(0)
        ran.append(cmd)
        return cmd

    async def main() -> None:
        assert await run("ls") == "ls"
        with pytest.raises(SafetyViolation):
            await run("rm")

    asyncio.run(main())
    assert ran == ["ls"]
    assert [entry.status.value for entry in trace_of(safety).entries] == ["completed", "blocked"]


def test_async_generators_pass_values_both_ways_and_are_closed() -> None:
    safety = layer()
    seen: list[object] = []

    @safety.guard
    async def talk(cmd: str) -> Any:
        try:
            seen.append((yield cmd))
            try:
                yield 2
            except KeyError:
                yield 3
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    async def main() -> None:
        steps = talk("ls")
        assert await anext(steps) == "ls"
        assert await steps.asend("hi") == 2
        assert await steps.athrow(KeyError()) == 3
        assert [item async for item in steps] == []
        abandoned = talk("ls")
        assert await anext(abandoned) == "ls"
        await abandoned.aclose()
        with pytest.raises(SafetyViolation):
            await anext(talk("rm"))

    asyncio.run(main())
    assert seen == ["hi", "closed", "closed"]
    assert [entry.status.value for entry in trace_of(safety).entries] == ["completed", "completed", "blocked"]


def test_a_session_runs_async_functions() -> None:
    safety = layer()

    async def fetch() -> str:
        await asyncio.sleep(0)
        return "fetched"

    async def main() -> Trace:
        async with safety.session("s", record=True) as session:
            assert await session.execute("a", fetch) == "fetched"
            assert await session.execute("b", lambda: fetch()) == "fetched"  # noqa: PLW0108
            assert await session.execute_async("c", fetch) == "fetched"
            with pytest.raises(SafetyViolation):
                await session.execute("rm", fetch)
        recording = session.get_recording()
        assert recording is not None and [o.output_data for o in recording.operations] == [*["fetched"] * 3, None]
        assert session.tracer.trace.ended_at is not None
        return session.finish()

    entries = asyncio.run(main()).entries
    assert [(entry.operation, entry.output_data) for entry in entries[:3]] == [(name, "fetched") for name in "abc"]


def test_tasks_have_the_parents_that_started_them() -> None:
    safety = SafetyLayer()
    both = asyncio.Event

    @safety.guard
    async def outer(name: str, here: asyncio.Event, there: asyncio.Event) -> None:
        here.set()
        await there.wait()  # both outer calls run now
        await asyncio.gather(inner(name), inner(name))

    @safety.guard
    async def inner(name: str) -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        first, second = both(), both()
        await asyncio.gather(outer("a", first, second), outer("b", second, first))

    asyncio.run(main())
    entries = trace_of(safety).entries
    args = {entry.id: entry.input_data["args"][0] for entry in entries if entry.input_data}
    inside = [entry for entry in entries if entry.operation == "inner"]
    assert len(inside) == 4
    assert all(entry.parent_id and args[entry.parent_id] == args[entry.id] for entry in inside)
    assert all(entry.parent_id is None for entry in entries if entry.operation == "outer")


def test_a_time_boundary_cancels_what_is_async() -> None:
    safety = SafetyLayer(boundaries=[TimeBoundary(max_execution_time=0.01)])
    ended: list[str] = []

    @safety.guard
    async def slow() -> None:
        try:
            await asyncio.Event().wait()  # for ever
        finally:
            ended.append("cancelled")

    @safety.guard
    async def quick() -> str:
        return "done"

    async def main() -> None:
        assert await quick() == "done"
        with pytest.raises(SafetyViolation, match=r"Execution time 0\.\d\ds exceeds limit 0\.01s"):
            await slow()

    asyncio.run(main())
    assert ended == ["cancelled"]


def test_a_timeout_of_the_functions_own_stays_its_own() -> None:
    @SafetyLayer(boundaries=[TimeBoundary(60)]).guard
    async def work() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        asyncio.run(work())


def test_an_async_gate_is_awaited() -> None:
    gate = AsyncApprovalGate()
    safety = layer(approval_gate=gate)

    @safety.guard
    async def send(to: str) -> str:
        return to

    async def main() -> None:
        async def answer(yes: bool) -> None:
            while not gate.get_pending():
                await asyncio.sleep(0)
            request = gate.get_pending()[0]
            assert await (gate.approve if yes else gate.deny)(request.id, "me")

        assert (await asyncio.gather(send("bob"), answer(True)))[0] == "bob"
        with pytest.raises(SafetyViolation, match="denied by me"):
            await asyncio.gather(send("bob"), answer(False))

    asyncio.run(main())


def test_a_gate_for_threads_does_not_stop_the_loop() -> None:
    gate = ApprovalGate()
    safety = layer(approval_gate=gate)

    @safety.guard
    async def send(to: str) -> str:
        return to

    async def main() -> None:
        async def answer() -> None:
            while not gate.get_pending():
                await asyncio.sleep(0)
            gate.approve(gate.get_pending()[0].id)

        assert (await asyncio.gather(send("bob"), answer()))[0] == "bob"

    asyncio.run(main())


def test_an_async_gate_serves_plain_functions_where_no_loop_runs() -> None:
    async def answer(request: ApprovalRequest) -> None:
        await gate.approve(request.id)

    gate = AsyncApprovalGate(on_request=answer)
    safety = layer(approval_gate=gate)
    guarded = safety.guard(lambda: "sent", operation="send")
    assert guarded() == "sent"

    async def main() -> None:
        with pytest.raises(SafetyViolation, match="guard an async function"):
            guarded()

    asyncio.run(main())


def test_a_cancelled_wait_takes_its_question_back() -> None:
    gate = AsyncApprovalGate()
    safety = layer(approval_gate=gate)

    @safety.guard
    async def send() -> None: ...

    async def main() -> ApprovalRequest:
        task = asyncio.create_task(send())
        while not gate.get_pending():
            await asyncio.sleep(0)
        request = gate.get_pending()[0]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert gate.get_pending() == []
        assert not await gate.approve(request.id)
        return request

    assert asyncio.run(main()).status.value == "cancelled"


def test_async_generators_are_nobodys_parent_between_steps() -> None:
    safety = SafetyLayer()

    @safety.guard
    async def items() -> AsyncIterator[int]:
        for number in range(3):
            await inner()
            yield number

    @safety.guard
    async def inner() -> None: ...

    @safety.guard
    async def use(item: int) -> None: ...

    async def main() -> None:
        async for item in items():
            await use(item)

    asyncio.run(main())
    entries = trace_of(safety).entries
    generator = entries[0].id
    assert {entry.parent_id for entry in entries if entry.operation == "inner"} == {generator}
    assert {entry.parent_id for entry in entries if entry.operation == "use"} == {None}
