"""Limits hold, with a cgroup and without, and the run says what happened."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asl_hooks import cgroup
from tests.kernel import runs

pytestmark = pytest.mark.requires("notify")

Report = dict[str, Any]
Run = Callable[..., tuple[subprocess.CompletedProcess[str], Report]]


def grouped(*controllers: str) -> bool:
    """Whether this process can have a cgroup that limits such things."""
    subtree = cgroup.Subtree("asl-test-probe", cgroup.places(), controllers)
    try:
        return subtree.holds >= set(controllers)
    finally:
        subtree.remove()


@pytest.fixture(params=["", "cgroup"], ids=["all", "no-cgroup"])
def without(request: pytest.FixtureRequest) -> str:
    if not request.param and not grouped("memory", "pids", "cpu"):
        pytest.skip("no cgroup of our own here")
    return str(request.param)


@pytest.fixture
def run(tmp_path: Path, without: str) -> Run:
    """Runs Python code under limits (a YAML mapping); what came of it, and the report."""

    def run(limits: str, code: str, *argv: str) -> tuple[subprocess.CompletedProcess[str], Report]:
        (tmp_path / "asl").mkdir(exist_ok=True)
        policy, report = tmp_path / "asl" / "policy.yaml", tmp_path / "asl" / "report.json"
        policy.write_text(f"version: 1\nname: test\nlimits: {{{limits}}}\n")
        words = ("-p", policy, "--report", report, sys.executable, "-S", "-c", code, *argv)
        env = runs.environment(tmp_path / "asl")
        done = subprocess.run(
            runs.command(*words, without=without), env=env, capture_output=True, text=True, timeout=30, check=False
        )
        return done, json.loads(report.read_text())

    return run


def hits(report: Report) -> list[str]:
    return [denial["rule"] for denial in report["denials"] if denial["kind"] == "limit.hit"]


ALLOCATE = "x = []\nfor i in range(40): x.append(b'x' * (10 << 20))\nprint('had it all')"
TMPFS = "import os\nfd = os.memfd_create('x')\nfor i in range(40): os.write(fd, b'x' * (10 << 20))\nprint('had it all')"
SHARED = "import mmap\nm = mmap.mmap(-1, 400 << 20)\nfor i in range(0, 400 << 20, 4096): m[i] = 1\nprint('had it all')"
CHILDREN = (
    "import os, time\nfor i in range(8):\n  if os.fork() == 0:\n    x = b'x' * (50 << 20); time.sleep(20)\n"
    "time.sleep(20); print('had it all')"
)


@pytest.mark.parametrize("code", [ALLOCATE, TMPFS, SHARED, CHILDREN], ids=["anonymous", "memfd", "shared", "children"])
def test_memory_of_the_whole_tree(run: Run, code: str) -> None:
    done, report = run("memory: 200MiB", code)
    assert (done.returncode, report["outcome"], done.stdout) == (137, "memory", "")
    assert hits(report) == ["limits.memory"]
    assert "limits.memory" in done.stderr


def test_memory_within_the_limit(run: Run) -> None:
    done, report = run("memory: 800MiB", ALLOCATE)
    assert (done.returncode, report["outcome"], done.stdout) == (0, "exited", "had it all\n")
    assert hits(report) == []


def test_children_share_memory_and_it_is_counted_once(run: Run) -> None:
    """A forked pool that reads its parent's 150 MiB has 150 MiB, not 150 for each."""
    code = (
        "import os, time\nx = b'x' * (150 << 20)\n"
        "pids = [os.fork() for i in range(1)]\n"
        "while len(pids) < 5 and pids[-1]: pids.append(os.fork())\n"
        "if not pids[-1]: sum(x[::4096]); time.sleep(0.8); os._exit(0)\n"
        "for pid in pids: os.waitpid(pid, 0)\nprint('done')"
    )
    done, report = run("memory: 300MiB", code)
    assert (done.returncode, report["outcome"], done.stdout) == (0, "exited", "done\n")


SPIN = "import os, sys\nfor i in range(int(sys.argv[1])): os.fork() or exec('while True: pass')\nos.wait()"


def test_cpu_time_of_the_whole_tree(run: Run) -> None:
    """Four processes, none of which reaches the limit by itself."""
    done, report = run("cpu_time: 1s, grace: 1s", SPIN, "4")
    assert (done.returncode, report["outcome"], hits(report)) == (124, "cpu_time", ["limits.cpu_time"])
    assert 0.9 < report["cpu_user_seconds"] + report["cpu_system_seconds"] < 2


def test_wall_time_gives_the_tree_a_chance_to_tidy_up(run: Run) -> None:
    code = (
        "import signal, sys, time\nsignal.signal(15, lambda *_: (print('tidied'), sys.exit(0)))\n"
        "print('began', flush=True)\ntime.sleep(20)"
    )
    done, report = run("wall_time: 500ms", code)
    assert (done.returncode, report["outcome"]) == (124, "wall_time")
    assert done.stdout == "began\ntidied\n"
    assert 0.5 <= report["wall_seconds"] < 2


def test_idle_time_ends_what_hangs_and_not_what_works(run: Run) -> None:
    done, report = run("idle_time: 600ms", "import time\ntime.sleep(20)")
    assert (done.returncode, report["outcome"], hits(report)) == (124, "idle_time", ["limits.idle_time"])
    busy = "import time, os\nuntil = time.time() + 1.2\nwhile time.time() < until: os.listdir('/'); time.sleep(0.05)"
    done, report = run("idle_time: 600ms", busy)
    assert (done.returncode, report["outcome"]) == (0, "exited")


FORKS = (
    "import os, time\nn = 1\n"
    "try:\n  while n < 40:\n    if os.fork() == 0: time.sleep(20)\n    n += 1\n"
    "except OSError as error: print(error.errno, n)"
)
THREADS = (
    "import _thread, time\nn = 1\n"
    "try:\n  while n < 40: _thread.start_new_thread(time.sleep, (20,)); n += 1\n"
    "except RuntimeError: print(11, n)"
)


@pytest.mark.parametrize("code", [FORKS, THREADS], ids=["processes", "threads"])
def test_processes_and_threads(run: Run, code: str) -> None:
    done, report = run("processes: 12", code)
    assert (done.returncode, done.stdout) == (0, "11 12\n")
    assert hits(report) == ["limits.processes"]
    done, report = run("processes: 100", code)
    assert hits(report) == []


def test_operations(run: Run) -> None:
    code = "import os\nfor i in range(5000): open('/etc/hostname').close()\nprint('did it all')"
    done, report = run("operations: 500, grace: 100ms", code)
    assert (done.returncode, report["outcome"], hits(report)) == (137, "operations", ["limits.operations"])
    done, report = run("operations: 9000", code)
    assert (done.returncode, done.stdout) == (0, "did it all\n")


def test_written_bytes_are_those_of_all_processes(run: Run, tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "for i in range(4):\n  if os.fork() == 0:\n    f = open(sys.argv[1] + str(i), 'wb', 0)\n"
        "    for j in range(20): f.write(b'x' * (1 << 20)); time.sleep(0.01)\n    os._exit(0)\n"
        "for i in range(4): os.wait()\nprint('wrote it all')"
    )
    done, report = run("written: 20MiB", code, str(tmp_path / "file"))
    assert (done.returncode, report["outcome"], hits(report)) == (137, "written", ["limits.written"])
    assert sum(path.stat().st_size for path in tmp_path.glob("file*")) < 60 << 20
    done, report = run("written: 200MiB", code, str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (0, "wrote it all\n")
    assert 80 << 20 <= report["written_bytes"] < 82 << 20


def test_what_was_written_before_we_looked_counts(run: Run, tmp_path: Path) -> None:
    code = "import sys\nwith open(sys.argv[1], 'wb', buffering=0) as file: file.write(bytes(3 << 20))"
    done, report = run("written: 1MiB", code, str(tmp_path / "file"))
    assert (done.returncode, report["outcome"], hits(report)) == (137, "written", ["limits.written"])
    done, report = run("written: 10MiB", code, str(tmp_path / "file"))
    assert (done.returncode, report["outcome"]) == (0, "exited")


@pytest.mark.parametrize("to", [1, 2])
def test_output(run: Run, to: int) -> None:
    code = f"import os, sys\nfor i in range(100): os.write({to}, b'x' * 1000)"
    done, report = run("output: 50000, grace: 100ms", code)
    assert (done.returncode, report["outcome"], hits(report)) == (137, "output", ["limits.output"])
    assert (done.stdout + done.stderr).count("x" * 1000) == 50
    done, report = run("output: 200000", code)
    assert (done.returncode, (done.stdout + done.stderr).count("x" * 1000)) == (0, 100)


def test_open_files_and_file_size_are_refused_by_the_kernel(run: Run, tmp_path: Path) -> None:
    code = (
        "import os, sys, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "f = open(sys.argv[1], 'wb', 0)\n"
        "try:\n  for i in range(100): f.write(b'x' * 1000)\nexcept OSError as error: print(error.errno, f.tell())\n"
        "try:\n  fds = [os.dup(1) for i in range(100)]\nexcept OSError as error: print(error.errno)"
    )
    done, report = run("file_size: 10000, open_files: 20", code, str(tmp_path / "file"))
    assert done.stdout == "27 10000\n24\n"
    assert report["enforced"]["limits.open_files"].startswith("RLIMIT_NOFILE")


def test_cpu_percent_slows_down_and_kills_nobody(run: Run) -> None:
    code = (
        "import os, time\nbegan = time.monotonic()\n"
        "while time.process_time() < 0.6: pass\nprint(time.monotonic() - began)"
    )
    done, report = run("cpu: 40%", code)
    assert (done.returncode, report["outcome"]) == (0, "exited")
    assert float(done.stdout) > 1.0  # 0.6 s at 40 % are 1.5 s; the first turns are free
    assert hits(report) == []


def test_the_header_says_what_holds_each_limit(run: Run, without: str) -> None:
    _, report = run("memory: 1GiB, processes: 100, cpu: 500%, wall_time: 1m", "pass")
    said = {name: text for name, text in report["enforced"].items() if name.startswith("limits.")}
    assert set(said) == {"limits.memory", "limits.processes", "limits.cpu", "limits.wall_time"}
    in_cgroup = {name for name, text in said.items() if text.startswith("cgroup")}
    assert in_cgroup == (set() if without else {"limits.memory", "limits.processes", "limits.cpu"})


def test_80_percent_is_a_warning_and_no_denial(run: Run) -> None:
    done, report = run("wall_time: 2s", "import time\ntime.sleep(1.7)")
    assert (done.returncode, report["outcome"]) == (0, "exited")
    assert report["counts"]["limit.hit"] == {"warn": 1}
    assert "wall_time" in done.stderr
