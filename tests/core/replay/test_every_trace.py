"""What is looked at in every trace that a test makes would be noticed."""

import pytest

from agent_safety_layer.events import Decision, Event
from tests import replayed
from tests.core.replay.scenes import STATEFUL, judged, policy, write


def test_a_decision_that_the_policy_would_not_make_is_noticed(tmp_path):
    own = policy(STATEFUL)
    good = judged(own, [Event("file.read", 1, path="/home/u/.ssh/id"), Event("file.read", 1, path="/etc/hosts")])
    write(tmp_path / "good.jsonl", own, good)
    (path,) = replayed.traces(tmp_path)
    replayed.check(path)
    event, _, _ = good[0]
    write(tmp_path / "bad.jsonl", own, [(event, Decision("allow"), "allow"), good[1]])
    with pytest.raises(AssertionError, match="under its own policy"):
        replayed.check(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").unlink()  # else it would be noticed once more


def test_what_somebody_changed_or_a_supervisor_did_not_write_is_passed_over(tmp_path):
    own = policy(STATEFUL)
    path = tmp_path / "t.jsonl"
    write(path, own, judged(own, [Event("file.read", 1, path="/etc/hosts")]))
    path.write_bytes(path.read_bytes().replace(b"/etc/hosts", b"/etc/h0sts"))
    (tmp_path / "other.jsonl").write_text("{}\n")
    assert list(replayed.traces(tmp_path)) == []
