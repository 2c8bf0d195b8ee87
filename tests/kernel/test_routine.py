"""What is routine is done and told exactly as what is not: the same program under a policy to which most names are
alike, with the compiled core and without, and once with a rule added that could be about any event, so that each call
is looked at by itself."""

from __future__ import annotations

import pathlib
import re
import shutil
import sys

import pytest

from tests.kernel.supervised import OPEN, SERVED, Result, run
from tests.requirements import requires_core

pytestmark = pytest.mark.requires("notify")

POLICY = """
    - "**/kept"
    - "${WORKSPACE}/folder/*.pem"
  protect: ["${WORKSPACE}/folder/still/here"]
rules:
  - {name: told, on: [file.write, file.create, file.delete, file.meta], path: "${WORKSPACE}/**/*.conf", action: warn}
  - {name: heard, on: [file.read, file.create], path: "${WORKSPACE}/heard", action: audit}
  - {name: both, on: file.read, path: "${WORKSPACE}/open", action: audit}
"""
POLICIES = {
    "served": SERVED.replace('block: ["${WORKSPACE}/**/.env"]\n', 'block:\n    - "${WORKSPACE}/**/.env"') + POLICY,
    "waved": OPEN + "rules:\n" + POLICY.partition("rules:\n")[2],
    "narrow": """
version: 1
files:
  read: ["/"]
  write: ["${WORKSPACE}/heard", "${WORKSPACE}/open/", "${TMP}"]
""",
}
# A rule about nothing that happens; but to know that, each event has to be looked at.
NOTHING_ALIKE = '  - {name: none, on: [file], match: "z{20}never", action: warn}\n'

PROGRAM = r"""
import errno, os, stat, sys, threading

os.umask(0o027)
base = os.getcwdb()
for name in (b"folder", b"heard", b"open", b"other", b"folder/still"):
    try:
        os.mkdir(name, 0o755)
    except OSError as error:
        print("setup", name, errno.errorcode[error.errno])

def attempt(what, act):
    try:
        said = act()
    except OSError as error:
        said = errno.errorcode[error.errno]
    print(what, said)

def shown(path):
    found = os.lstat(path)
    return oct(found.st_mode), found.st_size, found.st_nlink, found.st_mtime_ns if found.st_mtime_ns < 10**18 else "now"

def put(path, flags=os.O_WRONLY | os.O_CREAT, mode=0o666, **how):
    fd = os.open(path, flags, mode, **how)
    try:
        return os.write(fd, b"12345") if flags & 3 else os.read(fd, 9)
    finally:
        os.close(fd)

def get(path, flags=os.O_RDONLY, **how):
    fd = os.open(path, flags, **how)
    try:
        return os.listdir(fd) and "folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else os.read(fd, 9)
    finally:
        os.close(fd)

CREATE, FRESH = os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT | os.O_EXCL
names = [b"plain", b"another", b"kept", b"a.pem", b"x.conf", b".env", b"with space", b'quo"ted', b"back\\slash",
         b"new\nline", "größe".encode(), b"\xff\xfe", b"\xed\xa0\x80", b"n" * 255, b"n" * 256, b"*", b"still"]
for folder in (b"folder/", b"heard/", b"open/", b"other/", b"folder/../folder/./", b"folder//", base + b"/folder/",
               b"missing/", b"folder/plain/"):
    for name in names:
        path = folder + name
        shows = folder.replace(base, b"BASE") + name
        attempt(("create", shows), lambda: put(path, FRESH, 0o6755))
        attempt(("again", shows), lambda: put(path, FRESH))
        attempt(("append", shows), lambda: put(path, CREATE | os.O_APPEND))
        attempt(("read", shows), lambda: get(path))
        attempt(("read it again", shows), lambda: get(path))
        attempt(("both", shows), lambda: put(path, os.O_RDWR))
        attempt(("cut", shows), lambda: put(path, os.O_WRONLY | os.O_TRUNC))
        attempt(("cut, reading", shows), lambda: get(path, os.O_RDONLY | os.O_TRUNC))
        attempt(("mode", shows), lambda: os.chmod(path, 0o4711))
        attempt(("times", shows), lambda: os.utime(path, ns=(10**9, 2 * 10**9)))
        attempt(("see", shows), lambda: shown(path))
        attempt(("remove a folder", shows), lambda: os.rmdir(path))
        attempt(("remove", shows), lambda: os.unlink(path))
        attempt(("remove again", shows), lambda: os.unlink(path))
        attempt(("make", shows), lambda: os.mkdir(path, 0o1777))
        attempt(("make again", shows), lambda: os.mkdir(path))
        attempt(("list", shows), lambda: get(path))
        attempt(("list", shows), lambda: get(path, os.O_RDONLY | os.O_DIRECTORY))
        attempt(("write a folder", shows), lambda: put(path, os.O_WRONLY))
        attempt(("mode of a folder", shows), lambda: os.chmod(path, 0o700))
        attempt(("times of a folder", shows), lambda: os.utime(path, ns=(1, 10**9), follow_symlinks=False))
        attempt(("see", shows), lambda: shown(path))
        attempt(("remove", shows), lambda: os.unlink(path))
        attempt(("remove a folder", shows), lambda: os.rmdir(path))

os.chdir("folder")
there = os.open("..", os.O_RDONLY | os.O_DIRECTORY)
attempt("made", lambda: put("target"))
attempt("linked", lambda: os.symlink("target", "link"))
attempt("nowhere", lambda: os.symlink("nowhere", "dangling"))
attempt("around", lambda: os.symlink("../folder", "../around"))
attempt("circle", lambda: os.symlink("circle", "circle"))
attempt("elsewhere", lambda: os.symlink("/proc", "processes"))
attempt("made there", lambda: os.mkdir("processes/self/fd/9"))
attempt("two names", lambda: os.link("target", "second"))
attempt("pipe", lambda: os.mkfifo("pipe"))
for name in ("link", "dangling", "circle", "second", "pipe", ".", "..", "", "/", "../around", "../around/target",
             "../around/new", "../around/link", "new/", "target/", "target/.", "target/x", "../folder/new2"):
    for flags in (0, os.O_NOFOLLOW, os.O_DIRECTORY):
        attempt((name, flags, "read"), lambda: get(name, os.O_RDONLY | os.O_NONBLOCK | flags))
        attempt((name, flags, "read at"), lambda: get("folder/" + name, os.O_NONBLOCK | flags, dir_fd=there))
        attempt((name, flags, "write"), lambda: put(name, os.O_WRONLY | os.O_NONBLOCK | flags))
        attempt((name, flags, "create"), lambda: put(name, CREATE | os.O_NONBLOCK | flags))
        attempt((name, flags, "create at"), lambda: put("other/" + name.lstrip("./"), FRESH | flags, dir_fd=there))
    attempt((name, "mode"), lambda: os.chmod(name, 0o750))
    attempt((name, "times"), lambda: os.utime(name, ns=(10**9, 10**9)))
    attempt((name, "own times"), lambda: os.utime(name, ns=(10**9, 3 * 10**9), follow_symlinks=False))
    attempt((name, "make"), lambda: os.mkdir(name))
    attempt((name, "make at"), lambda: os.mkdir("folder/" + name, dir_fd=there))
    attempt((name, "remove"), lambda: os.unlink(name))
    attempt((name, "remove at"), lambda: os.unlink("folder/" + name, dir_fd=there))
    attempt((name, "remove folder"), lambda: os.rmdir(name))
attempt("no such descriptor", lambda: get("x", dir_fd=999))
attempt("a file for a folder", lambda: get("x", dir_fd=os.open("second", os.O_RDONLY)))
attempt("proc", lambda: len(get("/proc/self/stat")))
attempt("through proc", lambda: put("/proc/self/cwd/through"))
attempt("null", lambda: get("/dev/null"))
attempt("passwd", lambda: len(get("/etc/passwd")))
attempt("passwd", lambda: put("/etc/passwd", os.O_WRONLY))
attempt("new in etc", lambda: put("/etc/nothing-of-this-name"))
os.umask(0)
attempt("another umask", lambda: put("umask", FRESH, 0o666) and shown("umask"))

def work(number):
    for turn in range(20):
        with open(f"../open/{number}.{turn}", "w") as file:
            file.write("x")
        with open(f"../open/{number}.{turn}") as file:
            assert file.read() == "x"
        os.unlink(f"../open/{number}.{turn}")

threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
try:
    work("alone")
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print("worked")
except OSError as error:
    print("no work", errno.errorcode[error.errno])
"""

_VARY = ("seq", "time", "us", "tid", "pid", "ppid")


def told(result: Result) -> list[list[tuple[str, str]]]:
    """The events of the program's main thread in order, then those of its other threads in theirs. What a call returned
    is left out where somebody saw it: which descriptors are free depends on the other threads.
    """
    threads: dict[tuple[int, int], list[list[tuple[str, str]]]] = {}
    for event in result.events():
        if event["kind"].startswith("file."):
            left_out = (*_VARY, "result") if event.get("result", "").isdigit() else _VARY
            shown = {
                key: re.sub(r"/proc/\d+", "/proc/N", repr(said)) for key, said in event.items() if key not in left_out
            }
            threads.setdefault((event["pid"], event["tid"]), []).append(sorted(shown.items()))
    ordered = sorted(threads.items(), key=lambda item: (item[0][0] != item[0][1], item[1]))
    return [event for _, several in ordered for event in several]


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_routine_is_done_and_told_as_what_is_not(tmp_path: pathlib.Path, name: str) -> None:
    found = []
    policy = POLICIES[name]
    alone = policy + ("" if "rules:" in policy else "rules:\n") + NOTHING_ALIKE
    requires_core()
    for text, pure in ((policy, ""), (policy, "1"), (alone, "1")):
        if (tmp_path / "ws").exists():
            shutil.rmtree(tmp_path / "ws")
        (tmp_path / "ws").mkdir()
        for folder in ("folder", "heard", "open", "other") if name == "narrow" else ():
            (tmp_path / "ws" / folder).mkdir()
        found.append(run([sys.executable, "-I", "-S", "-c", PROGRAM], tmp_path, policy=text, env={"ASL_PURE": pure}))
    *several, looked = found
    assert looked.code == 0, looked.err
    for each in found:
        counts: dict[str, int] = {}
        for event in each.events():
            counts[event["kind"]] = counts.get(event["kind"], 0) + 1
        assert counts == {kind: sum(by.values()) for kind, by in each.report["counts"].items()}
    for routine in several:
        assert routine.code == 0, routine.err
        for one, other in zip(routine.out.splitlines(), looked.out.splitlines(), strict=True):
            assert one == other
        for said, wanted in zip(told(routine), told(looked), strict=True):
            assert said == wanted
        assert routine.report["counts"] == looked.report["counts"]
    assert "worked" in looked.out
    names = {event["path"].rpartition("/")[2] for event in looked.events("file.create")}
    assert {"plain", "another", "with space"} <= names
    blocked = {event["path"].rpartition("/")[2] for event in looked.blocked()}
    warned = {event["path"] for event in looked.events() if event["decision"]["action"] == "warn"}
    if name == "served":
        assert {"kept", "a.pem", ".env", "still"} <= blocked  # nobody's neighbour speaks for them
    if name == "narrow":
        assert {"plain", "kept"} <= blocked
    else:
        assert warned
        opened = {e["flags"].split("|")[0] for e in looked.events("file.write") if e["decision"].get("rule") == "both"}
        assert opened == {"O_RDWR"}
        assert all(path.endswith(".conf") for path in warned)


def test_a_rule_that_looks_at_more_than_the_path_is_asked_about_each_name(tmp_path: pathlib.Path) -> None:
    rule = 'rules:\n  - {name: r, on: [file.read], path: "**", match: "[.]conf", action: block}\n'
    (tmp_path / "ws").mkdir()
    for name in ("plain", "a.conf"):
        (tmp_path / "ws" / name).write_text(name)
    tried = "cat plain plain; cat a.conf"
    result = run(["sh", "-c", tried], tmp_path, policy=OPEN + rule)
    assert result.out == "plainplain"
    assert [event["path"] for event in result.blocked()] == [str(tmp_path / "ws" / "a.conf")]
    assert run(["sh", "-c", tried], tmp_path, policy=OPEN).out == "plainplaina.conf"
