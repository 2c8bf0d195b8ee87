"""Rules that look back: what a process or one it descends from did earlier decides, for them alone.

Each run's trace is replayed under its own policy, as every test's is (``tests/replayed.py``): nothing may change.
"""

from __future__ import annotations

import pathlib
import socket
from collections.abc import Iterator

import pytest

from tests.kernel.supervised import OPEN, Result, run

pytestmark = pytest.mark.requires("notify", "landlock", "ptrace")

CONNECT = """import socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    print("got out", flush=True)
except OSError:
    print("kept in", flush=True)
"""


def shell(folder: pathlib.Path, policy: str, script: str) -> Result:
    return run(["sh", "-c", script], folder, policy=policy)


@pytest.fixture
def work(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "ws"
    (folder / "customers").mkdir(parents=True)
    (folder / "customers" / "list").write_text("names\n")
    (folder / "connect.py").write_text(CONNECT)
    for name, lines in (("old", "echo old runs"), ("through-env", "cat customers/list")):
        (folder / name).write_text(f"#!/usr/bin/env sh\n{lines}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield server.getsockname()[1]


def test_after_a_read_the_reader_and_its_descendants_have_no_network(work: pathlib.Path, port: int) -> None:
    rule = f"""
network: {{allow: ["localhost:{port}"]}}
rules:
  - {{name: no-exfiltration, on: net, after: {{on: file.read, path: "**/customers"}}, action: block}}
"""
    connect = f"python3 -ISc '{CONNECT.replace(chr(39), chr(34))}' {port}"
    script = f"""
{connect}
(read line < customers/list; {connect}; sh -c 'python3 -IS connect.py {port}')
{connect}
"""
    done = shell(work.parent, OPEN + rule, script)
    assert done.out.splitlines() == ["got out", "kept in", "kept in", "got out"], done.err
    assert "no-exfiltration" in done.err


def test_what_was_written_in_the_run_is_not_executed(work: pathlib.Path) -> None:
    rule = """
rules:
  - name: no-downloads
    on: process.exec
    after: {on: [file.write, file.create, file.rename], same: path}
    action: block
"""
    script = "./old; cp old new; mv old moved; ./new || echo new does not; ./moved || echo moved does not"
    assert shell(work.parent, OPEN, script).out.splitlines() == ["old runs"] * 3
    (work / "moved").rename(work / "old")
    (work / "new").unlink()
    done = shell(work.parent, OPEN + rule, script)
    assert done.out.splitlines() == ["old runs", "new does not", "moved does not"], done.err


def test_what_runs_in_a_scripts_place_counts_as_run(work: pathlib.Path) -> None:
    rule = """
rules:
  - name: not-through-env
    on: file.read
    path: "**/customers"
    after: {on: process.exec, path: "**/env"}
    action: block
"""
    assert shell(work.parent, OPEN, "./through-env").out == "names\n"
    done = shell(work.parent, OPEN + rule, "cat customers/list; ./through-env")
    assert done.out == "names\n"
    assert "not-through-env" in done.err
