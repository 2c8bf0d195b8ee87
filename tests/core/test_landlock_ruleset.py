"""A ruleset on an older kernel: what is kept, and what is said to be lost."""

from __future__ import annotations

import pytest

from asl_hooks._abi import constants as k
from asl_hooks.landlock import (
    FILES,
    IOCTL_DEV,
    LOG_OFF,
    MAKE_DEVICE,
    READ,
    RESOLVE_UNIX,
    RIGHTS,
    SCOPES,
    TCP,
    WRITE,
    Ruleset,
    downgrade,
)

FULL = Ruleset(
    fs=FILES,
    net=TCP,
    scopes=SCOPES,
    paths=(("/usr", READ), ("/tmp", READ | WRITE), ("/dev/tty", IOCTL_DEV)),
    ports=((443, k.LANDLOCK_ACCESS_NET_CONNECT_TCP),),
    log=LOG_OFF,
)
LOST_BEFORE_6 = ("scope.abstract_unix_socket", "scope.signal")
LOST_BEFORE_4 = ("net.bind_tcp", "net.connect_tcp")


@pytest.mark.parametrize(
    ("abi", "handled", "lost"),
    [
        (1, ((1 << 13) - 1, 0, 0, 0), ("fs.truncate", *LOST_BEFORE_4, "fs.ioctl_dev", *LOST_BEFORE_6)),
        (2, ((1 << 14) - 1, 0, 0, 0), ("fs.truncate", *LOST_BEFORE_4, "fs.ioctl_dev", *LOST_BEFORE_6)),
        (3, ((1 << 15) - 1, 0, 0, 0), (*LOST_BEFORE_4, "fs.ioctl_dev", *LOST_BEFORE_6)),
        (4, ((1 << 15) - 1, TCP, 0, 0), ("fs.ioctl_dev", *LOST_BEFORE_6)),
        (5, (FILES, TCP, 0, 0), LOST_BEFORE_6),
        (6, (FILES, TCP, SCOPES, 0), ()),
        (7, (FILES, TCP, SCOPES, LOG_OFF), ()),
        (99, (FILES, TCP, SCOPES, LOG_OFF), ()),
    ],
)
def test_downgrade(abi: int, handled: tuple[int, int, int, int], lost: tuple[str, ...]) -> None:
    kept, names = downgrade(FULL, abi)
    assert (kept.fs, kept.net, kept.scopes, kept.log) == handled
    assert names == lost
    fs, net, _, _ = handled
    assert kept.paths == tuple((path, access & fs) for path, access in FULL.paths if access & fs)
    assert kept.ports == (FULL.ports if net else ())


def test_without_landlock_everything_is_lost() -> None:
    kept, lost = downgrade(FULL, 0)
    assert kept == Ruleset()
    assert set(lost) == {name for field, bit, name, _ in RIGHTS if field != "log" and bit & getattr(FULL, field)}
    assert "fs.refer" in lost
    assert "fs.read_file" in lost


def test_what_was_not_handled_is_not_lost() -> None:
    assert downgrade(Ruleset(fs=READ, paths=(("/usr", READ),)), 1) == (Ruleset(fs=READ, paths=(("/usr", READ),)), ())
    assert downgrade(Ruleset(), 0) == (Ruleset(), ())


def test_rules_left_without_rights_are_dropped() -> None:
    ruleset = Ruleset(fs=FILES, paths=(("/dev/tty", IOCTL_DEV), ("/usr", READ)))
    assert downgrade(ruleset, 4)[0].paths == (("/usr", READ),)


def test_newer_rights_need_newer_kernels() -> None:
    ruleset = Ruleset(fs=RESOLVE_UNIX, net=k.LANDLOCK_ACCESS_NET_BIND_UDP)
    assert downgrade(ruleset, 8) == (Ruleset(), ("fs.resolve_unix", "net.bind_udp"))
    assert downgrade(ruleset, 9) == (Ruleset(fs=RESOLVE_UNIX), ("net.bind_udp",))
    assert downgrade(ruleset, 10) == (ruleset, ())


def test_downgrading_twice_changes_nothing_more() -> None:
    for abi in range(9):
        kept, _ = downgrade(FULL, abi)
        assert downgrade(kept, abi) == (kept, ())


def test_read_and_write_are_apart_and_together_with_devices_are_everything() -> None:
    assert READ & WRITE == 0
    assert READ | WRITE | MAKE_DEVICE | IOCTL_DEV == FILES == (1 << 16) - 1


def test_every_right_stands_once() -> None:
    assert len({(field, bit) for field, bit, _, _ in RIGHTS}) == len({name for _, _, name, _ in RIGHTS}) == len(RIGHTS)
    assert [since for *_, since in RIGHTS] == sorted(since for *_, since in RIGHTS)
