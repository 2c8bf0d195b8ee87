"""Policies from text and files: every mistake is told, with its place and what was probably meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent_safety_layer.errors import PolicyError
from agent_safety_layer.events import ALLOW, BLOCK, Event
from agent_safety_layer.policy import ADMINISTRATOR, PolicyMistakes, State, decide, load, load_text
from agent_safety_layer.policy.model import Files, Layer, Limits, Network, Policy
from agent_safety_layer.policy.yaml import compose

HERE = {"WORKSPACE": "/home/u/work", "HOME": "/home/u", "TMP": "/tmp/run", "USER": "u"}


def files(policy: Policy, layer: int = 0) -> Files:
    found = policy.layers[layer].files
    assert found is not None
    return found


def network(policy: Policy) -> Network:
    found = policy.layers[0].network
    assert found is not None
    return found


def mistakes(text: str) -> tuple[PolicyError, ...]:
    with pytest.raises(PolicyMistakes) as caught:
        load_text(text, variables=HERE)
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("text", "line", "key", "told"),
    [
        ("fils: {}", 1, "", "no key 'fils' in a policy. Did you mean files?"),
        ("files:\n  blok: []", 2, "files", "no key 'blok' in files. Did you mean block?"),
        ("files: []", 1, "files", "this is a section"),
        ("files: {read: /usr}", 1, "files.read", 'is not a list. Write ["/usr"].'),
        ("files:\n  read:\n    - 3", 3, "files.read", '3 is not text. Write "3".'),
        ("files: {read: [src]}", 1, "files.read", "Write ${WORKSPACE}/src"),
        ("files: {read: ['/a/../b']}", 1, "files.read", "'..'"),
        ("files: {read: ['/a[']}", 1, "files.read", "never closed"),
        ("files: {read: ['${HOM}/a']}", 1, "files.read", "no variable ${HOM}"),
        ("files: {read: ['~bob/a']}", 1, "files.read", "~bob is not supported"),
        ("network: {allow: ['http://x.com/']}", 1, "network.allow", "write the host alone: x.com"),
        ("network: {allow: ['x.com:99999']}", 1, "network.allow", "0-65535"),
        ("network: {allow: ['10.0.0.1/8']}", 1, "network.allow", "bits set beyond"),
        ("network: {private_ips: maybe}", 1, "network.private_ips", "is not true or false"),
        ("exec: {block: ['a [b']}", 1, "exec.block", "never closed"),
        ("limits: {memory: lots}", 1, "limits.memory", "does not begin with a number"),
        ("limits: {memory: 2 parsecs}", 1, "limits.memory", "is not a size"),
        ("limits: {wall_time: 0}", 1, "limits.wall_time", "more than nothing"),
        ("limits: {wall_time: 1h 5x}", 1, "limits.wall_time", "is not a duration"),
        ("limits: {processes: 0}", 1, "limits.processes", "at least 1"),
        ("limits: {processes: true}", 1, "limits.processes", "true is not a whole number"),
        ("limits: {memroy: 1}", 1, "limits", "Did you mean memory?"),
        ("version: 2", 1, "version", "write 1"),
        ("mode: watch", 1, "mode", "none of enforce, observe"),
        ("on_violation: explode", 1, "on_violation", "none of continue, kill"),
        ("record: nothing", 1, "record", "none of all, changes"),
        ("approvals: {on_timeout: ask}", 1, "approvals.on_timeout", "none of deny, allow"),
        ("environment: {set: {A: true}}", 1, "environment.set", "Put it in quotes"),
        ("environment: {set: {'A=B': x}}", 1, "environment.set", "cannot be the name"),
        ("rules: {}", 1, "rules", "is not a list of rules"),
        ("rules: [x]", 1, "rules", "is not a rule"),
        ("rules: [{on: file.read}]", 1, "rules.action", "no action"),
        ("rules: [{action: block}]", 1, "rules.on", "nothing says what it is on"),
        ("rules: [{on: file.wite, action: block}]", 1, "rules.on", "Did you mean file.write?"),
        ("rules: [{on: file, action: blok}]", 1, "rules.action", "Did you mean block?"),
        ("rules: [{on: file, action: block, macth: x}]", 1, "rules", "Did you mean match?"),
        ("rules: [{on: file, action: block, match: '(?=x)'}]", 1, "rules.match", "RE2"),
        ("rules: [{on: file, action: block, match: '('}]", 1, "rules.match", "cannot be used"),
        ("rules: [{on: file, action: block, path: src}]", 1, "rules.path", "not absolute"),
        ("files: {read: [$HOME/x]}", 1, "files.read", "write ${HOME}/x"),
        ("files: {read: [src/$HOME]}", 1, "files.read", "not absolute"),
        ("limits: {memory: 512}", 1, "limits.memory", "write 512MiB if"),
        ("rules: [{on: net, action: block, host: 'a b'}]", 1, "rules.host", "not a host name"),
        ("rules: [{on: net, action: block, after: file.read}]", 1, "rules.after", "this holds on:"),
        ("rules: [{on: net, action: block, after: {on: file, same: host}}]", 1, "rules.after.same", "'path'"),
        ("rules: [{on: net, action: block, name: 3}]", 1, "rules.name", "must be text"),
        ("extends: [workspac]", 1, "extends", "Did you mean workspace?"),
        ("extends: [./none.yaml]", 1, "extends", "cannot be read"),
        ("without: {files: {block: ['~/.ssh']}}", 1, "without.files.block", "What is extended has no '~/.ssh'"),
        ("extends: [secrets]\nwithout: {files: {block: ['~/.shh']}}", 2, "without.files.block", "has no '~/.shh'"),
        ("without: {limits: {memory: []}}", 1, "without", "not a section with lists"),
        ("a: 1\na: 2", 2, "a", "here twice; first in line 1"),
        ("files: [", 1, "", "not YAML"),
        ("a: &x [*x]", 1, "", "nested too deeply"),
        ("--- 1\n--- 2", 2, "", "another document"),
        ("? [a]\n: b", 1, "", "A key must be a word"),
        ("a: !python/object 1", 1, "", "means nothing"),
        ("[]", 1, "", "A policy is a mapping"),
        ("a: b: c", 1, "", "not YAML"),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, line: int, key: str, told: str) -> None:
    found = mistakes(text)
    assert len(found) == 1, found
    assert told in str(found[0])
    assert str(found[0]).startswith(f"policy.yaml:{line}: ")
    assert (found[0].file, found[0].line, found[0].key) == ("policy.yaml", line, key)


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines() -> None:
    found = mistakes("mode: x\nfils: {}\nfiles:\n  read: [a, /b, c]\nextends: [nope]\nrules: [{on: fil, action: x}]\n")
    assert [mistake.line for mistake in found] == [1, 2, 4, 4, 5, 6, 6]
    with pytest.raises(PolicyError) as caught:
        load_text("mode: x\nfils: {}", variables=HERE)
    assert str(caught.value).count("policy.yaml:") == 2
    assert caught.value.exit_code == 125


@pytest.mark.parametrize("raw", [b"\xff\xfe\x00", b"a: \x00", b"{" * 5000, b"&a [&b [*a, *b], *a]" * 3])
def test_bytes_that_are_no_policy_are_an_error(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(raw)
    with pytest.raises(PolicyError):
        load([str(path)], variables=HERE)


def test_aliases_cannot_blow_a_policy_up(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert any("more than" in str(mistake) for mistake in mistakes("\n".join(lines)))


def test_a_missing_or_huge_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        load([str(tmp_path / "none.yaml")], variables=HERE)
    with pytest.raises(PolicyError, match="cannot be read"):
        load([str(tmp_path)], variables=HERE)
    (tmp_path / "huge.yaml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(PolicyError, match="larger than"):
        load([str(tmp_path / "huge.yaml")], variables=HERE)


def test_an_empty_policy_has_no_opinion() -> None:
    assert load_text("", variables=HERE).layers == (Layer("policy"),)


def test_yaml_1_2_words_stay_words() -> None:
    rule = load_text("rules: [{name: off, on: file, action: warn, reason: yes}]", variables=HERE).layers[0].rules[0]
    assert (rule.name, rule.reason, rule.action) == ("off", "yes", "warn")


def test_values_are_read() -> None:
    text = """
    version: 1
    name: research
    mode: observe
    files: {read: ["/usr"], write: ["${WORKSPACE}", "${TMP}"], block: ["~/.ssh"], ask: ["~/x"], protect: ["/etc"]}
    network: {allow: ["x.com:443"], listen: ["127.0.0.1:80"], unix: ["/run/x/*", "@abstract*"], private_ips: true}
    exec: {allow: [ls], block: [sudo], ask: ["git push*"]}
    limits: {wall_time: 1h30m, cpu_time: 10, memory: 2GiB, processes: 64, open_files: 1024, file_size: 50MB}
    approvals: {timeout: 500ms, on_timeout: allow}
    on_violation: kill
    environment: {pass: [A], block: ["B*"], secrets: ["*_KEY"], set: {C: 3}}
    """
    policy = load_text(text, variables=HERE)
    (layer,) = policy.layers
    assert (layer.name, layer.mode, layer.on_violation) == ("research", "observe", "kill")
    assert layer.limits == Limits(
        wall_time_s=5400.0,
        cpu_time_s=10.0,
        memory_bytes=2 << 30,
        processes=64,
        open_files=1024,
        file_size_bytes=50_000_000,
    )
    assert (policy.approvals.timeout_s, policy.approvals.on_timeout) == (0.5, "allow")
    assert [entry.forms for entry in files(policy).write] == [("/home/u/work",), ("/tmp/run",)]
    assert files(policy).block[0].text == "~/.ssh"
    assert files(policy).block[0].origin == "policy.yaml:5"
    assert network(policy).private_ips is True
    assert layer.environment.put == (("C", "3"),)
    assert policy.mode == "observe"
    assert policy.enforced.layers == ()


def test_variables_are_taken_literally() -> None:
    policy = load_text(
        "files: {read: ['${WORKSPACE}/**/x', '${WORKSPACE}']}", variables={"HOME": "/h", "WORKSPACE": "/a{b,c}*"}
    )
    assert [entry.forms for entry in files(policy).read] == [("/a\\{b,c\\}\\*/**/x",), ("/a\\{b,c\\}\\*",)]


def test_homes_are_the_own_one_and_that_of_the_working_directory() -> None:
    def forms(home: str, workspace: str) -> tuple[str, ...]:
        policy = load_text("files: {read: ['${HOMES}/x']}", variables={"HOME": home, "WORKSPACE": workspace})
        return files(policy).read[0].forms

    assert forms("/home/u", "/home/u/w") == ("/home/u/x",)
    assert forms("/home/u", "/srv/w") == ("/home/u/x",)
    assert forms("/home/u", "/home/v/w") == ("/home/u/x", "/home/v/x")
    assert forms("/data/u", "/root/w") == ("/data/u/x", "/root/x")


# Joining


def write(folder: Path, **policies: str) -> None:
    for name, text in policies.items():
        (folder / f"{name}.yaml").write_text(text)


def test_extends_joins_lists_and_the_nearer_scalar_counts(tmp_path: Path) -> None:
    write(
        tmp_path,
        base="files: {read: [/usr], block: [/x]}\nlimits: {memory: 1GiB, processes: 5}\non_violation: kill",
        other="files: {read: [/opt, /usr]}\nlimits: {memory: 2GiB}\nrules: [{on: net, action: audit}]",
        mine="extends: [./base.yaml, other.yaml]\nfiles: {read: [/srv]}\nlimits: {processes: 7}",
    )
    policy = load([str(tmp_path / "mine.yaml")], variables=HERE)
    (layer,) = policy.layers
    assert [entry.text for entry in files(policy).read] == ["/srv", "/usr", "/opt", "/usr"]
    assert [entry.text for entry in files(policy).block] == ["/x"]
    assert (layer.limits.memory_bytes, layer.limits.processes, layer.on_violation) == (1 << 30, 7, "kill")
    assert [rule.action for rule in layer.rules] == ["audit"]
    assert layer.name == "mine"
    assert len(policy.sources) == 3


def test_a_diamond_is_joined_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        base="files: {block: [/x]}\nrules: [{on: net, action: audit}]",
        left="extends: base.yaml",
        right="extends: base.yaml",
        mine="extends: [left.yaml, right.yaml]",
    )
    policy = load([str(tmp_path / "mine.yaml")], variables=HERE)
    assert len(files(policy).block) == 1
    assert len(policy.layers[0].rules) == 1


def test_a_circle_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, a="extends: b.yaml", b="extends: a.yaml")
    with pytest.raises(PolicyMistakes, match="in a circle: a -> b -> a"):
        load([str(tmp_path / "a.yaml")], variables=HERE)


def test_mistakes_in_what_is_extended_are_told_at_their_own_place(tmp_path: Path) -> None:
    write(tmp_path, a="extends: b.yaml\nmode: x", b="\nfils: {}")
    with pytest.raises(PolicyMistakes) as caught:
        load([str(tmp_path / "a.yaml")], variables=HERE)
    assert [(Path(found.file).name, found.line) for found in caught.value.mistakes] == [("a.yaml", 2), ("b.yaml", 2)]


def test_without_takes_a_line_away(tmp_path: Path) -> None:
    write(
        tmp_path,
        base="files: {block: [/x, /y]}",
        mine="extends: base.yaml\nwithout: {files: {block: [/x]}}\nfiles: {block: [/z]}",
        again="extends: mine.yaml\nfiles: {block: [/x]}",
    )
    policy = load([str(tmp_path / "mine.yaml")], variables=HERE)
    assert [entry.text for entry in files(policy).block] == ["/z", "/y"]
    policy = load([str(tmp_path / "again.yaml")], variables=HERE)
    assert [entry.text for entry in files(policy).block] == ["/x", "/z", "/y"]


def test_layers_are_not_joined_and_the_tightest_limit_counts() -> None:
    policy = load(["workspace", "strict"], variables=HERE)
    assert policy.name == "workspace+strict"
    assert files(policy, 0).read[0].text == "/"
    tight = Policy(
        (
            load_text("limits: {memory: 2GiB, processes: 5}\napprovals: {timeout: 1m}", variables=HERE).layers[0],
            load_text("limits: {memory: 1GiB}\napprovals: {timeout: 2m, on_timeout: allow}", variables=HERE).layers[0],
        )
    )
    assert (tight.limits.memory_bytes, tight.limits.processes) == (1 << 30, 5)
    assert (tight.approvals.timeout_s, tight.approvals.on_timeout) == (60, "deny")


# Flags


def test_flags_join_the_first_layer_with_their_own_origin() -> None:
    extra = {
        "files": {"read": ["out"], "block": ["*.key"]},
        "network": {"allow": ["x.com:443"]},
        "limits": {"memory": "8M"},
    }
    policy = load(["strict", "workspace"], variables={**HERE, "CWD": "/home/u/work/sub"}, extra=extra)
    entry = files(policy).read[0]
    assert (entry.text, entry.origin, entry.forms) == ("out", "--allow-read", ("/home/u/work/sub/out",))
    assert files(policy).block[0].forms == ("/home/u/work/sub/*.key",)
    assert network(policy).allow[0].origin == "--allow-host"
    assert policy.layers[0].limits.memory_bytes == 8 << 20
    assert files(policy, 1).read[0].text == "/"


def test_an_allow_flag_never_closes_what_was_open() -> None:
    policy = load_text("", variables=HERE, extra={"files": {"read": ["/x"]}, "network": {"allow": ["x.com"]}})
    assert files(policy).read_list == ""
    assert network(policy).allow_list == ""
    assert network(policy).origin == ""


def test_a_bad_flag_is_told_as_the_flag() -> None:
    with pytest.raises(PolicyMistakes, match=r"^--allow-host: 'a b' cannot be used"):
        load(variables=HERE, extra={"network": {"allow": ["a b"]}})
    with pytest.raises(PolicyMistakes, match=r"^--memory: 'lots'"):
        load(variables=HERE, extra={"limits": {"memory": "lots"}})


def test_observe_leaves_the_administrator_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(variables=HERE, observe=True).mode == "observe"
    write(tmp_path, policy="files: {block: [/x]}")
    path = str(tmp_path / "policy.yaml")
    monkeypatch.setattr("agent_safety_layer.policy.loading.ADMINISTRATOR", path)
    policy = load(["workspace", path], variables=HERE, observe=True)
    assert [layer.mode for layer in policy.layers] == ["observe", "enforce"]
    assert [layer.name for layer in policy.enforced.layers] == ["policy"]
    assert ADMINISTRATOR == "/etc/asl/policy.yaml"


# Links


def test_literal_paths_are_resolved_and_keep_their_own_name(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "deep").symlink_to(tmp_path / "link")
    base = os.path.realpath(tmp_path)
    text = f"files: {{block: ['{tmp_path}/deep', '{tmp_path}/link/x', '{tmp_path}/link/**/y', '{tmp_path}/none/z']}}"
    block = files(load_text(text, variables=HERE)).block
    assert block[0].forms == (f"{base}/real", f"{base}/deep")
    assert block[1].forms == (f"{base}/real/x",)
    assert block[2].forms == (f"{base}/real/**/y",)
    assert block[3].forms == (f"{base}/none/z",)
    assert block[0].text == f"{tmp_path}/deep"


def test_links_that_the_agent_may_have_made_are_not_followed_to_allow(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/etc")
    base = os.path.realpath(tmp_path)
    text = "files: {write: ['${WORKSPACE}/out'], block: ['${WORKSPACE}/out']}"
    policy = load_text(text, variables={"HOME": "/home/u", "WORKSPACE": base})
    assert files(policy).write[0].forms == (f"{base}/out",)
    assert files(policy).block[0].forms == ("/etc", f"{base}/out")


def test_a_circle_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert "circle" in str(mistakes(f"files: {{block: ['{tmp_path}/a']}}")[0])


# The cache


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process remembers no drafts."""

    class Nothing(dict[object, object]):
        def __setitem__(self, key: object, kept: object) -> None:
            pass

    monkeypatch.setattr("agent_safety_layer.policy.draft._known", Nothing())


@pytest.mark.usefixtures("forgetful")
def test_the_cache_is_used_and_trusted_only_when_it_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    first = load(["workspace"], variables=HERE, cache=str(cache))
    kept = sorted(cache.iterdir())
    assert [path.name.startswith("policy-") for path in kept] == [True, True]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in kept)

    def unused(*_: object) -> None:
        raise AssertionError("parsed although it was cached")

    monkeypatch.setattr("agent_safety_layer.policy.yaml.compose", unused)
    assert load(["workspace"], variables=HERE, cache=str(cache)) == first
    kept[0].chmod(0o622)
    with pytest.raises(AssertionError, match="parsed although"):
        load(["workspace"], variables=HERE, cache=str(cache))


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("junk", [b"", b"junk", b"\xe9\x00", b"i\x01\x00\x00\x00"])
def test_a_broken_cache_is_no_cache(tmp_path: Path, junk: bytes) -> None:
    first = load(["strict"], variables=HERE, cache=str(tmp_path))
    for path in tmp_path.iterdir():
        path.write_bytes(junk)
    assert load(["strict"], variables=HERE, cache=str(tmp_path)) == first


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    load(["strict"], variables=HERE, cache=str(tmp_path / "file" / "below"))


def test_a_process_parses_a_document_once_and_one_that_changed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_safety_layer.policy.draft._known", {})
    write(tmp_path, mine="extends: base.yaml\nfiles: {block: [/x]}", base="files: {block: [/y]}", broken="fils: {}")
    first = load([f"{tmp_path}/mine.yaml"], variables=HERE)
    parsed: list[str] = []

    def noted(raw: bytes, shown: str) -> object:
        parsed.append(shown)
        return compose(raw, shown)

    monkeypatch.setattr("agent_safety_layer.policy.yaml.compose", noted)
    assert load([f"{tmp_path}/mine.yaml"], variables=HERE) == first
    assert parsed == []
    write(tmp_path, base="files: {block: [/z]}")
    assert [entry.text for entry in files(load([f"{tmp_path}/mine.yaml"], variables=HERE)).block] == ["/x", "/z"]
    assert parsed == [f"{tmp_path}/base.yaml"]
    for _ in range(2):  # what is wrong is told each time
        with pytest.raises(PolicyMistakes):
            load([f"{tmp_path}/broken.yaml"], variables=HERE)


def test_equal_policies_have_equal_hashes() -> None:
    one, two = (load(["workspace"], variables=HERE) for _ in range(2))
    assert one.sha256 == two.sha256
    assert one.sha256 != load(["strict"], variables=HERE).sha256


def test_a_run_cannot_change_the_policy_that_it_runs_under(tmp_path: Path) -> None:
    write(
        tmp_path, base="files: {block: [/x]}", mine="extends: base.yaml\nfiles: {read: ['/'], write: ['${WORKSPACE}']}"
    )
    (tmp_path / "link.yaml").symlink_to("mine.yaml")
    base = os.path.realpath(tmp_path)
    policy = load([f"{base}/link.yaml"], variables={"HOME": "/home/u", "WORKSPACE": base})
    for name in ("link.yaml", "mine.yaml", "base.yaml"):
        decision = decide(policy, State(), Event("file.write", path=f"{base}/{name}"))
        assert (decision.action, decision.where) == (BLOCK, "built-in")
        assert "the policy of this run" in decision.reason
        assert decide(policy, State(), Event("file.read", path=f"{base}/{name}")).action == ALLOW
    assert decide(policy, State(), Event("file.write", path=f"{base}/other.yaml")).action == ALLOW
    write(tmp_path, open="network: {allow: []}")
    assert load([f"{base}/open.yaml"], variables=HERE).layers[0].files is None


@pytest.mark.parametrize(
    ("layers", "record"),
    [
        ((), "all"),
        (("",), "all"),
        (("record: changes",), "changes"),
        (("record: changes", ""), "changes"),
        (("record: changes", "record: all"), "all"),
        (("record: changes", "mode: observe"), "all"),
        (("record: changes", "limits: {operations: 5}"), "all"),
    ],
)
def test_what_is_recorded_is_what_the_most_curious_layer_wants(layers: tuple[str, ...], record: str) -> None:
    made = [load_text(f"version: 1\n{text}", variables={}).layers[0] for text in layers]
    assert Policy(tuple(made)).record == record


@pytest.mark.parametrize(
    ("given", "meant"), [(50, "write 50MiB if that is meant"), ("50", "50MiB"), ("4k", "100MiB or more")]
)
def test_memory_in_which_nothing_runs_is_a_mistake(given: int | str, meant: str) -> None:
    with pytest.raises(PolicyMistakes, match=meant):
        load_text("", variables=HERE, extra={"limits": {"memory": given}})
