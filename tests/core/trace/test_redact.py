import time

import pytest

from agent_safety_layer.events import Decision, Event
from agent_safety_layer.trace import redact
from agent_safety_layer.trace.encode import body
from agent_safety_layer.trace.reader import parse

SECRET = "hunter2Hunter2"
HEX = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    "argv",
    [
        ["tool", f"--password={SECRET}"],
        ["tool", "--password", SECRET],
        ["tool", "--db-password", SECRET, "--verbose"],
        ["tool", f"PGPASSWORD={SECRET}"],
        ["env", f"API_KEY={SECRET}", "agent"],
        ["env", f"AWS_SECRET_ACCESS_KEY={SECRET}", "agent"],
        ["tool", "--token", SECRET],
        ["tool", "--api-key", SECRET],
        ["curl", "-H", f"Authorization: Bearer {SECRET}", "https://api.example.com"],
        ["curl", "-H", f"Authorization: {SECRET}"],
        ["curl", "-H", f"authorization: Basic {SECRET}=="],
        ["curl", "-H", f"X-Api-Key: {SECRET}"],
        ["curl", "-H", f"Cookie: {SECRET}"],
        ["curl", "-u", f"me:{SECRET}", "https://example.com"],
        ["curl", f"-ume:{SECRET}", "https://example.com"],
        ["/usr/bin/mysql", f"-p{SECRET}", "db"],
        ["sshpass", "-p", SECRET, "ssh", "host"],
        ["git", "clone", f"https://me:{SECRET}@example.com/repo.git"],
        ["git", "clone", f"https://me:{SECRET}:more@example.com/repo.git"],
        ["curl", f"https://example.com/?a=1&token={SECRET}&b=2"],
        ["curl", f"https://bucket.s3.amazonaws.com/x?X-Amz-Signature={SECRET}"],
        ["sh", "-c", f"mytool --password {SECRET} --go"],
        ["sh", "-c", f"export SECRET='{SECRET}'; run"],
        ["sh", "-c", f'curl -d \'{{"password": "{SECRET}"}}\' http://x'],
    ],
)
def test_secrets_by_name_and_place_are_not_recorded(argv):
    shown = redact.arguments(tuple(argv))
    assert SECRET not in " ".join(shown)
    assert redact.REDACTED in " ".join(shown)
    assert len(shown) == len(argv)
    assert redact.arguments(shown) == shown or SECRET not in " ".join(redact.arguments(shown))


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnop1234",
        "sk-ant-api03-abcdefghijklmnop",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "github_pat_11ABCDEFG0abcdefghijkl_mnop",
        "glpat-abcdefghijklmnopqrst",
        "xoxb-123456789012-abcdef",
        "AKIAIOSFODNN7EXAMPLE",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv",
        "hf_abcdefghijklmnopqrstuvwxyz",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN",
    ],
)
def test_secrets_by_form_are_not_recorded(secret):
    for argv in (("tool", secret), ("tool", f"x={secret}"), ("sh", "-c", f"echo {secret} | tool")):
        assert secret not in " ".join(redact.arguments(argv))
    assert secret not in redact.text(f"call({secret!r})")


def test_long_hex_after_a_key():
    assert HEX not in " ".join(redact.arguments(("tool", "--encryption-key", HEX)))
    assert HEX not in " ".join(redact.arguments(("tool", "--key", HEX)))
    assert HEX not in " ".join(redact.arguments(("tool", f"key={HEX}")))


def test_private_keys():
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----"
    assert "b3Blbn" not in redact.text(key)


@pytest.mark.parametrize(
    "argv",
    [
        ["git", "commit", "-m", "explain the monkey patch"],
        ["python", "-m", "pytest", "tests/test_tokenizer.py", "--maxfail=1"],
        ["train", "--max_tokens=100", "--tokenizer", "gpt2"],
        ["git", "clone", "https://github.com/me/repo.git"],
        ["git", "clone", "git@github.com:me/repo.git"],
        ["git", "show", HEX],
        ["ssh", "me@host", "ls"],
        ["passwd", "--help"],
        ["mysql", "-p", "database"],
        ["tool", "--password", "--user"],
        ["tool", "--key", "./server.pem"],
        ["ls", "/home/me/secrets"],
        ["sh", "-c", "cat <<EOF\nauthor: me\nEOF"],
    ],
)
def test_ordinary_words_stay(argv):
    argv = tuple(argv)
    assert redact.arguments(argv) is argv


def test_what_surrounds_a_secret_stays():
    shown = redact.arguments(("curl", f"https://me:{SECRET}@example.com/a?token={SECRET}&page=2"))
    assert shown == ("curl", "https://me:[redacted]@example.com/a?token=[redacted]&page=2")


@pytest.mark.parametrize(
    "unit", ["password", "key=", "://a:", "-----BEGIN PRIVATE KEY-----", "sk-", "eyJa.", "token ", "a://b@", "auth: "]
)
def test_hostile_arguments_take_linear_time(unit):
    def seconds(times):
        start = time.process_time()
        redact.text(unit * times)
        return time.process_time() - start

    seconds(10)
    size = 200_000 // len(unit)
    assert seconds(size) < 5


def test_a_redacted_event_says_so_and_an_ordinary_one_does_not():
    def line(argv):
        event = Event("process.exec", argv=argv, path="/usr/bin/tool")
        decision = Decision("block", "exec.block", "p.yaml:3", f"matches: {' '.join(argv)}")
        return parse(b'{"type":"event","seq":1,"time":0.0,"us":0,' + body(event, decision, "block", "EACCES"), 1)

    hidden = line(("tool", f"--password={SECRET}"))
    assert hidden.redacted
    assert SECRET.encode() not in hidden.raw
    assert hidden.entry.decision.rule == "exec.block"
    assert not line(("tool", "--verbose")).redacted
