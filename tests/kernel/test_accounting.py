"""What a run reports to have used is what it used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import runs

pytestmark = pytest.mark.requires("notify")


def accounted(tmp_path: Path, code: str, *argv: str, limits: str = "{}") -> tuple[dict[str, Any], str]:
    """The report of a run of Python code, and what that printed."""
    state = tmp_path / "asl"
    state.mkdir()
    policy, report = state / "policy.yaml", state / "report.json"
    policy.write_text(f"version: 1\nname: test\nlimits: {limits}\n")
    words = ("-p", policy, "--report", report, sys.executable, "-S", "-c", code, *argv)
    done = subprocess.run(
        runs.command(*words), env=runs.environment(state), capture_output=True, text=True, timeout=30, check=True
    )
    return json.loads(report.read_text()), done.stdout


def test_cpu_time_is_that_of_all_processes(tmp_path: Path) -> None:
    code = (
        "import os, time\n"
        "for i in range(3):\n  if os.fork() == 0:\n    while time.process_time() < 0.3: os.getppid()\n    os._exit(0)\n"
        "for i in range(3): os.wait()\n"
        "t = os.times(); print(t.user + t.children_user, t.system + t.children_system)"
    )
    report, said = accounted(tmp_path, code)
    user_s, system_s = map(float, said.split())
    # The interpreter's own end comes after what it says.
    assert report["cpu_user_seconds"] + report["cpu_system_seconds"] == pytest.approx(user_s + system_s, abs=0.06)
    assert report["cpu_user_seconds"] == pytest.approx(user_s, abs=0.06)


def test_peak_memory_is_that_of_the_largest_process(tmp_path: Path) -> None:
    code = (
        "import os, resource\n"
        "for size in (30, 90, 50):\n  if os.fork() == 0:\n    x = b'x' * (size << 20); os._exit(0)\n  os.wait()\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
    )
    report, said = accounted(tmp_path, code)
    assert report["peak_memory_bytes"] == pytest.approx(int(said), rel=0.03)
    assert report["peak_memory_bytes"] > 90 << 20


def test_it_agrees_with_time(tmp_path: Path) -> None:
    if not os.access("/usr/bin/time", os.X_OK):
        pytest.skip("GNU time is not installed")
    code = "x = b'x' * (120 << 20)\nfor i in range(4_000_000): pass"
    format_ = "%U %S %M"
    words = ["/usr/bin/time", "-f", format_, sys.executable, "-S", "-c", code]
    timed = subprocess.run(words, capture_output=True, text=True, check=True).stderr.split()
    report, _ = accounted(tmp_path, code)
    user_s, system_s, peak_kib = float(timed[0]), float(timed[1]), int(timed[2])
    assert report["peak_memory_bytes"] == pytest.approx(peak_kib * 1024, rel=0.03)
    ours_s = report["cpu_user_seconds"] + report["cpu_system_seconds"]
    assert ours_s == pytest.approx(user_s + system_s, rel=0.5), "the same program, but two runs of it"


def test_bytes_and_processes(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "for i in range(4):\n  if os.fork() == 0:\n"
        "    with open(sys.argv[1] + str(i), 'wb') as f: f.write(b'x' * (3 << 20))\n"
        "    with open(sys.argv[1] + str(i), 'rb') as f: f.read()\n    os._exit(0)\n"
        "for i in range(4): os.wait()"
    )
    report, _ = accounted(tmp_path, code, str(tmp_path / "file"))
    assert 12 << 20 <= report["written_bytes"] < (12 << 20) + 10_000
    assert 12 << 20 <= report["read_bytes"] < (12 << 20) + 500_000
    assert report["processes"] == 5


def test_the_tree_has_a_peak_of_its_own_when_it_is_measured(tmp_path: Path) -> None:
    code = (
        "import os, time\n"
        "for i in range(4):\n  if os.fork() == 0: x = b'x' * (40 << 20); time.sleep(1.2); os._exit(0)\n"
        "for i in range(4): os.wait()"
    )
    report, _ = accounted(tmp_path, code, limits="{memory: 1GiB}")
    assert 160 << 20 < report["tree_peak_memory_bytes"] < 260 << 20
    assert report["peak_memory_bytes"] < 60 << 20
