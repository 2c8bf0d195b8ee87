"""What is told about a denial really lifts it."""

from __future__ import annotations

import pytest

from agent_safety_layer.events import ALLOW, BLOCK, Decision, Event
from agent_safety_layer.policy import Policy, State, decide, load, load_text, remedy
from agent_safety_layer.policy.vain import vain

HERE = {"WORKSPACE": "/w", "HOME": "/home/u", "TMP": "/tmp/run"}
TEXT = """
files:
  read: [/usr]
  write: [/w]
  block: [/w/key]
  ask: [/w/docs]
  protect: [/w/rc]
network:
  allow: ["x.com:443"]
  block: ["evil.com"]
exec:
  allow: [git, rm]
  block: ["rm -rf*"]
  ask: ["git push*"]
rules:
  - {name: no-dns, on: net.dns, action: block}
"""


def told(event: Event, text: str = TEXT) -> str:
    policy = load_text(text, variables=HERE)
    return remedy(policy, event, decide(policy, State(), event))


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Event("file.read", path="/etc/hosts"), "--allow-read /etc/hosts"),
        (Event("file.write", path="/etc/a b"), "--allow-write '/etc/a b'"),
        (Event("file.rename", path="/w/a", path2="/etc/b"), "--allow-write /etc/b"),
        (Event("file.rename", path="/etc/a", path2="/w/b"), "--allow-write /etc/a"),
        (Event("file.read", path="/w/key"), "remove the entry '/w/key' from files.block (policy.yaml:5)"),
        (Event("file.read", path="/w/docs/x"), "remove the entry '/w/docs' from files.ask (policy.yaml:6)"),
        (Event("file.write", path="/w/rc"), "remove the entry '/w/rc' from files.protect (policy.yaml:7)"),
        (Event("net.connect", host="y.com", ip="8.8.8.8", port=443), "--allow-host y.com:443"),
        (Event("net.connect", ip="2606:4700::1111", port=443), "--allow-host '[2606:4700::1111]:443'"),
        (Event("net.connect", host="x.com", ip="10.0.0.1", port=443), "--allow-host 10.0.0.1:443"),
        (
            Event("net.connect", host="evil.com", ip="8.8.8.8", port=1),
            "remove the entry 'evil.com' from network.block (policy.yaml:10)",
        ),
        (Event("net.connect", ip="169.254.169.254", port=80), ""),
        (Event("net.listen", ip="0.0.0.0", port=80), 'add "0.0.0.0:80" to network.listen (policy.yaml:8)'),
        (Event("net.unix", path="/run/x.sock"), 'add "/run/x.sock" to network.unix (policy.yaml:8)'),
        (Event("process.exec", argv=("ls",)), 'add "ls" to exec.allow (policy.yaml:12)'),
        (Event("process.exec", argv=("rm", "-rf", "x")), "remove the entry 'rm -rf*' from exec.block (policy.yaml:13)"),
        (Event("process.exec", argv=("git", "push")), "remove the entry 'git push*' from exec.ask (policy.yaml:14)"),
        (Event("net.dns", host="z.com"), "--allow-host z.com"),
        (Event("net.dns", host="x.com"), "change the rule 'no-dns' (policy.yaml:16)"),
        (Event("process.deny", syscall="bpf"), ""),
        (Event("file.read", path="/usr/x"), ""),
    ],
)
def test_remedies(event: Event, expected: str) -> None:
    assert told(event) == expected


def test_an_allowed_event_needs_none() -> None:
    policy = load_text("", variables=HERE)
    assert remedy(policy, Event("file.read", path="/x"), Decision(ALLOW)) == ""


@pytest.mark.parametrize(
    ("event", "section", "key", "wanted"),
    [
        (Event("file.read", path="/etc/hosts"), "files", "read", "/etc/hosts"),
        (Event("file.write", path="/etc/hosts"), "files", "write", "/etc/hosts"),
        (Event("net.connect", host="y.com", ip="8.8.8.8", port=443), "network", "allow", "y.com:443"),
        (Event("net.connect", host="y.com", ip="10.0.0.1", port=443), "network", "allow", "10.0.0.1:443"),
        (Event("net.connect", ip="::1", port=443), "network", "allow", "[::1]:443"),
    ],
)
def test_the_flag_does_what_is_said(event: Event, section: str, key: str, wanted: str) -> None:
    names = {"read": "--allow-read", "write": "--allow-write", "allow": "--allow-host"}
    assert told(event).replace("'", "") == f"{names[key]} {wanted}"
    allowed = load_text(
        TEXT, variables=HERE, extra={section: {key: [wanted, "y.com:443"] if key == "allow" else [wanted]}}
    )
    assert decide(allowed, State(), event).action == ALLOW


def test_asking_about_the_unlisted_is_lifted_by_a_flag() -> None:
    policy = load(variables=HERE)
    event = Event("net.connect", host="y.com", ip="8.8.8.8", port=443)
    assert remedy(policy, event, decide(policy, State(), event)) == "--allow-host y.com:443"


def test_a_built_in_line_is_taken_away_by_a_policy_of_ones_own() -> None:
    policy = load(variables=HERE)
    event = Event("file.read", path="/home/u/.npmrc")
    said = remedy(policy, event, decide(policy, State(), event))
    without = 'without: {files: {block: ["${HOMES}/.npmrc"]}}'
    assert said == f"a policy of your own with extends: [workspace] and {without}, the whole entry"
    mine = load_text(f"extends: [workspace]\n{without}", variables=HERE)
    assert decide(mine, State(), event).action == ALLOW
    assert decide(mine, State(), Event("file.read", path="/home/u/.netrc")).action == BLOCK


def test_a_flag_that_blocks_is_left_out() -> None:
    policy = load_text("", variables=HERE, extra={"files": {"block": ["/x"]}})
    event = Event("file.read", path="/x/y")
    assert remedy(policy, event, decide(policy, State(), event)) == "leave out --block-path /x"


def test_flags_do_not_reach_other_layers() -> None:
    layers = [
        load_text(text, name=name, variables=HERE).layers[0]
        for text, name in (("files: {read: ['/']}", "mine.yaml"), (TEXT, "admin.yaml"))
    ]
    policy = Policy(tuple(layers))
    event = Event("file.read", path="/etc/hosts")
    assert remedy(policy, event, decide(policy, State(), event)) == 'add "/etc/hosts" to files.read (admin.yaml:3)'


def test_a_built_in_line_of_a_policy_that_extends_is_taken_away_there() -> None:
    policy = load_text("name: mine\nextends: [workspace]", variables=HERE)
    event = Event("file.read", path="/home/u/.npmrc")
    said = remedy(policy, event, decide(policy, State(), event))
    assert said == 'in the policy mine, without: {files: {block: ["${HOMES}/.npmrc"]}}, the whole entry'


def test_flags_that_change_nothing() -> None:
    files = {"read": ["/home/u/.ssh", "/opt"], "write": ["/home/u/.bashrc"]}
    extra = {"files": files, "network": {"allow": ["metadata.goog", "x.com"]}}
    found = [(flag.origin, flag.text, decision.rule) for flag, _, decision in vain(load(variables=HERE, extra=extra))]
    assert found == [
        ("--allow-read", "/home/u/.ssh", "files.block"),
        ("--allow-write", "/home/u/.bashrc", "files.protect"),
        ("--allow-host", "metadata.goog", "network.block"),
    ]
