import pytest

from agent_safety_layer.events import Decision, Event, Outcome, TraceEntry
from agent_safety_layer.trace.show import heading, row

ALLOW = Decision("allow")


def entry(event, decision=ALLOW, outcome=None):
    return TraceEntry(1, event, decision, outcome or Outcome(decision.action))


READ = entry(
    Event("file.read", 10, exe="/usr/bin/cat", path="/etc/hosts", time=1700000000.25), outcome=Outcome("allow", "3")
)
DENIED = entry(
    Event("net.connect", 11, exe="/usr/bin/curl", host="example.com", ip="93.184.216.34", port=443, proto="tcp"),
    Decision("block", "network.allow", "p.yaml:7", "not listed"),
    Outcome("block", "EACCES"),
)
OBSERVED = entry(Event("file.delete", 12, path="/x"), Decision("block", "files.write"), Outcome("audit"))


def test_a_row_holds_what_happened_and_why():
    said = row(READ)
    for part in ("10", "cat", "file.read", "allow", "/etc/hosts", "= 3", ".250"):
        assert part in said
    said = row(DENIED)
    for part in (
        "11",
        "curl",
        "net.connect",
        "block",
        "example.com:443 (93.184.216.34)",
        "EACCES",
        "network.allow p.yaml:7",
    ):
        assert part in said
    assert "block>audit" in row(OBSERVED)
    assert row(READ).index("file.read") == heading().index("KIND")


def test_colour_is_asked_for():
    assert "\x1b" not in row(DENIED)
    assert "\x1b[31m" in row(DENIED, colour=True)


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nb", "a\u202eb", "a\x9bb", "a\x7fb", "a\u200bb", "a\u2028b", "a\rb"])
def test_hostile_names_are_shown_as_escapes(name):
    events = (
        Event("file.read", path=name),
        Event("file.rename", path="/a", path2=name),
        Event("process.exec", argv=("echo", name)),
        Event("net.connect", host=name, port=1),
        Event("file.read", exe=f"/bin/{name}", path="/a"),
        Event("op.call", detail=name),
    )
    for event in events:
        said = row(entry(event, Decision("block", name, name, name), Outcome("block", name)))
        assert said.isprintable()
