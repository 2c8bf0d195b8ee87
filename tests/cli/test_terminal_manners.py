"""A supervised command behaves on a terminal, in a pipe and without either as it would alone."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel import runs

pytestmark = pytest.mark.requires("notify")

PYTHON = (sys.executable, "-S", "-c")


class Terminal:
    """A pseudo-terminal with a session of its own, in which a run is the foreground job, as a shell would have it."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.seen = b""
        self._shell: tuple[int, int] | None = None
        self.job = 0

    def start(self, *words: str | Path) -> None:
        """Run ``asl-supervise WORDS`` in the foreground. Its shell is a process that waits for it and tells."""
        tell_r, tell_w = os.pipe()
        ask_r, ask_w = os.pipe()
        shell = os.fork()
        if shell == 0:
            try:
                self._be_shell(list(runs.command(*words)), tell_w, ask_r)
            finally:
                os._exit(1)
        os.close(tell_w)
        os.close(ask_r)
        self._tell, self._ask = tell_r, ask_w
        self._shell = (shell, tell_r)
        self.job = int(self.status())

    def _be_shell(self, argv: list[str], tell: int, ask: int) -> None:
        os.setsid()
        fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        job = os.fork()
        if job == 0:
            os.setpgid(0, 0)
            os.tcsetpgrp(self.slave, os.getpid())
            for number in (signal.SIGTTOU, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            for fd in (0, 1, 2):
                os.dup2(self.slave, fd)
            os.closerange(3, 64)
            os.execve(argv[0], argv, runs.environment(self._state))
        os.write(tell, b"%d\n" % job)
        while True:
            _, status = os.waitpid(job, os.WUNTRACED)
            if os.WIFSTOPPED(status):
                os.tcsetpgrp(self.slave, os.getpgrp())
                os.write(tell, b"stopped\n")
                os.read(ask, 1)  # "fg"
                os.tcsetpgrp(self.slave, job)
                os.killpg(job, signal.SIGCONT)
                continue
            code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            os.write(tell, b"%d\n" % code)
            os._exit(0)

    def status(self, within_s: float = 10) -> str:
        """What the shell tells next: the job's pid, ``stopped``, or its exit status (negative: a signal)."""
        line = b""
        until = time.monotonic() + within_s
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._tell, self.master], [], [], until - time.monotonic())
            assert ready, f"nothing happened; seen: {self.seen!r}"
            if self.master in ready:
                self.seen += os.read(self.master, 4096)
            if self._tell in ready:
                piece = os.read(self._tell, 1)
                assert piece, f"the shell died; seen: {self.seen!r}"
                line += piece
        return line.decode().strip()

    def expect(self, text: str, within_s: float = 10) -> None:
        """Wait until *text* has appeared, and forget what came before its end."""
        until = time.monotonic() + within_s
        while text.encode() not in self.seen:
            ready, _, _ = select.select([self.master], [], [], until - time.monotonic())
            assert ready, f"no {text!r} in {self.seen!r}"
            self.seen += os.read(self.master, 4096)
        self.seen = self.seen.partition(text.encode())[2]

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def foreground(self) -> None:
        os.write(self._ask, b"f")

    def close(self) -> None:
        for pid in (self.job, self._shell[0] if self._shell else 0):
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        if self._shell:
            os.waitpid(self._shell[0], 0)
            os.close(self._tell)
            os.close(self._ask)
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\nname: test\n")
    return path


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    found = Terminal(tmp_path)
    yield found
    found.close()


Runner = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, policy: Path) -> Runner:
    def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
        env = runs.environment(tmp_path, PATH="/usr/local/bin:/usr/bin:/bin")  # each may be searched by anyone
        given = {"capture_output": True, "text": True, "timeout": 20, "env": env, **options}
        return subprocess.run(runs.command("-p", policy, *words), check=False, **given)  # type: ignore[call-overload]

    return run


COUNT = (
    # In handlers nothing of io: one that interrupts a print may not print.
    "import os, signal, sys, time\nn = 0\ndef on(*_):\n  global n\n  n += 1\n  os.write(1, b'got %d\\n' % n)\n"
    "signal.signal(signal.{0}, on)\nprint('ready', flush=True)\nsys.stdin.readline()\nprint('total', n, flush=True)"
)


def test_a_first_ctrl_c_is_the_commands_own_and_comes_once(terminal: Terminal, policy: Path) -> None:
    terminal.start("-q", "-p", policy, *PYTHON, COUNT.format("SIGINT"))
    terminal.expect("ready")
    terminal.type("\x03")
    terminal.expect("got 1")
    terminal.type("\n")
    terminal.expect("total 1")
    assert terminal.status() == "0"


def test_a_command_that_does_not_catch_it_dies_of_it_and_so_do_we(terminal: Terminal, policy: Path) -> None:
    terminal.start("-q", "-p", policy, "sh", "-c", "echo ready; exec sleep 20")
    terminal.expect("ready")
    terminal.type("\x03")
    assert terminal.status() == str(-signal.SIGINT)


def test_a_second_ctrl_c_ends_a_command_that_is_deaf_to_it(terminal: Terminal, policy: Path) -> None:
    deaf = "import signal, time\nsignal.signal(2, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(20)"
    terminal.start("-q", "-p", policy, *PYTHON, deaf)
    terminal.expect("ready")
    terminal.type("\x03")
    terminal.expect("^C")
    time.sleep(0.1)  # two of them at once are one to the kernel
    terminal.type("\x03")
    assert terminal.status() == str(-signal.SIGINT)


def test_ctrl_z_stops_all_and_fg_continues(terminal: Terminal, policy: Path) -> None:
    code = "import sys\nprint('ready', flush=True)\nprint('read', sys.stdin.readline(), flush=True)"
    terminal.start("-q", "-p", policy, *PYTHON, code)
    terminal.expect("ready")
    terminal.type("\x1a")
    assert terminal.status() == "stopped"
    terminal.foreground()
    terminal.type("hello\n")
    terminal.expect("read hello")
    assert terminal.status() == "0"


def test_the_window_size_is_the_terminals(terminal: Terminal, policy: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGWINCH, lambda *_: os.write(1, b'now %d %d\\n' % os.get_terminal_size()))\n"
        "print('ready', *os.get_terminal_size(), flush=True)\nsys.stdin.readline()"
    )
    terminal.start("-q", "-p", policy, *PYTHON, code)
    terminal.expect("ready 80 24")
    fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    terminal.expect("now 100 30")
    terminal.type("\n")
    assert terminal.status() == "0"


def test_with_an_output_limit_it_still_is_a_terminal(terminal: Terminal, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nname: test\nlimits: {output: 10kB}\n")
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGWINCH, lambda *_: os.write(1, b'now %d %d\\n' % os.get_terminal_size(1)))\n"
        "print('ready', os.isatty(1), *os.get_terminal_size(1), flush=True)\nsys.stdin.readline()\n"
        "print('one\\ntwo')"
    )
    terminal.start("-q", "-p", policy, *PYTHON, code)
    terminal.expect("ready True 80 24")
    for rows, columns in ((30, 100), (31, 101), (32, 102)):
        fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        terminal.expect(f"now {columns} {rows}")
    terminal.type("\n")
    terminal.expect("one\r\ntwo\r\n")  # once, by the real terminal
    assert terminal.status() == "0"


def test_modes_that_are_set_on_standard_output_are_the_terminals(terminal: Terminal, tmp_path: Path) -> None:
    """As programs do that use the whole screen: the terminal that they ask is one of ours then."""
    code = (
        "import sys, termios\n"
        "modes, usual = termios.tcgetattr(1), termios.tcgetattr(0)\n"
        "assert modes[:1] + modes[2:] == usual[:1] + usual[2:]\n"
        "modes[3] &= ~(termios.ECHO | termios.ICANON); modes[6][termios.VMIN] = 1\n"
        "termios.tcsetattr(1, termios.TCSANOW, modes); print('set', flush=True)\n"
        "print('read', sys.stdin.buffer.raw.read(1), flush=True)\n"
    )
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nname: test\nlimits: {output: 10kB}\n")
    terminal.start("-q", "-p", policy, *PYTHON, code)
    terminal.expect("set\r\n")
    terminal.type("x")  # no newline
    terminal.expect("read b'x'\r\n")
    assert terminal.status() == "0"


LINE = re.compile(
    rb"\r\x1b\[K\x1b\[2masl: \d+:\d\d, (\d+) process(?:es)?, \d+ MiB, (\d+) events, (\d+) blocked\x1b\[0m"
)


def shown(seen: bytes) -> list[str]:
    """What stands on a terminal after this has been printed: what the live line leaves behind would be seen."""
    rows, column = [""], 0
    for piece in re.findall(rb"\x1b\[[0-9;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", seen):
        text = piece.decode()
        if text == "\n":
            rows.append("")
            column = 0
        elif text == "\r":
            column = 0
        elif text == "\x1b[K":
            rows[-1] = rows[-1][:column]
        elif text[0] != "\x1b":
            rows[-1] = rows[-1][:column] + text + rows[-1][column + len(text) :]
            column += len(text)
    return rows


def test_the_live_line_leaves_the_output_as_it_is(terminal: Terminal, policy: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "def step(text, go):\n"
        "  print(text, end='', flush=True)\n"
        "  while not os.path.exists(sys.argv[1] + go): time.sleep(0.02)\n"
        "print('whole', os.isatty(1), os.isatty(2))\n"
        "step('', 'first')\n"  # here the line has a place
        "print('more')\nprint('error', file=sys.stderr)\n"
        "step('half: ', 'second')\n"  # and here it has none
        "print('last')"
    )
    terminal.start("-v", "-p", policy, *PYTHON, code, f"{tmp_path}/")
    whole = b""

    def until(condition: Callable[[bytes], object]) -> None:
        nonlocal whole
        limit = time.monotonic() + 30
        while not condition(whole):
            ready, _, _ = select.select([terminal.master], [], [], max(0, limit - time.monotonic()))
            assert ready, whole
            whole += os.read(terminal.master, 4096)

    until(lambda seen: b"whole" in seen and len(LINE.findall(seen.partition(b"whole")[2])) > 2)
    (processes, events, blocked) = map(int, LINE.findall(whole)[-1])
    assert (processes, blocked) == (1, 0)
    assert events > 3
    (tmp_path / "first").touch()
    until(lambda seen: b"half: " in seen)
    (tmp_path / "second").touch()
    until(lambda seen: b"peak memory" in seen)
    terminal.seen = whole
    assert terminal.status() == "0"
    after_half = whole.partition(b"half: ")[2]
    assert not LINE.search(after_half.partition(b"last")[0])
    rows = [row.rstrip() for row in shown(whole) if row.strip() and not row.startswith("asl: ")]
    assert rows == ["whole True True", "more", "error", "half: last"]
    assert not re.search(r"asl: \d+:\d\d", "\n".join(shown(whole)))  # nothing of it is left


def test_no_live_line_where_there_is_no_terminal(run: Runner) -> None:
    done = run("-v", "sh", "-c", "echo out; read line", stdin=subprocess.DEVNULL)
    assert done.stdout == "out\n"
    assert "\x1b" not in done.stderr


def test_a_job_in_the_background_that_reads_is_stopped_as_any(terminal: Terminal, policy: Path) -> None:
    code = (
        "import os, signal, sys\nsignal.signal(signal.SIGTTOU, signal.SIG_IGN)\n"
        "os.tcsetpgrp(0, os.getsid(0))\nprint('behind', flush=True)\nprint('read', sys.stdin.readline(), flush=True)"
    )
    terminal.start("-q", "-p", policy, *PYTHON, code)
    terminal.expect("behind")
    assert terminal.status() == "stopped"
    terminal.foreground()
    terminal.type("again\n")
    terminal.expect("read again")
    assert terminal.status() == "0"


def test_a_shell_with_jobs_of_its_own(terminal: Terminal, policy: Path) -> None:
    """The command may put groups of its own in front, as interactive shells do."""
    terminal.start("-q", "-p", policy, "bash", "--norc", "-i")
    terminal.type("PS1='$''> '; echo be''gan\n")
    terminal.expect("began")
    terminal.type("sleep 20\n")
    terminal.expect("sleep 20")
    wait_for_sleep(terminal)
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.type("fg\n")
    wait_for_sleep(terminal)
    terminal.type("\x03")
    terminal.type("exit 7\n")
    assert terminal.status() == "7"


def wait_for_sleep(terminal: Terminal) -> None:
    """Until a running ``sleep`` is in the foreground."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            fields = Path(f"/proc/{os.tcgetpgrp(terminal.master)}/stat").read_text().split()
        except OSError:
            fields = ["", "", ""]
        if fields[1] == "(sleep)" and fields[2] == "S":
            return
        time.sleep(0.01)
    pytest.fail("sleep never came to the foreground")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 42"), 42),
        (("sh", "-c", "kill -TERM $$"), -signal.SIGTERM),
        (("sh", "-c", "kill -SEGV $$"), -signal.SIGSEGV),
        (("sh", "-c", "kill -KILL $$"), -signal.SIGKILL),
        (("/nonexistent",), 127),
        (("nonexistent-command",), 127),
        (("/etc/passwd",), 126),
        (("--no-such-option", "true"), 125),
    ],
)
def test_the_exit_status_is_the_commands_own(run: Runner, words: tuple[str, ...], status: int) -> None:
    assert run("-q", *words).returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_forwarded(tmp_path: Path, policy: Path, number: signal.Signals) -> None:
    code = (
        f"import signal, sys, time\nsignal.signal({int(number)}, lambda *_: sys.exit(9))\n"
        "print('ready', flush=True)\ntime.sleep(20)"
    )
    began = runs.supervise(tmp_path, "-q", "-p", policy, *PYTHON, code)
    assert began.stdout is not None and began.stderr is not None
    assert began.stdout.readline() == "ready\n"
    began.send_signal(number)
    assert began.wait(10) == 9
    began.stdout.close()
    began.stderr.close()


def test_standard_streams_are_the_commands_own(run: Runner) -> None:
    done = run("-q", "sh", "-c", "tr a-z A-Z; echo error >&2", input="text")
    assert (done.stdout, done.stderr) == ("TEXT", "error\n")


def test_nothing_is_said_on_standard_output(run: Runner) -> None:
    done = run("-v", "true")
    assert done.stdout == ""
    assert "events" in done.stderr


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1, 2)])
def test_what_was_closed_stays_closed_and_nothing_of_ours_takes_its_place(
    tmp_path: Path, policy: Path, closed: tuple[int, ...]
) -> None:
    """Without care, the first file that is opened becomes descriptor 0, and the command's standard input."""
    out = tmp_path.parent / f"{tmp_path.name}-out"
    code = (
        "import os, sys\n"
        "names = [os.readlink(f'/proc/self/fd/{fd}') for fd in range(9) if os.path.exists(f'/proc/self/fd/{fd}')]\n"
        f"open({str(out)!r}, 'w').write(' '.join(names) or 'none')\nsys.exit(5)"
    )
    argv = runs.command("-q", "-p", policy, *PYTHON, code)
    pid = os.fork()
    if pid == 0:
        for fd in closed:
            os.close(fd)
        os.execve(argv[0], argv, runs.environment(tmp_path))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    names = out.read_text()
    assert str(tmp_path) not in names
    assert "socket:" not in names


def test_under_nohup_a_hangup_is_ignored(tmp_path: Path, policy: Path) -> None:
    words = runs.command("-q", "-p", policy, "grep", "SigIgn", "/proc/self/status")
    argv = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *words]
    done = subprocess.run(argv, env=runs.environment(tmp_path), capture_output=True, text=True, check=True)
    ignored = int(done.stdout.split()[1], 16)
    assert ignored >> (signal.SIGHUP - 1) & 1
    assert not ignored >> (signal.SIGTERM - 1) & 1
    assert not ignored >> (signal.SIGPIPE - 1) & 1  # Python ignores it for itself


def test_from_cron(tmp_path: Path, policy: Path) -> None:
    """No terminal, hardly an environment, a session of its own, nothing on standard input."""
    variables = runs.environment(tmp_path)
    env = {name: variables[name] for name in ("PYTHONPATH", "ASL_STATE")}
    words = runs.command("-p", policy, "/bin/sh", "-c", "cat; echo done")
    done = subprocess.run(
        words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_from_systemd(tmp_path: Path, policy: Path) -> None:
    """Its output goes to the journal's socket, and nothing is on standard input."""
    variables = runs.environment(tmp_path, INVOCATION_ID="0123", JOURNAL_STREAM="9:1")
    ours, theirs = socket.socketpair()
    words = runs.command("-p", policy, "/bin/sh", "-c", "cat; echo done; echo failed >&2; exit 3")
    with ours, theirs:
        done = subprocess.run(
            words,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            check=False,
        )
        theirs.close()
        said = b""
        while chunk := ours.recv(4096):
            said += chunk
    assert done.returncode == 3
    assert b"done\nfailed\n" in said


def test_inside_another_run_it_says_so_and_starts_nothing(tmp_path: Path, policy: Path) -> None:
    inner = runs.command("-q", "-p", policy, "touch", str(tmp_path / "touched"))
    done = subprocess.run(
        [*runs.command("-q", "-p", policy, *inner)],
        env=runs.environment(tmp_path / "state"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 125
    assert "A tree can have one supervisor; this process is supervised already, by run 2" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "touched").exists()
    # The variable alone, as in a program that was started by hand from within a run's folder, means nothing.
    alone = runs.command("-q", "-p", policy, "touch", str(tmp_path / "touched"))
    env = runs.environment(tmp_path / "state", ASL_RUN_ID="20260101-000000.000-abcdef")
    assert subprocess.run(alone, env=env, check=False, timeout=60).returncode == 0
    assert (tmp_path / "touched").exists()


def test_a_reader_that_has_gone_ends_the_command_as_always(tmp_path: Path, policy: Path) -> None:
    pipe = f"{' '.join(map(_quoted, runs.command('-q', '-p', policy, 'yes')))}; echo $? >&2"
    done = subprocess.run(
        ["sh", "-c", f"{{ {pipe}; }} | head -n 1"],
        env=runs.environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.stdout == "y\n"
    assert done.stderr.split()[-1] == str(128 + signal.SIGPIPE)


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\"'\"'") + "'"


@pytest.mark.parametrize("name", ["TSTP", "TTIN", "TTOU"])
def test_what_nobody_would_continue_is_not_stopped(tmp_path: Path, policy: Path, name: str) -> None:
    """In a process group that no shell controls, as in CI, the kernel does not stop anybody by these signals."""
    script = ["sh", "-c", f"kill -{name} $$; echo went on"]
    for words in (script, runs.command("-q", "-p", policy, *script)):
        done = subprocess.run(
            words,
            env=runs.environment(tmp_path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace is made by root here")
@pytest.mark.parametrize(("script", "status"), [("exit 6", 6), ("kill -TERM $$", 128 + signal.SIGTERM)])
def test_as_the_first_process_of_a_container(tmp_path: Path, policy: Path, script: str, status: int) -> None:
    orphan = "(setsid sleep 20 >/dev/null 2>&1 &); " + script
    words = ["unshare", "--pid", "--fork", "--mount-proc", *runs.command("-q", "-p", policy, "sh", "-c", orphan)]
    began = time.monotonic()
    done = subprocess.run(words, env=runs.environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert time.monotonic() - began < 10
