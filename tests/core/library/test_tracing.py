"""Tracers: parents under nesting and threads, what JSON takes, and that long traces stay quick."""

from __future__ import annotations

import json
import threading
import uuid
from typing import Any

from agent_safety_layer import SafetyLayer, Trace, TraceEntry, TraceExporter, TraceLevel, Tracer, TraceStatus
from agent_safety_layer.tracing import current_span, new_id


def parents(trace: Trace) -> list[tuple[str, str | None]]:
    names = {entry.id: entry.operation for entry in trace.entries}
    return [(entry.operation, entry.parent_id and names[entry.parent_id]) for entry in trace.entries]


def test_parents_are_the_operations_that_are_open() -> None:
    tracer = Tracer("x", {"k": 1})
    outer = tracer.start_operation("outer", {"x": 1})
    inner = tracer.start_operation("inner", level=TraceLevel.DEBUG)
    tracer.log("message")
    blocked = tracer.log_blocked("blocked", "why")
    tracer.log_error("error", "bad")
    assert current_span() == inner
    tracer.end_operation(outer, TraceStatus.FAILED, error="x")  # before the one within
    tracer.add_entry("skipped", TraceStatus.SKIPPED)
    tracer.end_operation(inner, output_data=1)
    tracer.log("after")
    assert current_span() == ""
    trace = tracer.finish()
    assert parents(trace) == [
        *(("outer", None), ("inner", "outer"), ("message", "inner"), ("blocked", "inner"), ("error", "inner")),
        *(("skipped", "inner"), ("after", None)),
    ]
    assert [entry.id for entry in tracer.get_entries(TraceStatus.BLOCKED)] == [blocked]
    assert [entry.operation for entry in tracer.get_entries(level=TraceLevel.ERROR)] == ["error"]
    assert [entry.operation for entry in tracer.get_entries(operation_pattern="ner$")] == ["inner"]
    assert (trace.error_count, trace.blocked_count, trace.metadata) == (2, 1, {"k": 1})


def test_an_unknown_end_is_ignored_and_a_second_one_corrects() -> None:
    tracer = Tracer()
    tracer.end_operation("nonsense")
    begun = tracer.start_operation("a")
    tracer.end_operation(begun)
    took = tracer.trace.entries[0].duration_ms
    tracer.end_operation(begun, TraceStatus.FAILED, error="late")
    entry = tracer.trace.entries[0]
    assert (entry.status, entry.error, entry.duration_ms) == (TraceStatus.FAILED, "late", took)


def test_nested_sessions_keep_to_their_own_trace() -> None:
    safety = SafetyLayer()
    guarded = safety.guard(lambda: None, operation="guarded")
    with safety.session("a") as first, safety.session("b") as second:

        def inside() -> None:
            second.execute("b1", lambda: first.execute("a2", guarded))
            first.log("a3")

        first.execute("a1", inside)
    assert parents(first.finish()) == [("a1", None), ("a2", "a1"), ("a3", "a1")]
    assert parents(second.finish()) == [("b1", None)]
    calls = safety.get_trace()
    assert calls is not None and parents(calls) == [("guarded", None)]


def test_threads_do_not_mix_up_parents() -> None:
    safety = SafetyLayer()
    together = threading.Barrier(4)
    with safety.session() as session:

        def work(number: int) -> None:
            def inside() -> None:
                together.wait()
                for _ in range(50):
                    session.execute(f"inner {number}", lambda: None)
                together.wait()

            session.execute(f"outer {number}", inside)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = parents(session.finish())
    assert len(found) == 4 * 51
    assert all(parent == (None if "outer" in name else name.replace("inner", "outer")) for name, parent in found)


def test_generators_between_steps_are_nobodys_parent() -> None:
    safety = SafetyLayer()
    inner = safety.guard(lambda: None, operation="inner")

    @safety.guard
    def items() -> Any:
        for number in range(2):
            inner()
            yield number

    for _ in items():
        safety.guard(lambda: None, operation="use")()
    trace = safety.get_trace()
    assert trace is not None
    assert parents(trace) == [("items", None), ("inner", "items"), ("use", None), ("inner", "items"), ("use", None)]


def test_ending_an_operation_never_looks_through_the_others() -> None:
    class Watched(list[TraceEntry]):
        looked = 0

        def __iter__(self) -> Any:
            self.looked += 1
            return super().__iter__()

        def __reversed__(self) -> Any:
            self.looked += 1
            return super().__reversed__()

    tracer = Tracer()
    entries = tracer.trace.entries = Watched()
    begun = [tracer.start_operation(str(number)) for number in range(10_000)]
    for entry_id in begun:
        tracer.end_operation(entry_id)
    assert entries.looked == 0
    assert all(entry.status is TraceStatus.COMPLETED for entry in entries)


def test_open_operations_do_not_pile_up() -> None:
    safety = SafetyLayer()
    guarded = safety.guard(lambda: None)
    for _ in range(100):
        guarded()
    assert safety.tracer is not None and safety.tracer._open == {} and current_span() == ""


def test_json_takes_whatever_was_passed() -> None:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    data = {(1, 2): {3}, "bytes": b"x", "object": object, "circle": circle, "set": {1}, None: 1}
    trace = Trace("1", "n", 1.0, None, [TraceEntry("1", 1.0, "o", TraceStatus.COMPLETED, input_data=data)])  # type: ignore[arg-type]
    back = json.loads(TraceExporter.to_json(trace))["entries"][0]["input_data"]
    assert back["(1, 2)"] == "{3}" and back["circle"] == {"self": "..."} and back["bytes"] == "b'x'"


def test_entries_come_back_from_json() -> None:
    tracer = Tracer("n", {"m": 1})
    tracer.end_operation(
        tracer.start_operation("a", {"x": [1]}, TraceLevel.CRITICAL, {"y": 2}), output_data={"z": None}
    )
    trace = tracer.finish()
    assert TraceExporter.from_json(TraceExporter.to_json(trace, pretty=False)) == trace


def test_ids_are_random_uuids() -> None:
    made = [new_id() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert {uuid.UUID(text).version for text in made} == {4}
    assert all(str(uuid.UUID(text)) == text and uuid.UUID(text).variant == uuid.RFC_4122 for text in made)


def test_a_layer_without_tracing_has_no_trace_but_sessions_have() -> None:
    safety = SafetyLayer(trace=False)
    assert safety.guard(lambda: 1)() == 1 and safety.get_trace() is None
    safety.reset_trace()
    assert safety.get_trace() is None
    with safety.session() as session:
        session.execute("a", lambda: None)
    assert session.finish().entry_count == 1


def test_a_reset_trace_is_a_new_one() -> None:
    safety = SafetyLayer()
    safety.guard(lambda: 1)()
    first = safety.get_trace()
    safety.reset_trace()
    second = safety.get_trace()
    assert first is not None and second is not None and first.id != second.id and second.entries == []
