import contextlib
import errno
import hashlib
import json
import os
import resource
import stat
from binascii import crc32

import pytest

from agent_safety_layer.errors import TraceError
from agent_safety_layer.events import Decision, Event
from agent_safety_layer.trace.encode import body
from agent_safety_layer.trace.writer import CHECKPOINT_EVENTS, TraceWriter

CRC = b',"crc":"'


def some_body(path="/etc/hosts"):
    return body(Event("file.read", pid=7, path=path), Decision("allow"), "allow", "3")


def lines_of(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@contextlib.contextmanager
def files_at_most(size):
    """A disk that is full: writes beyond *size* bytes of a file fail with EFBIG, the one across it is cut."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_trace_is_header_events_footer(tmp_path):
    path = tmp_path / "new" / "folder" / "t.jsonl"
    writer = TraceWriter(str(path), {"run": "r1"})
    assert [json.loads(line)["type"] for line in path.read_bytes().splitlines()] == ["header"]
    assert writer.add(some_body(), 1700000000.123456, 17) == 1
    assert writer.add(some_body("/b"), 1700000019.5, 4) == 2
    writer.close({"outcome": "exited"})
    header, first, second, footer = lines_of(path)
    assert header == {"type": "header", "schema": 1, "run": "r1"}
    assert (first["seq"], first["time"], first["us"], first["path"]) == (1, 1700000000.123456, 17, "/etc/hosts")
    assert (second["seq"], second["time"], second["us"], second["path"]) == (2, 1700000019.5, 4, "/b")
    assert (footer["type"], footer["events"], footer["lost"], footer["outcome"]) == ("footer", 2, 0, "exited")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700


def test_checks_cover_every_byte_before_them(tmp_path):
    path = tmp_path / "t.jsonl"
    writer = TraceWriter(str(path), {})
    for number in range(CHECKPOINT_EVENTS * 2 + 10):
        writer.add(some_body(), 1.0 + number)
        if writer.due(number):
            writer.flush()
    writer.close({})
    raw = path.read_bytes()
    position, since, seals = 0, [], 0
    for line in raw.splitlines(keepends=True):
        fields = json.loads(line)
        if "sha256" in fields:
            seals += 1
            sha_at = position + line.index(b'"sha256":"') + len(b'"sha256":"')
            assert fields["sha256"] == hashlib.sha256(raw[:sha_at]).hexdigest()
            assert raw[sha_at + 64 :].startswith(b'"}\n')
            assert fields["crc"] == f"{crc32(line.partition(CRC)[0]):08x}"
            assert fields["lines"] == "".join(f"{crc32(before):08x}" for before in since)
            since = []
        else:
            since.append(line)
        position += len(line)
    assert seals == 3


@pytest.mark.parametrize("time", [0.0, 3.25, 9.999999, 10.0, 1699999999.999999, 1700000000.0, 1700000000.000001])
def test_times_are_exact_to_the_microsecond(tmp_path, time):
    path = tmp_path / "t.jsonl"
    writer = TraceWriter(str(path), {})
    for around in (1700000005.0, time, time, 5.0, time):
        writer.add(some_body(), around)
    writer.close({})
    assert [line["time"] for line in lines_of(path)[1:-1]] == [1700000005.0, time, time, 5.0, time]


def test_a_time_between_microseconds_rounds_within_its_second(tmp_path):
    writer = TraceWriter(str(tmp_path / "t.jsonl"), {})
    for time in (9.0, 9.99999996, 12.3456789):
        writer.add(some_body(), time)
    writer.close({})
    assert [line["time"] for line in lines_of(tmp_path / "t.jsonl")[1:-1]] == [9.0, 10.0, 12.345679]


def test_due_every_200_ms_and_only_with_something_to_write(tmp_path):
    writer = TraceWriter(str(tmp_path / "t.jsonl"), {})
    assert not writer.due(100.0)
    writer.add(some_body(), 1.0)
    assert writer.due(100.0)
    assert not writer.due(100.1)
    assert writer.due(100.3)
    writer.flush()
    assert not writer.due(200.0)
    writer.close({})


def test_a_full_buffer_reaches_the_file_by_itself(tmp_path):
    path = tmp_path / "t.jsonl"
    writer = TraceWriter(str(path), {})
    before = path.stat().st_size
    for _ in range(2000):
        writer.add(some_body(), 1.0)
    assert path.stat().st_size > before + 64 * 1024
    writer.close({})


def test_an_existing_path_is_never_overwritten(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("mine")
    with pytest.raises(TraceError, match="exists") as caught:
        TraceWriter(str(path), {})
    assert caught.value.exit_code == 125
    assert caught.value.remedy
    assert path.read_text() == "mine"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TraceError, match="exists"):
        TraceWriter(str(tmp_path / "link"), {})
    assert not (tmp_path / "nowhere").exists()


def test_an_impossible_path_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match=r"not a folder|Not a directory") as caught:
        TraceWriter(str(tmp_path / "file" / "t.jsonl"), {})
    assert caught.value.remedy
    with files_at_most(10), pytest.raises(TraceError, match=os.strerror(errno.EFBIG)):
        TraceWriter(str(tmp_path / "t.jsonl"), {"run": "longer than the disk"})


def test_a_full_disk_stops_the_run_and_leaves_whole_lines(tmp_path):
    path = tmp_path / "t.jsonl"
    writer = TraceWriter(str(path), {})
    with files_at_most(1000):
        for _ in range(20):
            writer.add(some_body(), 1.0)
        with pytest.raises(TraceError, match=os.strerror(errno.EFBIG)) as caught:
            writer.flush()
        assert caught.value.file == str(path)
        assert caught.value.exit_code == 125
        assert path.stat().st_size == 1000
        writer.add(some_body(), 1.0)
        writer.flush()  # said once
        writer.close({"outcome": "trace_full"})
    whole = path.read_bytes().rsplit(b"\n", 1)[0].splitlines()
    assert [json.loads(line).get("seq") for line in whole] == [None, *range(1, len(whole))]


def test_a_disk_that_is_full_at_the_end_fails_the_close(tmp_path):
    writer = TraceWriter(str(tmp_path / "t.jsonl"), {})
    with files_at_most(1000):
        for _ in range(20):
            writer.add(some_body(), 1.0)
        with pytest.raises(TraceError, match=os.strerror(errno.EFBIG)):
            writer.close({"outcome": "exited"})
    writer.close({"outcome": "exited"})  # a second call does nothing


def test_after_a_full_disk_closing_finishes_the_cut_line_and_tells_the_gap(tmp_path):
    path = tmp_path / "t.jsonl"
    writer = TraceWriter(str(path), {})
    with files_at_most(1000):
        for _ in range(20):
            writer.add(some_body(), 1.0)
        with pytest.raises(TraceError):
            writer.flush()
    writer.close({"outcome": "trace_full"})
    check_gap(path, written=20)


def check_gap(path, written):
    entries = lines_of(path)
    gaps = [entry for entry in entries if entry.get("kind") == "session.gap"]
    expected, lost = 1, 0
    for entry in entries[1:-1]:
        if entry["type"] == "checkpoint":
            continue
        if entry["kind"] == "session.gap":
            assert entry["from"] == expected
            assert entry["lost"] > 0
            lost += entry["lost"]
        else:
            assert entry["seq"] == expected
        expected = entry["seq"] + 1
    assert gaps
    events = [entry for entry in entries if entry["type"] == "event" and entry["kind"] != "session.gap"]
    assert len(events) + lost == written
    assert entries[-1]["lost"] == lost
    assert entries[-1]["events"] == len(events) + len(gaps)
    raw = path.read_bytes()
    assert raw.endswith(b'"sha256":"' + hashlib.sha256(raw[:-67]).hexdigest().encode() + b'"}\n')


@pytest.mark.parametrize("room", range(28, 1100, 7))
def test_in_gap_mode_the_run_goes_on_and_the_loss_is_counted(tmp_path, room):
    path = tmp_path / "t.jsonl"
    writer = TraceWriter(str(path), {}, on_full="gap")
    written = 0
    for limit in (room, room, room + 100, room + 250, room + 900):
        with files_at_most(max(limit, path.stat().st_size)):
            for _ in range(3):
                writer.add(some_body(), 1.0)
                written += 1
            writer.flush()
    for _ in range(2):
        writer.add(some_body(), 1.0)
        written += 1
    writer.close({})
    if writer.lost:
        check_gap(path, written)
    assert writer.lost < written


def test_in_gap_mode_a_disk_that_stays_full_fails_the_close(tmp_path):
    path = tmp_path / "t.jsonl"
    writer = TraceWriter(str(path), {}, on_full="gap")
    with files_at_most(300):
        for _ in range(20):
            writer.add(some_body(), 1.0)
        writer.flush()
        with pytest.raises(TraceError):
            writer.close({})
    writer.close({})
