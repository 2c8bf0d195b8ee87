"""A run as OpenTelemetry spans and logs, sent over OTLP/HTTP (the extra ``otel``).

    run ─┬─ process ─┬─ process
         │           ├─ tool call ─┬─ process      what it started, or what says that it happened in it
         │           │             └─ tool call
         └─ ...

Each event is a log record in the span of its tool call or its process. What was not simply allowed is an event of that
span too, for those who look at traces alone.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_safety_layer.errors import AslError, UnsupportedError
from agent_safety_layer.events import ALLOW, ASK, AUDIT, BLOCK, TraceEntry
from agent_safety_layer.trace.reader import TraceReader, parse
from agent_safety_layer.wording import object_of, shell_joined

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk._logs import Logger
    from opentelemetry.sdk._logs.export import LogRecordExporter
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

TRACES, LOGS = "/v1/traces", "/v1/logs"
_BATCH = 512
_SEVERITIES = {ALLOW: "INFO", AUDIT: "INFO2", ASK: "WARN2", BLOCK: "ERROR"}  # and WARN for the rest


def send(reader: TraceReader, endpoint: str = "") -> tuple[int, int]:
    """Send the run to a collector; how many spans and log records there were.

    ``endpoint`` is the collector's URL, with or without ``/v1/traces``; without one OpenTelemetry's variables
    (``OTEL_EXPORTER_OTLP_ENDPOINT``) say it. Raises ``AslError`` when the collector does not take them.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        wanted, remedy = "The export otel needs OpenTelemetry", "pip install 'agent-safety-layer[otel]'"
        raise UnsupportedError(wanted, "it is not installed", remedy) from None
    if not endpoint:
        return feed(reader, OTLPSpanExporter(), OTLPLogExporter())
    base = endpoint.removesuffix("/").removesuffix(TRACES)
    return feed(reader, OTLPSpanExporter(endpoint=base + TRACES), OTLPLogExporter(endpoint=base + LOGS))


def feed(reader: TraceReader, spans: SpanExporter, logs: LogRecordExporter) -> tuple[int, int]:
    """Give the run to the exporters; how many spans and log records there were.

    Memory grows with the tool calls, and with the processes alive at once. Raises ``AslError`` for what is not taken.
    """
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    resource = Resource.create({"service.name": "agent-safety-layer", "asl.run": str(reader.header.get("run", ""))})
    tracing = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
    logging = LoggerProvider(resource, shutdown_on_exit=False)
    span_batch, log_batch = _Batch(spans, "spans"), _Batch(logs, "log records")
    tracing.add_span_processor(span_batch)
    logging.add_log_record_processor(log_batch)
    try:
        with TraceReader(reader.path) as first:
            tools = _Tools(first)
        _Run(tracing.get_tracer(__name__), logging.get_logger(__name__), tools).tell(reader)
        span_batch.flush()
        log_batch.flush()
    finally:
        tracing.shutdown()
        logging.shutdown()
    return span_batch.count, log_batch.count


class _Batch:
    """Hands on what is finished, whole batches at a time, and waits for each. OpenTelemetry's own processors send on
    the side and drop what comes faster: a file comes faster.

    A span processor and a log record processor at once.
    """

    def __init__(self, exporter: Any, what: str) -> None:
        self.count = 0
        self._exporter = exporter
        self._what = what
        self._waiting: list[Any] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Nothing: a span is sent when it has ended."""

    def _on_ending(self, span: Any) -> None:
        """Nothing."""

    def on_end(self, span: Any) -> None:
        """Take a span."""
        self.on_emit(span)

    def on_emit(self, record: Any) -> None:
        """Take a log record."""
        self._waiting.append(record)
        if len(self._waiting) >= _BATCH:
            self.flush()

    def enabled(self, **_: Any) -> bool:
        """Every record is wanted."""
        return True

    def flush(self) -> None:
        """Hand on what waits. Raises ``AslError`` when it is not taken."""
        waiting, self._waiting = self._waiting, []
        if waiting and self._exporter.export(waiting).name != "SUCCESS":
            raise AslError(
                f"The collector did not take the {self._what}; {self.count} were sent.",
                remedy="Look whether it runs, and whether --endpoint or OTEL_EXPORTER_OTLP_ENDPOINT is its URL.",
            )
        self.count += len(waiting)

    def force_flush(self, timeout_millis: int = 0) -> bool:
        """What waits is handed on by ``flush``."""
        return True

    def shutdown(self) -> None:
        """Let the exporter go."""
        self._exporter.shutdown()


@dataclass(slots=True)
class _Tool:
    """A tool call: an ``op.call`` when it begins and an ``op.log`` of its name when it is over, or an ``op.call`` alone
    that tells how long it took. ``last`` is the seq of the event with which it is over.
    """

    id: str
    name: str
    pid: int
    began: float
    ended: float
    last: int


class _Tools:
    """The tool calls of a trace, known before what happened in them is told."""

    def __init__(self, reader: TraceReader) -> None:
        self.by_id: dict[str, _Tool] = {}
        self._of: dict[int, list[_Tool]] = {}  # of each process, in the order in which they began
        for number, raw in reader.raw(b'"kind":"op.'):
            entry = parse(raw, number, reader.path).entry
            if entry is None or entry.event.kind not in ("op.call", "op.log"):
                continue
            event = entry.event
            name = event.span or f"#{entry.seq}"
            tool = self.by_id.get(name)
            if event.kind == "op.call":
                tool = _Tool(name, event.op, event.pid, event.time - entry.outcome.us / 1e6, event.time, entry.seq)
                self.by_id[name] = tool
                self._of.setdefault(event.pid, []).append(tool)
            elif tool is not None and event.op == tool.name:
                tool.ended, tool.last = event.time, entry.seq
        for tools in self._of.values():
            tools.sort(key=lambda tool: (tool.began, -tool.ended))

    def during(self, pid: int, began: float, ended: float, but: str = "") -> _Tool | None:
        """The innermost call of process *pid* within which that time lies, other than *but*."""
        tools = self._of.get(pid, ())
        at = bisect_right(tools, began, key=lambda tool: tool.began)
        for tool in tools[at - 1 :: -1] if at else ():
            if tool.ended >= ended and tool.id != but:
                return tool
        return None


class _Run:
    def __init__(self, tracer: Tracer, logger: Logger, tools: _Tools) -> None:
        self._tracer = tracer
        self._logger = logger
        self._tools = tools
        self._root: Span
        self._processes: dict[int, Span] = {}
        self._called: dict[str, Span] = {}
        self._latest = 0.0

    def tell(self, reader: TraceReader) -> None:
        """The whole run."""
        from opentelemetry.trace import Status, StatusCode

        header = reader.header
        found = header.get("time")
        began = self._latest = float(found) if isinstance(found, int | float) else 0.0
        command = shell_joined(map(str, header.get("command") or ()))
        policy = [str(name) for name in (header.get("policy") or {}).get("names", ())]
        attributes = {"process.command_line": command, "asl.policy": policy}
        self._root = self._tracer.start_span(f"run {command}"[:200], start_time=_ns(began), attributes=attributes)
        blocked = 0
        for entry in reader:
            self._latest = max(self._latest, entry.event.time)
            blocked += entry.outcome.effective == BLOCK
            self._entry(entry)
        for span in (*self._called.values(), *self._processes.values()):
            if span.is_recording():
                span.end(_ns(self._latest))
        footer = reader.footer or {}
        self._root.set_attributes({"asl.blocked": blocked, "asl.outcome": str(footer.get("outcome", "no end"))})
        if footer.get("exit_code") != 0:
            self._root.set_status(Status(StatusCode.ERROR, f"exit status {footer.get('exit_code', 'unknown')}"))
        self._root.end(_ns(self._latest))

    def _entry(self, entry: TraceEntry) -> None:
        event, decision, outcome = entry.event, entry.decision, entry.outcome
        process = self._process(event.pid, event.ppid, os.path.basename(event.exe), event.time, event.span)
        span = self._tool(event.span or f"#{entry.seq}") or process
        if event.kind == "process.exec" and outcome.effective != BLOCK:
            process.update_name(os.path.basename(event.path) or "process")
            process.set_attributes(
                {"process.executable.path": event.path, "process.command_line": shell_joined(event.argv)}
            )
        if decision.action != ALLOW or outcome.effective != decision.action:
            span.add_event(event.kind, _attributes(entry), _ns(event.time))
        self._log(entry, span)
        tool = self._tools.by_id.get(event.span or f"#{entry.seq}")
        if tool is not None and tool.last == entry.seq:
            self._returned(span, entry)
        elif event.kind == "process.exit":
            self._processes.pop(event.pid).end(_ns(event.time))

    def _process(self, pid: int, ppid: int, name: str, time: float, inside: str) -> Span:
        """The span of a process: below the tool call that says so or during which its parent began it, else below its
        parent.
        """
        span = self._processes.get(pid)
        if span is None:
            own = self._tools.by_id.get(inside)
            tool = own if own is not None and own.pid != pid else self._tools.during(ppid, time, time)
            parent = self._tool(tool.id) if tool is not None else None
            span = self._processes[pid] = self._tracer.start_span(
                name or f"process {pid}",
                _within(parent or self._processes.get(ppid, self._root)),
                start_time=_ns(time),
                attributes={"process.pid": pid, "process.parent_pid": ppid},
            )
        return span

    def _tool(self, name: str) -> Span | None:
        """The span of a tool call: below the call of the same process that it was made in, else below its process."""
        known = self._called.get(name)
        tool = self._tools.by_id.get(name)
        if known is not None or tool is None:
            return known
        around = self._tools.during(tool.pid, tool.began, tool.ended, but=name)
        parent = self._tool(around.id) if around is not None else None
        span = self._called[name] = self._tracer.start_span(
            tool.name or "tool call",
            _within(parent or self._processes.get(tool.pid, self._root)),
            start_time=_ns(tool.began),
            attributes={"asl.span": name, "process.pid": tool.pid, "gen_ai.tool.name": tool.name},
        )
        return span

    def _returned(self, span: Span, entry: TraceEntry) -> None:
        from opentelemetry.trace import Status, StatusCode

        went_wrong = entry.event.kind == "op.log" and not entry.event.detail.startswith("completed")
        if entry.outcome.result or went_wrong:
            span.set_status(Status(StatusCode.ERROR, entry.outcome.result or entry.event.detail))
        span.end(_ns(entry.event.time))

    def _log(self, entry: TraceEntry, span: Span) -> None:
        from opentelemetry._logs import SeverityNumber

        event = entry.event
        severity = _SEVERITIES.get(entry.outcome.effective, "WARN")
        self._logger.emit(
            timestamp=_ns(event.time),
            observed_timestamp=_ns(event.time),
            context=_within(span),
            severity_number=SeverityNumber[severity],
            severity_text=severity,
            body=" ".join(filter(None, (event.kind, object_of(event), entry.outcome.result))),
            attributes={"process.pid": event.pid, "asl.kind": event.kind, **_attributes(entry)},
            event_name=f"asl.{event.kind}",
        )


def _within(span: Span) -> Context:
    from opentelemetry.trace import set_span_in_context

    return set_span_in_context(span)


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
    return round(seconds * 1e6) * 1000
