"""What is measured: small loops of one kind of call, and the work that agents do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
LOOPS = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
    long count = atol(argv[2]);
    char name[64];
    for (long i = 0; i < count; i++) {
        if (!strcmp(argv[1], "open")) {
            int fd = open("target", O_RDONLY);
            if (fd < 0 || close(fd)) return 1;
        } else if (!strcmp(argv[1], "stat")) {
            struct stat found;
            if (stat("target", &found)) return 1;
        } else if (!strcmp(argv[1], "create")) {
            snprintf(name, sizeof name, "made-%ld", i);
            int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0600);
            if (fd < 0 || write(fd, name, 8) != 8 || close(fd) || unlink(name)) return 1;
        } else {
            int status;
            pid_t child = vfork();
            if (child == 0) { execl("/bin/true", "true", (char *)0); _exit(1); }
            if (waitpid(child, &status, 0) != child || status) return 1;
        }
    }
    return 0;
}
"""
CONNECT = """
import socket, threading
listener = socket.create_server(("127.0.0.1", 0), backlog=64)
def serve():
    for _ in range(300):
        listener.accept()[0].close()
threading.Thread(target=serve, daemon=True).start()
for _ in range(300):
    with socket.create_connection(listener.getsockname()) as client:
        client.recv(1)
"""
AGENT = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
os.environ["HOME"] = sys.argv[2]
from demo_agent import DONE, JOB, DefaultAgent, DeterministicModel, LocalEnvironment, make_output
outputs = [make_output(why, [{"command": command}]) for why, command in [*JOB, DONE]]
DefaultAgent(
    DeterministicModel(outputs=outputs), LocalEnvironment(cwd=os.getcwd()),
    system_template="", instance_template="{{task}}", cost_limit=0, output_path=Path("trajectory.json"),
).run("Repair it.")
"""


@dataclass(frozen=True)
class Workload:
    """``argv`` is run in a folder that ``reset`` puts back before each run."""

    name: str
    argv: list[str]
    reset: Callable[[], None] = lambda: None


def workloads(here: Path, stuff: Path) -> tuple[list[Workload], list[str]]:
    """Those that can be run here, and a line about each that cannot. *here* is the working directory of all; what they
    need beside it goes to *stuff*."""
    made: list[Workload] = []
    absent: list[str] = []
    python = sys.executable
    (here / "target").write_text("x")
    made.append(Workload("start of true", ["true"]))
    made.append(Workload("start of Python with ssl and sqlite3", [python, "-c", "import json, ssl, sqlite3"]))
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler:
        (stuff / "loops.c").write_text(LOOPS)
        loops = str(stuff / "loops")
        subprocess.run([compiler, "-O2", "-o", loops, stuff / "loops.c"], check=True)
        made.append(Workload("20,000 open and close", [loops, "open", "20000"]))
        made.append(Workload("100,000 stat", [loops, "stat", "100000"]))
        made.append(Workload("2,000 create, write, unlink", [loops, "create", "2000"]))
        made.append(Workload("200 fork and exec", [loops, "exec", "200"]))
    else:
        absent.append("loops, gcc: no C compiler")
    made.append(Workload("300 connects to own server", [python, "-c", CONNECT]))
    for name, prepare in (("pip", _pip), ("git", _git), ("gcc", _gcc), ("pytest", _pytest), ("agent", _agent)):
        try:
            made.append(prepare(here, stuff))
        except (OSError, subprocess.CalledProcessError, ImportError, IndexError) as error:
            words = getattr(error, "stderr", b"") or b""
            absent.append(f"{name}: {error} {words.decode(errors='replace').strip()[-200:]}".strip())
    return made, absent


def _download(stuff: Path, what: str, *how: str) -> Path:
    folder = stuff / "downloads" / what.partition("=")[0]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *how, "-d", folder, what]
    subprocess.run(command, check=True, capture_output=True)
    return sorted(folder.iterdir())[0]


def _sources(stuff: Path, what: str) -> Path:
    archive = _download(stuff, what, "--no-binary", ":all:")
    with tarfile.open(archive) as file:
        file.extractall(stuff, filter="data")
    return stuff / archive.name.removesuffix(".tar.gz")


def _again(stuff: Path, *paths: Path) -> Callable[[], None]:
    """What was made is put aside: for seconds after files were removed, ext4 takes ten times as long to make others."""
    aside = stuff / "made before"

    def reset() -> None:
        for path in paths:
            if path.exists():
                aside.mkdir(exist_ok=True)
                path.rename(aside / str(len(os.listdir(aside))))

    return reset


def _pip(here: Path, stuff: Path) -> Workload:
    wheel = _download(stuff, "networkx==3.4.2", "--only-binary", ":all:")  # 1,500 files
    target = here / "installed"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
    return Workload("pip installs a wheel", [*pip, "--target", str(target), str(wheel)], _again(stuff, target))


def _git(here: Path, stuff: Path) -> Workload:
    bare = stuff / "real.git"
    subprocess.run(["git", "clone", "-q", "--bare", CHECKOUT, bare], check=True, capture_output=True)
    clone = here / "clone"
    script = (
        f"git clone -q --no-hardlinks {bare} clone && cd clone && git status --short && git log --stat -20 >/dev/null"
    )
    return Workload("git clones, looks at status and log", ["sh", "-c", script], _again(stuff, clone))


def _gcc(here: Path, stuff: Path) -> Workload:
    sources = _sources(stuff, "lz4==4.4.4")
    shutil.copytree(sources / "lz4libs", here / "lz4")
    script = (
        "cd lz4 && for f in lz4 lz4hc lz4frame xxhash; do gcc -O1 -c $f.c -o $f.o || exit 1; done; ar rcs lz4.a *.o"
    )
    return Workload("gcc builds lz4", ["sh", "-c", script])


def _pytest(here: Path, stuff: Path) -> Workload:
    sources = _sources(stuff, "itsdangerous==2.2.0")
    shutil.copytree(sources, here / "itsdangerous")
    pytest = f"{sys.executable} -m pytest -q -p no:cacheprovider"
    script = f"cd itsdangerous && PYTHONPATH=src PYTHONDONTWRITEBYTECODE=1 {pytest}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "freezegun"], check=True, capture_output=True)
    return Workload("pytest of itsdangerous", ["sh", "-c", script])


def _agent(here: Path, stuff: Path) -> Workload:
    os.environ |= {"MSWEA_SILENT_STARTUP": "1", "MSWEA_GLOBAL_CONFIG_DIR": str(stuff / "mini")}
    import minisweagent  # noqa: F401

    sys.path.insert(0, str(CHECKOUT / "scripts"))
    from demo_scene import Scene

    scene = Scene(stuff / "agent")
    scene.build()
    (stuff / "agent.py").write_text(AGENT)
    command = [sys.executable, str(stuff / "agent.py"), str(CHECKOUT / "scripts"), str(scene.home)]
    return Workload("an agent's run (mini-swe-agent)", command, _again(stuff, here / "durations", here / ".mini"))
