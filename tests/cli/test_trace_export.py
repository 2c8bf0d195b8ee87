"""``asl trace export`` as a user types it."""

import os
import subprocess
import sys

import pytest

from agent_safety_layer.events import Event
from agent_safety_layer.trace.exports import FORMATS
from tests.core.replay.scenes import STATEFUL, judged, policy, write


@pytest.fixture
def trace(tmp_path):
    own = policy(STATEFUL)
    return write(tmp_path / "t.jsonl", own, judged(own, [Event("file.read", 1, path="/home/u/.ssh/\x1b[2J")]))


def asl(*words, check=0):
    command = [sys.executable, "-m", "agent_safety_layer.cli.main", "trace", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == check, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_each_format(trace, tmp_path, name):
    said = asl("export", name, trace).stdout
    assert ".ssh" in said
    assert "\x1b" not in said
    assert asl("export", name, trace, "-o", tmp_path / "out").stdout == ""
    assert (tmp_path / "out").read_text() == said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "t.jsonl"]


def test_what_fails_leaves_nothing(trace, tmp_path):
    (tmp_path / "out").write_text("before")
    broken = tmp_path / "broken"
    broken.write_text('{"type":"header","schema":1}\n{"type":"event"}\n')
    asl("export", "ocsf", broken, "-o", tmp_path / "out", check=125)
    assert (tmp_path / "out").read_text() == "before"
    assert "Cannot write" in asl("export", "csv", trace, "-o", tmp_path / "no" / "out", check=125).stderr
    assert "Usage" in asl("export", "xml", trace, check=2).stderr


def test_what_is_no_file_is_written_in_place(trace, tmp_path):
    said = asl("export", "sarif", trace).stdout
    assert asl("export", "sarif", trace, "-o", "/dev/stdout").stdout == said
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        asl("export", "sarif", trace, "-o", pipe)
        assert os.read(reader, 1 << 16).decode() == said
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    link.symlink_to("target")
    asl("export", "sarif", trace, "-o", link)
    assert link.is_symlink()
    assert (tmp_path / "target").read_text() == said


@pytest.mark.parametrize("words", [("show",), ("query",), ("verify",), ("export", "csv")])
def test_a_full_disk_behind_standard_output_is_told(trace, words):
    command = [sys.executable, "-m", "agent_safety_layer.cli.main", "trace", *words, str(trace)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (125, "asl: No space left on device\n")


def test_who_reads_may_stop(trace):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "agent_safety_layer.cli.main", "trace", "show", str(trace)]
    with open(writer, "wb") as nobody:
        done = subprocess.run(command, stdout=nobody, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


def test_help_names_every_format():
    said = asl("export", "--help").stdout
    assert all(name in said for name in (*FORMATS, "otel"))
