"""The built-in profiles: sound, and sensible about what agents do all day."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_safety_layer.events import ALLOW, ASK, BLOCK, WARN, Event
from agent_safety_layer.policy import PROFILES, Policy, State, System, decide, load, plan, profile_path

HERE = {"WORKSPACE": "/home/u/w", "HOME": "/home/u", "TMP": "/tmp/run", "STATE": "/home/u/.local/state/asl"}
W, H = "/home/u/w", "/home/u"


@pytest.fixture(scope="module")
def profiles() -> dict[str, Policy]:
    return {name: load([name], variables=HERE) for name in PROFILES}


def file(kind: str, path: str) -> Event:
    return Event(f"file.{kind}", path=path, path2=path if kind in ("rename", "link") else "")


def run(*argv: str, path: str = "") -> Event:
    return Event("process.exec", argv=argv, path=path or f"/usr/bin/{argv[0]}")


def reach(host: str, ip: str, port: int = 443) -> Event:
    return Event("net.connect", host=host, ip=ip, port=port)


WORKSPACE = [
    # Work
    (file("read", f"{W}/src/a.py"), ALLOW),
    (file("write", f"{W}/src/a.py"), ALLOW),
    (file("create", f"{W}/new/deep/file"), ALLOW),
    (file("delete", f"{W}/src/a.py"), ALLOW),
    (file("rename", f"{W}/src/a.py"), ALLOW),
    (file("meta", f"{W}/run.sh"), ALLOW),
    (file("list", f"{W}"), ALLOW),
    (file("write", "/tmp/run/x"), ALLOW),
    (file("write", "/tmp/other"), BLOCK),
    (file("read", "/tmp/other"), ALLOW),
    (file("read", "/usr/lib/python3/os.py"), ALLOW),
    (file("read", "/etc/passwd"), ALLOW),
    (file("read", f"{H}/.gitconfig"), ALLOW),
    (file("read", f"{H}/.cache/pip/x"), ALLOW),
    (file("read", f"{H}/other-project/main.c"), ALLOW),
    (file("read", "/proc/self/status"), ALLOW),
    (file("write", "/dev/null"), ALLOW),
    (file("write", "/dev/tty"), ALLOW),
    (file("create", "/dev/shm/sem.mp-abc"), ALLOW),
    (file("create", "/dev/shm/psm_1234"), ALLOW),
    (file("write", "/dev/shm/pulse-shm-1"), BLOCK),
    # Git
    (file("create", f"{W}/.git/index.lock"), ALLOW),
    (file("create", f"{W}/.git/hooks/pre-commit.sample"), ALLOW),
    (file("create", f"{W}/.git/hooks/pre-commit"), BLOCK),
    (file("create", f"{W}/sub/.git/modules/lib/hooks/pre-commit"), BLOCK),
    (Event("file.create", path=f"{W}/.git", syscall="mkdir"), ALLOW),
    (Event("file.create", path=f"{W}/.git/hooks", syscall="mkdirat"), ALLOW),
    (Event("file.create", path=f"{W}/.git/hooks", mode=0o120777), BLOCK),
    (Event("file.create", path=f"{W}/sub/.git", mode=0o120777), BLOCK),
    (Event("file.rename", path=f"{W}/l", path2=f"{W}/sub/.git/hooks", mode=0o120777), BLOCK),
    (Event("file.rename", path=f"{W}/d", path2=f"{W}/sub/.git/hooks", mode=0o40755), ALLOW),
    (Event("file.link", path=f"{W}/f", path2=f"{W}/.git", mode=0o100644), BLOCK),
    (file("create", f"{W}/.git"), BLOCK),
    (file("write", f"{W}/.git"), BLOCK),
    (file("create", f"{W}/sub/.git"), WARN),
    (file("create", f"{W}/vendor/lib/.git/hooks/post-checkout"), BLOCK),
    (file("read", f"{W}/.git/hooks/pre-commit"), ALLOW),
    (file("rename", f"{W}/.git/config"), WARN),
    (file("read", f"{W}/.git/config"), ALLOW),
    (file("write", f"{W}/sub/.git/config"), WARN),
    # Outside
    (file("write", "/etc/passwd"), BLOCK),
    (file("write", f"{H}/.bashrc"), BLOCK),
    (file("write", f"{H}/notes"), BLOCK),
    (file("delete", "/usr/bin/python3"), BLOCK),
    (file("write", "/dev/sda"), BLOCK),
    # Secrets
    (file("read", "/dev/nbd0"), BLOCK),
    (file("read", "/dev/snd/pcmC0D0c"), BLOCK),
    (file("read", "/dev/random"), ALLOW),
    (file("read", f"{H}/.ssh/id_ed25519"), BLOCK),
    (file("list", f"{H}/.ssh"), BLOCK),
    (file("read", f"{H}/.aws/credentials"), BLOCK),
    (file("read", f"{H}/.config/gcloud/x"), BLOCK),
    (file("read", f"{H}/.config/gh/hosts.yml"), BLOCK),
    (file("read", f"{H}/.config/google-chrome/Default/Cookies"), BLOCK),
    (file("read", f"{H}/.mozilla/firefox/x/logins.json"), BLOCK),
    (file("read", f"{H}/.bash_history"), BLOCK),
    (file("read", f"{H}/.netrc"), BLOCK),
    (file("read", f"{H}/.docker/config.json"), BLOCK),
    (file("read", f"{H}/.kube/config"), BLOCK),
    (file("read", f"{H}/.local/share/keyrings/login.keyring"), BLOCK),
    (file("read", f"{H}/.env"), BLOCK),
    (file("read", f"{H}/src/other/.env"), BLOCK),
    (file("read", f"{W}/.env"), BLOCK),
    (file("read", f"{W}/deploy/prod/.env"), BLOCK),
    (file("write", f"{W}/.env"), BLOCK),
    (file("read", f"{W}/.env.production"), BLOCK),
    (file("read", f"{W}/.env.example"), ALLOW),
    (file("read", f"{W}/tests/server.pem"), ALLOW),
    (file("read", "/etc/shadow"), BLOCK),
    (file("read", "/etc/ssh/ssh_host_ed25519_key"), BLOCK),
    (file("read", "/etc/ssh/ssh_host_ed25519_key.pub"), ALLOW),
    (file("read", "/run/secrets/token"), BLOCK),
    (file("read", "/run/user/1000/keyring/control"), BLOCK),
    (file("read", f"{H}/.local/state/asl/traces/x.jsonl"), BLOCK),
    # What would act later
    (file("write", f"{W}/.vscode/tasks.json"), BLOCK),
    (file("read", f"{W}/.vscode/tasks.json"), ALLOW),
    (file("create", f"{W}/clone/.vscode/tasks.json"), ALLOW),
    (file("write", f"{W}/.claude/settings.json"), BLOCK),
    (file("link", f"{H}/.bashrc"), BLOCK),
    # Programs
    (run("ls", "-la"), ALLOW),
    (run("python", "agent.py", path=f"{W}/.venv/bin/python"), ALLOW),
    (run("git", "push"), ALLOW),  # the network asks
    (run("rm", "-rf", "build"), ALLOW),
    (run("rm", "-rf", f"{W}/build"), ALLOW),
    (run("rm", "-rf", "/"), BLOCK),
    (run("/bin/rm", "-r", "-f", "/", path="/usr/bin/rm"), BLOCK),
    (run("rm", "-rf", "--no-preserve-root", "/"), BLOCK),
    (run("sudo", "ls"), BLOCK),
    (run("su"), BLOCK),
    (run("crontab", "-e"), BLOCK),
    (run("x", path=f"{H}/.ssh/x"), BLOCK),
    # Network
    (reach("api.openai.com", "104.18.6.192"), ASK),
    (reach("", "8.8.8.8", 53), ASK),
    (Event("net.dns", host="pypi.org"), ASK),
    (Event("net.dns", host="localhost"), ALLOW),
    (reach("", "10.0.0.1"), BLOCK),
    (reach("", "127.0.0.1", 5432), BLOCK),
    (reach("", "169.254.169.254", 80), BLOCK),
    (Event("net.listen", ip="127.0.0.1", port=8000), ALLOW),
    (Event("net.listen", ip="0.0.0.0", port=8000), BLOCK),
    (Event("net.unix", path="/run/docker.sock"), BLOCK),
    (Event("net.unix", path="/run/user/1000/bus"), BLOCK),
    (Event("net.unix", path=f"{W}/.s.sock"), ALLOW),
    (Event("net.unix", path="/tmp/run/agent.sock"), ALLOW),
]


@pytest.mark.parametrize(
    ("event", "action"),
    WORKSPACE,
    ids=[f"{e.kind} {' '.join(e.argv) or e.path or e.host or e.ip}" for e, _ in WORKSPACE],
)
def test_workspace(profiles: dict[str, Policy], event: Event, action: str) -> None:
    decision = decide(profiles["workspace"], State(), event)
    assert decision.action == action, decision
    if action != ALLOW:
        assert decision.where
        assert decision.reason


@pytest.mark.parametrize("name", PROFILES)
def test_secrets_and_later_escapes_are_refused_in_every_profile(profiles: dict[str, Policy], name: str) -> None:
    refused = [event for event, action in WORKSPACE if action == BLOCK and event.kind.startswith("file.")]
    assert len(refused) > 25
    for event in refused:
        assert decide(profiles[name], State(), event).action == BLOCK, event
    for path in (f"{W}/src/a.py", "/tmp/run/x"):  # while work goes on
        assert decide(profiles[name], State(), file("write", path)).action == ALLOW


@pytest.mark.parametrize("name", ["offline", "ci", "strict"])
def test_only_workspace_asks(profiles: dict[str, Policy], name: str) -> None:
    for event, action in WORKSPACE:
        decided = decide(profiles[name], State(), event).action
        assert decided != ASK
        if action == ASK:
            assert decided == BLOCK


@pytest.mark.parametrize(
    ("event", "action"),
    [
        (file("read", "/usr/lib/python3/os.py"), ALLOW),
        (file("read", "/etc/ld.so.cache"), ALLOW),
        (file("read", "/etc/ssl/certs/ca-certificates.crt"), ALLOW),
        (file("read", "/etc/fstab"), BLOCK),
        (file("read", f"{H}/notes"), BLOCK),
        (file("read", "/var/log/syslog"), BLOCK),
        (file("write", f"{W}/a"), ALLOW),
        (file("write", f"{W}/.git/config"), BLOCK),
        (run("ls", path="/usr/bin/ls"), ALLOW),
        (run("tool", path=f"{H}/bin/tool"), BLOCK),
    ],
)
def test_strict(profiles: dict[str, Policy], event: Event, action: str) -> None:
    assert decide(profiles["strict"], State(), event).action == action


def test_a_host_can_be_allowed_by_a_flag_in_every_profile() -> None:
    for name in PROFILES:
        policy = load([name], variables=HERE, extra={"network": {"allow": ["api.openai.com:443"]}})
        assert decide(policy, State(), reach("api.openai.com", "104.18.6.192")).action == ALLOW
        assert decide(policy, State(), reach("example.com", "93.184.216.34")).action != ALLOW


def test_secrets_protect_a_home_that_is_the_working_directory() -> None:
    policy = load(variables={**HERE, "WORKSPACE": H})
    for path in (".ssh/id", ".bashrc", ".config/autostart/x.desktop", ".local/bin/ls", ".claude/settings.json"):
        assert decide(policy, State(), file("write", f"{H}/{path}")).action == BLOCK
    assert decide(policy, State(), file("write", f"{H}/thesis.tex")).action == ALLOW


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_can_be_copied(name: str, tmp_path: Path) -> None:
    text = Path(profile_path(name)).read_text()
    assert text.startswith("#")  # says what it is for
    copy = tmp_path / "mine.yaml"
    copy.write_text(text)
    assert load([str(copy)], variables=HERE).layers[0].files is not None


def test_the_default_profile_needs_no_regular_expressions(profiles: dict[str, Policy]) -> None:
    for policy in profiles.values():
        assert not any(rule.condition.match for layer in policy.layers for rule in layer.rules)
        assert not policy.stateful


def test_the_default_profile_is_bounded_in_a_clean_working_directory(tmp_path: Path) -> None:
    home, work, tmp = tmp_path / "home", tmp_path / "home" / "w", tmp_path / "tmp"
    for folder in (home / ".ssh", work / "src", tmp):
        folder.mkdir(parents=True)
    variables = {"WORKSPACE": str(work), "HOME": str(home), "TMP": str(tmp), "STATE": str(home / ".state")}
    found = plan(load(variables=variables), System())
    assert found.wave_reads, found.notes
    assert str(work) in found.read
    assert "/dev/null" in found.write
    assert str(work) not in found.write
    assert str(tmp) not in found.write
    assert not any(path.startswith(str(home / ".ssh")) for path in found.read)
    (work / "src" / ".env").write_text("KEY=1")
    assert not plan(load(variables=variables), System()).wave_reads


def test_a_program_installed_in_the_working_directory_is_out_of_reach() -> None:
    source = Path(profile_path("workspace")).resolve()
    policy = load(variables={**HERE, "WORKSPACE": str(source.parents[4])})
    assert decide(policy, State(), file("write", str(source))).action == BLOCK
    assert decide(policy, State(), file("write", str(source.parents[4] / "other.py"))).action == ALLOW
