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
    """The same process, measured by both; it is looked at once a second when it does nothing."""
    if not os.access("/usr/bin/time", os.X_OK):
        pytest.skip("GNU time is not installed")
    inner = "import time\nx = b'x' * (120 << 20)\nwhile time.process_time() < 0.6: pass\ntime.sleep(3)"
    code = (
        "import os, sys\n"
        "options = ['-f', '%U %S %M', '-o', sys.argv[1]]\n"
        "os.execv('/usr/bin/time', ['time', *options, sys.executable, '-S', '-c', sys.argv[2]])"
    )
    report, _ = accounted(tmp_path, code, str(tmp_path / "timed"), inner)
    user_s, system_s, peak_kib = map(float, (tmp_path / "timed").read_text().split())
    account = max(report["usage"]["processes"], key=lambda one: one["peak_memory_bytes"])
    assert account["peak_memory_bytes"] == pytest.approx(peak_kib * 1024, rel=0.03)
    assert report["peak_memory_bytes"] == pytest.approx(peak_kib * 1024, rel=0.03)
    ours_s = account["cpu_user_seconds"] + account["cpu_system_seconds"]
    assert ours_s == pytest.approx(user_s + system_s, abs=0.03)
    assert account["cpu_user_seconds"] == pytest.approx(user_s, abs=0.06)
    whole_s = report["cpu_user_seconds"] + report["cpu_system_seconds"]
    assert user_s + system_s - 0.02 < whole_s


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


def test_each_process_has_an_account(tmp_path: Path) -> None:
    code = (
        "import os, resource, sys, time\n"
        "def burn(s):\n"
        "  while time.process_time() < s: pass\n"
        "def say(kind):\n"
        "  u = resource.getrusage(resource.RUSAGE_SELF)\n"
        "  print(kind, os.getpid(), os.getppid(), u.ru_utime + u.ru_stime, u.ru_maxrss * 1024, flush=True)\n"
        "if os.fork() == 0:\n"
        "  burn(0.5); say('busy'); time.sleep(3); os._exit(0)\n"  # it is looked at once a second when it does nothing
        "if os.fork() == 0:\n"
        "  x = b'x' * (80 << 20)\n"
        "  with open(sys.argv[1], 'wb') as f: f.write(x[:5 << 20])\n"
        "  say('large'); time.sleep(3); os._exit(0)\n"
        "os.wait(); os.wait(); burn(0.4); say('first')"
    )
    report, said = accounted(tmp_path, code, str(tmp_path / "file"))
    accounts = {account["pid"]: account for account in report["usage"]["processes"]}
    told = {
        kind: (int(pid), int(ppid), float(cpu), int(peak))
        for kind, pid, ppid, cpu, peak in map(str.split, said.splitlines())
    }
    assert {pid for pid, *_ in told.values()} == accounts.keys()
    for kind, (pid, ppid, cpu_s, peak) in told.items():
        account = accounts[pid]
        assert (account["ppid"], os.path.realpath(sys.executable)) == (ppid, account["exe"]) or kind == "first"
        assert account["cpu_user_seconds"] + account["cpu_system_seconds"] == pytest.approx(cpu_s, abs=0.06)
        if kind != "first":  # getrusage(2) also counts what the first one was before its exec
            assert account["peak_memory_bytes"] == pytest.approx(peak, rel=0.05, abs=2 << 20)
    first, large = accounts[told["first"][0]], accounts[told["large"][0]]
    assert 5 << 20 <= large["written_bytes"] < 6 << 20
    assert first["written_bytes"] >= 5 << 20  # the kernel adds what the children did that it waited for
    assert first["wall_seconds"] > 3
    together = sum(one["cpu_user_seconds"] + one["cpu_system_seconds"] for one in accounts.values())
    assert together == pytest.approx(report["cpu_user_seconds"] + report["cpu_system_seconds"], rel=0.1)
    samples = report["usage"]["samples"]
    assert [sample[0] for sample in samples] == sorted(sample[0] for sample in samples)
    assert max(sample[2] for sample in samples) > 80 << 20
    assert max(sample[3] for sample in samples) == 3
