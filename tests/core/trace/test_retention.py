"""Compressed traces are the traces that they were; old ones go."""

import os
import subprocess

import pytest

from agent_safety_layer.errors import TraceError
from agent_safety_layer.events import Decision, Event
from agent_safety_layer.trace.encode import body
from agent_safety_layer.trace.files import compress, is_compressed, open_trace
from agent_safety_layer.trace.query import query, select
from agent_safety_layer.trace.reader import TraceReader
from agent_safety_layer.trace.retention import retain
from agent_safety_layer.trace.runs import find, footer_of, runs, traces_path
from agent_safety_layer.trace.verify import CHANGED, INTACT, TRUNCATED, verify
from agent_safety_layer.trace.writer import TraceWriter

pytest.importorskip("zstandard")


def write(path, events=2000, end=True):
    writer = TraceWriter(str(path), {"run": path.name.split(".")[0], "time": 1.0})
    for number in range(events):
        writer.add(body(Event("file.read", path=f"/usr/lib/{number}"), Decision("allow"), "allow"), 1.0)
    if end:
        writer.close({"outcome": "exited"})
    else:
        writer.flush()
    return str(path)


def test_a_compressed_trace_reads_and_verifies_as_before(tmp_path):
    path = write(tmp_path / "t.jsonl")
    whole, before = (tmp_path / "t.jsonl").read_bytes(), verify(path)
    small = compress(path)
    assert small == f"{tmp_path}/t.jsonl.zst"
    assert os.listdir(tmp_path) == ["t.jsonl.zst"]
    assert os.stat(small).st_size * 10 < len(whole)
    assert is_compressed(small)
    with open_trace(small) as file:
        assert file.read() == whole
    assert verify(small) == before
    assert footer_of(small) == footer_of(small) is not None
    with TraceReader(small) as reader:
        assert [line.entry.seq for line in select(reader, query(paths=["/usr/lib/1999"]))] == [2000]
        assert reader.footer == footer_of(small)


def test_zstd_itself_reads_it(tmp_path):
    path = write(tmp_path / "t.jsonl")
    whole = (tmp_path / "t.jsonl").read_bytes()
    small = compress(path)
    try:
        done = subprocess.run(["zstd", "-dc", small], capture_output=True, check=True)
    except FileNotFoundError:
        import zstandard

        with open(small, "rb") as file, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as s:
            assert s.read() == whole
    else:
        assert done.stdout == whole


def test_damage_is_found_wherever_it_is(tmp_path):
    small = compress(write(tmp_path / "t.jsonl", 300))
    with open(small, "rb") as file:
        whole = file.read()
    for at in range(0, len(whole) - 16, 13):  # what follows is where the last line is, and no part of the trace
        changed = bytearray(whole)
        changed[at] ^= 0x10
        with open(small, "wb") as file:
            file.write(changed)
        try:
            assert verify(small).state in (CHANGED, TRUNCATED), at
        except TraceError:
            assert at < 16  # the header cannot be read at all
    for size in range(30, len(whole) - 17, 97):
        with open(small, "wb") as file:
            file.write(whole[:size])
        assert verify(small).state in (TRUNCATED, CHANGED)


def test_nothing_is_lost_when_it_fails(tmp_path):
    path = write(tmp_path / "t.jsonl")
    (tmp_path / f"t.jsonl.zst.{os.getpid()}").write_text("in the way")
    with pytest.raises(TraceError, match="cannot be compressed"):
        compress(path)
    assert verify(path).state == INTACT


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ASL_STATE", str(tmp_path))
    os.makedirs(traces_path())
    return tmp_path / "traces"


def aged(path, age_s, now=1e9):
    os.utime(path, (now - age_s, now - age_s))
    return path


def acts(**options):
    options = {"now": 1e9, "compressed": False, "max_age_s": None, "max_bytes": None, **options}
    return [(os.path.basename(act.path), act.what) for act in retain(**options)]


def test_runs_are_found_whether_compressed_or_not(folder):
    compress(write(folder / "20240101-a.jsonl"))
    write(folder / "20240102-b.jsonl")
    assert [(run.name, run.footer["events"]) for run in runs()] == [("20240102-b", 2000), ("20240101-a", 2000)]
    assert find("20240101-a") == find("20240101") == f"{folder}/20240101-a.jsonl.zst"
    assert find("last").endswith("b.jsonl")
    with pytest.raises(TraceError, match="2 runs begin"):
        find("2024")


def test_old_ones_go_finished_ones_are_compressed_running_ones_stay(folder):
    aged(write(folder / "1-old.jsonl"), 100)
    aged(write(folder / "2-done.jsonl"), 10)
    aged(write(folder / "3-runs.jsonl", end=False), 1000)
    assert acts(compressed=True, max_age_s=50, dry=True) == acts(compressed=True, max_age_s=50, dry=True)
    assert acts(compressed=True, max_age_s=50) == [
        ("3-runs.jsonl", "kept"),
        ("2-done.jsonl", "compressed"),
        ("1-old.jsonl", "removed"),
    ]
    assert sorted(os.listdir(folder)) == ["2-done.jsonl.zst", "3-runs.jsonl"]
    assert acts(compressed=True, max_age_s=50) == [("3-runs.jsonl", "kept")]
    assert verify(folder / "2-done.jsonl.zst").state == INTACT


def test_the_oldest_go_when_there_is_too_much(folder):
    sizes = [os.stat(aged(write(folder / f"{n}.jsonl"), 10 - n)).st_size for n in range(3)]
    assert acts(max_bytes=sizes[1] + sizes[2]) == [("0.jsonl", "removed")]
    aged(write(folder / "3.jsonl", end=False), 90_000)  # nobody wrote to it for a day
    assert acts(max_bytes=1) == [("3.jsonl", "removed"), ("2.jsonl", "removed"), ("1.jsonl", "removed")]
