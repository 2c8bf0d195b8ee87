"""What is allowed for always is just that, and nothing of it lifts a block."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent_safety_layer.approvals.overlay import Overlay, add, line_for
from agent_safety_layer.errors import PolicyError
from agent_safety_layer.events import Event
from asl_hooks.value import replace

READ = Event("file.read", path="/home/u/Documents/a b$[1].txt")
RUN = Event("process.exec", path="/usr/bin/git", argv=("git", "push", "-o", "a.b=c's"), cwd="/w")
SEND = Event("net.connect", host="api.example.com", ip="192.0.2.1", port=443, proto="tcp")
BARE = Event("net.connect", ip="2001:db8::1", port=80, proto="tcp")
EVENTS = (READ, RUN, SEND, BARE, Event("file.list", path="/home/u/Documents"))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_the_line_allows_just_what_was_asked(event: Event, tmp_path: Path) -> None:
    path = str(tmp_path / "always.yaml")
    assert Overlay(path).allows(event) == ""
    line = line_for(event)
    assert line and "\n" not in line
    add(path, line, event)
    add(path, line, event)
    assert Path(path).read_text().count(line) == 1 and os.stat(path).st_mode & 0o777 == 0o600
    overlay = Overlay(path)
    assert overlay.allows(event) == f"{path}:6"
    others = [
        replace(event, kind="file.write" if event.path and not event.argv else "net.bind"),
        replace(event, path=event.path + "x", host=event.host and "x.example.com", ip="192.0.2.7"),
        replace(event, path=event.path + "/below", argv=(*event.argv, "--force"), port=81),
    ]
    assert [overlay.allows(other) for other in others] == ["", "", ""]


def test_lines_add_up(tmp_path: Path) -> None:
    path = str(tmp_path / "always.yaml")
    for event in EVENTS:
        add(path, line_for(event), event)
    assert all(Overlay(path).allows(event) for event in EVENTS)


@pytest.mark.parametrize(
    "event",
    [
        Event("file.rename", path="/a", path2="/b"),
        Event("file.read", path="/a\nb"),
        Event("file.read", path="pipe:[1]"),
        Event(
            "process.exec", path="/usr/bin/curl", argv=("curl", "-H", "Authorization: Bearer abcdefghijklmnopqrstuv")
        ),
        Event("file.meta", path="/a", mode=0o777),
    ],
    ids=lambda event: event.kind,
)
def test_where_no_line_says_exactly_that_there_is_none(event: Event) -> None:
    assert line_for(event) == ""


def test_a_link_that_is_put_there_later_leads_nowhere(tmp_path: Path) -> None:
    path, name, secret = str(tmp_path / "always.yaml"), tmp_path / "name", tmp_path / "secret"
    event = Event("file.read", path=str(name))
    add(path, line_for(event), event)
    secret.write_text("")
    name.symlink_to(secret)
    assert Overlay(path).allows(event) and not Overlay(path).allows(replace(event, path=str(secret)))


def test_a_line_that_would_not_allow_it_is_not_written(tmp_path: Path) -> None:
    path = str(tmp_path / "always.yaml")
    with pytest.raises(ValueError, match="would not allow"):
        add(path, line_for(SEND), READ)
    assert not os.path.exists(path)
    Path(path).write_text("version: 1\nrules: []\nblock: [\n")
    with pytest.raises(PolicyError):
        Overlay(path)
