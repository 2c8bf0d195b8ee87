"""Decisions: what each section means, which answer wins, and that nothing but the arguments counts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_safety_layer.events import ACTIONS, ALLOW, ASK, AUDIT, BLOCK, RANK, WARN, Decision, Event
from agent_safety_layer.policy import Policy, State, decide, load_text, text_of_event

HERE = {"WORKSPACE": "/w", "HOME": "/home/u", "TMP": "/tmp/run"}


def policy(*texts: str) -> Policy:
    """One layer for each text."""
    return Policy(tuple(load_text(text, name=f"p{i}.yaml", variables=HERE).layers[0] for i, text in enumerate(texts)))


def judged(text: str, event: Event) -> Decision:
    return decide(policy(text), State(), event)


def act(text: str, kind: str, path: str = "", **more: object) -> str:
    return judged(text, Event(kind, path=path, **more)).action  # type: ignore[arg-type]


FILES = """
files:
  read: [/usr, /mixed]
  write: [/w]
  block: ["/w/secret", "**/.env"]
  ask: [/w/docs, /usr/ask]
  protect: [/w/rc]
"""


@pytest.mark.parametrize(
    ("kind", "path", "action", "rule"),
    [
        ("file.read", "/usr/lib/x", ALLOW, "files.read"),
        ("file.list", "/usr", ALLOW, "files.read"),
        ("file.write", "/usr/lib/x", BLOCK, "files.write"),
        ("file.read", "/w/x", ALLOW, "files.write"),  # writing implies reading
        ("file.write", "/w/x", ALLOW, "files.write"),
        ("file.create", "/w/x", ALLOW, "files.write"),
        ("file.delete", "/w/x", ALLOW, "files.write"),
        ("file.meta", "/w/x", ALLOW, "files.write"),
        ("file.meta", "/usr/x", BLOCK, "files.write"),
        ("file.delete", "/usr/x", BLOCK, "files.write"),
        ("file.read", "/etc/passwd", BLOCK, "files.read"),  # unlisted
        ("file.write", "/etc/passwd", BLOCK, "files.write"),
        ("file.read", "/w/secret", BLOCK, "files.block"),
        ("file.write", "/w/secret/x", BLOCK, "files.block"),
        ("file.read", "/usr/a/b/.env", BLOCK, "files.block"),
        ("file.read", "/w/docs/x", ASK, "files.ask"),
        ("file.write", "/w/docs/x", ASK, "files.ask"),
        ("file.read", "/w/docs/.env", BLOCK, "files.block"),  # block beats ask
        ("file.read", "/usr/ask/x", ASK, "files.ask"),  # ask beats read
        ("file.read", "/w/rc/x", ALLOW, "files.write"),
        ("file.write", "/w/rc/x", BLOCK, "files.protect"),
        ("file.delete", "/w/rc", BLOCK, "files.protect"),
        ("file.write", "/dev/null", ALLOW, "devices"),
        ("file.meta", "/dev/null", BLOCK, "files.devices"),
        ("file.delete", "/dev/null", BLOCK, "files.devices"),
        ("file.create", "/dev/tty", BLOCK, "files.devices"),
        ("file.read", "/dev/urandom", ALLOW, "devices"),
        ("file.read", "/dev/sda", BLOCK, "files.read"),
        ("file.read", "pipe:[7]", BLOCK, "files.read"),  # no path of the file system
        ("file.read", "", BLOCK, "files.read"),
    ],
)
def test_files(kind: str, path: str, action: str, rule: str) -> None:
    decision = judged(FILES, Event(kind, path=path))
    assert (decision.action, decision.rule) == (action, rule)
    if not rule.endswith("devices"):
        assert decision.where.startswith("p0.yaml:")
    assert decision.action == ALLOW or path in decision.reason


@pytest.mark.parametrize("kind", ["file.rename", "file.link"])
@pytest.mark.parametrize(
    ("path", "path2", "action"),
    [
        ("/w/a", "/w/b", ALLOW),
        ("/usr/a", "/w/b", BLOCK),  # neither taken away nor opened for writing under another name
        ("/w/a", "/usr/b", BLOCK),
        ("/w/secret", "/w/b", BLOCK),
        ("/w/a", "/w/rc", BLOCK),
        ("/w/rc", "/w/b", BLOCK),
        ("/w/a", "/w/docs/b", ASK),
    ],
)
def test_renames_and_links_change_both_ends(kind: str, path: str, path2: str, action: str) -> None:
    assert act(FILES, kind, path, path2=path2) == action


def test_each_access_has_its_own_allowlist() -> None:
    assert act("files: {write: [/w]}", "file.read", "/etc/x") == ALLOW
    assert act("files: {write: [/w]}", "file.write", "/etc/x") == BLOCK
    assert act("files: {read: [/usr]}", "file.read", "/etc/x") == BLOCK
    assert act("files: {read: [/usr]}", "file.write", "/usr/x") == BLOCK
    assert act("files: {read: []}", "file.read", "/usr/x") == BLOCK
    assert act("files: {block: [/x]}", "file.write", "/usr/x") == ALLOW
    assert act("", "file.write", "/usr/x") == ALLOW


def test_asking_for_everything_is_what_becomes_of_the_unlisted() -> None:
    text = "files: {read: [/usr], write: [/w], ask: ['/'], block: [/x]}"
    assert act(text, "file.read", "/usr/x") == ALLOW
    assert act(text, "file.write", "/w/x") == ALLOW
    assert act(text, "file.write", "/usr/x") == ASK
    assert act(text, "file.read", "/etc/x") == ASK
    assert act(text, "file.read", "/x/y") == BLOCK
    assert act("files: {read: ['/'], ask: ['/']}", "file.read", "/x") == ASK


def test_a_blocked_device_is_blocked() -> None:
    assert act("files: {read: ['/'], block: [/dev/tty]}", "file.read", "/dev/tty") == BLOCK
    assert act("files: {read: [/usr]}", "file.write", "/dev/tty") == ALLOW


# Network

NETWORK = """
network:
  allow: ["api.x.com:443", "*.y.com", "10.1.0.0/16:5432", "localhost:11434"]
  block: ["*.internal", "evil.y.com"]
  ask: ["*:443", "maybe.y.com"]
  listen: ["127.0.0.1:8000-8100"]
  unix: ["/run/postgresql/*", "@my-*"]
"""


@pytest.mark.parametrize(
    ("host", "ip", "port", "action"),
    [
        ("api.x.com", "93.184.216.34", 443, ALLOW),
        ("API.X.com.", "93.184.216.34", 443, ALLOW),
        ("api.x.com", "93.184.216.34", 80, BLOCK),
        ("api.x.com", "10.9.9.9", 443, BLOCK),  # an allowed name that resolves to a private address
        ("a.y.com", "93.184.216.34", 80, ALLOW),
        ("y.com", "93.184.216.34", 80, BLOCK),
        ("y.com", "93.184.216.34", 443, ASK),  # unlisted, and *:443 asks
        ("maybe.y.com", "93.184.216.34", 80, ASK),  # ask beats allow
        ("evil.y.com", "93.184.216.34", 443, BLOCK),
        ("x.internal", "93.184.216.34", 443, BLOCK),
        ("", "93.184.216.34", 443, ASK),
        ("", "93.184.216.34", 80, BLOCK),
        ("", "10.1.2.3", 5432, ALLOW),
        ("db.x.com", "10.1.2.3", 5432, ALLOW),
        ("", "10.1.2.3", 443, BLOCK),  # *:443 does not name a private address
        ("", "10.2.2.3", 5432, BLOCK),
        ("", "127.0.0.1", 11434, ALLOW),
        ("localhost", "", 11434, ALLOW),
        ("", "::1", 11434, ALLOW),
        ("", "::ffff:127.0.0.1", 11434, ALLOW),
        ("", "127.0.0.1", 22, BLOCK),
        ("", "0.0.0.0", 22, BLOCK),
        ("127.1", "", 22, BLOCK),  # a guarded function's URL
        ("0x0a010203", "", 5432, ALLOW),
        ("", "169.254.169.254", 443, BLOCK),
        ("api.x.com", "169.254.169.254", 443, BLOCK),
    ],
)
@pytest.mark.parametrize("kind", ["net.connect", "net.send"])
def test_destinations(kind: str, host: str, ip: str, port: int, action: str) -> None:
    assert act(NETWORK, kind, host=host, ip=ip, port=port) == action


def test_metadata_services_are_refused_whatever_is_allowed() -> None:
    text = "network: {allow: ['*', '169.254.169.254', metadata.google.internal], private_ips: true}"
    assert act(text, "net.connect", ip="10.0.0.1", port=80) == ALLOW
    assert act(text, "net.connect", ip="169.254.169.254", port=80) == BLOCK
    assert act(text, "net.connect", ip="::ffff:169.254.169.254", port=80) == BLOCK
    assert act(text, "net.connect", ip="fd00:ec2::254", port=80) == BLOCK
    assert act(text, "net.dns", host="metadata.google.internal") == BLOCK


def test_private_addresses_need_to_be_named() -> None:
    assert act("network: {allow: ['*']}", "net.connect", ip="192.168.0.1", port=80) == BLOCK
    assert act("network: {allow: ['*', '192.168.0.0/24']}", "net.connect", ip="192.168.0.1", port=80) == ALLOW
    assert act("network: {ask: ['192.168.0.1']}", "net.connect", ip="192.168.0.1", port=80) == ASK
    assert act("network: {block: [x.com]}", "net.connect", ip="192.168.0.1", port=80) == BLOCK
    assert act("network: {block: [x.com], private_ips: true}", "net.connect", ip="192.168.0.1", port=80) == ALLOW


def test_what_this_run_itself_listens_on_can_be_reached() -> None:
    text = "network: {allow: []}"
    assert act(text, "net.connect", ip="127.0.0.1", port=5000, detail="own") == ALLOW
    assert act(text, "net.connect", ip="127.0.0.1", port=5000) == BLOCK
    assert act(text, "net.connect", ip="8.8.8.8", port=5000, detail="own") == BLOCK
    assert act("network: {block: ['127.0.0.1']}", "net.connect", ip="127.0.0.1", port=5000, detail="own") == BLOCK


@pytest.mark.parametrize(
    ("host", "action"),
    [
        ("api.x.com", ALLOW),
        ("a.y.com", ALLOW),
        ("maybe.y.com", ASK),
        ("other.com", ASK),  # some port of it asks
        ("a.internal", BLOCK),
        ("localhost", ALLOW),
        ("metadata.google.internal", BLOCK),
    ],
)
def test_names_are_resolved_as_they_are_reached(host: str, action: str) -> None:
    assert act(NETWORK, "net.dns", host=host, ip="9.9.9.9", port=53) == action


def test_a_name_blocked_on_one_port_still_resolves() -> None:
    assert act("network: {block: ['x.com:25']}", "net.dns", host="x.com") == ALLOW
    assert act("network: {allow: ['y.com']}", "net.dns", host="x.com") == BLOCK


@pytest.mark.parametrize(
    ("text", "kind", "ip", "port", "action"),
    [
        (NETWORK, "net.listen", "127.0.0.1", 8050, ALLOW),
        (NETWORK, "net.listen", "127.0.0.1", 9000, BLOCK),
        (NETWORK, "net.bind", "0.0.0.0", 8050, BLOCK),
        (NETWORK, "net.bind", "0.0.0.0", 0, ALLOW),  # the port of a client
        (NETWORK, "net.listen", "0.0.0.0", 40000, BLOCK),
        ("network: {listen: ['*:8000']}", "net.listen", "0.0.0.0", 8000, ALLOW),
        ("network: {listen: ['localhost']}", "net.listen", "::1", 8000, ALLOW),
        ("network: {allow: []}", "net.listen", "127.0.0.1", 1, ALLOW),
        ("network: {allow: []}", "net.listen", "::1", 1, ALLOW),
        ("network: {allow: []}", "net.listen", "0.0.0.0", 1, BLOCK),
        ("network: {allow: []}", "net.listen", "::", 1, BLOCK),
        ("network: {allow: []}", "net.listen", "192.168.0.2", 1, BLOCK),
        ("files: {read: []}", "net.listen", "0.0.0.0", 1, ALLOW),
    ],
)
def test_listening(text: str, kind: str, ip: str, port: int, action: str) -> None:
    assert act(text, kind, ip=ip, port=port) == action


@pytest.mark.parametrize(
    ("text", "path", "action"),
    [
        (NETWORK, "/run/postgresql/.s.5432", ALLOW),
        (NETWORK, "/run/docker.sock", BLOCK),
        (NETWORK, "@my-socket", ALLOW),
        (NETWORK, "@other", BLOCK),
        (NETWORK, "", BLOCK),
        ("network: {allow: ['*']}", "/run/docker.sock", BLOCK),
        ("files: {block: [/run/docker.sock]}", "/run/docker.sock", BLOCK),
        ("files: {read: [/usr]}", "/run/docker.sock", ALLOW),  # reaching a socket is not reading a file
        ("network: {unix: ['/run']}\nfiles: {ask: [/run/x]}", "/run/x/s", ASK),
    ],
)
@pytest.mark.parametrize("kind", ["net.unix", "net.connect", "net.send"])
def test_unix_sockets(kind: str, text: str, path: str, action: str) -> None:
    assert act(text, kind, path, proto="unix") == action


def test_flags_alone_give_no_opinion_about_the_rest() -> None:
    flags = {"network": {"block": ["x.com"], "allow": ["y.com"]}}
    made = load_text("", variables=HERE, extra=flags)
    assert decide(made, State(), Event("net.connect", host="x.com", ip="8.8.8.8", port=1)).action == BLOCK
    for event in (
        Event("net.connect", ip="10.0.0.1", port=1),
        Event("net.listen", ip="0.0.0.0", port=1),
        Event("net.unix", path="/run/docker.sock"),
        Event("net.dns", host="z.com"),
    ):
        assert decide(made, State(), event).action == ALLOW


# Exec


@pytest.mark.parametrize(
    ("text", "argv", "path", "action"),
    [
        ("exec: {block: [sudo]}", ("sudo", "ls"), "/usr/bin/sudo", BLOCK),
        ("exec: {block: [sudo]}", ("ls",), "/bin/ls", ALLOW),
        ("exec: {ask: ['git push*'], allow: [git]}", ("git", "push"), "/usr/bin/git", ASK),
        ("exec: {ask: ['git push*'], allow: [git]}", ("git", "pull"), "/usr/bin/git", ALLOW),
        ("exec: {allow: [git]}", ("ls",), "/bin/ls", BLOCK),
        ("exec: {allow: [git], ask: ['*']}", ("ls",), "/bin/ls", ASK),
        ("exec: {allow: [git], ask: ['*']}", ("git",), "/usr/bin/git", ALLOW),
        ("exec: {allow: ['*'], block: [ls]}", ("ls",), "/bin/ls", BLOCK),
        ("exec: {allow: ['*'], block: [ls]}", ("cat",), "/bin/cat", ALLOW),
        ("exec: {block: ['*']}", ("ls",), "/bin/ls", BLOCK),
        ("files: {read: [/usr]}", ("x",), "/opt/x", BLOCK),  # what may not be read may not be run
        ("files: {read: [/usr]}", ("x",), "/usr/bin/x", ALLOW),
        ("files: {ask: [/opt]}", ("x",), "/opt/x", ASK),
        ("exec: {block: [sudo]}", ("sudo",), "", BLOCK),
    ],
)
def test_exec(text: str, argv: tuple[str, ...], path: str, action: str) -> None:
    assert judged(text, Event("process.exec", argv=argv, path=path)).action == action


def test_other_events() -> None:
    for kind in ("process.fork", "process.exit", "process.signal", "limit.hit", "session.start", "op.call"):
        assert act("files: {read: []}\nnetwork: {allow: []}\nexec: {allow: []}", kind) == ALLOW
    refused = judged("files: {}", Event("process.deny", syscall="bpf"))
    assert refused.action == BLOCK
    assert "bpf" in refused.reason


# Rules


@pytest.mark.parametrize(
    ("rule", "event", "expected"),
    [
        ("{on: file.read, action: audit}", Event("file.read", path="/x"), AUDIT),
        ("{on: file.read, action: audit}", Event("file.write", path="/x"), ALLOW),
        ("{on: file.read, action: block}", Event("file.write", path="/x", flags="O_RDWR|O_CLOEXEC"), BLOCK),
        ("{on: file.read, action: block}", Event("file.write", path="/x", flags="O_WRONLY|O_CLOEXEC"), ALLOW),
        ("{on: file.read, action: block}", Event("file.create", path="/x", flags="O_RDWR|O_CREAT"), ALLOW),
        ("{on: file, action: warn, path: /a}", Event("file.meta", path="/a/b"), WARN),
        ("{on: file, action: warn, path: /a}", Event("file.rename", path="/x", path2="/a/b"), WARN),
        ("{on: file, action: warn, path: /a}", Event("file.meta", path="/b"), ALLOW),
        ("{on: [net, process.exec], action: ask}", Event("net.dns", host="x"), ASK),
        ("{on: net, action: block, host: '*.x.com:80'}", Event("net.connect", host="a.x.com", port=80), BLOCK),
        ("{on: net, action: block, host: '*.x.com:80'}", Event("net.connect", host="a.x.com", port=81), ALLOW),
        ("{on: net, action: block, host: '*:25'}", Event("net.connect", ip="8.8.8.8", port=25), BLOCK),
        ("{on: net, action: block, host: 10.0.0.0/8}", Event("net.connect", host="0x0a.1", port=81), BLOCK),
        ("{on: process.exec, action: block, argv: curl}", Event("process.exec", argv=("curl",)), BLOCK),
        (
            "{on: process.exec, action: block, argv: 'curl *-d*'}",
            Event("process.exec", argv=("curl", "-d", "x")),
            BLOCK,
        ),
        ("{on: process.exec, action: block, argv: '*'}", Event("process.exec", argv=("x",)), BLOCK),
        (
            r"{on: process.exec, action: block, match: 'rm\s+-rf\s+/(\s|$)'}",
            Event("process.exec", argv=("rm", "-rf", "/")),
            BLOCK,
        ),
        (
            r"{on: process.exec, action: block, match: 'rm\s+-rf\s+/(\s|$)'}",
            Event("process.exec", argv=("rm", "-rf", "/x")),
            ALLOW,
        ),
        ("{on: file, action: block, match: 'key$', path: /a}", Event("file.read", path="/a/key"), BLOCK),
        ("{on: file, action: block, match: 'key$', path: /a}", Event("file.read", path="/b/key"), ALLOW),
        ("{on: file, action: block, match: 'key$', path: /a}", Event("file.read", path="/a/kex"), ALLOW),
        ("{on: net, action: block, match: ':25$'}", Event("net.connect", ip="::1", port=25), BLOCK),
        ("{on: process.signal, action: block}", Event("process.signal", target=1), BLOCK),
        ("{on: op.call, action: block, match: shell}", Event("op.call", op="run_shell"), BLOCK),
    ],
)
def test_rules(rule: str, event: Event, expected: str) -> None:
    decision = judged(f"rules: [{rule}]", event)
    assert decision.action == expected
    if expected != ALLOW:
        assert (decision.rule, decision.where) == ("rules[1]", "p0.yaml:1")
        assert decision.reason


def test_the_strictest_rule_wins_and_tells_its_reason() -> None:
    text = """
rules:
  - {name: a, on: file, action: audit}
  - {name: b, on: file, action: warn, reason: because}
  - {name: c, on: file, action: warn, reason: later}
"""
    decision = judged(text, Event("file.read", path="/x"))
    assert decision == Decision(WARN, "b", "p0.yaml:4", "because")


def test_an_allowing_rule_loosens_nothing() -> None:
    assert act("files: {read: [/usr]}\nrules: [{on: file, action: allow}]", "file.read", "/x") == BLOCK


def test_two_hundred_patterns_find_theirs() -> None:
    rules = "\n".join(
        f"  - {{name: r{i}, on: process.exec, action: block, match: '\\bword{i}\\b'}}" for i in range(200)
    )
    made = policy(f"rules:\n{rules}")
    for i in (0, 57, 199):
        assert decide(made, State(), Event("process.exec", argv=("x", f"word{i}"))).rule == f"r{i}"
    assert decide(made, State(), Event("process.exec", argv=("x", "word200"))).action == ALLOW


def test_patterns_too_large_for_one_automaton_still_match() -> None:
    rules = "\n".join(
        f"  - {{name: r{i}, on: process.exec, action: block, match: '[ab].*b.{{0,200}}c{i}.{{0,200}}d'}}"
        for i in range(100)
    )
    made = policy(f"rules:\n{rules}")
    assert decide(made, State(), Event("process.exec", argv=("a", "b", "c7d"))).rule == "r7"
    noise = "".join("abcd0123456789"[i * i % 14] for i in range(5000))
    assert decide(made, State(), Event("process.exec", argv=(noise, "ab", "c99", "d"))).action == BLOCK


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Event("process.exec", argv=("git", "commit", "-m", "a b")), "git commit -m 'a b'"),
        (Event("process.exec", path="/bin/x"), "/bin/x"),
        (Event("file.read", path="/a"), "/a"),
        (Event("file.rename", path="/a", path2="/b"), "/a -> /b"),
        (Event("net.connect", host="x.com", ip="1.2.3.4", port=80), "x.com:80 1.2.3.4:80"),
        (Event("net.connect", ip="::1", port=80), "[::1]:80"),
        (Event("net.dns", host="x.com"), "x.com"),
        (Event("net.unix", path="@x"), "@x"),
        (Event("op.call", op="f", detail="x=1"), "f x=1"),
    ],
)
def test_the_text_of_an_event(event: Event, text: str) -> None:
    assert text_of_event(event) == text


# Layers, and what holds for all policies


def test_layers_never_loosen() -> None:
    open_, closed = "files: {read: ['/']}", "files: {read: [/usr], ask: [/usr/ask]}"
    for path, expected in (("/usr/x", ALLOW), ("/etc/x", BLOCK), ("/usr/ask/x", ASK)):
        for texts in ((open_, closed), (closed, open_)):
            decision = decide(policy(*texts), State(), Event("file.read", path=path))
            assert decision.action == expected
            if expected != ALLOW:
                assert decision.where == f"p{texts.index(closed)}.yaml:1"


SEGMENT = st.sampled_from(["a", "b", "c", "*", "**", "a*", "?", "[ab]"])
PATTERN = st.lists(SEGMENT, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
PATH = st.lists(st.sampled_from(["a", "b", "c", "ab"]), min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))
LISTS = st.dictionaries(st.sampled_from(["read", "write", "block", "ask", "protect"]), st.lists(PATTERN, max_size=3))
RULES = st.lists(
    st.fixed_dictionaries(
        {
            "on": st.sampled_from(["file", "file.read", "file.write"]),
            "action": st.sampled_from(ACTIONS),
            "path": PATTERN,
        }
    ),
    max_size=3,
)
KINDS = st.sampled_from(["file.read", "file.write", "file.list", "file.create", "file.rename"])
EVENTS = st.tuples(KINDS, PATH, PATH).map(lambda drawn: Event(drawn[0], path=drawn[1], path2=drawn[2]))


def made_of(lists: dict[str, list[str]], rules: list[dict[str, str]]) -> str:
    import json

    return json.dumps({"files": lists, "rules": rules})


@settings(deadline=None)
@given(LISTS, RULES, LISTS, RULES, EVENTS)
def test_a_policy_of_layers_is_the_strictest_of_them(
    files1: dict[str, list[str]],
    rules1: list[dict[str, str]],
    files2: dict[str, list[str]],
    rules2: list[dict[str, str]],
    event: Event,
) -> None:
    texts = made_of(files1, rules1), made_of(files2, rules2)
    alone = [judged(text, event).action for text in texts]
    assert decide(policy(*texts), State(), event).action == max(alone, key=RANK.__getitem__)


@settings(deadline=None)
@given(LISTS, RULES, PATTERN, EVENTS)
def test_a_block_line_never_allows_more(
    files: dict[str, list[str]], rules: list[dict[str, str]], pattern: str, event: Event
) -> None:
    before = judged(made_of(files, rules), event)
    after = judged(made_of({**files, "block": [*files.get("block", []), pattern]}, rules), event)
    assert RANK[after.action] >= RANK[before.action]


@settings(deadline=None)
@given(LISTS, RULES, EVENTS)
def test_the_order_of_lines_does_not_matter(
    files: dict[str, list[str]], rules: list[dict[str, str]], event: Event
) -> None:
    turned = {key: patterns[::-1] for key, patterns in reversed(files.items())}
    assert judged(made_of(files, rules), event).action == judged(made_of(turned, rules[::-1]), event).action


@settings(deadline=None)
@given(LISTS, RULES, st.lists(EVENTS, max_size=5))
def test_equal_questions_get_equal_answers(
    files: dict[str, list[str]], rules: list[dict[str, str]], events: list[Event]
) -> None:
    one, two = policy(made_of(files, rules)), policy(made_of(files, rules))
    first = [decide(one, State(), event) for event in events]
    assert [decide(one, State(), event) for event in events] == first
    assert [decide(two, State(), event) for event in reversed(events)] == first[::-1]


def test_what_a_list_names_beside_everything_is_not_asked_about() -> None:
    text = "files: {read: [/, /x], write: [/, /w], ask: [/]}"
    assert act(text, "file.read", "/x/y") == ALLOW
    assert act(text, "file.read", "/w/y") == ALLOW  # writing implies reading
    assert act(text, "file.write", "/w/y") == ALLOW
    assert act(text, "file.write", "/x/y") == ASK
    assert act(text, "file.read", "/other") == ASK
