"""Exports: what other programs' own readers and schemas make of them, with the worst of names."""

import csv as csv_reader
import io
import json
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from agent_safety_layer.errors import AslError, UnsupportedError
from agent_safety_layer.events import KINDS, Decision, Event
from agent_safety_layer.trace.encode import body
from agent_safety_layer.trace.exports import FORMATS, chrome, csv, ocsf, otel, sarif, strace
from agent_safety_layer.trace.header import header
from agent_safety_layer.trace.reader import TraceReader
from agent_safety_layer.trace.writer import TraceWriter

HOSTILE = [
    '=HYPERLINK("http://x")',
    "@SUM(1)",
    "-1+1",
    "/tmp/\x1b]0;owned\x07\x1b[2J",
    "/tmp/\u202egpj.exe\u200b",
    "/tmp/a\nfake,line\r\n2",
    "/tmp/</script><script>alert(1)</script>",
    "/tmp/'; drop table x; --",
    '/tmp/",{[)]}|=<0.1>',
    "/tmp/\\x80\\u0000",
    "/tmp/\U0001f600é",
    "/" + "x" * 5000,
]
ALLOW, BLOCK = Decision("allow"), Decision("block", "files.block", "my policy.yaml:3", "no")


def sample():
    yield Event("process.exec", 10, 10, 1, "/usr/bin/bash", "execve", path="/usr/bin/git", argv=("git", "a b")), ALLOW
    yield Event("file.read", 11, 12, 10, "/usr/bin/git", "openat", path="/etc/hosts", flags="O_RDONLY|O_CLOEXEC"), ALLOW
    yield Event("file.create", 11, 11, 10, "/usr/bin/git", "openat", path="/w/new", flags="O_CREAT", mode=0o644), ALLOW
    yield Event("file.rename", 11, 11, 10, "/usr/bin/git", "rename", path="/w/a", path2="/w/b"), ALLOW
    yield Event("file.read", 11, 11, 10, "/usr/bin/git", "openat", path="/home/u/.ssh/id"), BLOCK
    yield Event("net.connect", 11, 11, 10, "", "connect", host="x.com", ip="1.2.3.4", port=443, proto="tcp"), BLOCK
    yield (
        Event("net.connect", 11, 11, 10, "", "connect", ip="::1", port=80, proto="tcp"),
        Decision("require_approval", "r"),
    )
    yield Event("net.listen", 11, ip="127.0.0.1", port=8000, proto="tcp"), ALLOW
    yield Event("net.dns", 11, host="x.com", proto="udp"), Decision("audit", "network.ask", "p.yaml:4")
    yield Event("net.unix", 11, path="/run/x.sock", proto="unix"), ALLOW
    yield Event("process.signal", 11, 11, 10, "", "kill", signal=9, target=10), ALLOW
    yield Event("limit.hit", 10, detail="90 % of 10 s"), Decision("warn", "limits.wall_time")
    yield Event("process.deny", 11, syscall="ptrace"), Decision("block", "system calls", "built-in", "no")
    for name in HOSTILE:
        yield Event("file.write", 11, 11, 10, f"/bin/{name}", "openat", path=name, detail=name), BLOCK
        yield (
            Event("process.exec", 11, 11, 10, "", "execve", path=name, argv=(name, name)),
            Decision("warn", name, "x", name),
        )
        yield Event("net.connect", 11, host=name, port=1), ALLOW
    for kind in sorted(set(KINDS) - {"process.exit"}):
        yield Event(kind, 13, 13, 10), ALLOW
    yield Event("process.exit", 11, 11, 10, "/usr/bin/git"), ALLOW


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("e") / "t.jsonl"
    about = header(
        run="20261123-000000.000-abcdef",
        time=1700000000.0,
        command=["agent", HOSTILE[3]],
        cwd="/w",
        policies=["workspace"],
        policy_hash="ab",
        mode="enforce",
        backend="notify",
        enforced={},
    )
    writer = TraceWriter(str(path), about)
    for number, (event, decision) in enumerate(sample()):
        result = "EACCES" if decision.action == "block" else "3"
        writer.add(body(event, decision, decision.action, result), 1700000000.0 + number / 100, 25)
    writer.close({"outcome": "exited", "exit_code": 3})
    return str(path)


def exported(module, path):
    out = io.StringIO()
    with TraceReader(path) as reader:
        module.export(reader, out)
    return out.getvalue()


def entries(path):
    with TraceReader(path) as reader:
        return list(reader)


def test_csv_is_read_back_and_computes_nothing(path):
    rows = list(csv_reader.DictReader(io.StringIO(exported(csv, path), newline="")))
    assert len(rows) == len(entries(path))
    assert (rows[0]["command"], rows[1]["path"], rows[4]["where"]) == ("git 'a b'", "/etc/hosts", "my policy.yaml:3")
    for row in rows:
        for cell in row.values():
            assert cell.isprintable()
            assert not cell.startswith(("=", "+", "@", "\t", "\r"))
            assert not cell.startswith("-") or cell[1:].isdigit()
    assert "'=HYPERLINK" in exported(csv, path)


def test_strace_text_is_one_safe_line_for_each_event(path):
    lines = exported(strace, path).splitlines()
    assert len(lines) == len(entries(path))
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert lines[0] == '10 1700000000.000000 execve("/usr/bin/git", ["git", "a b"]) = 3 <0.000025>'
    assert lines[1] == '12 1700000000.010000 openat(AT_FDCWD, "/etc/hosts", O_RDONLY|O_CLOEXEC) = 3 <0.000025>'
    assert lines[2].split(" ", 2)[2] == 'openat(AT_FDCWD, "/w/new", O_CREAT, 0644) = 3 <0.000025>'
    assert "= -1 EACCES (Permission denied)" in lines[4]
    assert 'connect({sa_family=AF_INET6, sin6_port=htons(80), sin6_addr=inet_addr("::1")})' in lines[6]
    assert "kill(10, SIGKILL)" in lines[10]


def test_strace_text_is_parsed_by_a_parser_of_strace(path):
    library = pytest.importorskip("strace_parser.parser")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its own making
        parser = library.get_parser()
    found = [line for line in exported(strace, path).splitlines()[:11] if "sin6" not in line]  # nor digits in a key
    text = "".join(line.split(" ", 1)[1] + "\n" for line in found)  # it knows no process column
    names = [str(node.children[0]) for node in parser.parse(text).find_data("name")]
    assert names == [line.split(" ")[2].partition("(")[0] for line in found]


def test_chrome_events_are_what_the_format_wants(path):
    shown = json.loads(exported(chrome, path))
    assert shown["otherData"]["run"].startswith("20261123")
    complete = [event for event in shown["traceEvents"] if event["ph"] == "X"]
    assert len(complete) == len(entries(path))
    for event in shown["traceEvents"]:
        assert event["ph"] in ("X", "M")
        assert all(isinstance(event[name], int) for name in ("pid", "tid"))
        assert event["ts"] >= 0
    assert complete[1]["ts"] == 10000
    assert complete[4]["cname"] == "terrible"
    names = [event["args"]["name"] for event in shown["traceEvents"] if event["ph"] == "M"]
    assert names[:2] == ["bash", "git"]


def test_chrome_events_are_read_by_a_library_of_the_format(path):
    library = pytest.importorskip("chrometrace.chrometrace")
    for event in json.loads(exported(chrome, path))["traceEvents"]:
        event.pop("cname", None)  # a colour, of which it does not know
        again = library.TraceEvent.from_dict(event).to_dict()
        assert {key: again[key] for key in ("ph", "pid", "tid", "ts", "name")} == {
            key: event[key] for key in ("ph", "pid", "tid", "ts", "name")
        }


def test_sarif_tells_each_denial_at_its_line(path):
    log = json.loads(exported(sarif, path))
    (run,) = log["runs"]
    results = run["results"]
    assert {result["level"] for result in results} == {"error"}
    assert run["invocations"][0]["exitCode"] == 3
    first = results[0]
    assert first["message"]["text"] == "Blocked file.read /home/u/.ssh/id: no"
    place = first["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == ("my%20policy.yaml", 3)
    for result in results:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"].isprintable()


def test_sarif_is_valid_to_its_object_model(path):
    model = pytest.importorskip("sarif_pydantic")
    log = model.Sarif.model_validate_json(exported(sarif, path))
    assert log.runs[0].tool.driver.name == "agent-safety-layer"


@pytest.fixture(scope="module")
def validators():
    pytest.importorskip("jsonschema")
    library = pytest.importorskip("ocsf_json_schema")
    from jsonschema import Draft202012Validator

    schema = library.OcsfJsonSchemaEmbedded(library.get_ocsf_schema(version=ocsf.VERSION))
    names = {
        1001: "file_activity",
        1007: "process_activity",
        2004: "detection_finding",
        4001: "network_activity",
    }
    return {
        uid: Draft202012Validator(schema.get_class_schema(class_name=name, profiles=["security_control", "host"]))
        for uid, name in names.items()
    }


def test_ocsf_events_are_valid_to_the_published_schema(path, validators):
    events = [json.loads(line) for line in exported(ocsf, path).splitlines()]
    assert {event["class_uid"] for event in events} == set(validators)
    for event in events:
        errors = [f"{error.json_path}: {error.message}" for error in validators[event["class_uid"]].iter_errors(event)]
        assert errors == [], event
    broken = dict(events[0])
    del broken["metadata"]
    assert list(validators[broken["class_uid"]].iter_errors(broken))


def test_ocsf_says_what_was_done(path):
    events = [json.loads(line) for line in exported(ocsf, path).splitlines()]
    denied = [event for event in events if event["metadata"]["sequence"] == 5]
    assert [(event["class_uid"], event["action_id"], event["disposition_id"]) for event in denied] == [
        (1001, 2, 2),
        (2004, 2, 2),
    ]
    assert denied[0]["firewall_rule"] == {"name": "files.block", "uid": "my policy.yaml:3", "desc": "no"}
    renamed = next(event for event in events if event["metadata"]["sequence"] == 4)
    assert (renamed["activity_id"], renamed["file_result"]["path"]) == (5, "/w/b")


@pytest.fixture
def told():
    """What is given to OpenTelemetry of a trace: its spans and its log records."""
    spans = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    logs = pytest.importorskip("opentelemetry.sdk._logs.export").InMemoryLogRecordExporter()

    def feed(path):
        with TraceReader(path) as reader:
            counts = otel.feed(reader, spans, logs)
        found = spans.get_finished_spans(), [log.log_record for log in logs.get_finished_logs()]
        assert counts == tuple(map(len, found))
        return found

    return feed


def test_spans_are_the_process_tree(path, told):
    finished, _ = told(path)
    spans = {
        span.attributes["process.pid"]: span for span in finished if "asl.span" not in span.attributes and span.parent
    }
    (root,) = [span for span in finished if span.parent is None]
    (tool,) = [span for span in finished if "asl.span" in span.attributes]
    assert len(finished) == 5
    assert spans[10].parent.span_id == root.context.span_id
    assert spans[11].parent.span_id == spans[10].context.span_id
    assert tool.parent.span_id == spans[13].context.span_id
    assert spans[10].attributes["process.command_line"] == "git 'a b'"
    assert not root.status.is_ok
    blocked = [event for event in spans[11].events if event.attributes["asl.action"] == "block"]
    assert blocked[0].attributes["asl.object"] == "/home/u/.ssh/id"
    assert blocked[0].timestamp == 1700000000040000000
    assert spans[11].end_time >= blocked[-1].timestamp


def test_every_event_is_a_log_record_in_its_process_s_span(path, told):
    finished, logs = told(path)
    names = {span.context.span_id: span.attributes.get("process.pid") for span in finished}
    with TraceReader(path) as reader:
        entries = list(reader)
    assert [log.attributes["asl.seq"] for log in logs] == [entry.seq for entry in entries]
    for log, entry in zip(logs, entries, strict=True):
        assert names[log.span_id] == entry.event.pid
        assert log.timestamp == round(entry.event.time * 1e6) * 1000
        assert log.event_name == f"asl.{entry.event.kind}"
    assert (logs[4].body, logs[4].severity_text) == ("file.read /home/u/.ssh/id EACCES", "ERROR")
    assert {log.severity_text for log in logs} == {"INFO", "INFO2", "WARN", "WARN2", "ERROR"}
    assert len({log.trace_id for log in logs}) == 1


def test_tool_calls_are_parents_of_what_they_started(tmp_path, told):
    def happened():  # (event, microseconds it took), in the order in which a supervisor writes them
        yield Event("file.read", 1, 1, 0, "/usr/bin/python3", path="/w/a", time=10.0), 0
        yield Event("process.exec", 2, 2, 1, "/usr/bin/python3", path="/usr/bin/git", argv=("git",), time=11.2), 0
        yield Event("process.exec", 3, 3, 2, "/usr/bin/git", path="/usr/bin/ssh", argv=("ssh",), time=11.3), 0
        yield Event("process.exit", 3, 3, 2, time=11.4), 0
        yield Event("process.exit", 2, 2, 1, time=11.5), 0
        yield Event("op.call", 1, 1, 0, op="inner", span="s2", time=11.6), 500_000
        yield Event("op.call", 1, 1, 0, op="outer", span="s1", time=12.0), 1_000_000
        yield Event("process.exec", 4, 4, 1, path="/usr/bin/ls", argv=("ls",), time=12.5), 0
        yield Event("process.exec", 5, 5, 1, path="/usr/bin/id", argv=("id",), span="s3", time=12.6), 0
        yield Event("op.call", 1, 1, 0, op="other", span="s3", time=13.0), 700_000
        yield Event("process.exec", 6, 6, 1, path="/usr/bin/cat", argv=("cat",), time=14.0), 0

    path = str(tmp_path / "t.jsonl")
    about = {"run": "r", "time": 9.0, "command": ["agent"], "policy": {"names": ["p"]}}
    writer = TraceWriter(path, about)
    for event, us in happened():
        failed = "ValueError" if event.op == "other" else ""
        writer.add(body(event, ALLOW, "allow", failed), event.time, us)
    writer.close({"outcome": "exited", "exit_code": 0})
    finished, logs = told(path)
    spans = {span.name: span for span in finished}
    names = {span.context.span_id: span.name for span in finished}
    parents = {span.name: names[span.parent.span_id] if span.parent else "" for span in finished}
    assert parents == {
        "run agent": "",
        "python3": "run agent",
        "outer": "python3",
        "inner": "outer",
        "git": "inner",
        "ssh": "git",
        "ls": "other",
        "id": "other",
        "other": "python3",
        "cat": "python3",
    }
    assert (spans["inner"].start_time, spans["inner"].end_time) == (11_100_000_000, 11_600_000_000)
    assert spans["inner"].status.is_unset
    assert spans["other"].status.description == "ValueError"
    assert [names[log.span_id] for log in logs if log.event_name == "asl.op.call"] == ["inner", "outer", "other"]


def test_tool_calls_that_are_told_when_they_begin_last_until_they_are_over(tmp_path, told):
    def happened():  # as a supervisor writes down what a guarded program tells it
        yield Event("op.call", 1, 1, 0, "/usr/bin/python3", op="outer", span="s1", time=10.0)
        yield Event("op.call", 1, 1, 0, op="inner", span="s2", time=10.5)
        yield Event("process.exec", 2, 2, 1, path="/usr/bin/git", argv=("git",), span="s2", time=10.6)
        yield Event("op.log", 1, 1, 0, op="info", detail="half way", span="s2", time=10.7)
        yield Event("op.log", 1, 1, 0, op="inner", detail="failed: no", span="s2", time=11.0)
        yield Event("process.exec", 3, 3, 2, path="/usr/bin/ssh", argv=("ssh",), span="s2", time=11.2)
        yield Event("op.log", 1, 1, 0, op="outer", detail="completed", span="s1", time=12.0)

    path = str(tmp_path / "t.jsonl")
    writer = TraceWriter(path, {"run": "r", "time": 9.0, "command": ["agent"], "policy": {"names": ["p"]}})
    for event in happened():
        writer.add(body(event, ALLOW, "allow"), event.time)
    writer.close({"outcome": "exited", "exit_code": 0})
    finished, logs = told(path)
    names = {span.context.span_id: span.name for span in finished}
    parents = {span.name: names[span.parent.span_id] for span in finished if span.parent}
    assert parents == {"python3": "run agent", "outer": "python3", "inner": "outer", "git": "inner", "ssh": "inner"}
    spans = {span.name: span for span in finished}
    lasted = {name: (spans[name].end_time - spans[name].start_time) / 1e9 for name in ("outer", "inner")}
    assert lasted == {"outer": 2.0, "inner": 0.5}
    assert (spans["inner"].status.description, spans["outer"].status.is_unset) == ("failed: no", True)
    assert [names[log.span_id] for log in logs] == ["outer", "inner", "inner", "inner", "inner", "inner", "outer"]


@pytest.fixture
def collector():
    """A collector's address, and what it has received, by path."""
    received = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                import gzip

                data = gzip.decompress(data)
            received.append((self.path, data))
            self.send_response(200 if self.path.startswith("/v1/") else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("ending", ["", "/", "/v1/traces"])
def test_spans_and_logs_reach_a_collector(path, collector, ending):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    address, received = collector
    with TraceReader(path) as reader:
        count = otel.send(reader, address + ending)
    spans = [
        span
        for at, data in received
        if at == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(data).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    logs = [
        log
        for at, data in received
        if at == "/v1/logs"
        for resource in ExportLogsServiceRequest.FromString(data).resource_logs
        for scope in resource.scope_logs
        for log in scope.log_records
    ]
    assert (len(spans), len(logs)) == count
    assert {log.span_id for log in logs} <= {span.span_id for span in spans}


def test_nothing_is_lost_on_the_way_and_a_refusal_is_told(tmp_path, collector):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    path, own = str(tmp_path / "t.jsonl"), {"outcome": "exited", "exit_code": 0}
    about = {"run": "r", "time": 1.0, "command": ["x"], "policy": {"names": []}}
    writer = TraceWriter(path, about)
    for pid in range(3000):
        writer.add(body(Event("process.exec", pid + 2, ppid=1, path="/bin/true"), ALLOW, "allow"), 2.0)
    writer.close(own)
    address, _ = collector
    with TraceReader(path) as reader:
        assert otel.send(reader, address) == (3001, 3000)
    with TraceReader(path) as reader, pytest.raises(AslError, match="did not take the"):
        otel.send(reader, f"{address}/elsewhere")


def test_without_opentelemetry_it_is_said(path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with TraceReader(path) as reader, pytest.raises(UnsupportedError, match="needs OpenTelemetry"):
        otel.send(reader)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_trace_that_was_cut_is_exported_as_far_as_it_goes(path, tmp_path, name):
    from importlib import import_module

    module = import_module(f"agent_safety_layer.trace.exports.{name}")
    with open(path, "rb") as file:
        data = file.read()
    (tmp_path / "t").write_bytes(data[: data.index(b'"seq":7,') + 30])
    assert exported(module, str(tmp_path / "t"))
