"""``asl-supervise`` as a user types it: what it takes, what it says, what it exits with."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import stat
import subprocess
import sys

import pytest

from tests.kernel import runs
from tests.kernel.supervised import OPEN, SUPERVISE, environment, run
from tests.requirements import BACKEND

pytestmark = pytest.mark.requires("notify", "landlock")


class Shell:
    """A folder to type commands in."""

    def __init__(self, tmp: pathlib.Path) -> None:
        self.tmp = tmp
        self.folder = tmp / "work"
        self.folder.mkdir()
        self.policy = tmp / "policy.yaml"
        self.policy.write_text(OPEN)

    def type(
        self, *words: str | pathlib.Path, stdin: str = "", timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """What ``asl-supervise WORDS`` does."""
        return subprocess.run(
            [*SUPERVISE, *map(str, words)],
            cwd=self.folder,
            env=environment(self.tmp / "state", {"PATH": "/usr/local/bin:/usr/bin:/bin"}),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def refused(self, *words: str | pathlib.Path, code: int = 125) -> str:
        """What it says when nothing was started; one line, nothing on stdout, nothing left behind."""
        done = self.type(*words)
        assert done.returncode == code, done.stderr
        assert done.stdout == ""
        assert done.stderr.startswith("asl-supervise: ")
        assert done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr
        assert not list(self.folder.iterdir())
        return done.stderr.removeprefix("asl-supervise: ").rstrip("\n")


@pytest.fixture
def shell(tmp_path: pathlib.Path) -> Shell:
    return Shell(tmp_path)


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-q", "echo", "-p", "x", "--observe"), "-p x --observe\n"),
        (("-q", "--", "echo", "--", "-q"), "-- -q\n"),
        (("-q", "echo", "--help", "--version"), "--help --version\n"),
        (("-q", "env", "echo", "-v"), "-v\n"),
        (("-qqv", "echo", "x"), "x\n"),
        (("-q", "-pPOLICY", "echo", "x"), "x\n"),
        (("-q", "-p", "POLICY", "-p", "ci", "echo", "x"), "x\n"),
        (("-q", "--policy=POLICY", "--name=a=b", "echo", "x"), "x\n"),
        (("-q", "--color", "always", "--backend=notify", "--approve=deny", "echo", "x"), "x\n"),
    ],
)
def test_options_end_at_the_first_word_that_is_not_one(words: tuple[str, ...], said: str, shell: Shell) -> None:
    done = shell.type(*(word.replace("POLICY", str(shell.policy)) for word in words))
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "No command to run. Usage: asl-supervise [OPTIONS] [--] COMMAND"),
        (("-q",), "No command to run."),
        (("--",), "No command to run."),
        (("--timeout", "true"), "No command to run: 'true' was taken for the value of --timeout."),
        (("--polcy", "x", "true"), "No such option: --polcy. Did you mean --policy?"),
        (("--observ", "true"), "Did you mean --observe?"),
        (("-z", "true"), "No such option: -z."),
        (("-p",), "-p needs a value"),
        (("--trace",), "--trace needs a value"),
        (("--approve", "maybe", "true"), "--approve is one of"),
        (("--color=sometimes", "true"), "--color is one of"),
        (("--observe=yes", "true"), "--observe takes no value"),
        (("--timeout", "soon", "true"), "--timeout: 'soon'"),
        (("--memory", "much", "true"), "--memory: 'much'"),
        (("--max-processes", "many", "true"), "--max-processes: 'many'"),
        (("-p", "no-such-profile", "true"), "no-such-profile"),
        (("-p", "/nowhere/policy.yaml", "true"), "No such file or directory"),
        (("-p", "/", "true"), "/"),
        (("--allow-host", "http://x y", "true"), "--allow-host"),
    ],
)
def test_what_makes_no_sense_is_named(words: tuple[str, ...], says: str, shell: Shell) -> None:
    assert says in shell.refused(*words)


def test_help_and_version_are_all_that_ever_goes_to_stdout(shell: Shell) -> None:
    told = shell.type("--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("Usage: asl-supervise [OPTIONS] [--] COMMAND")
    assert max(map(len, told.stdout.splitlines())) <= 120
    for flag in ("--policy", "--observe", "--timeout", "--report", "--best-effort", "124"):
        assert flag in told.stdout
    version = shell.type("--version")
    assert (version.returncode, version.stderr) == (0, "")
    assert version.stdout.startswith("asl-supervise ")
    assert shell.type("-h").stdout == told.stdout


def test_who_reads_the_help_may_stop(shell: Shell) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as nobody:
        words = [sys.executable, "-m", "agent_safety_layer.cli.supervise", "--help"]
        done = subprocess.run(words, stdout=nobody, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, b"")


def test_what_cannot_be_started_says_why(shell: Shell) -> None:
    said = shell.type("ls -la")
    assert (said.returncode, said.stderr) == (
        127,
        "asl-supervise: ls -la: no such program on PATH; a shell's command line goes with sh -c\n",
    )
    script = shell.folder / "script"
    script.write_text("#!/no/such/shell\n")
    script.chmod(0o755)
    said = shell.type("./script")
    assert (said.returncode, said.stderr) == (
        127,
        "asl-supervise: ./script: the interpreter that it names is not there\n",
    )


# -- policies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("version: 1\nfiles:\n  raed: ['/']\n", 3, "Did you mean read?"),
        ("version: 1\nfile: {}\n", 2, "Did you mean files?"),
        ("version: 1\nfiles: [\n", 3, "not YAML"),
        ("version: 9\n", 1, "version"),
        ("version: 1\nmode: obey\n", 2, "enforce"),
        ("version: 1\nlimits: {wall_time: soon}\n", 2, "wall_time"),
        ("version: 1\nfiles: {read: [relative/path]}\n", 2, "relative/path"),
        ("version: 1\nrules:\n  - {name: x, on: file.raed, action: block}\n", 3, "file.read"),
        ("version: 1\nrules:\n  - {name: x, on: process.exec, match: '(', action: block}\n", 3, "("),
        ("version: 1\nextends: [nothing]\n", 2, "nothing"),
        ("just text\n", 1, ""),
    ],
)
def test_a_policy_with_a_mistake_is_refused_with_its_line(text: str, line: int, says: str, shell: Shell) -> None:
    shell.policy.write_text(text)
    said = shell.refused("-p", shell.policy, "touch", "it-ran")
    assert f"policy.yaml:{line}" in said
    assert says in said


def test_a_policy_in_the_working_directory_is_not_picked_up(shell: Shell) -> None:
    (shell.folder / "policy.yaml").write_text("version: 1\nexec: {allow: []}\n")
    (shell.folder / "asl.yaml").write_text("version: 1\nexec: {allow: []}\n")
    assert shell.type("-q", "true").returncode == 0


def test_several_policies_are_layers_of_which_the_strictest_wins(shell: Shell) -> None:
    strict = shell.tmp / "strict.yaml"
    strict.write_text('version: 1\nfiles: {block: ["${WORKSPACE}/no"]}\n')
    assert shell.type("-q", "-p", shell.policy, "touch", "no").returncode == 0
    for order in ((strict, shell.policy), (shell.policy, strict)):
        done = shell.type("-p", order[0], "-p", order[1], "rm", "no")
        assert done.returncode == 1
        assert "strict.yaml:2" in done.stderr
        assert (shell.folder / "no").exists()


def test_flags_join_the_first_policy(shell: Shell) -> None:
    other = shell.tmp / "other"
    other.mkdir()
    blocked = shell.type("-p", shell.policy, "touch", other / "x")
    assert blocked.returncode == 1
    assert f"--allow-write {other.resolve()}" in blocked.stderr
    assert shell.type("-q", "-p", shell.policy, "--allow-write", other, "touch", other / "x").returncode == 0
    done = shell.type("-p", shell.policy, "--allow-write", other, "--block-path", f"{other}/x", "rm", other / "x")
    assert done.returncode == 1
    assert (other / "x").exists()


# -- commands that cannot be run ---------------------------------------------------------------------------------------


def test_a_command_that_is_not_there_is_127(shell: Shell) -> None:
    for name in ("no-such-program", "./no-such-program", "/nowhere/program"):
        assert name in shell.refused("-q", name, code=127)


def test_a_command_that_is_no_program_is_126(shell: Shell) -> None:
    text = shell.tmp / "text"
    text.write_text("no program\n")
    for path in (shell.tmp, text):
        assert str(path) in shell.refused("-q", path, code=126)


def test_a_command_that_may_not_run_is_126(shell: Shell) -> None:
    shell.policy.write_text(OPEN + "\nexec: {block: [ls]}\n")
    done = shell.type("-p", shell.policy, "ls")
    assert done.returncode == 126
    assert done.stdout == ""
    assert "blocked process.exec" in done.stderr
    assert shell.type("-q", "-p", shell.policy, "true").returncode == 0


# -- what is passed through --------------------------------------------------------------------------------------------


def test_streams_environment_and_folder_are_the_child_s_own(shell: Shell) -> None:
    code = "import os, sys; print(sys.stdin.read().upper(), os.getcwd()); print('err', file=sys.stderr)"
    done = shell.type("-q", sys.executable, "-ISc", code, stdin="from outside")
    assert done.stdout == f"FROM OUTSIDE {shell.folder.resolve()}\n"
    assert done.stderr == "err\n"
    assert shell.type("-q", "sh", "-c", "echo $ASL_RUN_ID; test -w $TMPDIR && test -O $TMPDIR").returncode == 0


def test_large_streams_arrive_whole(shell: Shell) -> None:
    text = "x" * 79 + "\n"
    done = shell.type("-q", "cat", stdin=text * 20_000)
    assert done.stdout == text * 20_000


def test_no_descriptor_is_left_open_for_the_child(shell: Shell) -> None:
    code = "import os; print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:-1])"
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    done = subprocess.run(
        [*SUPERVISE, "-q", sys.executable, "-ISc", code],
        cwd=shell.folder,
        env=environment(shell.tmp / "state"),
        capture_output=True,
        text=True,
        close_fds=False,
        timeout=60,
        check=False,
    )
    os.close(reader)
    os.close(writer)
    assert done.stdout == "[0, 1, 2]\n"


@pytest.mark.parametrize("code", [0, 1, 3, 124, 125, 126, 127, 128, 137, 255])
def test_the_child_s_status_is_the_run_s(code: int, shell: Shell) -> None:
    assert shell.type("-q", "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGSEGV, signal.SIGUSR1])
def test_a_signal_that_ends_the_child_ends_the_run(number: int, shell: Shell) -> None:
    report = shell.tmp / "report.json"
    done = shell.type("-q", "--report", report, "sh", "-c", f"kill -{number} $$")
    assert done.returncode == -number
    told = json.loads(report.read_text())
    assert (told["outcome"], told["signal"], told["exit_code"]) == ("signaled", number, 128 + number)


def test_a_time_limit_is_124(shell: Shell) -> None:
    report = shell.tmp / "report.json"
    done = shell.type("--timeout", "200ms", "--report", report, "sleep", "60", timeout=20)
    assert done.returncode == 124
    assert "time limit" in done.stderr
    assert json.loads(report.read_text())["outcome"] == "wall_time"


# -- what is written ---------------------------------------------------------------------------------------------------


def test_nothing_is_printed_to_stdout_and_quiet_is_quiet(shell: Shell) -> None:
    words = ("-p", shell.policy, "touch", "/usr/blocked", "here")
    loud, quiet = shell.type("-v", *words), shell.type("-q", *words)
    for done in (loud, quiet):
        assert done.stdout == ""
        assert done.returncode == 1
    assert "asl: blocked file.create" in loud.stderr
    assert "policy.yaml:6" in loud.stderr
    assert "--allow-write /usr/blocked" in loud.stderr
    assert "asl:" not in quiet.stderr
    assert (shell.folder / "here").exists()
    assert shell.type("true").stderr == "", "nothing to tell, nothing told"


def test_the_report_is_the_truth_in_json(shell: Shell) -> None:
    report = shell.tmp / "report.json"
    command = ["sh", "-c", "touch here; touch /usr/blocked; touch /usr/blocked; exit 7"]
    shell.type("-q", "-p", shell.policy, "--name", "a name", "--report", report, *command)
    told = json.loads(report.read_text())
    assert (told["outcome"], told["exit_code"], told["signal"], told["name"]) == ("exited", 7, 0, "a name")
    assert told["command"] == command
    assert told["counts"]["process.exec"]["allow"] == 4
    assert told["wall_seconds"] > 0
    (denial,) = told["denials"]
    assert denial["count"] == 2
    assert denial["kind"] == "file.create"
    assert {"seccomp", "landlock"} <= set(told["enforced"])
    assert stat.S_IMODE(report.stat().st_mode) & 0o022 == 0


def test_the_trace_begins_with_its_header_and_ends_with_its_footer(tmp_path: pathlib.Path) -> None:
    result = run(["sh", "-c", "echo x > file; cat file; rm file; mkdir dir; mv dir dir2"], tmp_path)
    assert result.out == "x\n"
    kinds = [entry.get("type") for entry in result.trace]
    assert kinds[0] == "header"
    assert kinds[-1] == "footer"
    assert kinds.count("header") == kinds.count("footer") == 1
    header, footer = result.trace[0], result.trace[-1]
    assert header["command"][0] == "sh"
    assert header["policy"]["names"] == ["open"]
    assert footer["outcome"] == "exited"
    events = result.events()
    assert footer["events"] == len(events)
    assert [entry["seq"] for entry in events] == list(range(1, len(events) + 1))
    ws = os.path.realpath(tmp_path / "ws")
    for kind, path in (
        *(("file.create", "file"), ("file.read", "file"), ("file.delete", "file"), ("file.create", "dir")),
        ("file.rename", "dir"),
    ):
        assert result.events(kind, path=f"{ws}/{path}"), kind
    assert result.events("file.rename")[0]["path2"] == f"{ws}/dir2"
    assert {entry["decision"]["action"] for entry in events} == {"allow"}


def test_a_trace_is_private_and_never_overwritten(shell: Shell) -> None:
    trace = shell.tmp / "trace.jsonl"
    assert shell.type("-q", "-o", trace, "true").returncode == 0
    assert stat.S_IMODE(trace.stat().st_mode) == 0o600
    before = trace.read_bytes()
    assert "exists" in shell.refused("-q", "-o", trace, "touch", "it-ran")
    assert trace.read_bytes() == before


def test_a_trace_that_cannot_be_written_stops_the_start(shell: Shell) -> None:
    file = shell.tmp / "file"
    file.touch()
    assert str(file) in shell.refused("-o", file / "trace.jsonl", "touch", "it-ran")
    assert "/proc" in shell.refused("-o", "/proc/nothing/trace.jsonl", "touch", "it-ran")
    assert "report" in shell.refused("--report", file / "report.json", "touch", "it-ran").lower()


def test_the_agent_can_read_what_it_was_denied(shell: Shell) -> None:
    command = "touch /usr/blocked; cat $ASL_DENIALS; rm $ASL_DENIALS; echo x >> $ASL_DENIALS"
    done = shell.type("-q", "-p", shell.policy, "sh", "-c", command)
    (denial,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert denial["kind"] == "file.create"
    assert denial["object"] == "/usr/blocked"
    assert denial["rule"] == "files.write"
    assert denial["remedy"] == "--allow-write /usr/blocked"
    assert "x" not in done.stdout.splitlines()


def test_nothing_of_a_run_is_left_but_its_trace(shell: Shell) -> None:
    done = shell.type("-q", "sh", "-c", "echo $TMPDIR $ASL_DENIALS; mkdir -p $TMPDIR/a/b; chmod 0 $TMPDIR/a")
    tmpdir, denials = done.stdout.split()
    assert not os.path.lexists(tmpdir)
    assert not os.path.lexists(denials)
    assert len(list((shell.tmp / "state" / "traces").iterdir())) == 1
    assert not list(shell.folder.iterdir())


# -- what goes wrong in the middle -------------------------------------------------------------------------------------


def test_a_supervisor_that_is_killed_takes_everything_along_and_says_so(shell: Shell) -> None:
    mark = f"mark-{os.getpid()}-{shell.tmp.name}"
    tree = f"setsid sleep 600.{os.getpid()} {mark} & echo started; sleep 601; : {mark}"
    with subprocess.Popen(
        [*SUPERVISE, "-o", str(shell.tmp / "trace.jsonl"), "sh", "-c", tree],
        cwd=shell.folder,
        env=environment(shell.tmp / "state"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stderr is not None
        assert supervisor.stdout.readline() == "started\n"
        assert runs.marked(mark)
        supervisor.kill()
        said = supervisor.stderr.read()  # until the last of the tree, which shares it, is gone
    assert "the supervisor died" in said
    assert runs.gone(mark) == []
    first = json.loads((shell.tmp / "trace.jsonl").read_text().splitlines()[0])
    assert first["type"] == "header"


@pytest.mark.skipif(bool(BACKEND), reason="it is about a run without ptrace")
def test_what_cannot_be_enforced_here_is_not_started(shell: Shell) -> None:
    shell.policy.write_text(OPEN + "\nexec: {block: [ls]}\n")
    words = ("-p", shell.policy, "touch", "it-ran")

    def without_ptrace(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            runs.command(*options, *words, without="ptrace"),
            cwd=shell.folder,
            env=environment(shell.tmp / "state"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    refused = without_ptrace()
    assert refused.returncode == 125
    assert "ptrace" in refused.stderr
    assert "--best-effort" in refused.stderr
    assert not (shell.folder / "it-ran").exists()
    trace = shell.tmp / "trace.jsonl"
    assert without_ptrace("--best-effort", "-o", str(trace)).returncode == 0
    assert (shell.folder / "it-ran").exists()
    header = json.loads(trace.read_text().splitlines()[0])
    assert any("ptrace" in missing for missing in header["not_enforced"])
