import os

import pytest

from agent_safety_layer.doctor import FALLBACK, FALLBACKS, FULL, NONE, REQUIRED, diagnose, text, verdict_on
from asl_hooks import probe as module
from asl_hooks.probe import PROBES, Finding, probe, probes
from tests import requirements
from tests.requirements import requires

MISSING = Finding("x", "wanted", "found", False, "remedy")


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()


def test_every_probe_answers_and_leaves_nothing_behind():
    before, descriptors = children(), os.listdir("/proc/self/fd")
    namespaces = {name: os.readlink(f"/proc/self/ns/{name}") for name in ("user", "net", "mnt", "pid", "uts")}
    findings = probes()
    assert [finding.name for finding in findings] == list(PROBES)
    for finding in findings:
        assert finding.found
        assert finding.wanted
        assert finding.ok or finding.remedy
        assert finding.ok == bool(finding.level)
    assert children() == before
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)
    assert {name: os.readlink(f"/proc/self/ns/{name}") for name in namespaces} == namespaces
    with open("/proc/self/status") as status:
        assert "NoNewPrivs:\t0" in status.read() or os.environ.get("ASL_RUN_ID")


def test_probes_agree_with_the_kernel():
    from asl_hooks import landlock

    assert probe("landlock").level == landlock.abi()
    assert os.uname().release in probe("kernel").found
    assert ("root" if os.geteuid() == 0 else str(os.geteuid())) in probe("user").found


@pytest.mark.parametrize("name", PROBES)
def test_what_is_taken_away_is_missing(name):
    finding = probe(name, {name})
    assert not finding.ok
    assert finding.level == 0
    assert "ASL_WITHOUT" in finding.found


def test_a_probe_sees_a_machine_that_refuses():
    """The same probe, in a child under a filter that refuses what it uses: the positive control is the run above."""
    from errno import EPERM

    from asl_hooks import bpf, syscalls
    from asl_hooks._abi import linux
    from tests.kernel.child import outcome

    refused = {
        "userns": ("unshare",),
        "pidns": ("unshare",),
        "netns": ("unshare",),
        "mountns": ("mount",),
        "landlock": ("landlock_restrict_self",),
        "ptrace": ("ptrace",),
        "pidfd_getfd": ("pidfd_getfd",),
        "notify": ("seccomp",),
    }
    for name, calls in refused.items():
        if not probe(name).ok:
            continue

        def inside(name=name, calls=calls):
            linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            rules = (bpf.Rule(calls, bpf.fail(EPERM)),)
            bpf.install(bpf.assemble(bpf.Filter(syscalls.native_arch(), rules)))
            finding = module.probe(name)
            return int(not finding.ok and bool(finding.remedy) and "not permitted" in finding.found.lower())

        assert outcome(inside) == 1, name


def test_verdicts():
    fine = [Finding(name, "w", "f", True, "", 7) for name in PROBES]
    assert verdict_on(fine) == FULL

    def without(name):
        return [Finding(f.name, "w", "f", False, "r") if f.name == name else f for f in fine]

    for name in REQUIRED:
        assert verdict_on(without(name)) == NONE
    for name in FALLBACKS:
        assert verdict_on(without(name)) == FALLBACK
    assert verdict_on([Finding("landlock", "w", "ABI 4", True, "", 4)]) == FALLBACK
    neither = [Finding(f.name, "w", "f", f.name not in ("notify", "ptrace"), "r", 7) for f in fine]
    assert verdict_on(neither) == NONE


def test_the_diagnosis_reads_well():
    diagnosis = diagnose({"landlock", "notify", "ptrace"})
    assert diagnosis.verdict == NONE
    said = text(diagnosis)
    assert "-- landlock" in said
    assert f"without: {FALLBACKS['landlock']}" in said
    assert "remedy: Unset ASL_WITHOUT." in said
    assert "cannot enforce" in said
    assert "\x1b" not in said
    assert "\x1b[31m" in text(diagnosis, colour=True)


def test_requires_skips_or_fails(monkeypatch):
    monkeypatch.setenv("ASL_WITHOUT", "landlock, userns")
    monkeypatch.delenv("ASL_MUST_WORK", raising=False)
    with pytest.raises(pytest.skip.Exception, match="landlock: wanted"):
        requires("landlock")
    monkeypatch.setenv("ASL_MUST_WORK", "notify,landlock")
    with pytest.raises(pytest.fail.Exception, match="landlock: wanted"):
        requires("landlock")
    with pytest.raises(pytest.skip.Exception, match="userns"):
        requires("userns")
    requires("kernel")


def test_requires_looks_at_the_abi(monkeypatch):
    monkeypatch.setattr(requirements, "found", lambda name, without: Finding(name, "w", "ABI 4", True, "", 4))
    monkeypatch.delenv("ASL_MUST_WORK", raising=False)
    requires("landlock", abi=4)
    with pytest.raises(pytest.skip.Exception, match="ABI 5"):
        requires("landlock", abi=5)


@pytest.mark.requires("kernel")
def test_the_marker_is_known():
    pass
