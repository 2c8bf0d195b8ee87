import json
import os
import stat

import pytest

from agent_safety_layer.errors import AslError
from agent_safety_layer.events import Decision, Event
from agent_safety_layer.report import Ending, ReportFile, footer, report
from agent_safety_layer.tally import Tally
from agent_safety_layer.trace.header import header

HEADER = header(
    run="r1",
    time=1700000000.0,
    command=["agent", "--token", "hunter2"],
    cwd="/w",
    policies=["workspace"],
    policy_hash="ab12",
    mode="enforce",
    backend="notify",
    enforced={"landlock": "files"},
    not_enforced=["limits.memory"],
)


@pytest.fixture
def tally():
    tally = Tally()
    tally.add(Event("file.read", path="/etc/hosts"), Decision("allow"), "allow")
    for _ in range(3):
        tally.add(Event("file.write", path="/x"), Decision("block", "files.write", "p.yaml:2", "not listed"), "block")
    return tally


def test_a_report_holds_the_truth(tally):
    made = report(tally, HEADER, Ending("signaled", 137, 9, 1.25, 0.5, 0.25, 4096), "/t.jsonl")
    wanted = {
        "schema": 1,
        "run": "r1",
        "name": "",
        "time": 1700000000.0,
        "command": ["agent", "--token", "[redacted]"],
        "cwd": "/w",
        "policy": {"names": ["workspace"], "sha256": "ab12", "mode": "enforce"},
        "backend": "notify",
        "enforced": {"landlock": "files"},
        "not_enforced": ["limits.memory"],
        "outcome": "signaled",
        "exit_code": 137,
        "signal": 9,
        "wall_seconds": 1.25,
        "cpu_user_seconds": 0.5,
        "cpu_system_seconds": 0.25,
        "peak_memory_bytes": 4096,
        "counts": {"file.read": {"allow": 1}, "file.write": {"block": 3}},
        "effective": {"file.read": {"allow": 1}, "file.write": {"block": 3}},
        "blocked": 3,
        "would_block": 0,
        "events": 4,
        "denials": [
            {
                "kind": "file.write",
                "object": "/x",
                "action": "block",
                "effective": "block",
                "rule": "files.write",
                "where": "p.yaml:2",
                "reason": "not listed",
                "remedy": "--allow-write /x",
                "count": 3,
            }
        ],
        "denials_unlisted": 0,
        "trace": "/t.jsonl",
    }
    assert wanted.items() <= json.loads(json.dumps(made)).items()
    assert made["machine"]["uid"] == os.geteuid()
    assert footer(tally, Ending("exited", 0)).items() <= report(tally, HEADER, Ending("exited", 0), "").items()


def test_a_report_replaces_the_old_one_and_heeds_the_umask(tmp_path, tally):
    path = tmp_path / "out" / "report.json"
    before = os.umask(0o027)
    try:
        for code in (0, 1):
            ReportFile(str(path)).write(report(tally, HEADER, Ending("exited", code), ""))
            assert json.loads(path.read_text())["exit_code"] == code
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(path.parent) == ["report.json"]


def test_a_symlink_at_the_path_is_replaced_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_text("mine")
    (tmp_path / "report.json").symlink_to(target)
    ReportFile(str(tmp_path / "report.json")).write({"a": 1})
    assert target.read_text() == "mine"
    assert json.loads((tmp_path / "report.json").read_text()) == {"a": 1}


def test_the_tree_cannot_redirect_the_report(tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    place = ReportFile(str(out / "report.json"))
    out.rename(tmp_path / "moved")
    out.symlink_to(elsewhere)
    place.write({"a": 1})
    assert os.listdir(elsewhere) == []
    assert (tmp_path / "moved" / "report.json").exists()


def test_descriptors_are_written_in_place():
    read, write = os.pipe()
    ReportFile(f"/dev/fd/{write}").write({"a": 1})
    os.close(write)
    with os.fdopen(read) as pipe:
        assert json.load(pipe) == {"a": 1}


def test_bad_paths_fail_before_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "r.json", "/dev/fd/999"):
        with pytest.raises(AslError, match="Cannot write the report") as caught:
            ReportFile(str(path))
        assert caught.value.exit_code == 125
        assert caught.value.remedy


def test_a_failed_write_leaves_the_old_report(tmp_path):
    path = tmp_path / "report.json"
    ReportFile(str(path)).write({"a": 1})
    with pytest.raises(TypeError):
        ReportFile(str(path)).write({"a": {1}})
    with pytest.raises(AslError):
        ReportFile("/dev/full").write({"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["report.json"]
