"""What becomes of a call once there is a decision: refused, waved through, carried out, or put to a person."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from errno import EACCES, EINVAL, ENOENT

import pytest

from agent_safety_layer.engine.gate import Answer
from agent_safety_layer.events import ALLOW, ASK, AUDIT, BLOCK, WARN
from tests.core.engine.scene import AT_FDCWD, Scene

R, W, CREATE = os.O_RDONLY, os.O_WRONLY, os.O_CREAT
ASKING = 'version: 1\nfiles: {read: ["/"], write: ["/"], ask: ["${WORKSPACE}/file"]}\n'
BLOCKING = 'version: 1\nfiles: {read: ["/"], write: ["/"], block: ["${WORKSPACE}/file"]}\n'


def done(scene: Scene) -> list[tuple[str, str, str]]:
    """Decision, what was done, and result, of everything recorded."""
    return [(decision.action, effective, result) for _, decision, effective, result in scene.recorder.entries]


def test_what_is_allowed_is_carried_out(scene: Scene) -> None:
    assert scene.make("openat", AT_FDCWD, "link", R | os.O_CLOEXEC, 0) == ("inject", True)
    assert scene.opened() == "file"
    assert done(scene) == [(ALLOW, ALLOW, "")]


def test_what_the_kernel_bounds_is_waved_through(scenes: Callable[..., Scene], workspace: pathlib.Path) -> None:
    scene = scenes(reads=(str(workspace),), writes=(f"{workspace}/dir",))
    assert scene.make("openat", AT_FDCWD, "file", R, 0) == ("proceed",)
    assert scene.make("openat", AT_FDCWD, "file", W, 0) == ("inject", False)
    assert scene.make("openat", AT_FDCWD, "dir/inner", W, 0) == ("proceed",)
    assert scene.make("openat", AT_FDCWD, "dir/new", W | CREATE, 0o600) == ("proceed",)
    assert scene.make("mkdirat", AT_FDCWD, "dir/made", 0o700) == ("proceed",)
    assert scene.make("mkdirat", AT_FDCWD, "made", 0o700) == ("give", 0)
    assert scene.make("renameat", AT_FDCWD, "dir/inner", AT_FDCWD, "inner") == ("give", 0)
    assert scene.make("truncate", "file", 1) == ("give", 0)
    assert not os.path.exists("dir/made"), "the kernel's to do"
    # Landlock knows nothing of these, so they are never waved through.
    assert scene.make("fchmodat", AT_FDCWD, "dir/missing", 0o700) == ("fail", 2)
    assert scene.make("fchmodat", AT_FDCWD, "dir", 0o700) == ("give", 0)


def test_what_is_read_and_written_at_once_needs_both_bounds(
    scenes: Callable[..., Scene], workspace: pathlib.Path
) -> None:
    scene = scenes(reads=(f"{workspace}/dir",), writes=(str(workspace),))
    assert scene.make("openat", AT_FDCWD, "file", W, 0) == ("proceed",)
    assert scene.make("openat", AT_FDCWD, "file", os.O_RDWR, 0) == ("inject", False)
    assert scene.make("openat", AT_FDCWD, "dir/inner", os.O_RDWR, 0) == ("proceed",)
    # openat2's flags lie in memory: by the time the kernel reads them they may ask for reading.
    how = W.to_bytes(8, "little") + bytes(16)
    assert scene.make("openat2", AT_FDCWD, "file", how, 24) == ("inject", False)
    assert scene.make("openat2", AT_FDCWD, "dir/inner", how, 24) == ("proceed",)


def test_what_is_blocked_fails_and_nothing_happens(scenes: Callable[..., Scene]) -> None:
    scene = scenes(BLOCKING)
    assert scene.make("openat", AT_FDCWD, "link", W | os.O_TRUNC, 0) == ("fail", EACCES)
    assert scene.make("unlinkat", AT_FDCWD, "file", 0) == ("fail", EACCES)
    assert scene.make("renameat", AT_FDCWD, "dir/inner", AT_FDCWD, "file") == ("fail", EACCES)
    assert scene.make("linkat", AT_FDCWD, "file", AT_FDCWD, "hard", 0) == ("fail", EACCES)
    assert scene.make("fchmodat", AT_FDCWD, "file", 0) == ("fail", EACCES)
    assert pathlib.Path("file").read_text() == "hello"
    assert done(scene) == [(BLOCK, BLOCK, "EACCES")] * 5
    assert scene.make("openat", AT_FDCWD, "dir/inner", R, 0) == ("inject", False)


def test_what_can_only_fail_fails_as_it_would_without_us(scenes: Callable[..., Scene]) -> None:
    """A missing file of a blocked name is missing: ssh(1) goes on without its configuration, `rm -f` has nothing to do.
    Nobody is asked, and it is on record with what the policy says about the name.
    """
    for policy, action in ((BLOCKING, BLOCK), (ASKING, ASK)):
        scene = scenes(policy)
        pathlib.Path("file").unlink(missing_ok=True)
        assert scene.make("openat", AT_FDCWD, "file", R, 0) == ("fail", ENOENT)
        assert scene.make("openat", AT_FDCWD, "file", os.O_RDWR, 0) == ("fail", ENOENT)
        assert scene.make("unlinkat", AT_FDCWD, "file", 0) == ("fail", ENOENT)
        assert scene.make("renameat", AT_FDCWD, "file", AT_FDCWD, "other") == ("fail", ENOENT)
        assert done(scene) == [(action, ALLOW, "ENOENT")] * 4
        assert not scene.gate.asked
    scene = scenes(BLOCKING)
    assert scene.make("openat", AT_FDCWD, "file", W | CREATE, 0o600) == ("fail", EACCES)
    assert scene.make("renameat", AT_FDCWD, "dir/inner", AT_FDCWD, "file") == ("fail", EACCES)


@pytest.mark.parametrize("action", [AUDIT, WARN])
def test_audited_and_warned_calls_go_on(action: str, scenes: Callable[..., Scene]) -> None:
    rule = f"rules: [{{name: told, on: file.read, path: '${{WORKSPACE}}/file', action: {action}}}]\n"
    scene = scenes('version: 1\nfiles: {read: ["/"]}\n' + rule)
    assert scene.make("openat", AT_FDCWD, "file", R, 0) == ("inject", False)
    assert done(scene) == [(action, action, "")]
    assert scene.recorder.entries[0][1].rule == "told"


def test_a_question_parks_the_call_and_an_answer_ends_the_wait(scenes: Callable[..., Scene]) -> None:
    scene = scenes(ASKING)
    assert scene.make("openat", AT_FDCWD, "file", R, 0) == ()
    assert scene.make("openat", AT_FDCWD, "dir/inner", R, 0) == ("inject", False), "others do not wait"
    ((event, decision, answered),) = scene.gate.asked
    assert (event.path, decision.action) == (f"{scene.workspace}/file", ASK)
    answered(Answer(True, "a person said yes"))
    assert scene.opened() == "file"
    assert done(scene)[-1] == (ASK, ALLOW, "")
    scene.gate.asked.clear()
    assert scene.make("openat", AT_FDCWD, "file", R, 0) == (), "a yes is for one time"
    scene.gate.asked[0][2](Answer(False, "a person said no"))
    assert scene.backend.answers[-1] == ("fail", EACCES)
    assert done(scene)[-1] == (ASK, BLOCK, "EACCES")


def test_what_was_judged_is_what_is_done_after_the_wait(scenes: Callable[..., Scene]) -> None:
    scene = scenes(ASKING)
    assert scene.make("openat", AT_FDCWD, "file", R, 0) == ()
    os.rename("file", "moved")
    os.symlink("/etc/passwd", "file")
    scene.gate.asked[0][2](Answer(True, "yes"))
    assert scene.opened() == "moved", "the very file, not what bears its name by now"
    os.unlink("file")
    assert scene.make("openat", AT_FDCWD, "file", W | CREATE | os.O_EXCL, 0o600) == ()
    os.symlink("dir/inner", "file")
    scene.gate.asked[1][2](Answer(True, "yes"))
    assert scene.backend.answers[-1][0] == "fail", "never through a link that came to be meanwhile"


def test_a_file_that_came_to_be_while_one_was_asked_is_judged_as_what_it_is(scenes: Callable[..., Scene]) -> None:
    rules = "rules: [{name: r, on: file.write, path: '${WORKSPACE}/new', action: block}]\n"
    scene = scenes('version: 1\nfiles: {read: ["/"], write: ["/"], ask: ["${WORKSPACE}/n*"]}\n' + rules)
    assert scene.make("openat", AT_FDCWD, "new", W | CREATE, 0o600) == ()
    pathlib.Path("new").write_text("somebody else's")
    scene.gate.asked[0][2](Answer(True, "yes"))
    assert scene.backend.answers[-1] == ("fail", EACCES)
    assert pathlib.Path("new").read_text() == "somebody else's"


def test_an_answer_that_comes_too_late_does_nothing(scenes: Callable[..., Scene]) -> None:
    scene = scenes(ASKING)
    assert scene.make("openat", AT_FDCWD, "file", W | os.O_TRUNC, 0) == ()
    scene.backend.alive = False  # the process was killed meanwhile
    scene.gate.asked[0][2](Answer(True, "yes"))
    assert not scene.backend.answers
    assert pathlib.Path("file").read_text() == "hello"
    assert not done(scene)


def test_a_yes_for_one_call_is_not_remembered_for_another(scenes: Callable[..., Scene]) -> None:
    scene = scenes('version: 1\nfiles: {read: ["/"], ask: ["${WORKSPACE}/file"], block: ["${WORKSPACE}/dir/inner"]}\n')
    assert scene.make("openat", AT_FDCWD, "file", R, 0) == ()
    call = scene.call("openat", AT_FDCWD, "dir/inner", R, 0)
    shape = scene.plans.shapes[call.nr]
    assert scene.plans.find(call, scene.process, shape) is None
    scene.gate.asked[0][2](Answer(True, "yes"))
    assert scene.plans.find(call, scene.process, shape) is None
    assert scene.make("openat", AT_FDCWD, "dir/inner", R, 0) == ("fail", EACCES)


def test_an_observed_policy_lets_go_on_and_says_what_it_would_have_done(scenes: Callable[..., Scene]) -> None:
    scene = scenes(BLOCKING + "mode: observe\n")
    assert scene.make("openat", AT_FDCWD, "file", R, 0) == ("inject", False)
    assert scene.make("unlinkat", AT_FDCWD, "file", 0) == ("give", 0)
    assert done(scene) == [(BLOCK, AUDIT, ""), (BLOCK, AUDIT, "")]


def test_a_violation_can_end_the_run(scenes: Callable[..., Scene]) -> None:
    ended = []
    scene = scenes(BLOCKING + "on_violation: kill\n")
    scene.answers.on_violation = lambda: ended.append(1)
    assert scene.make("openat", AT_FDCWD, "dir/inner", R, 0) == ("inject", False)
    assert scene.make("openat", AT_FDCWD, "file", R, 0) == (), "the program never hears of it"
    assert not ended, "in the loop's next turn"
    scene.settle()
    assert ended == [1]


def test_a_state_remembers_what_happened(scenes: Callable[..., Scene]) -> None:
    rule = "{name: r, on: file.write, after: {on: file.read, path: '${WORKSPACE}/file'}, action: block}"
    scene = scenes(f'version: 1\nfiles: {{read: ["/"], write: ["/"]}}\nrules: [{rule}]\n')
    assert scene.make("openat", AT_FDCWD, "dir/inner", W, 0) == ("inject", False)
    assert scene.make("openat", AT_FDCWD, "file", R, 0) == ("inject", False)
    assert scene.make("openat", AT_FDCWD, "dir/inner", W, 0) == ("fail", EACCES)


def test_one_end_of_a_fifo_waits_for_the_other_and_the_loop_for_neither(scene: Scene) -> None:
    os.mkfifo("fifo")
    assert scene.make("openat", AT_FDCWD, "fifo", R, 0) == ()
    assert scene.make("openat", AT_FDCWD, "file", R, 0) == ("inject", False)
    assert scene.make("openat", AT_FDCWD, "fifo", W, 0) == ()
    assert {scene.settle(), scene.settle()} == {("inject", False)}
    ends = {os.get_blocking(fd): fd for fd in scene.backend.injected[-2:]}
    assert list(ends) == [True], "they wait when they are read, as the tracee asked"
    assert scene.make("openat", AT_FDCWD, "fifo", R | os.O_NONBLOCK, 0) == ("inject", False)


def test_a_signal_ends_the_wait_at_a_fifo(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo("fifo")
    monkeypatch.setattr("agent_safety_layer.engine.opens.interruption", lambda _: 4)
    for flags in (R, W):
        assert scene.make("openat", AT_FDCWD, "fifo", flags, 0) == ()
        assert scene.settle() == ("fail", 4)


def test_what_python_refuses_is_an_invalid_argument(scene: Scene) -> None:
    assert scene.make("fchownat", AT_FDCWD, "file", 2**32 - 2, os.getgid(), 0)[0] in ("give", "fail")
    assert scene.make("truncate", "file", 2**63 - 1)[0] == "fail"
    assert scene.make("mknodat", AT_FDCWD, "x", 0o170000 | 0o600, 0) == ("fail", EINVAL)
