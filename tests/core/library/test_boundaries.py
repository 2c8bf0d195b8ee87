"""Boundaries: spellings that reach the same thing, and what they measure by themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent_safety_layer import (
    NetworkBoundary,
    PathBoundary,
    ResourceBoundary,
    SafetyLayer,
    SafetyViolation,
    TimeBoundary,
    TraceStatus,
)


def reason(boundary: PathBoundary | NetworkBoundary, **context: object) -> str | None:
    found = boundary.check(context)
    return found.reason if found is not None else None


def test_links_and_dots_lead_where_they_lead(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    (inside / "loop").symlink_to(inside / "loop")
    boundary = PathBoundary([str(inside)])
    assert reason(boundary, path=inside / "new" / "file") is None
    for path in (inside / "link" / "x", inside / ".." / "outside", str(inside) + "side", f"{inside}/\0"):
        assert reason(boundary, path=path), path
    assert reason(boundary, path=inside / "loop") is None  # it opens nothing, wherever one looks


def test_home_is_expanded_on_both_sides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert reason(PathBoundary(["~/work"]), path="~/work/x") is None
    assert reason(PathBoundary(["~/work"]), path="~/other")
    assert reason(PathBoundary(blocked_paths=["~/.ssh"]), path=str(tmp_path / ".ssh" / "id"))


def test_blocked_patterns_also_mean_names() -> None:
    boundary = PathBoundary(block_patterns=["*.exe", ".env", "/etc/*"])
    assert (
        reason(boundary, path="/x/run.exe") and reason(boundary, path="/x/.env") and reason(boundary, path="/etc/a/b")
    )
    assert reason(boundary, path="/x/env") is None


def test_blocked_beats_allowed() -> None:
    boundary = PathBoundary(["/tmp"], ["/tmp/secret"], allow_patterns=["*.txt"])
    assert reason(boundary, path="/tmp/secret/a.txt") == "Path is under blocked directory: /tmp/secret"
    assert reason(PathBoundary(["/"]), path="/anything") is None


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "::1", "[::1]:80", "::ffff:10.0.0.1"),
        *(
            "10.1.2.3",
            "169.254.169.254",
            "metadata.google.internal",
            "0.0.0.0",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
        ),
    ],
)
def test_private_addresses_in_all_spellings(host: str) -> None:
    assert reason(NetworkBoundary(), host=host) == "Private IP addresses are not allowed"
    assert reason(NetworkBoundary(), url=f"http://{f'[{host}]' if host.count(':') > 1 and '[' not in host else host}/")
    assert reason(NetworkBoundary(allow_private_ips=True), host=host) is None


def test_hosts_are_compared_as_dns_does() -> None:
    boundary = NetworkBoundary(["api.OpenAI.com", "*.anthropic.com", "localhost", "8.8.8.8", "bücher.de"])
    for host in ("API.openai.com", "api.openai.com.", "anthropic.com", "a.b.anthropic.com", "localhost", "8.8.8.8"):
        assert reason(boundary, host=host) is None, host
    assert reason(boundary, host="134744072") is None  # 8.8.8.8
    for host in ("openai.com", "api.openai.com.evil.com", "xanthropic.com", "8.8.4.4"):
        assert reason(boundary, host=host) == "Host not in allowed list", host
    assert reason(NetworkBoundary(blocked_hosts=["evil.*"]), host="EVIL.com")


def test_urls_are_read_as_clients_read_them() -> None:
    boundary = NetworkBoundary(["ok.com"], allowed_ports=[443])
    assert reason(boundary, url="https://ok.com/x") is None
    assert reason(boundary, url="https://ok.com@evil.com/") == "Host not in allowed list"
    assert reason(boundary, url="http://ok.com/") == "Port not in allowed list"
    for nonsense in ("http://ok.com:99999/", "ok.com:http", "http://[::1", "https://evil.com\\@ok.com/", "http://a b"):
        found = reason(boundary, url=nonsense)
        assert found is not None and found.startswith("Not an address"), nonsense


def test_a_file_url_is_a_path() -> None:
    assert reason(PathBoundary(["/tmp"]), url="file:///etc/passwd") == "Path not in allowed list"
    assert reason(NetworkBoundary(["ok.com"]), url="file:///etc/passwd") == "Host not in allowed list"
    assert reason(NetworkBoundary(), url="file:///etc/passwd") is None


# -- measured ----------------------------------------------------------------------------------------------------------


def test_time_of_an_operation_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("agent_safety_layer.operation.time.perf_counter", lambda: now[0])
    boundary = TimeBoundary(max_execution_time=1.0, max_total_time=2.0)
    safety = SafetyLayer(boundaries=[boundary])

    @safety.guard
    def work(seconds: float) -> str:
        now[0] += seconds
        return "done"

    assert work(0.9) == "done"
    with pytest.raises(SafetyViolation, match=r"Execution time 1\.10s exceeds limit 1\.00s"):
        work(1.1)
    with pytest.raises(SafetyViolation, match=r"Total time 2\.50s exceeds limit 2\.00s"):
        work(0.5)
    started = now[0]
    with pytest.raises(SafetyViolation, match=r"Total time 2\.50s exceeds limit 2\.00s"):
        work(0.1)
    assert now[0] == started, "nothing more starts"
    boundary.reset_total_time()
    assert work(0.1) == "done"
    trace = safety.get_trace()
    assert trace is not None
    assert [entry.status for entry in trace.entries] == [
        *(TraceStatus.COMPLETED, TraceStatus.BLOCKED, TraceStatus.BLOCKED, TraceStatus.BLOCKED, TraceStatus.COMPLETED)
    ]


def test_nested_operations_count_once_and_failed_ones_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("agent_safety_layer.operation.time.perf_counter", lambda: now[0])
    boundary = TimeBoundary(60, 100)
    safety = SafetyLayer(boundaries=[boundary])

    @safety.guard
    def outer() -> None:
        inner()
        inner()

    @safety.guard
    def inner() -> None:
        now[0] += 3

    @safety.guard
    def fails() -> None:
        now[0] += 2
        raise KeyError

    outer()
    with pytest.raises(KeyError):
        fails()
    assert boundary.remaining() == 60
    boundary.max_total_time = 10
    assert boundary.remaining() == 2


def test_a_generator_is_ended_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("agent_safety_layer.operation.time.perf_counter", lambda: now[0])
    closed: list[bool] = []

    @SafetyLayer(boundaries=[TimeBoundary(1.0)]).guard
    def steps():  # type: ignore[no-untyped-def]
        try:
            while True:
                now[0] += 0.4
                yield now[0]
        finally:
            closed.append(True)

    got = []
    with pytest.raises(SafetyViolation, match=r"exceeds limit 1\.00s"):
        for item in steps():
            now[0] += 100  # the consumer's time is not the generator's
            got.append(item)
    assert len(got) == 2 and closed == [True]


def test_resources_are_measured() -> None:
    assert (
        ResourceBoundary(max_memory_mb=1_000_000, max_open_files=1_000_000, max_cpu_percent=100_000).check({}) is None
    )
    memory = ResourceBoundary(max_memory_mb=1).check({})
    assert memory is not None and memory.reason.startswith("Memory usage ") and memory.attempted_value > 1
    assert ResourceBoundary(max_memory_mb=1).check({"memory_mb": None}) is None, "known to be unknown"


def test_open_files_are_counted() -> None:
    now = len(os.listdir("/proc/self/fd")) - 1
    boundary = ResourceBoundary(max_open_files=now + 1)
    assert boundary.check({}) is None
    opened = [os.open("/", os.O_RDONLY) for _ in range(2)]
    try:
        found = boundary.check({})
        assert found is not None and found.reason == f"Open files {now + 2} exceeds limit {now + 1}"
    finally:
        for fd in opened:
            os.close(fd)


def test_cpu_is_measured_over_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, cpu = [0.0], [0.0]
    monkeypatch.setattr("agent_safety_layer.boundaries.time.monotonic", lambda: wall[0])
    monkeypatch.setattr("agent_safety_layer.boundaries.time.process_time", lambda: cpu[0])
    boundary = ResourceBoundary(max_cpu_percent=80)
    wall[0], cpu[0] = 0.05, 0.05
    assert boundary.check({}) is None, "too short a window to tell"
    wall[0], cpu[0] = 1.0, 0.9
    found = boundary.check({})
    assert found is not None and found.reason == "CPU usage 90.0% exceeds limit 80.0%"
    wall[0] = 2.0
    assert boundary.check({}) is None, "it rested"


def test_operations_are_counted_and_a_fresh_copy_starts_over() -> None:
    safety = SafetyLayer(boundaries=[ResourceBoundary(max_operations=2)])
    guarded = safety.guard(lambda: 1)
    assert guarded() == guarded() == 1
    with pytest.raises(SafetyViolation, match="Operation count 3 exceeds limit 2"):
        guarded()
    again = ResourceBoundary(max_operations=2)
    again.check({})
    again.check({})
    assert again.fresh().check({}) is None and again.check({}) is not None
