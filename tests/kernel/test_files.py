"""File calls in real runs: what is allowed happens and what is blocked does not, told by what is there afterwards."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.kernel import runs
from tests.kernel.supervised import MODES, OPEN, SERVED, SUPERVISE, environment, prepare, python, run

pytestmark = pytest.mark.requires("notify", "landlock")

# Each tries to change what lies at PATH (a file with "before" in it, or what its name says), by one member of a family.
PRELUDE = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def c(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
PATH = sys.argv[1]; RAW = PATH.encode(); DIR = os.path.dirname(PATH); NAME = os.path.basename(PATH)
def fd(path=DIR, flags=os.O_RDONLY):
    return os.open(path, flags)
def put(fd):
    os.write(fd, b"after")
"""
WRITES = {
    "open": "put(c(libc.syscall(2, RAW, 1, 0)) if os.uname().machine == 'x86_64' else os.open(PATH, 1))",
    "openat": "put(os.open(PATH, os.O_WRONLY))",
    "openat relative": "put(os.open(NAME, os.O_WRONLY, dir_fd=fd()))",
    "openat absolute below a descriptor": "put(os.open(PATH, os.O_WRONLY, dir_fd=fd()))",
    "openat2": "put(c(libc.syscall(437, -100, RAW, struct.pack('=QQQ', 1, 0, 0), 24)))",
    "creat": "put(c(libc.creat(RAW, 0o600)))",
    "append": "put(os.open(PATH, os.O_WRONLY | os.O_APPEND))",
    "read and write": "put(os.open(PATH, os.O_RDWR))",
    "O_TRUNC alone": "os.open(PATH, os.O_RDONLY | os.O_TRUNC)",
    "truncate": "os.truncate(PATH, 1)",
    "unlink": "os.unlink(PATH)",
    "unlinkat": "os.unlink(NAME, dir_fd=fd())",
    "rename away": "os.rename(PATH, PATH + '-away')",
    "rename over": "open(DIR + '/other', 'w').write('after'); os.rename(DIR + '/other', PATH)",
    "renameat": "open(DIR + '/other', 'w').write('after'); os.rename('other', NAME, src_dir_fd=fd(), dst_dir_fd=fd())",
    "rename exchange": "open(DIR + '/other', 'w').write('after'); "
    "c(libc.renameat2(-100, (DIR + '/other').encode(), -100, RAW, 2))",
    "link out and write": "os.link(PATH, DIR + '/hard'); put(os.open(DIR + '/hard', os.O_WRONLY))",
    "linkat": "os.link(NAME, 'hard', src_dir_fd=fd(), dst_dir_fd=fd()); put(os.open(DIR + '/hard', os.O_WRONLY))",
    "link over": "os.unlink(PATH); os.link(sys.executable, PATH)",
    "chmod": "os.chmod(PATH, 0o604)",
    "fchmodat2": "c(libc.syscall(452, -100, RAW, 0o604, 0))",
    "chown": "os.chown(PATH, -1, os.getgid()); os.chmod(PATH, 0o604)",
    "utime": "os.utime(PATH, (1, 1))",
    "utimensat nofollow": "os.utime(PATH, (1, 1), follow_symlinks=False)",
    "setxattr": "os.setxattr(PATH, b'user.a', b'1')",
    "through a link": "os.symlink(PATH, DIR + '/sym'); put(os.open(DIR + '/sym', os.O_WRONLY))",
    "through a link to the folder": "os.symlink(DIR, DIR + '/sym'); put(os.open(DIR + '/sym/' + NAME, os.O_WRONLY))",
    "through /proc/self/root": "put(os.open('/proc/self/root' + PATH, os.O_WRONLY))",
    "through /proc/self/cwd": "os.chdir(DIR); put(os.open('/proc/self/cwd/' + NAME, os.O_WRONLY))",
    "through dots": "put(os.open(DIR + '/../' + os.path.basename(DIR) + '//./' + NAME, os.O_WRONLY))",
    "a read-only descriptor reopened": "put(os.open('/proc/self/fd/%d' % fd(PATH), os.O_WRONLY))",
    "a name only reopened": "put(os.open('/dev/fd/%d' % fd(PATH, os.O_PATH), os.O_WRONLY))",
    "fchmod of a read-only descriptor": "os.fchmod(fd(PATH), 0o604)",
    "futimens of a read-only descriptor": "os.utime(fd(PATH), (1, 1))",
    "fsetxattr of a read-only descriptor": "os.setxattr(fd(PATH), b'user.a', b'1')",
    "from a thread": "import threading; "
    "t = threading.Thread(target=lambda: put(os.open(PATH, 1))); t.start(); t.join()",
    "from a child": "os.waitpid(os.fork() or (put(os.open(PATH, 1)), os._exit(0)), 0)",
    "by a shell": "os.system('echo after > \\'%s\\'' % PATH)",
}
CREATIONS = {
    "open": "os.close(os.open(PATH, os.O_CREAT | os.O_WRONLY))",
    "exclusively": "os.close(os.open(PATH, os.O_CREAT | os.O_EXCL | os.O_WRONLY))",
    "creat": "c(libc.creat(RAW, 0o600))",
    "mkdir": "os.mkdir(PATH)",
    "mkdirat": "os.mkdir(NAME, dir_fd=fd())",
    "mknod": "os.mknod(PATH)",
    "mkfifo": "os.mkfifo(PATH)",
    "symlink": "os.symlink('x', PATH)",
    "symlinkat": "os.symlink('x', NAME, dir_fd=fd())",
    "link": "open(DIR + '/other', 'w'); os.link(DIR + '/other', PATH)",
    "rename": "open(DIR + '/other', 'w'); os.rename(DIR + '/other', PATH)",
    "rename of a folder": "os.mkdir(DIR + '/other'); os.rename(DIR + '/other', PATH)",
    "tmpfile": "t = os.open(DIR, os.O_TMPFILE | os.O_WRONLY); "
    "c(libc.linkat(-100, b'/proc/self/fd/%d' % t, -100, RAW, 0x400))",
    "through a dangling link": "os.symlink(PATH, DIR + '/sym'); "
    "os.close(os.open(DIR + '/sym', os.O_CREAT | os.O_WRONLY))",
    "socket": "import socket; socket.socket(socket.AF_UNIX).bind(PATH)",
}


def told(folder: pathlib.Path) -> dict[str, tuple[object, ...]]:
    """Everything there is about what lies in *folder*."""
    state = {}
    for path in sorted(folder.rglob("*")):
        there = path.lstat()
        attributes = tuple(os.listxattr(path, follow_symlinks=False))
        text = path.read_text() if path.is_file() and not path.is_symlink() else ""
        state[str(path.relative_to(folder))] = (there.st_mode, there.st_mtime_ns, there.st_nlink, text, attributes)
    return state


def scene(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Two folders: ``ws/in`` may be changed, ``out`` may only be read. In each a file, and room for another."""
    prepare(folder / "ws", "")
    for place in (folder / "ws" / "in", folder / "out"):
        place.mkdir()
        (place / "file").write_text("before")
    return folder / "ws" / "in", folder / "out"


ACTS = [("write", name, code, "file") for name, code in WRITES.items()]
ACTS += [("create", name, code, "new") for name, code in CREATIONS.items()]


@pytest.mark.parametrize("mode", MODES)
def test_every_member_of_every_family(mode: str, tmp_path: pathlib.Path) -> None:
    """One run makes all attempts, each in folders of its own: inside, outside, and at what is blocked inside."""
    policy = SERVED.replace("**/.env", '**/.env", "${WORKSPACE}/*/hole/*') if mode == "served" else OPEN
    jobs = []
    for number, (_, _, code, name) in enumerate(ACTS):
        folder = tmp_path / "ws" / str(number)
        places = {"allowed": folder / "in", "outside": tmp_path / "out" / str(number)}
        if mode == "served":
            places["blocked"] = folder / "hole"
        for place in places.values():
            place.mkdir(parents=True)
            if name == "file":
                (place / "file").write_text("before")
        jobs += [(key, number, str(place / name), code) for key, place in places.items()]
    before = {job[:2]: told(pathlib.Path(job[2]).parent) for job in jobs}
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import json, subprocess, sys\n"
        "for path, code in json.load(open(sys.argv[1])):\n"
        "    subprocess.run([sys.executable, '-ISc', code, path], stderr=subprocess.DEVNULL)\n"
    )
    (tmp_path / "jobs.json").write_text(json.dumps([(path, PRELUDE + code) for _, _, path, code in jobs]))
    result = run([sys.executable, "-IS", str(driver), str(tmp_path / "jobs.json")], tmp_path, policy=policy)
    assert result.code == 0, result.err
    wrong = []
    for key, number, path, _ in jobs:
        changed = told(pathlib.Path(path).parent)
        same = _about(changed, path) == _about(before[key, number], path)
        if same == (key == "allowed"):
            wrong.append((ACTS[number][:2], key, before[key, number], changed))
    assert not wrong, "\n".join(map(str, wrong))
    assert result.blocked()


def _about(state: dict[str, tuple[object, ...]], path: str) -> object:
    return state.get(os.path.basename(path))


READS = {
    "open": "print(open(PATH).read())",
    "relative": "print(os.read(os.open(NAME, 0, dir_fd=fd()), 99))",
    "openat2": "print(os.read(c(libc.syscall(437, -100, RAW, struct.pack('=QQQ', 0, 0, 0), 24)), 99))",
    "read and write": "print(os.read(os.open(PATH, os.O_RDWR), 99))",
    "a name only reopened": "print(os.read(os.open('/proc/self/fd/%d' % fd(PATH, os.O_PATH), 0), 99))",
    "through /proc/self/root": "print(open('/proc/self/root' + PATH).read())",
    "through a link": "os.symlink(PATH, 'sym'); print(open('sym').read())",
    "through a hard link": "os.link(PATH, 'hard'); print(open('hard').read())",
    "renamed": "os.rename(PATH, 'away'); print(open('away').read())",
    "its folder renamed": "os.rename(DIR, 'away'); print(open('away/' + NAME).read())",
    "by mmap": "import mmap; print(mmap.mmap(fd(PATH), 0, prot=mmap.PROT_READ)[:])",
    "sendfile": "r, w = os.pipe(); os.sendfile(w, fd(PATH), 0, 99); print(os.read(r, 99))",
    "by a shell": "os.system('cat \\'%s\\'' % PATH)",
    "by cp": "os.system('cp \\'%s\\' copy && cat copy' % PATH)",
    "executed": "os.chmod(PATH, 0o755); os.system('\\'%s\\'' % PATH)",
}


@pytest.mark.parametrize("how", READS)
def test_a_blocked_file_inside_an_allowed_folder_is_not_read(how: str, tmp_path: pathlib.Path) -> None:
    for folder, name, readable in (("control", "open.txt", True), ("hole", ".env", False)):
        case = tmp_path / folder
        (case / "ws" / "sub").mkdir(parents=True)
        (case / "ws" / ".env").write_text("another hole\n")
        path = case / "ws" / "sub" / name
        path.write_text("#!/bin/cat\nSECRET\n")
        result = run([sys.executable, "-ISc", PRELUDE + READS[how], str(path)], case, policy=SERVED)
        assert ("SECRET" in result.out) is readable, result.err
        if not readable:
            assert result.blocked()
            assert path.read_text().endswith("SECRET\n")


def test_a_blocked_folder_does_not_come_to_be(tmp_path: pathlib.Path) -> None:
    """What does not exist yet is blocked all the same, and nothing may be put there under another name first."""
    policy = OPEN + '  block: ["${WORKSPACE}/.git/hooks", "${WORKSPACE}/**/.env"]\n'
    code = """
import os
os.makedirs("box/hooks"); open("box/hooks/post-commit", "w").write("evil")
os.mkdir("plain")
for act in (lambda: os.rename("box", ".git"), lambda: os.mkdir(".git/hooks"), lambda: os.makedirs(".git/hooks"),
            lambda: os.rename("box/hooks", ".git/hooks"), lambda: os.symlink("../box/hooks", ".git/hooks"),
            lambda: open(".env", "w"), lambda: os.rename("box/hooks/post-commit", "plain/.env"),
            lambda: os.link("box/hooks/post-commit", "plain/.env"), lambda: os.symlink("x", "plain/.env")):
    try:
        act()
        print("done")
    except OSError as error:
        print(error.strerror)
os.rename("plain", "renamed")
"""
    result = python(code, tmp_path, policy=policy)
    ws = tmp_path / "ws"
    assert not os.path.lexists(ws / ".git" / "hooks")
    assert not list(ws.rglob(".env"))
    assert (ws / "renamed").is_dir()
    assert (ws / "box" / "hooks" / "post-commit").read_text() == "evil"
    assert result.out.count("Permission denied") >= 7


def test_each_process_and_thread_is_told_apart(tmp_path: pathlib.Path) -> None:
    code = """
import os, threading
umasks = (0o022, 0o077, 0)
children = []
for number, mask in enumerate(umasks):
    child = os.fork()
    if not child:
        os.umask(mask)
        os.mkdir(f"dir{number}"); os.chdir(f"dir{number}")
        for turn in range(40):
            os.close(os.open(f"file{turn}", os.O_CREAT | os.O_WRONLY, 0o666))
        os._exit(0)
    children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
def work(number):
    for turn in range(3):
        with open(f"t{number}", "a") as file:
            file.write("x")
crew = [threading.Thread(target=work, args=(number,)) for number in range(200)]
for one in crew: one.start()
for one in crew: one.join()
"""
    for mode, policy in MODES.items():
        result = python(code, tmp_path / mode if (tmp_path / mode).mkdir() is None else tmp_path, policy=policy)
        assert result.code == 0, result.err
        ws = tmp_path / mode / "ws"
        for number, mask in enumerate((0o022, 0o077, 0)):
            modes = {path.stat().st_mode & 0o777 for path in (ws / f"dir{number}").iterdir()}
            assert modes == {0o666 & ~mask}
            assert len(list((ws / f"dir{number}").iterdir())) == 40
        assert all((ws / f"t{number}").read_text() == "xxx" for number in range(200))


def test_two_runs_at_once_do_not_know_each_other(tmp_path: pathlib.Path) -> None:
    code = "import os\nfor n in range(100): open(f'f{n}', 'w').write(str(os.getpid()))\nprint(os.environ['TMPDIR'])"
    runs = []
    for name in ("one", "two"):
        prepare(tmp_path / name, SERVED)
        (tmp_path / "policy.yaml").write_text(SERVED)
        runs.append(
            subprocess.Popen(
                [*SUPERVISE, "-p", str(tmp_path / "policy.yaml"), "--", sys.executable, "-ISc", code],
                cwd=tmp_path / name,
                env=environment(tmp_path / "state"),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    said = [one.communicate(timeout=60) for one in runs]
    assert [one.returncode for one in runs] == [0, 0], said
    assert len({out for out, _ in said}) == 2
    assert len(list((tmp_path / "state" / "traces").iterdir())) == 2
    for name in ("one", "two"):
        assert len({path.read_text() for path in (tmp_path / name).glob("f*")}) == 1


def test_observing_blocks_nothing_and_says_what_it_would_have(tmp_path: pathlib.Path) -> None:
    policy = OPEN + '  block: ["${WORKSPACE}/blocked"]\n'
    code = "open('blocked', 'w').write('x'); print(open('blocked').read())"
    enforced = python(code, tmp_path, policy=policy)
    assert enforced.code != 0
    assert not (tmp_path / "ws" / "blocked").exists()
    observed = python(code, tmp_path, policy=policy, options=["--observe"])
    assert (observed.code, observed.out) == (0, "x\n")
    would = observed.events("file.create", path=str(pathlib.Path(os.path.realpath(tmp_path)) / "ws" / "blocked"))
    assert would[0]["decision"]["action"] == "block"
    assert would[0]["effective"] == "audit"


def test_a_violation_ends_the_run_if_the_policy_says_so(tmp_path: pathlib.Path) -> None:
    policy = OPEN + '  block: ["${WORKSPACE}/blocked"]\non_violation: kill\n'
    code = """
import os
open("before", "w")
try:
    open("blocked", "w")
except OSError:
    pass
while True:
    os.close(os.open("after", os.O_CREAT | os.O_WRONLY))
"""
    result = python(code, tmp_path, policy=policy)
    assert result.report["outcome"] == "violation"
    assert result.code != 0
    assert (tmp_path / "ws" / "before").exists()
    assert not (tmp_path / "ws" / "after").exists()  # it never heard of the refusal


def test_fifos_of_many_processes_do_not_hold_up_the_loop(tmp_path: pathlib.Path) -> None:
    code = """
import os, signal, sys
os.mkfifo("never")
waiting = []
for _ in range(30):
    child = os.fork()
    if not child:
        os.open("never", os.O_RDONLY)
        os._exit(1)
    waiting.append(child)
os.mkfifo("pair")
child = os.fork()
if not child:
    with open("pair", "w") as file: file.write("through")
    os._exit(0)
with open("pair") as file: print(file.read())
for child in waiting: os.kill(child, signal.SIGTERM)
print({os.waitpid(child, 0)[1] for child in waiting})
"""
    for mode, policy in MODES.items():
        (tmp_path / mode).mkdir()
        result = python(code, tmp_path / mode, policy=policy)
        assert result.out == "through\n{15}\n", result.err


def test_what_a_killed_process_asked_for_is_not_done_later(tmp_path: pathlib.Path) -> None:
    """A process that dies while its call is being answered leaves the supervisor well."""
    code = """
import os, signal
for turn in range(100):
    child = os.fork()
    if not child:
        while True:
            os.close(os.open("x", os.O_CREAT | os.O_WRONLY)); os.unlink("x")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print("well")
"""
    result = python(code, tmp_path, policy=SERVED)
    assert result.out == "well\n", result.err
    assert result.report["outcome"] == "exited"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("mode", MODES)
def test_a_child_of_root_that_becomes_somebody_else_is_served_as_that(mode: str, tmp_path: pathlib.Path) -> None:
    code = """
import os
os.mkdir("theirs"); os.chown("theirs", 12345, 12345)
open("mine", "w").write("x"); os.chmod("mine", 0o600)
child = os.fork()
if not child:
    os.setgroups([]); os.setresgid(12345, 12345, 12345); os.setresuid(12345, 12345, 12345)
    for act in (lambda: open("theirs/file", "w"), lambda: os.mkdir("theirs/dir"), lambda: open("mine"),
                lambda: os.chmod("mine", 0o777), lambda: os.unlink("mine"), lambda: open("other", "w"),
                lambda: os.chown("theirs/file", 0, 0), lambda: os.rename("mine", "theirs/mine")):
        try:
            act()
            print("done", flush=True)
        except OSError as error:
            print(error.strerror, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    ws = tmp_path / "ws"
    prepare(ws, MODES[mode])
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.stat().st_uid == 0 and "/pytest-of-" in str(folder):
            folder.chmod(0o755)
    argv = [sys.executable, "-ISc", code]
    outside = tmp_path / "outside"
    outside.mkdir()
    expected = subprocess.run(argv, cwd=outside, capture_output=True, text=True, check=True, timeout=30).stdout
    inside = run(argv, tmp_path, policy=MODES[mode])
    assert inside.out == expected, inside.err
    assert [((ws / name).lstat().st_uid, (ws / name).lstat().st_gid) for name in ("theirs/file", "theirs/dir")] == [
        (12345, 12345)
    ] * 2


def test_a_limit_on_the_size_of_files_holds_where_the_supervisor_truncates(tmp_path: pathlib.Path) -> None:
    code = """
import os, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
open("f", "w")
for size in (1000, 100_000):
    try:
        os.truncate("f", size); print("done")
    except OSError as error:
        print(error.strerror)
"""
    results: dict[str, Any] = {}
    for mode, policy in MODES.items():
        (tmp_path / mode).mkdir()
        results[mode] = python(code, tmp_path / mode, policy=policy, options=["--max-file-size", "50KiB"])
        assert results[mode].out == "done\nFile too large\n", mode
        assert (tmp_path / mode / "ws" / "f").stat().st_size == 1000


OPENER = """
import os, time
until, wrong, opened = time.monotonic() + 1, [], 0
while time.monotonic() < until:
    fd = os.open("plain", os.O_RDONLY)
    if fd < 3 or os.read(fd, 9) != b"plain": wrong.append(fd)
    os.close(fd) if fd > 2 else None
    opened += 1
print(opened > 100, wrong)
"""


def test_signals_for_the_supervisor_do_not_spoil_what_it_installs(tmp_path: pathlib.Path) -> None:
    """Seen: a child's death told at the wrong moment, and an open of another process returned 0, its own stdin."""
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / ".env").write_text("a hole, so that every open is served")
    (tmp_path / "ws" / "plain").write_text("plain")
    supervisor = runs.supervise(tmp_path / "state", "-q", "--", sys.executable, "-S", "-c", OPENER, cwd=tmp_path / "ws")
    while supervisor.poll() is None:
        supervisor.send_signal(signal.SIGCHLD)  # handled by the supervisor and not passed on
        time.sleep(0.0002)
    out, err = supervisor.communicate()
    assert (out, supervisor.returncode) == ("True []\n", 0), err


UNSEEN = """
version: 1
name: unseen
record: changes
files:
  read: ["/"]
  write: ["${WORKSPACE}", "${TMP}"]
  block: ["${HOME}/secret"]
"""
READER = """
import os
home = os.environ["HOME"]
def tried(act):
    try: return act()
    except OSError as error: return type(error).__name__
print(tried(lambda: open("plain").read()), tried(lambda: open(home + "/beside").read()))
print(tried(lambda: open(home + "/secret/key").read()), tried(lambda: os.listdir(home + "/secret")))
print(sorted(tried(lambda: os.listdir(home))), len(tried(lambda: os.listdir("/"))) > 5)
print(tried(lambda: os.close(os.open(home, os.O_RDONLY | os.O_NOFOLLOW))))
print(tried(lambda: open("/proc/self/root" + home + "/secret/key").read()))
print(tried(lambda: open(home + "/new", "w").write("x")), tried(lambda: open("made", "w").write("x")))
"""


@pytest.mark.parametrize("record", ["changes", "all"])
def test_reads_that_nobody_asks_for_are_held_by_the_kernel(record: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "plain").write_text("plain")
    home = tmp_path / "home"
    (home / "secret").mkdir(parents=True)
    (home / "secret" / "key").write_text("secret")
    (home / "beside").write_text("beside")
    done = python(
        READER, tmp_path, policy=UNSEEN.replace("record: changes", f"record: {record}"), env={"HOME": str(home)}
    )
    assert done.out.splitlines() == [
        "plain beside",
        "PermissionError PermissionError",
        "['beside', 'secret'] True",
        "None",
        "PermissionError",
        "PermissionError 1",
    ], done.err
    reads = {event["path"] for event in done.events() if event["kind"] in ("file.read", "file.list")}
    listed = {str(home / "secret")}  # a folder's refusal is seen: only files are read unseen
    assert listed <= reads
    assert (str(tmp_path / "ws" / "plain") in reads) == (record == "all")
    assert (reads == listed) == (record == "changes"), reads
    assert ("reads" in done.trace[0]["enforced"]) == (record == "changes")
    assert done.events("file.create", path=str(tmp_path / "ws" / "made"))
    assert done.blocked(path=str(home / "new"))


def test_reads_that_nobody_asks_for_but_must_be_served_are_left_out_of_the_trace(tmp_path: pathlib.Path) -> None:
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "plain").write_text("plain")
    (tmp_path / "ws" / ".env").write_text("KEY=1")
    done = python("print(open('plain').read()); open('.env')", tmp_path, policy="record: changes" + SERVED)
    assert done.out == "plain\n"
    assert [event["path"] for event in done.events("file.read")] == [str(tmp_path / "ws" / ".env")]
    assert done.blocked("file.read")
