"""Operations as text: what they stand for, and what is told of those that make no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_safety_layer.errors import UsageError
from agent_safety_layer.events import Event
from agent_safety_layer.policy.operations import parse, written

HERE = {"WORKSPACE": "/w", "HOME": "/home/u", "TMP": "/tmp/run"}


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("file.read /etc/passwd", Event("file.read", path="/etc/passwd")),
        ("file.read ~/.ssh/id", Event("file.read", path="/home/u/.ssh/id")),
        ("file.write a b.txt", Event("file.write", path="/w/a b.txt")),
        ("file.delete ${TMP}/../x", Event("file.delete", path="/tmp/x")),
        ("file.rename a -> /b/c", Event("file.rename", path="/w/a", path2="/b/c")),
        ("net.connect api.x.com:443", Event("net.connect", host="api.x.com", port=443, proto="tcp")),
        ("net.connect 10.0.0.1:80", Event("net.connect", ip="10.0.0.1", port=80, proto="tcp")),
        ("net.connect [::1]:80", Event("net.connect", ip="::1", port=80, proto="tcp")),
        ("net.connect db:5 (10.0.0.1)", Event("net.connect", host="db", ip="10.0.0.1", port=5, proto="tcp")),
        ("net.connect /run/x.sock", Event("net.connect", path="/run/x.sock", proto="unix")),
        ("net.send x.com:53", Event("net.send", host="x.com", port=53, proto="udp")),
        ("net.dns x.com", Event("net.dns", host="x.com", proto="tcp")),
        ("net.unix @name", Event("net.unix", path="@name", proto="unix")),
        ("net.listen 0.0.0.0:80", Event("net.listen", ip="0.0.0.0", port=80, proto="tcp")),
        ("process.exec git 'a b'", Event("process.exec", argv=("git", "a b"), cwd="/w")),
        ("rm -rf /", Event("process.exec", argv=("rm", "-rf", "/"), cwd="/w")),
        ("./x y", Event("process.exec", argv=("./x", "y"), path="/w/x", exe="/w/x", cwd="/w")),
    ],
)
def test_what_a_text_stands_for(text: str, event: Event) -> None:
    assert parse(text, HERE, look=False) == event
    assert parse(written(event), HERE, look=False).argv == event.argv
    if event.kind != "process.exec":
        assert parse(written(event), HERE, look=False) == event


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file.reed x", "file.read"),
        ("file.read", "needs an object"),
        ("file.rename a", "two paths"),
        ("file.read a -> b", "one path"),
        ("net.connect x.com", "port"),
        ("net.connect x.com:http", "port"),
        ("net.connect https://x.com/y", "URL"),
        ("net.connect x.com:1 (nowhere)", "address"),
        ("process.exec 'a", "quot"),
        ("process.fork 3", "No policy is asked"),
        ("file.read ${NONE}/x", "NONE"),
        ("", "kind"),
    ],
)
def test_what_makes_no_sense(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(text, HERE, look=False)


def test_links_are_followed_and_programs_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").write_text("#!/bin/sh\n")
    (tmp_path / "real").chmod(0o755)
    (tmp_path / "link").symlink_to("real")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert parse("file.read link", {"WORKSPACE": str(tmp_path)}).path == str(tmp_path / "real")
    event = parse("link a", {"WORKSPACE": "/"})
    assert (event.path, event.spelled) == (str(tmp_path / "real"), str(tmp_path / "link"))
    assert parse("no-such-program", HERE).path == ""
