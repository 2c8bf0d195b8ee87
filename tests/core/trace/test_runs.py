import os

import pytest

from agent_safety_layer.errors import TraceError
from agent_safety_layer.events import Decision, Event
from agent_safety_layer.trace.encode import body
from agent_safety_layer.trace.runs import find, runs
from agent_safety_layer.trace.writer import TraceWriter


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ASL_STATE", str(tmp_path / "state"))
    return tmp_path / "state" / "traces"


def record(folder, name, events=3, footer=True):
    path = folder / f"{name}.jsonl"
    writer = TraceWriter(str(path), {"run": name})
    for _ in range(events):
        writer.add(body(Event("file.read", path="/a"), Decision("allow"), "allow"), 1.0)
    if footer:
        writer.close({"outcome": "exited"})
    else:
        writer.flush()
    return str(path)


def test_runs_newest_first_with_how_they_ended(folder):
    assert list(runs()) == []
    record(folder, "20240101-000000.000-aaaaaa")
    record(folder, "20240102-000000.000-bbbbbb", footer=False)
    record(folder, "20240103-000000.000-cccccc", events=1500)
    (folder / "20240104-000000.000-dddddd.jsonl").write_text("not one")
    (folder / "notes.txt").write_text("not one")
    found = list(runs())
    assert [run.name[-6:] for run in found] == ["cccccc", "bbbbbb", "aaaaaa"]
    assert [run.footer and run.footer["events"] for run in found] == [1500, None, 3]
    assert found[0].header["run"] == found[0].name


def test_names_of_traces(folder):
    with pytest.raises(TraceError, match="No trace"):
        find("last")
    first = record(folder, "20240101-000000.000-aaaaaa")
    last = record(folder, "20240102-000000.000-bbbbbb")
    assert find("last") == last
    assert find("20240101") == first
    assert find(first) == first
    assert find(os.path.basename(first).removesuffix(".jsonl")) == first
    with pytest.raises(TraceError, match="2 runs"):
        find("2024")
    with pytest.raises(TraceError, match="No trace"):
        find("1999")
