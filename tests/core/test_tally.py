from agent_safety_layer.events import Decision, Event
from agent_safety_layer.tally import Tally

ALLOWED = Decision("allow", "files.read")
BLOCKED = Decision("block", "files.block", "p.yaml:3")


def test_counts_by_kind_and_action():
    tally = Tally()
    for _ in range(3):
        tally.add(Event("file.read", path="/a"), ALLOWED, "allow")
    tally.add(Event("file.read", path="/s"), BLOCKED, "block")
    tally.add(Event("net.connect", ip="1.2.3.4"), Decision("require_approval"), "allow")
    assert tally.counts() == {"file.read": {"allow": 3, "block": 1}, "net.connect": {"require_approval": 1}}
    assert tally.effective() == {"file.read": {"allow": 3, "block": 1}, "net.connect": {"allow": 1}}
    assert (tally.events, tally.blocked, tally.would_block) == (5, 1, 0)


def test_a_kept_slot_counts_like_add():
    tally = Tally()
    for event, decision, effective in (
        (Event("file.read", path="/a"), ALLOWED, "allow"),
        (Event("file.read", path="/s"), BLOCKED, "block"),
    ):
        slot = tally.add(event, decision, effective)
        slot.n += 4
        assert tally.slot(event, decision, effective) is slot
    assert tally.counts() == {"file.read": {"allow": 5, "block": 5}}
    assert [denial.n for denial in tally.denials] == [5]


def test_a_slot_that_was_never_raised_is_no_event():
    tally = Tally()
    tally.slot(Event("file.read", path="/s"), BLOCKED, "block")
    assert tally.denials == []
    assert tally.counts() == {}


def test_denials_are_distinct_by_object_and_rule():
    tally = Tally()
    for pid in (1, 2, 3):
        tally.add(Event("file.read", pid=pid, path="/s", time=pid), BLOCKED, "block")
    tally.add(Event("file.read", path="/t"), BLOCKED, "block")
    tally.add(Event("file.read", path="/s"), Decision("block", "other"), "block")
    assert [(d.event.path, d.decision.rule, d.n) for d in tally.denials] == [
        ("/s", "files.block", 3),
        ("/t", "files.block", 1),
        ("/s", "other", 1),
    ]
    assert tally.denials[0].event.pid == 1


def test_an_approval_that_was_refused_is_a_denial():
    tally = Tally()
    tally.add(Event("net.connect", host="x", port=443), Decision("require_approval", "network.ask"), "block")
    assert len(tally.denials) == tally.blocked == 1


def test_observed_denials_are_told_apart():
    tally = Tally()
    tally.add(Event("file.read", path="/s"), BLOCKED, "audit")
    assert (tally.blocked, tally.would_block) == (0, 1)
    assert [d.effective for d in tally.denials] == ["audit"]


def test_distinct_denials_are_bounded_and_the_rest_counted():
    tally = Tally(distinct=10)
    for number in range(100):
        tally.add(Event("file.read", path=f"/{number}"), BLOCKED, "block")
    tally.add(Event("file.read", path="/3"), BLOCKED, "block")
    assert len(tally.denials) == 10
    assert tally.unlisted == 90
    assert tally.blocked == tally.events == 101
    assert tally.counts() == {"file.read": {"block": 101}}


def test_each_distinct_denial_has_its_remedy_once():
    asked = []

    def remedy(event, decision):
        asked.append(event.path)
        return f"allow {event.path}"

    tally = Tally(remedy=remedy)
    for path in ("/s", "/t", "/s"):
        tally.add(Event("file.read", path=path), BLOCKED, "block")
    tally.add(Event("file.read", path="/a"), ALLOWED, "allow")
    assert [denial.remedy for denial in tally.denials] == ["allow /s", "allow /t"]
    assert asked == ["/s", "/t"]
