"""A learned policy allows what the runs did, refuses what they did not, and never opens a place for secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_safety_layer.events import ALLOW, ASK, AUDIT, BLOCK, Event
from agent_safety_layer.policy import Policy, State, decide, load, load_text
from agent_safety_layer.policy.evidence import Run, gather
from agent_safety_layer.policy.learning import exceptions, learn, without_idle
from agent_safety_layer.policy.lesson import document, merged
from agent_safety_layer.trace.encode import body
from agent_safety_layer.trace.header import header, with_policy
from agent_safety_layer.trace.writer import TraceWriter

HERE = {"WORKSPACE": "/home/u/w", "HOME": "/home/u", "TMP": "/tmp/run", "STATE": "/home/u/.s"}


def recorded(folder: Path, policy: Policy, *events: Event, observe: bool = False, name: str = "run") -> Run:
    """A trace of a run under *policy* in which *events* happened, as a run to learn from."""
    about = header(
        run=name,
        time=0.0,
        command=["agent"],
        cwd=HERE["WORKSPACE"],
        policies=["p"],
        policy_hash="",
        mode="enforce",
        backend="notify",
        enforced={},
    )
    path = folder / f"{name}.jsonl"
    path.unlink(missing_ok=True)
    writer = TraceWriter(str(path), with_policy(about, policy, HERE))
    for event in events:
        decision = decide(policy, State(), event)
        effective = ALLOW if decision.action == ASK else decision.action
        if observe and decision.action == BLOCK:
            effective = AUDIT
        writer.add(body(event, decision, effective, ""), event.time)
    writer.close({"outcome": "exited", "exit_code": 0, "events": len(events)})
    return gather([str(path)])[0]


def taught(*runs: Run) -> tuple[str, Policy]:
    text = document(learn(runs), runs)
    return text, load_text(text, variables=HERE)


def says(policy: Policy, kind: str, path: str = "", **more: object) -> str:
    return decide(policy, State(), Event(kind, path=path, **more)).action  # type: ignore[arg-type]


def workspace() -> Policy:
    return load(("workspace",), variables=HERE)


EVENTS = (
    Event("file.read", path="/usr/lib/libc.so"),
    Event("file.read", path="/etc/hosts"),
    Event("file.read", path="/home/u/w/a/b.py"),
    Event("file.list", path="/home/u"),
    Event("file.write", path="/home/u/w/out.txt"),
    Event("file.create", path="/tmp/run/x"),
    Event("net.dns", host="api.x.com"),
    Event("net.connect", host="api.x.com", ip="93.184.216.34", port=443),
    Event("net.connect", ip="127.0.0.1", port=11434),
    Event("process.exec", path="/usr/bin/git", argv=("git", "status")),
    Event("process.exec", path="/home/u/w/tool", argv=("./tool", "x")),
    Event("file.read", path="/home/u/.ssh/id_ed25519"),
    Event("file.write", path="/srv/data"),
)


def test_what_a_run_did_is_allowed_and_nothing_else(tmp_path: Path) -> None:
    run = recorded(tmp_path, workspace(), *EVENTS, observe=True)
    text, policy = taught(run)
    assert not list(exceptions([run], [policy]))
    for event in EVENTS[:-2]:
        assert decide(policy, State(), event).action == ALLOW, text
    assert says(policy, "file.write", "/srv/data") == ALLOW  # the run only lacked a line for it
    assert says(policy, "file.read", "/home/u/.ssh/id_ed25519") == BLOCK  # that was refused by name
    for kind, path in (
        ("file.read", "/etc/shadow"),
        ("file.read", "/home/u/documents/a"),
        ("file.read", "/home/u/w/.env"),
        ("file.write", "/home/u/w/other.txt"),
        ("file.write", "/usr/lib/libc.so"),
        ("file.read", "/srv/other"),
    ):
        assert says(policy, kind, path) == BLOCK, text
    assert says(policy, "net.connect", host="api.x.com", ip="93.184.216.34", port=80) == BLOCK
    assert says(policy, "net.connect", host="y.com", ip="93.184.216.34", port=443) == BLOCK
    assert says(policy, "process.exec", "/usr/bin/git", argv=("git", "push")) == BLOCK
    assert says(policy, "process.exec", "/usr/bin/curl", argv=("git", "status")) == BLOCK


def test_each_line_has_its_evidence_and_refusals_are_comments(tmp_path: Path) -> None:
    run = recorded(tmp_path, workspace(), *EVENTS, *EVENTS[:1] * 4, observe=True)
    text, _ = taught(run)
    line = next(line for line in text.splitlines() if '"/usr"' in line)
    assert line.endswith("# 6x, 2 paths")  # five libraries, and git, which was executed
    refused = next(line for line in text.splitlines() if ".ssh" in line)
    assert refused.lstrip().startswith('# - "~/.ssh/id_ed25519"')
    assert "files.block profiles/secrets.yaml" in refused


def test_what_was_refused_in_an_enforced_run_stays_so(tmp_path: Path) -> None:
    run = recorded(tmp_path, workspace(), *EVENTS)
    text, policy = taught(run)
    assert says(policy, "file.write", "/srv/data") == BLOCK
    assert '# - "/srv/data"' in text


def test_lines_of_the_runs_policy_that_refuse_by_name_are_taken_over(tmp_path: Path) -> None:
    own = "extends: [workspace]\nfiles: {block: ['${WORKSPACE}/private'], ask: ['${WORKSPACE}/docs']}\n"
    own += "rules: [{name: careful, on: net, host: '*.y.com', action: block}]\nlimits: {memory: 1GiB}\n"
    run = recorded(tmp_path, load_text(own, variables=HERE), *EVENTS, observe=True)
    _, policy = taught(run)
    assert says(policy, "file.read", "/home/u/w/private/a") == BLOCK
    assert says(policy, "file.read", "/home/u/w/docs/a") == ASK
    assert any(rule.name == "careful" for rule in policy.layers[0].rules)
    assert policy.limits.memory_bytes == 1 << 30


def test_a_secret_that_the_runs_policy_opened_stays_open(tmp_path: Path) -> None:
    own = "extends: [workspace]\nwithout: {files: {block: ['${HOMES}/.npmrc']}}\n"
    run = recorded(tmp_path, load_text(own, variables=HERE), Event("file.read", path="/home/u/.npmrc"))
    text, policy = taught(run)
    assert says(policy, "file.read", "/home/u/.npmrc") == ALLOW, text
    assert says(policy, "file.read", "/home/u/.netrc") == BLOCK


def test_lines_taken_over_that_cannot_matter_are_left_out(tmp_path: Path) -> None:
    run = recorded(tmp_path, workspace(), *EVENTS)
    learned = learn([run])
    assert learned.carried["exec.block"]
    assert without_idle(learned, [load_text(document(learned, [run]), variables=HERE)])
    assert not learned.carried["exec.block"]


def test_merging_adds_what_is_missing_and_keeps_the_rest(tmp_path: Path) -> None:
    mine = '# mine\nfiles:\n  read: ["/usr"]  # programs\nexec: {allow: [ls]}\nnetwork: {ask: ["*"]}\n'
    run = recorded(tmp_path, workspace(), *EVENTS, observe=True)
    learned = learn([run], lambda run: load_text(mine, variables=run.variables))
    text = merged(mine.encode(), learned, "mine.yaml")
    policy = load_text(text, variables=HERE)
    assert "# mine" in text
    assert '"/etc/hosts" # learned: 1x' in " ".join(text.split())
    assert '- "/usr"' in text and text.count('"/usr"') == 1
    assert [deed.event for _, deed, found in exceptions([run], [policy]) if found.action == BLOCK] == []


def test_runs_of_different_users_and_folders_add_up(tmp_path: Path) -> None:
    one = recorded(tmp_path, workspace(), Event("file.write", path="/home/u/w/a"), name="one")
    two = recorded(tmp_path, workspace(), Event("file.write", path="/home/v/x/a"), name="two", observe=True)
    two.variables = {"WORKSPACE": "/home/v/x", "HOME": "/home/v", "TMP": "/tmp/other"}
    text = document(learn([one, two]), [one, two])
    assert '- "${WORKSPACE}/a"' in text
    assert "# 2x" in text


@pytest.mark.parametrize(
    "name", ["a b", 'q"uote', "back\\slash", "star*", "br{a,b}ce", "${HOME}", "[x]", "~", "new\nline", "#", "ünï"]
)
def test_hostile_names_are_taken_literally(tmp_path: Path, name: str) -> None:
    events = Event("file.write", path=f"/srv/{name}"), Event("file.read", path=f"/opt2/{name}")
    run = recorded(tmp_path, workspace(), *events, observe=True)
    text, policy = taught(run)
    assert says(policy, "file.write", f"/srv/{name}") == ALLOW, text
    assert says(policy, "file.write", "/srv/other") == BLOCK
    assert says(policy, "file.write", "/srv/starry") == BLOCK


_PLACES = ["/usr/lib/x", "/etc/hosts", "/home/u", "/home/u/.cache/p/q", "/home/u/.ssh/id", "/home/u/w", "/home/u/w/s/t"]
_PLACES += ["/", "/srv/a/b", "/srv/a/c", "/srv/a/d", "/tmp/run/x", "/home/u/.config/gh/hosts.yml"]
_PLACES += ["/proc/12/maps", "/dev/pts/0"]
_FILE_KINDS = ["file.read", "file.list", "file.write", "file.create"]
_HOSTS, _IPS = ["", "a.com", "b.a.com"], ["93.184.216.34", "10.0.0.1", "::1"]
_COMMANDS = [("git", "log"), ("git", "-C", "/x", "push", "a b"), ("sh", "-c", "x")]


@st.composite
def _event(draw: st.DrawFn) -> Event:
    match draw(st.sampled_from(["file", "net", "exec"])):
        case "file":
            return Event(draw(st.sampled_from(_FILE_KINDS)), path=draw(st.sampled_from(_PLACES)))
        case "net":
            host, ip, port = (draw(st.sampled_from(choices)) for choices in (_HOSTS, _IPS, ["80", "443"]))
            return Event("net.connect", host=host, ip=ip, port=int(port))
    path, argv = draw(st.sampled_from(["/usr/bin/git", "/home/u/w/s/t"])), draw(st.sampled_from(_COMMANDS))
    return Event("process.exec", path=path, argv=argv)


_POLICIES = ["extends: [workspace]", "extends: [strict]", "files: {read: [/]}"]
_POLICIES += ["exec: {block: [sh]}\nfiles: {read: [/], write: [/home]}"]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_event(), max_size=12), st.sampled_from(_POLICIES), st.booleans())
def test_everything_that_went_on_is_allowed(tmp_path: Path, events: list[Event], text: str, observe: bool) -> None:
    run = recorded(tmp_path, load_text(text, variables=HERE), *events, observe=observe)
    _, policy = taught(run)
    blocked = [(deed.event, found) for _, deed, found in exceptions([run], [policy])]
    # What the secrets' lines refuse, and no list of the run's own policy named, is the one thing that is not learned.
    secrets = load(("secrets",), variables=HERE)
    assert [event for event, _ in blocked if decide(secrets, State(), event).action != BLOCK] == []
    for event, found in blocked:
        if "may only be a folder" in decide(secrets, State(), event).reason:
            continue  # and these events do not say what they make
        assert observe and decide(load_text(text, variables=HERE), State(), event).action == BLOCK, found
