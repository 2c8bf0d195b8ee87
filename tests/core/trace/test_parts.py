"""Split traces: each part is whole, all are read as one, and none can be taken away, exchanged or cut unnoticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent_safety_layer.events import Decision, Event
from agent_safety_layer.trace.encode import body
from agent_safety_layer.trace.files import compress, open_trace
from agent_safety_layer.trace.follow import follow, last
from agent_safety_layer.trace.parts import first_of, part_number, part_path, parts
from agent_safety_layer.trace.reader import TraceReader
from agent_safety_layer.trace.retention import retain
from agent_safety_layer.trace.runs import find, footer_of, runs
from agent_safety_layer.trace.stats import tally_of
from agent_safety_layer.trace.verify import CHANGED, INTACT, TRUNCATED, verify
from agent_safety_layer.trace.writer import TraceWriter

NAME = "20240131-120000.000-abcdef"
ABOUT = {"run": NAME, "time": 1000.0, "command": ["agent"], "policy": {"names": ["p"]}}
END = {"outcome": "exited", "exit_code": 0, "wall_seconds": 1.0, "blocked": 60}
EVENTS = 600


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASL_STATE", str(tmp_path))
    (tmp_path / "traces").mkdir()
    return tmp_path / "traces"


def add(writer: TraceWriter, number: int) -> None:
    action = "block" if number % 10 == 0 else "allow"
    event = Event("file.read", 7, 7, 1, "/bin/cat", "openat", path=f"/w/file{number}")
    writer.add(body(event, Decision(action), action, "EACCES" if action == "block" else ""), 1000.0 + number / 100)


def written(folder: Path, split: tuple[int, float] = (20_000, 0.0)) -> str:
    path = str(folder / f"{NAME}.jsonl")
    writer = TraceWriter(path, ABOUT, split=split)
    for number in range(EVENTS):
        add(writer, number)
        if number % 7 == 0:
            writer.flush()
    writer.close(END)
    return path


def test_names() -> None:
    assert part_path("/t/run.jsonl", 3) == "/t/run.part3.jsonl"
    assert part_path("/t/run.jsonl.zst", 3) == "/t/run.part3.jsonl"
    assert part_path("/t/run", 2) == "/t/run.part2"
    assert part_path("/t/run.jsonl", 1) == "/t/run.jsonl"
    for path in ("/t/run.part3.jsonl", "/t/run.part3.jsonl.zst"):
        assert (part_number(path), first_of(path)) == (3, "/t/run.jsonl")
    for path in ("/t/run.jsonl", "/t/a.partner.jsonl", "/t/a.part1.jsonl", "/t/a.part.jsonl", "/t/a.part²"):
        assert (part_number(path), first_of(path)) == (1, path)


def test_all_parts_are_read_as_one(folder: Path) -> None:
    path = written(folder)
    files = parts(path)
    assert len(files) > 4
    assert all(os.path.getsize(file) < 30_000 for file in files)
    with TraceReader(path) as reader:
        entries = list(reader)
        assert reader.footer is not None
        assert (reader.footer["outcome"], reader.footer["events"], reader.truncated_after) == ("exited", EVENTS, None)
    assert [entry.seq for entry in entries] == list(range(1, EVENTS + 1))
    with TraceReader(path) as reader:
        numbers = [number for number, _ in reader.raw(b'"block"')]
        assert len(numbers) == len(set(numbers)) == EVENTS // 10
        assert reader.footer is not None
    with TraceReader(path) as reader:
        assert tally_of(reader).blocked == EVENTS // 10
    for number, file in enumerate(files[1:], 2):
        with TraceReader(file) as reader:
            assert reader.header["part"] == number
            assert {name: reader.header[name] for name in ABOUT} == ABOUT


def test_a_run_is_listed_once_by_its_end(folder: Path) -> None:
    path = written(folder)
    (run,) = runs()
    assert (run.name, run.path) == (NAME, path)
    assert run.footer is not None
    assert run.footer["blocked"] == 60
    assert find("last") == find(NAME) == find(NAME[:8]) == path
    os.unlink(parts(path)[-1])
    assert footer_of(path) is None


def test_verification_goes_through_all_parts(folder: Path) -> None:
    path = written(folder)
    files = parts(path)
    whole = verify(path)
    assert whole.state == INTACT
    assert whole.message.endswith(f"{EVENTS} events in {len(files)} parts")
    for file in files[1:]:  # each by itself, too
        assert verify(file).state == (INTACT if file == files[-1] else TRUNCATED)
    os.rename(files[-1], f"{path}.away")
    cut = verify(path)
    assert cut.state == TRUNCATED
    assert cut.message.endswith(f"part {len(files)} is missing")
    os.rename(f"{path}.away", files[-1])
    content = [Path(file).read_bytes() for file in files]
    Path(files[1]).write_bytes(content[2])
    assert verify(path).state == CHANGED
    assert "not the part 2" in verify(path).message
    Path(files[1]).write_bytes(content[1].replace(b"/w/file", b"/w/fiIe", 1))
    assert verify(path).state == CHANGED
    Path(files[1]).write_bytes(content[1][: len(content[1]) // 2].rpartition(b"\n")[0] + b"\n")
    assert verify(path).state == CHANGED  # what follows does not follow
    Path(files[1]).write_bytes(content[1])
    assert verify(path).state == INTACT


def test_a_part_of_another_run_does_not_fit(folder: Path, tmp_path: Path) -> None:
    path = written(folder)
    (tmp_path / "other").mkdir()
    writer = TraceWriter(str(tmp_path / "other" / f"{NAME}.jsonl"), {**ABOUT, "name": "other"}, split=(20_000, 0.0))
    for number in range(EVENTS):
        add(writer, number)
        if number % 7 == 0:
            writer.flush()
    writer.close(END)
    assert verify(writer.path).state == INTACT
    os.replace(parts(writer.path)[2], parts(path)[2])
    assert "not the part 3" in verify(path).message


def test_by_age_and_when_the_next_part_cannot_be_made(folder: Path) -> None:
    path = str(folder / "t.jsonl")
    writer = TraceWriter(path, ABOUT, split=(0, 1e-9))
    for number in range(4):
        add(writer, number)
        writer.flush()
    (folder / "t.part6.jsonl").mkdir()
    for number in range(4, 8):
        add(writer, number)
        writer.flush()
    (folder / "t.part6.jsonl").rmdir()
    writer.close(END)
    assert len(parts(path)) == 5
    assert verify(path).state == INTACT
    with TraceReader(path) as reader:
        assert len(list(reader)) == 8


def test_parts_are_compressed_and_removed_together(folder: Path) -> None:
    pytest.importorskip("zstandard")
    path = written(folder)
    files = parts(path)
    with open_trace(path) as file:
        before = file.read()
    compress(files[1])  # one that is finished can be compressed while the run goes on
    assert verify(path).state == INTACT
    (act,) = retain(now=os.stat(path).st_mtime, compressed=True, max_age_s=None, max_bytes=None)
    assert (act.what, act.bytes_before > 3 * act.bytes_after) == ("compressed", True)
    assert not any(os.path.exists(file) for file in files)
    (run,) = runs()
    assert [os.path.basename(part) for part in parts(run.path)] == [f"{os.path.basename(file)}.zst" for file in files]
    with open_trace(run.path) as file:
        assert file.read() == before
    assert run.footer is not None
    assert verify(run.path).state == INTACT
    (act,) = retain(now=os.stat(run.path).st_mtime + 100, compressed=False, max_age_s=1.0, max_bytes=None)
    assert act.what == "removed"
    assert list(folder.iterdir()) == []


def test_following_goes_on_in_the_next_part(folder: Path) -> None:
    path = str(folder / "t.jsonl")
    writer = TraceWriter(path, ABOUT, split=(2000, 0.0))
    for number in range(40):
        add(writer, number)
        writer.flush()
    so_far = len(parts(path))
    assert so_far > 2
    left = iter(range(40, 80))

    def wait(_: float) -> None:
        for number in (next(left, None), next(left, None)):
            if number is not None:
                add(writer, number)
                writer.flush()
        if number is None:
            writer.close(END)

    newest = parts(path)[-1]
    lines, end, over = last(newest, 5, lambda line: line.entry is not None)
    assert not over
    found = [line.entry.seq for line in follow(newest, end, wait) if line.entry is not None]
    assert [line.entry.seq for line in lines if line.entry is not None][-1] + 1 == found[0]
    assert found == list(range(found[0], 81))
    assert len(parts(path)) > so_far


def test_sql_sees_one_run(folder: Path) -> None:
    pytest.importorskip("duckdb")
    from agent_safety_layer.trace.sql import ask

    path = written(folder)
    assert ask("select count(*), max(seq), min(run) from events", [path])[1] == [(EVENTS, EVENTS, NAME)]
    assert ask("select run, trace, outcome, events from runs", [path])[1] == [(NAME, path, "exited", EVENTS)]
