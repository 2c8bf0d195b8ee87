"""A run as OpenTelemetry spans: the run, its processes below it as they descend from each other; what was not simply
allowed is an event of its process's span. Sent over OTLP/HTTP (the extra ``otel``).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from agent_safety_layer.errors import UnsupportedError
from agent_safety_layer.events import ALLOW, BLOCK, TraceEntry
from agent_safety_layer.wording import object_of, shell_joined

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

    from agent_safety_layer.trace.reader import TraceReader

ENDPOINT = "http://localhost:4318/v1/traces"


def send(reader: TraceReader, endpoint: str = "") -> int:
    """Send the run's spans to a collector; how many there were.

    ``endpoint`` is a URL; without one the variables of OpenTelemetry (``OTEL_EXPORTER_OTLP_ENDPOINT``) say it.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        wanted, remedy = "The export otel needs OpenTelemetry", "pip install 'agent-safety-layer[otel]'"
        raise UnsupportedError(wanted, "it is not installed", remedy) from None
    return spans(reader, OTLPSpanExporter(endpoint=endpoint) if endpoint else OTLPSpanExporter())


def spans(reader: TraceReader, exporter: SpanExporter) -> int:
    """Give the run's spans to the exporter; how many there were. Memory grows with the processes alive at once."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": "agent-safety-layer", "asl.run": str(reader.header.get("run", ""))})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        return _Spans(provider.get_tracer("agent_safety_layer")).run(reader)
    finally:
        provider.shutdown()


class _Spans:
    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._open: dict[int, Span] = {}
        self._count = 1

    def run(self, reader: TraceReader) -> int:
        from opentelemetry.trace import Status, StatusCode

        header = reader.header
        found = header.get("time")
        latest = began = float(found) if isinstance(found, int | float) else 0.0
        command = shell_joined(map(str, header.get("command") or ()))
        policy = [str(name) for name in (header.get("policy") or {}).get("names", ())]
        root = self._tracer.start_span(
            f"run {command}"[:200],
            start_time=_ns(began),
            attributes={"process.command_line": command, "asl.policy": policy},
        )
        blocked = 0
        for entry in reader:
            latest = max(latest, entry.event.time)
            blocked += entry.outcome.effective == BLOCK
            self._entry(root, entry)
        for span in self._open.values():
            span.end(_ns(latest))
        footer = reader.footer or {}
        root.set_attributes({"asl.blocked": blocked, "asl.outcome": str(footer.get("outcome", "no end"))})
        if footer.get("exit_code") != 0:
            root.set_status(Status(StatusCode.ERROR, f"exit status {footer.get('exit_code', 'unknown')}"))
        root.end(_ns(latest))
        return self._count

    def _entry(self, root: Span, entry: TraceEntry) -> None:
        from opentelemetry.trace import set_span_in_context

        event, decision = entry.event, entry.decision
        span = self._open.get(event.pid)
        if span is None:
            parent = set_span_in_context(self._open.get(event.ppid, root))
            span = self._open[event.pid] = self._tracer.start_span(
                os.path.basename(event.exe) or f"process {event.pid}",
                parent,
                start_time=_ns(event.time),
                attributes={"process.pid": event.pid, "process.parent_pid": event.ppid},
            )
            self._count += 1
        if event.kind == "process.exit":
            self._open.pop(event.pid).end(_ns(event.time))
            return
        if event.kind == "process.exec" and entry.outcome.effective != BLOCK:
            span.update_name(os.path.basename(event.path) or "process")
            span.set_attributes(
                {"process.executable.path": event.path, "process.command_line": shell_joined(event.argv)}
            )
        if decision.action != ALLOW or entry.outcome.effective != decision.action:
            span.add_event(event.kind, _attributes(entry), _ns(event.time))


def _attributes(entry: TraceEntry) -> dict[str, Any]:
    decision, outcome = entry.decision, entry.outcome
    return {
        "asl.object": object_of(entry.event),
        "asl.action": decision.action,
        "asl.effective": outcome.effective,
        "asl.rule": decision.rule,
        "asl.where": decision.where,
        "asl.reason": decision.reason,
        "asl.seq": entry.seq,
    }


def _ns(seconds: float) -> int:
    return int(seconds * 1e6) * 1000
