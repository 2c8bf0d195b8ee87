"""``asl report`` as a user types it."""

import subprocess
import sys

from agent_safety_layer.events import Event
from tests.core.replay.scenes import STATEFUL, judged, policy, write


def asl(*words, check=0, **options):
    command = [sys.executable, "-m", "agent_safety_layer.cli.main", "report", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == check, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_a_page_is_made(tmp_path):
    own = policy(STATEFUL)
    trace = write(tmp_path / "t.jsonl", own, judged(own, [Event("file.read", 1, path="/home/u/.ssh/id")]))
    done = asl(trace, cwd=tmp_path)
    assert (done.stdout, "report.html" in done.stderr) == ("", True)
    text = (tmp_path / "report.html").read_text()
    assert "1 operation blocked" in text
    assert "intact: 3 lines, 1 events" in text
    asl(trace, "-o", tmp_path / "other.html", "--events", "0")
    assert (tmp_path / "other.html").read_text() != text
    assert "Cannot write" in asl(trace, "-o", tmp_path / "none" / "x.html", check=125).stderr


def test_a_changed_trace_is_told_on_the_page(tmp_path):
    own = policy(STATEFUL)
    trace = tmp_path / "t.jsonl"
    write(trace, own, judged(own, [Event("file.read", 1, path="/etc/hosts")]))
    trace.write_bytes(trace.read_bytes().replace(b"/etc/hosts", b"/etc/h0sts"))
    asl(trace, "-o", tmp_path / "r.html")
    assert 'class="bad"><dt>Trace</dt><dd>changed at line 2' in (tmp_path / "r.html").read_text()
