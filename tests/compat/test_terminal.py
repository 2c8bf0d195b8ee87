"""Programs on a terminal: job control, full screens, sizes, sessions. Each dialogue is held outside and inside."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.compat.place import ENTRY, Place, tree
from tests.compat.terminal import Terminal

pytestmark = pytest.mark.requires("notify", "landlock")
Dialogue = Callable[[Terminal], None]
SHELL = ("bash", "--norc", "--noprofile", "-i")


def held(place: Place, argv: tuple[str, ...], dialogue: Dialogue, *, inside: bool) -> tuple[int, str, dict[str, str]]:
    """How the program ended, what it showed, and what it left."""
    below = place.prepare(lambda folder: (folder / "text").write_text("".join(f"line {i}\n" for i in range(200))))
    place.trace.unlink(missing_ok=True)
    command = ["sh", "-c", 'cd p; exec "$0" "$@"', *argv]
    with Terminal(
        place.supervised(command) if inside else command,
        place.ws,
        place.environment({"PS1": "ready$ ", "HISTFILE": "", "LESSHISTFILE": "-"}),
    ) as terminal:
        dialogue(terminal)
        status = terminal.end()
        shown = re.sub(r"^\[(\d+)\] \d+$", r"[\1] PID", terminal.text, flags=re.MULTILINE)
    return status, shown, tree(below)


def same(place: Place, argv: tuple[str, ...], dialogue: Dialogue, *, exact: bool = True) -> None:
    """*exact*: down to what was shown; full screens are drawn in pieces that depend on timing."""
    outside, inside = (held(place, argv, dialogue, inside=inside) for inside in (False, True))
    assert outside[0] == inside[0], inside[1]
    assert outside[2] == inside[2]
    assert not place.refused(), place.refused()
    if exact:
        assert outside[1].splitlines() == inside[1].splitlines()


def jobs(terminal: Terminal) -> None:
    def line(text: str, answer: str) -> None:
        terminal.wait(r"ready\$ ")
        terminal.type(text + "\n")
        terminal.wait(answer)

    line("echo $- | grep -c m; tty | tr -d 0-9", "/dev/pts/")
    line("sh -c 'echo begun; exec cat'", "^begun\n")
    terminal.type("echoed\n")
    terminal.wait("echoed\nechoed\n")
    terminal.type("\x1a")
    terminal.wait(r"Stopped +sh")
    line("jobs", r"\[1\]\+ +Stopped +sh")
    line("fg", "^sh -c.*\n")
    terminal.type("again\n")
    terminal.wait("again\nagain\n")
    terminal.type("\x03")
    line("echo status $?", "status 130\n")
    line("sleep 60 &", r"\[1\] \d+\n")
    line("kill -STOP %1; kill -CONT %1; kill %1; wait %1; echo waited $?", "waited 143\n")
    line("(trap 'exit 9' INT; echo trapped; while :; do sleep 0.05; done); echo left $?", "trapped\n")
    terminal.type("\x03")
    terminal.wait("left 9\n")
    line("(echo begun >/dev/tty; exec cat) | tr a-z A-Z; echo piped ${PIPESTATUS[*]}", "^begun\n")
    terminal.type("loud\n\x04")
    terminal.wait("LOUD\n")
    terminal.wait("piped 0 0\n")
    line("stty size; stty -echo; stty echo; read -s -p sec''ret: x; echo; echo got $x", "secret:")
    terminal.type("hidden\n")
    terminal.wait("got hidden\n")
    line("set +m; exec 3</dev/tty && echo opened; exit 5", "opened\n")


def test_job_control(waved: Place) -> None:
    same(waved, SHELL, jobs)


def test_job_control_served(tmp_path_factory: pytest.TempPathFactory) -> None:
    same(Place(tmp_path_factory.mktemp("served"), "served"), SHELL, jobs)


def test_supervised_as_a_job(waved: Place) -> None:
    """The supervisor itself under a shell with job control: stopped with its tree, and continued."""
    waved.prepare()
    (waved.ws / "run").write_text(f'exec "$PYTHON" -c "$ENTRY" -q -o {waved.trace} -- sh -c "echo begun; exec cat"\n')

    with Terminal(SHELL, waved.ws, waved.environment({"PS1": "ready$ ", "ENTRY": ENTRY, "HISTFILE": ""})) as terminal:
        terminal.wait(r"ready\$ ")
        terminal.type("bash run\n")
        terminal.wait("^begun\n")
        terminal.type("one\n")
        terminal.wait("one\none\n")
        terminal.type("\x1a")
        terminal.wait(r"Stopped +bash run")
        terminal.wait(r"ready\$ ")
        terminal.type("fg\n")
        terminal.wait("bash run\n")
        terminal.type("two\n")
        terminal.wait("two\ntwo\n")
        terminal.type("\x03")
        terminal.wait(r"ready\$ ")
        terminal.type("echo ended $?\n")
        terminal.wait("ended 130\n")
        terminal.type("exit\n")
        assert terminal.end() == 0


def less(terminal: Terminal) -> None:
    terminal.wait("line 10\n")
    terminal.type("G")
    terminal.wait("line 199")
    terminal.type("?line 57$\n")
    terminal.wait("line 57\n")
    terminal.type("!echo from less\n")
    terminal.wait("from less\n")
    terminal.type("\n")
    terminal.resize(10, 40)
    terminal.type("g")
    terminal.wait("line 1")
    terminal.type("q")


def vim(terminal: Terminal) -> None:
    terminal.wait("line 0")
    terminal.type("ggdGihello\x1b")
    terminal.type(":r !echo filtered\n")
    terminal.wait("filtered")
    terminal.type(":saveas other\n")
    terminal.wait("other")
    terminal.type(":x\n")


def nano(terminal: Terminal) -> None:
    terminal.wait("line 0")
    terminal.type("typed \x0f\n")
    terminal.wait("Wrote")
    terminal.type("\x18")


def test_less(waved: Place, needs: Callable[..., None]) -> None:
    needs("less")
    same(waved, ("less", "text"), less, exact=False)


def test_vim(place: Place, needs: Callable[..., None]) -> None:
    needs("vim")
    same(place, ("vim", "-Nu", "NONE", "-i", "NONE", "text"), vim, exact=False)


def test_nano(waved: Place, needs: Callable[..., None]) -> None:
    needs("nano")
    same(waved, ("nano", "-I", "text"), nano, exact=False)


def test_script(waved: Place, needs: Callable[..., None]) -> None:
    needs("script")
    waved.same(
        "script -qec 'tty | tr -d 0-9; stty size >/dev/null && echo sized; exit 3' log; echo $?; sed -n 2,3p log",
        volatile=("log",),
    )


def test_tmux(waved: Place, needs: Callable[..., None]) -> None:
    needs("tmux")
    waved.same(
        "export TMUX_TMPDIR=$PWD; t() { tmux -S sock -f /dev/null \"$@\"; }; t new-session -d -x 80 -y 24 'echo in tmux; exec cat' && "
        "shown() { for i in $(seq 200); do t capture-pane -p | grep -q \"$1\" && break; sleep 0.05; done; }; shown 'in tmux'; t send-keys typed Enter; shown typed;"
        "t capture-pane -p | sort -u | grep -v '^$'; "
        "t split-window 'echo second; exec cat'; t list-panes -F '#{pane_index} #{pane_width}'; t kill-server; rm -f sock; echo $?"
    )
