"""A queue in a real PostgreSQL: several approvers, one answer, and no when the database is gone."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_safety_layer import ApprovalGate, ApprovalRequest, ApprovalResponse, ApprovalStatus
from agent_safety_layer.approvals.exchange import QueueError
from agent_safety_layer.approvals.question import Answered
from agent_safety_layer.errors import UsageError
from tests.cli.test_approvals import MOST_S, Runs, end
from tests.kernel.supervised import SUPERVISE
from tests.requirements import missing

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql/none"))
ANSWERER = """
import sys
from agent_safety_layer import ApprovalResponse
from agent_safety_layer.approvals.queues import open_queue
queue = open_queue(sys.argv[1])
queue.get_pending()
print("ready", flush=True)
sys.stdin.readline()
print(sum(queue.respond(ApprovalResponse(f"race{i}", True, sys.argv[2])) for i in range(40)))
"""


class Database:
    """A server of the test's own, run by an ordinary user, reached by TCP on loopback and by a socket in ``folder``."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="asl-pg-"))
        self._as: list[str] = []
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._as = ["setpriv", "--reuid", "nobody", "--regid", str(nobody.pw_gid), "--clear-groups", "--"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql://asl@127.0.0.1:{self.port}/postgres"
        made = [*self._as, str(PROGRAMS / "initdb"), "-D", str(self.folder / "data"), "-U", "asl", "-A", "trust", "-N"]
        subprocess.run(made, cwd=self.folder, check=True, capture_output=True, timeout=MOST_S)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        import psycopg

        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={self.port}", "-c", "fsync=off"]
        self._process = subprocess.Popen(
            [*self._as, str(PROGRAMS / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder), *options],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + MOST_S
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < until and self._process.poll() is None

    def stop(self) -> None:
        """The outage."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # at once
            self._process.wait(MOST_S)
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    if not (PROGRAMS / "postgres").exists():
        missing("postgresql", "There is no server. Install the package postgresql.")
    pytest.importorskip("psycopg")
    database = Database()
    yield database
    database.close()


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    runs = Runs(tmp_path)
    yield runs
    runs.close()


def request(name: str, timeout: float = 60) -> ApprovalRequest:
    return ApprovalRequest(name, "op", "why", {"function": "f"}, time.time(), timeout)


def test_a_run_asks_and_somebody_elsewhere_answers(database: Database, runs: Runs) -> None:
    code = "import sys; print(open(sys.argv[1]).read())"
    process = runs.python(code, str(runs.asked / "file"), how=database.url)
    until = time.monotonic() + MOST_S
    while "file.read" not in (shown := runs.asl("list", "--queue", database.url).stdout):
        assert time.monotonic() < until
    done = runs.asl("approve", "--queue", database.url, "--scope", "run", shown.split()[0])
    assert "approved for this run" in done.stdout, done.stderr
    assert end(process)[0] == "content\n"
    assert "approved for this run by" in runs.events("approval.answered")[0]["detail"]


def test_two_machines_race_and_one_wins(database: Database) -> None:
    from agent_safety_layer.approvals.postgresql import PostgresApprovalQueue

    queue = PostgresApprovalQueue(database.url)
    queue.submit_all([request(f"race{i}") for i in range(40)])
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", ANSWERER, database.url, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("ann", "bob")
    ]
    for each in racing:
        assert each.stdout is not None and each.stdout.readline() == "ready\n"
    for each in racing:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    won = [int(each.communicate(timeout=MOST_S)[0]) for each in racing]
    assert sum(won) == 40
    settled = {asked.id: asked.responder for asked in queue.settled()}
    assert len(settled) == 40 and list(settled.values()).count("ann") == won[0]
    queue.close()


def test_whoever_waits_is_told(database: Database) -> None:
    from agent_safety_layer.approvals.postgresql import PostgresApprovalQueue

    queue, other = PostgresApprovalQueue(database.url), PostgresApprovalQueue(database.url)
    gate = ApprovalGate(queue, on_request=lambda asked: other.respond(Answered(asked.id, False, "sam", "no", "run")))
    answered = gate.request_approval("send", "It goes to a customer")
    assert (answered.status, answered.response_message) == (ApprovalStatus.DENIED, "no")
    threading.Timer(0.2, lambda: other.respond(ApprovalResponse("told", True, "sam"))).start()
    queue.submit(request("told"))
    assert queue.wait_for_response("told").is_approved
    queue.submit(request("late", timeout=0.2))
    assert queue.wait_for_response("late").status is ApprovalStatus.TIMEOUT
    assert not other.respond(ApprovalResponse("late", True)), "the database's clock says so"
    queue.close()
    other.close()


def test_an_outage_is_a_no_at_the_deadline_and_the_queue_comes_back(database: Database, runs: Runs) -> None:
    code = (
        "import sys\n"
        "for _ in range(2):\n"
        "    try: print(open(sys.argv[1]).read())\n"
        "    except OSError as e: print(e.strerror, flush=True); sys.stdin.readline()\n"
    )
    process = runs.python(code, str(runs.asked / "file"), how=database.url, timeout="15s")
    until = time.monotonic() + MOST_S
    while "file.read" not in runs.asl("list", "--queue", database.url).stdout:
        assert time.monotonic() < until
    database.stop()
    try:
        assert process.stdout is not None and process.stdout.readline() == "Permission denied\n"
        detail = runs.asl("list", "--queue", database.url)
        assert detail.returncode == 125 and "cannot be used" in detail.stderr
    finally:
        database.start()
    while "file.read" not in (shown := runs.asl("list", "--queue", database.url).stdout):
        assert time.monotonic() < until
    assert runs.asl("approve", "--queue", database.url, shown.split()[0]).returncode == 0
    assert end(process)[0] == "content\n"
    assert (
        "lost" in runs.events("approval.answered")[0]["detail"]
        or "reach" in runs.events("approval.answered")[0]["detail"]
    )


REACH = """
import os, socket, sys
port, folder = int(sys.argv[1]), sys.argv[2]
got = []
for family, where in ((socket.AF_INET, ("127.0.0.1", port)), (socket.AF_UNIX, f"{folder}/.s.PGSQL.{port}")):
    with socket.socket(family) as sock:
        try: sock.connect(where); got.append("connected")
        except OSError as error: got.append(type(error).__name__)
got.append(os.environ.get("PGPASSWORD", "no password"))
print(*got)
"""


@pytest.mark.parametrize("way", ["tcp", "socket"])
def test_the_tree_cannot_reach_it(database: Database, runs: Runs, way: str) -> None:
    """Though the policy lets it connect anywhere, and the database trusts everybody."""
    url = database.url if way == "tcp" else f"postgresql://asl@/postgres?host={database.folder}&port={database.port}"
    runs.environment["PGPASSWORD"] = "secret"
    policy = runs.tmp / "open.yaml"
    policy.write_text(
        'version: 1\nname: open\nfiles: {read: ["/"], write: ["/"]}\n'
        'network: {allow: ["*", "localhost"], private_ips: true, unix: ["/"]}\nenvironment: {pass: ["*"]}\n'
    )
    command = [sys.executable, "-ISc", REACH, str(database.port), str(database.folder)]
    free = subprocess.run(command, env=runs.environment, capture_output=True, text=True, check=False, timeout=MOST_S)
    assert free.stdout == "connected connected secret\n"
    done = subprocess.run(
        [*SUPERVISE, "-p", str(policy), "--approve", url, "--", *command],
        cwd=runs.ws,
        env=runs.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=MOST_S,
    )
    tcp, unix, password = done.stdout.strip().split(" ", 2)
    assert password == "no password", done.stderr
    assert tcp != "connected", done.stdout + done.stderr
    assert way == "tcp" or unix != "connected", done.stdout + done.stderr


def test_a_server_of_this_machine_has_several_doors(monkeypatch: pytest.MonkeyPatch) -> None:
    from agent_safety_layer.approvals.postgresql import PostgresApprovalQueue, places

    for name in ("PGHOST", "PGPORT", "PGPASSFILE"):
        monkeypatch.delenv(name, raising=False)
    for url in (
        "postgresql://asl@127.0.0.1/x",
        "postgresql://asl@localhost/x",
        "postgresql:///x?host=/srv/pg",
        "postgresql:///x",
    ):
        paths, hosts = places(PostgresApprovalQueue(url))
        assert f"{os.path.realpath('/var/run')}/postgresql/.s.PGSQL.5432" in paths
        assert {"localhost:5432", "127.0.0.0/8:5432", "[::1]:5432"} <= set(hosts)
        assert ("/srv/pg/.s.PGSQL.5432" in paths) == ("/srv/pg" in url)
    paths, hosts = places(PostgresApprovalQueue("postgresql://asl@192.0.2.1:6000/x"))
    assert hosts == ("192.0.2.1:6000",)
    assert not [path for path in paths if "PGSQL" in path]


def test_urls_that_are_none(database: Database) -> None:
    from agent_safety_layer.approvals.postgresql import PostgresApprovalQueue

    with pytest.raises(UsageError, match="can be seen"):
        PostgresApprovalQueue("postgresql://asl:secret@127.0.0.1/x")
    with pytest.raises(UsageError, match="no database"):
        PostgresApprovalQueue("postgresql://asl@127.0.0.1/x?nonsense=1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        queue = PostgresApprovalQueue(f"postgresql://asl@127.0.0.1:{free.getsockname()[1]}/x")
        assert queue.fileno() == -1
        with pytest.raises(QueueError, match="cannot be used"):
            queue.get_pending()
