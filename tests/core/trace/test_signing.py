"""Signatures: what they prove, and that nothing passes without them when a key is given."""

import stat
import subprocess

import pytest

from agent_safety_layer.errors import TraceError, UnsupportedError
from agent_safety_layer.events import Decision, Event
from agent_safety_layer.trace import writer as writing
from agent_safety_layer.trace.encode import body
from agent_safety_layer.trace.header import key_path
from agent_safety_layer.trace.verify import CHANGED, INTACT, TRUNCATED, verify, verify_lines
from agent_safety_layer.trace.writer import TraceWriter

pytest.importorskip("cryptography")
from agent_safety_layer.trace.signing import Checker, generate, signer


def write(path, sign):
    writer = TraceWriter(str(path), {"run": "r"}, sign=sign)
    for number in range(7):
        writer.add(body(Event("file.read", path=f"/{number}"), Decision("allow"), "allow"), 1.0)
        writer.flush()
    writer.close({"outcome": "exited"})
    return path.read_bytes().splitlines(keepends=True)


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "key"
    generate(str(path))
    return str(path)


@pytest.fixture
def lines(tmp_path, key, monkeypatch):
    monkeypatch.setattr(writing, "CHECKPOINT_EVENTS", 3)
    return write(tmp_path / "t.jsonl", signer(key)[0])


def test_a_signed_trace_is_intact_with_its_key_and_without(lines, key):
    for half in (key, f"{key}.pub"):
        checker = Checker(half)
        verdict = verify_lines(lines, checker)
        assert verdict.state == INTACT
        assert f"signed with the key {checker.name}" in verdict.message
    verdict = verify_lines(lines)
    assert verdict.state == INTACT
    assert "--key" in verdict.message


def test_each_changed_byte_is_found_and_its_line_named(lines, key):
    checker = Checker(key)
    whole = b"".join(lines)
    position = 0
    for number, line in enumerate(lines, 1):
        for at in range(len(line)):
            for flip in (0x01, 0x20):
                changed = bytearray(whole)
                changed[position + at] ^= flip
                verdict = verify_lines(bytes(changed).splitlines(keepends=True), checker)
                assert (verdict.state, verdict.line) == (CHANGED, number), (number, at, flip, verdict)
        position += len(line)


def test_a_trace_made_anew_without_the_key_is_found(tmp_path, key, monkeypatch):
    monkeypatch.setattr(writing, "CHECKPOINT_EVENTS", 3)
    other = tmp_path / "other"
    generate(str(other))
    unsigned = verify_lines(write(tmp_path / "u.jsonl", None), Checker(key))
    assert (unsigned.state, unsigned.line) == (CHANGED, 4)
    assert "is not signed" in unsigned.message
    forged = verify_lines(write(tmp_path / "f.jsonl", signer(str(other))[0]), Checker(key))
    assert (forged.state, forged.line) == (CHANGED, 4)
    assert "not signed with the key" in forged.message


def test_a_signature_of_another_trace_does_not_hold(tmp_path, lines, key):
    second = write(tmp_path / "second.jsonl", lambda digest: signer(key)[0]("0" * 64))
    assert verify_lines(second, Checker(key)).state == CHANGED


def test_a_signed_trace_cut_anywhere_is_truncated(lines, key):
    whole, checker = b"".join(lines), Checker(key)
    for size in range(0, len(whole), 7):
        assert verify_lines(whole[:size].splitlines(keepends=True), checker).state == TRUNCATED


def test_keys_of_ssh_keygen_do(tmp_path, lines):
    path = tmp_path / "ssh"
    try:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    except FileNotFoundError:
        pytest.skip("ssh-keygen is not installed")
    write(tmp_path / "s.jsonl", signer(str(path))[0])
    assert verify(tmp_path / "s.jsonl", Checker(f"{path}.pub")).state == INTACT
    assert Checker(str(path)).name == Checker(f"{path}.pub").name == signer(str(path))[1]


def test_a_key_is_ours_alone_and_never_overwritten(key):
    with open(key, "rb") as file:
        assert stat.S_IMODE(__import__("os").fstat(file.fileno()).st_mode) == 0o600
    with pytest.raises(TraceError, match="cannot be made"):
        generate(key)


def test_what_is_no_key_is_an_error(tmp_path):
    bad = tmp_path / "bad"
    bad.write_text("-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n")
    for use in (signer, Checker):
        with pytest.raises(TraceError, match="Not a private key"):
            use(str(bad))
        with pytest.raises(TraceError, match="cannot be read") as caught:
            use(str(tmp_path / "none"))
        assert "keygen" in caught.value.remedy
    bad.write_text("hello")
    with pytest.raises(TraceError, match="Not a public key"):
        Checker(str(bad))
    rsa = subprocess.run(["openssl", "genpkey", "-algorithm", "RSA"], capture_output=True, check=False)
    if rsa.returncode == 0:
        bad.write_bytes(rsa.stdout)
        with pytest.raises(TraceError, match="Ed25519"):
            signer(str(bad))


def test_where_the_key_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("ASL_TRACE_KEY", raising=False)
    assert key_path(str(tmp_path)) == ""
    (tmp_path / "trace.key").write_text("x")
    assert key_path(str(tmp_path)) == f"{tmp_path}/trace.key"
    monkeypatch.setenv("ASL_TRACE_KEY", "/elsewhere")
    assert key_path(str(tmp_path)) == "/elsewhere"


def test_without_the_package_it_is_said(monkeypatch, key):
    import sys

    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(UnsupportedError, match="need the package cryptography"):
        signer(key)
