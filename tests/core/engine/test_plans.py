"""Plans: an open that is made again is answered as before, and never otherwise than it would be judged."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import pytest

from agent_safety_layer.engine.gate import Answer
from agent_safety_layer.engine.plans import Plan, open_again
from tests.core.engine.scene import AT_FDCWD, Scene

R, W, RW = os.O_RDONLY, os.O_WRONLY, os.O_RDWR


def plan_for(scene: Scene, *args: int | bytes | str) -> Plan | None:
    """The plan that an openat with *args* would be answered by."""
    call = scene.call("openat", *args)
    return scene.plans.find(call, scene.process, scene.plans.shapes[call.nr])


def opens(scene: Scene, *args: int | bytes | str) -> tuple[object, ...]:
    """Make the call as the loop does: look for a plan, then have it described."""
    call = scene.call("openat", *args)
    assert scene.plans.find(call, scene.process, scene.plans.shapes[call.nr]) is None
    scene._calls -= 1  # the very same call is described below
    return scene.make("openat", *args)


def test_the_same_open_is_answered_by_a_plan(scene: Scene, workspace: pathlib.Path) -> None:
    assert opens(scene, AT_FDCWD, "link", R, 0) == ("inject", False)
    plan = plan_for(scene, AT_FDCWD, "link", R, 0)
    assert plan is not None
    assert plan.reopen == os.fsencode(workspace / "file")
    for other in (("link", W), ("file", R), ("./link", R)):
        assert plan_for(scene, AT_FDCWD, *other, 0) is None


def test_a_waved_open_is_waved_again(scenes: Callable[..., Scene], workspace: pathlib.Path) -> None:
    scene = scenes(reads=(str(workspace),))
    assert opens(scene, AT_FDCWD, f"{workspace}/file", R, 0) == ("proceed",)
    plan = plan_for(scene, AT_FDCWD, f"{workspace}/file", R, 0)
    assert plan is not None
    assert plan.reopen == b""


def test_a_relative_open_is_another_one_from_another_folder(scene: Scene, workspace: pathlib.Path) -> None:
    first, second = os.open(".", R), os.open("dir", R)
    (workspace / "dir" / "file").write_text("another")
    try:
        assert opens(scene, first, "file", R, 0) == ("inject", False)
        assert plan_for(scene, first, "file", R, 0) is not None
        assert plan_for(scene, second, "file", R, 0) is None
        os.dup2(second, first)
        assert plan_for(scene, first, "file", R, 0) is None
        assert opens(scene, AT_FDCWD, "file", R, 0) == ("inject", False)
        assert plan_for(scene, AT_FDCWD, "file", R, 0) is not None
        os.chdir("dir")
        assert plan_for(scene, AT_FDCWD, "file", R, 0) is None
    finally:
        os.close(first)
        os.close(second)


@pytest.mark.parametrize("reads", [(), ("waved",)])
def test_a_path_that_changes_while_it_is_looked_at_leaves_no_plan(
    reads: tuple[str, ...], scenes: Callable[..., Scene], workspace: pathlib.Path
) -> None:
    scene = scenes(reads=tuple(str(workspace) for _ in reads))
    for first, second, kept in ((b"link", b"link", True), (b"dir/inner", b"file", False)):
        call = scene.call("openat", AT_FDCWD, first, R, 0)
        assert scene.plans.find(call, scene.process, scene.plans.shapes[call.nr]) is None
        scene._calls -= 1
        assert scene.make("openat", AT_FDCWD, second, R, 0) == (("proceed",) if reads else ("inject", False))
        for name, found in ((first, kept), (second, kept)):
            assert (plan_for(scene, AT_FDCWD, name, R, 0) is not None) is found


CHANGES: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "a rename": ("renameat", (AT_FDCWD, "dir/inner", AT_FDCWD, "dir/moved")),
    "a link that is made": ("symlinkat", ("file", AT_FDCWD, "new-link")),
    "a link that is removed": ("unlinkat", (AT_FDCWD, "dangling", 0)),
    "another name": ("linkat", (AT_FDCWD, "dir/inner", AT_FDCWD, "dir/second", 0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_can_lead_paths_elsewhere_ends_every_plan(change: str, scene: Scene) -> None:
    assert opens(scene, AT_FDCWD, "link", R, 0) == ("inject", False)
    assert plan_for(scene, AT_FDCWD, "link", R, 0) is not None
    name, args = CHANGES[change]
    assert scene.make(name, *args) == ("give", 0)
    assert plan_for(scene, AT_FDCWD, "link", R, 0) is None


@pytest.mark.parametrize(
    "args",
    [
        ("new", W | os.O_CREAT),
        ("file", W | os.O_TRUNC),
        ("missing", R),
        ("/proc/self/status", R),
        ("/proc/self/cwd/file", R),
        ("/dev/null", R),
        ("fifo", R | os.O_NONBLOCK),
    ],
)
def test_no_plan_for_what_may_be_something_else_each_time(args: tuple[str, int], scene: Scene) -> None:
    os.mkfifo("fifo")
    opens(scene, AT_FDCWD, *args, 0o600)
    assert plan_for(scene, AT_FDCWD, *args, 0o600) is None


def test_no_plan_while_the_policy_has_a_memory_or_asks(scenes: Callable[..., Scene]) -> None:
    rule = "{name: r, on: file.write, after: {on: file.read, path: '/nowhere'}, action: block}"
    stateful = scenes(f'version: 1\nfiles: {{read: ["/"]}}\nrules: [{rule}]\n')
    assert opens(stateful, AT_FDCWD, "file", R, 0) == ("inject", False)
    assert plan_for(stateful, AT_FDCWD, "file", R, 0) is None
    asking = scenes('version: 1\nfiles: {read: ["/"], ask: ["${WORKSPACE}/file"]}\n')
    assert opens(asking, AT_FDCWD, "file", R, 0) == ()
    asking.gate.asked[0][2](Answer(True, "yes"))
    assert plan_for(asking, AT_FDCWD, "file", R, 0) is None


def test_a_stale_plan_opens_the_judged_name_or_nothing(workspace: pathlib.Path) -> None:
    path = os.fsencode(workspace / "dir" / "inner")
    fd = open_again(path, R)
    assert os.read(fd, 9) == b"inside"
    assert os.get_blocking(fd)
    os.close(fd)
    os.link(path, workspace / "second")
    assert open_again(path, R) == -1
    os.unlink(workspace / "second")
    (workspace / "elsewhere").mkdir()
    (workspace / "elsewhere" / "inner").write_text("secret")

    def becomes(make: Callable[[], None]) -> int:
        make()
        return open_again(path, R)

    def fifo() -> None:
        os.unlink(path)
        os.mkfifo(path)

    def folder() -> None:
        os.unlink(path)
        os.mkdir(path)

    def link() -> None:
        os.rmdir(path)
        os.symlink("../elsewhere/inner", path)

    def link_on_the_way() -> None:
        os.rename("dir", "dir2")
        os.symlink("elsewhere", "dir")

    assert [becomes(make) for make in (fifo, folder, link, link_on_the_way)] == [-1] * 4
    assert open_again(os.fsencode(workspace / "file") + b"/", R) == -1
    fd = open_again(os.fsencode(workspace) + b"/", R)
    assert fd >= 0
    os.close(fd)
    assert open_again(os.fsencode(workspace / "missing"), W | os.O_CREAT) == -1, "a plan never makes a file"
    assert not (workspace / "missing").exists()


def test_a_process_s_plans_do_not_grow_without_end(scene: Scene) -> None:
    for number in range(3000):
        call = scene.call("openat", AT_FDCWD, f"/nowhere/{number}", R, 0)
        scene._kept.clear()
        scene.process.cache[None] = (call.id, (b"/nowhere/%d" % number, R))
        scene.plans.keep(call, scene.process, b"", b"", scene.recorder.tally.add(*_entry(scene)))
    assert len(scene.process.cache) <= 1026


def _entry(scene: Scene) -> tuple[object, ...]:
    from agent_safety_layer.events import Decision, Event

    return Event("file.read"), Decision("allow"), "allow"
