"""Paths folded into few lines: by tiers, never across secrets, and never losing a path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_safety_layer.policy.tiers import READS, WRITES, Line, Steps, Use, fold

SECRETS = ("~/.ssh", "~/.config/gh", "~/.netrc", "/etc/shadow", "/etc/ssl/private")


def secret(steps: Steps) -> str:
    said = "/".join(steps)
    if any(f"{said}/".startswith(f"{place}/") for place in SECRETS):
        return "within"
    return "around" if any(place.startswith(f"{said}/") for place in SECRETS) else ""


def steps(path: str) -> Steps:
    return tuple(path.split("/")) if path != "/" else ("",)


def folded(*paths: str, write: bool = False, folders: tuple[str, ...] = (), gone: tuple[str, ...] = ()) -> list[str]:
    uses = {steps(path): Use(1, folder=path in folders, gone=path in gone) for path in (*paths, *folders, *gone)}
    return [line.text for line in fold(uses, WRITES if write else READS, secret)]


@pytest.mark.parametrize(
    ("paths", "lines"),
    [
        (("/usr/lib/a.so", "/usr/share/b"), ["/usr"]),
        (("/etc/hosts", "/etc/passwd"), ["/etc/hosts", "/etc/passwd"]),
        (("/etc/ssl/certs/a.pem", "/etc/ssl/openssl.cnf"), ["/etc/ssl/certs", "/etc/ssl/openssl.cnf"]),
        (("${WORKSPACE}/a", "${WORKSPACE}/b/c"), ["${WORKSPACE}"]),
        (("~/.cache/x/1", "~/.cache/x/2", "~/.cache/y/1"), ["~/.cache/x", "~/.cache/y/1"]),
        (("~/.pyenv/a", "~/.pyenv/b/c"), ["~/.pyenv"]),
        (("~/.config/gh/a", "~/.config/gh/b", "~/.config/x/1"), ["~/.config/gh/a", "~/.config/gh/b", "~/.config/x/1"]),
        (("~/.ssh/config", "~/.ssh/known_hosts", "~/.ssh/id"), ["~/.ssh/config", "~/.ssh/id", "~/.ssh/known_hosts"]),
        (("~/src/a/1", "~/src/a/2", "~/src/a/3"), ["~/src/a"]),
        (("~/a", "~/b", "~/c", "~/d", "~/e", "~/f"), ["~/a", "~/b", "~/c", "~/d", "~/e", "~/f"]),
        (("/srv/d/1", "/srv/d/2"), ["/srv/d/1", "/srv/d/2"]),
        (("/srv/d/1", "/srv/d/2", "/srv/d/3"), ["/srv/d"]),
        (("/srv/a", "/srv/b", "/srv/c"), ["/srv/a", "/srv/b", "/srv/c"]),
        (("/sys/devices/system/cpu/online",), ["/sys/devices/system/cpu"]),
        (("/proc/*/maps", "/proc/*/status", "/proc/*/stat", "/proc/meminfo"), None),
        (("/dev/a", "/dev/b", "/dev/c"), ["/dev/a", "/dev/b", "/dev/c"]),
    ],
)
def test_reads(paths: tuple[str, ...], lines: list[str] | None) -> None:
    assert folded(*paths) == (sorted(paths) if lines is None else lines)


@pytest.mark.parametrize(
    ("paths", "lines"),
    [
        (("${WORKSPACE}/out/a", "${WORKSPACE}/b"), ["${WORKSPACE}/b", "${WORKSPACE}/out/a"]),
        (("${WORKSPACE}/out/a", "${WORKSPACE}/out/b", "${WORKSPACE}/out/c"), ["${WORKSPACE}/out"]),
        (tuple(f"${{WORKSPACE}}/{name}" for name in "abcdef"), ["${WORKSPACE}"]),
        (("${WORKSPACE}/.git/index", "${WORKSPACE}/.git/HEAD"), ["${WORKSPACE}/.git"]),
        (("${WORKSPACE}/a/__pycache__/x.pyc",), ["${WORKSPACE}/a/__pycache__"]),
        (("${TMP}/a",), ["${TMP}"]),
    ],
)
def test_writes(paths: tuple[str, ...], lines: list[str]) -> None:
    assert folded(*paths, write=True) == lines


def test_a_folder_that_was_listed_stands_for_itself_alone() -> None:
    assert folded(folders=("~", "/")) == ["/.", "~/."]
    assert folded("/usr/a", folders=("/usr",)) == ["/usr"]


def test_what_is_made_under_new_names_is_told_by_their_beginning() -> None:
    assert folded(write=True, gone=("${WORKSPACE}/a.json.tmp8x2",)) == ["${WORKSPACE}/a.json.tmp*"]
    assert folded(write=True, gone=("${WORKSPACE}/d/83f1",)) == ["${WORKSPACE}/d"]
    assert folded(write=True, gone=("${WORKSPACE}/83f1",)) == ["${WORKSPACE}/83f1"]


_NAMES = ["a", "b", "c", "usr", "etc", ".ssh", ".config", "gh", "x", ".netrc", "shadow", "d8"]
_STEPS = st.tuples(st.sampled_from(["", "~", "${WORKSPACE}", "${TMP}"])).flatmap(
    lambda root: st.lists(st.sampled_from(_NAMES), max_size=4).map(lambda names: (*root, *names))
)


@given(
    st.dictionaries(
        _STEPS, st.builds(Use, st.just(1), folder=st.booleans(), made=st.booleans(), gone=st.booleans()), max_size=12
    ),
    st.sampled_from([READS, WRITES]),
)
def test_every_path_is_covered_and_no_secret_is_folded_over(uses: dict[Steps, Use], tiers: tuple[object, ...]) -> None:
    lines = fold(uses, tiers, secret)  # type: ignore[arg-type]
    for path in uses:
        assert any(line.covers(Line(path, 1, 1, alone=True)) for line in lines)
    for line in lines:
        if secret(line.steps) and not line.alone:
            assert line.steps in uses
        if not line.alone and not line.wild and line.steps not in uses:
            assert not secret(line.steps)
    assert sum(line.count for line in lines) == len(uses)
