"""What a person is shown: all of it that does something, and where not, that is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_safety_layer import ApprovalRequest
from agent_safety_layer.approvals.question import lines, object_line, question
from agent_safety_layer.approvals.sqlite import SqliteApprovalQueue
from agent_safety_layer.events import ASK, Decision, Event
from agent_safety_layer.wording import object_of


def asked(*argv: str) -> ApprovalRequest:
    return question(
        Event("process.exec", pid=7, exe="/bin/sh", path="/bin/sh", argv=argv, cwd="/w"),
        Decision(ASK, "exec.ask", "policy.yaml:3", "it is asked about"),
        request_id="0123456789",
        timeout_s=60.0,
        lineage=(),
        before=(),
        run={},
        always=("", ""),
        kills=False,
    )


@pytest.mark.parametrize(
    "argv",
    [
        ("sh", "-c", 'TOKEN="$(MARK)" make'),
        ("sh", "-c", "x --token=$(MARK) y"),
        ("sh", "-c", 'echo "TOKEN=\'";MARK;echo "\'"'),
        ("sh", "-c", "curl https://me:`MARK`@host"),
        ("sh", "-c", "echo --token\nMARK"),
        ("sh", "-c", ": -----BEGIN PRIVATE KEY-----\nMARK"),
        ("sh", "-c", 'eval "$1"', "--token", "id;MARK"),
        ("python3", "-c", "password='';MARK;''"),
    ],
)
def test_what_looks_like_a_secret_hides_no_command(argv: tuple[str, ...], tmp_path: Path) -> None:
    request = asked(*argv)
    assert "MARK" in object_line(request) and "MARK" in dict(lines(request))["what"]
    queue = SqliteApprovalQueue(str(tmp_path / "queue"))
    queue.submit(request)
    (stored,) = queue.get_pending()
    queue.close()
    assert "MARK" in object_line(stored)


def test_secrets_are_hidden_all_the_same() -> None:
    for argv in (("tool", "--token", "hunter2"), ("sh", "-c", "PASSWORD=hunter2 make"), ("curl", "-u", "me:hunter2")):
        assert "hunter2" not in object_line(asked(*argv))
    record = object_of(Event("process.exec", argv=("sh", "-c", 'TOKEN="$(hunter2)" make')))
    assert "hunter2" not in record, "who only reads what was done need not see it"


def test_what_is_left_out_is_said() -> None:
    request = asked("sh", "-c", f"git status {'#' * 200};evil;{'#' * 200}")
    what = dict(lines(request))["what"]
    assert "evil" not in what and "characters are left out at …]" in what
    assert what.index("…") < what.index("left out")
    assert "left out" not in dict(lines(asked("git", "status")))["what"]
    assert "evil" in dict(lines(request, 2000))["what"]
