import fcntl
import os
import pty

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_safety_layer.terminal import Stderr, colour_wanted, paint, visible


@given(st.text(alphabet=st.characters()))
def test_visible_text_holds_nothing_that_a_terminal_acts_on(text):
    assert visible(text).isprintable()
    if text.isprintable():
        assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 漢字 😀", "plain ü 漢字 😀"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\x9b", r"\x9b"),
        ("\U000e0041", r"\U000e0041"),
        ("\udcff", r"\udcff"),
    ],
)
def test_what_is_hidden_appears_as_an_escape(text, shown):
    assert visible(text) == shown


@given(st.text(max_size=60), st.integers(2, 40))
def test_a_limit_cuts_the_middle(text, limit):
    shown = visible(text.replace("\x00", "a"), limit)
    if len(text) <= limit:
        assert "…" not in shown or "…" in text
    else:
        assert shown == visible(shown)
    assert visible("abcdefghij", 5) == "ab…ij"


def test_colour(monkeypatch):
    read, write = os.pipe()
    leader, follower = pty.openpty()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    try:
        assert colour_wanted("always", write)
        assert not colour_wanted("never", follower)
        assert not colour_wanted("auto", write)
        assert colour_wanted("auto", follower)
        monkeypatch.setenv("NO_COLOR", "1")
        assert not colour_wanted("auto", follower)
        assert colour_wanted("always", follower)
    finally:
        for fd in (read, write, leader, follower):
            os.close(fd)
    assert paint("x", "red", True) == "\x1b[31mx\x1b[0m"
    assert paint("x", "red", False) == "x"


def test_a_full_pipe_does_not_block_and_stays_blocking_for_its_owner():
    read, write = os.pipe()
    try:
        stderr = Stderr(write)
        while stderr.write("x" * 4096):
            pass
        assert not stderr.write("y")
        assert not fcntl.fcntl(write, fcntl.F_GETFL) & os.O_NONBLOCK
        assert set(os.read(read, 1 << 20)) == {ord("x")}
        assert stderr.write("z")
        assert os.read(read, 1 << 20).endswith(b"z")
        stderr.close()
        os.fstat(write)
    finally:
        os.close(read)
        os.close(write)


def test_a_full_socket_does_not_block():
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        stderr = Stderr(ours.fileno())
        for _ in range(100_000):
            if not stderr.write("x" * 1000):
                break
        else:
            pytest.fail("a socket without end")


def test_a_closed_stderr_is_no_error(tmp_path):
    read, write = os.pipe()
    os.close(read)
    stderr = Stderr(write)
    assert not stderr.write("x")
    stderr.close()
    os.close(write)
    assert not Stderr(write).write("x")


def test_files_get_what_is_written_at_their_end(tmp_path):
    path = tmp_path / "log"
    with path.open("w") as file:
        file.write("before\n")
        file.flush()
        assert Stderr(file.fileno()).write("ours\n")
        file.write("after\n")
    assert path.read_text() == "before\nours\nafter\n"
