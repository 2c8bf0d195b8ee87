"""What supervision costs, as ratios to something in the same run: start-up, and a recorded open and close.

Commands take turns (A B C A B C …) so that a machine whose speed drifts treats them alike, and medians of the
per-round ratios are printed with their range. Everything runs pinned to one CPU: there, supervisor and tracee hand over
to each other without waking an idle processor, and so do strace and its tracee.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import approvals
import processes
import traces

LOOP = r"""
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    for (long i = atol(argv[2]); i > 0; i--) {
        int fd = open(argv[1], O_RDONLY);
        if (fd < 0) return 1;
        close(fd);
    }
    return 0;
}
"""
MANY = r"""
#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
    long tracees = atol(argv[2]), calls = atol(argv[3]);
    int gate[2];
    char c;
    if (pipe(gate)) return 1;
    for (long n = 0; n < tracees; n++)
        if (fork() == 0) {
            close(gate[1]);
            read(gate[0], &c, 1);  /* all begin at once */
            for (long i = calls / tracees; i > 0; i--) {
                int fd = open(argv[1], O_RDONLY);
                if (fd < 0) _exit(1);
                close(fd);
            }
            _exit(0);
        }
    close(gate[1]);
    for (int status; wait(&status) > 0;)
        if (status) return 1;
    return 0;
}
"""
EXECS = r"""
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
    for (long i = atol(argv[2]); i > 0; i--) {
        int status;
        pid_t child = vfork();
        if (child == 0) { execl(argv[1], argv[1], (char *)0); _exit(1); }
        if (waitpid(child, &status, 0) != child || status) return 1;
    }
    return 0;
}
"""
PYTHON_EXECS = "import subprocess,sys\nfor _ in range(int(sys.argv[2])): subprocess.run([sys.argv[1]], check=True)"
PYTHON_LOOP = "import os,sys\nfor _ in range(int(sys.argv[2])): os.close(os.open(sys.argv[1], os.O_RDONLY))"
STATIC = """\
version: 1
name: static
files:
  read: ["/"]
  write: ["${WORKSPACE}", "${TMP}"]
"""
WITHOUT_LISTENER = "from agent_safety_layer.cli.supervise import main; main(frozenset({'notify'}))"
SERVED = STATIC + '  block: ["${WORKSPACE}/**/*.blocked"]\n'


def seconds(command: list[str], folder: Path) -> float:
    """Wall time of one run, which must succeed."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    took = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr.decode(errors='replace')}")
    return took


def cpu_seconds(command: list[str], folder: Path) -> float:
    """CPU time of one run and of all that it starts: what else the machine does meanwhile is not in it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds(command, folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rounds(
    commands: dict[str, list[str]],
    folder: Path,
    count: int,
    forget: Path | None = None,
    measure: Callable[[list[str], Path], float] = seconds,
) -> dict[str, list[float]]:
    """What *measure* says of each command in each round; one round first that is not counted. *forget* is removed
    before each.
    """
    times: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(count + 1):
        for name, command in commands.items():
            if forget is not None:
                forget.unlink(missing_ok=True)
            took = measure(command, folder)
            if turn:
                times[name].append(took)
    return times


def ratio(over: list[float], under: list[float]) -> str:
    """Median and range of the ratios, round by round."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return f"{statistics.median(ratios):5.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"


def start(folder: Path, count: int) -> None:
    """The start of ``true``, against the interpreter alone."""
    supervise = [str(Path(sys.executable).with_name("asl-supervise"))]
    times = rounds({"interpreter": [sys.executable, "-c", "pass"], "supervised": [*supervise, "true"]}, folder, count)
    for name, taken in times.items():
        print(f"  {name:<34} {statistics.median(taken) * 1000:8.1f} ms")
    print(f"  supervised / interpreter alone     {ratio(times['supervised'], times['interpreter'])}")


def program(folder: Path, name: str, source: str, otherwise: str) -> list[str]:
    """The C program *source*, or the Python program *otherwise* where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return [sys.executable, "-c", otherwise]
    (folder / f"{name}.c").write_text(source)
    subprocess.run([compiler, "-O2", "-o", folder / name, folder / f"{name}.c"], check=True)
    return [str(folder / name)]


def execs(folder: Path, count: int, calls: int) -> None:
    """One supervised fork, exec and exit of ``true``, against the same unsupervised."""
    work = [*program(folder, "execs", EXECS, PYTHON_EXECS), str(shutil.which("true"))]
    supervise = [str(Path(sys.executable).with_name("asl-supervise")), "-q"]
    commands = {}
    for name, prefix in {"native": [], "supervised": supervise}.items():
        commands[name] = [*prefix, *work, str(calls)]
        commands[f"{name}, none"] = [*prefix, *work, "1"]
    times = rounds(commands, folder, count)
    each = {
        name: statistics.median((a - b) / calls for a, b in zip(times[name], times[f"{name}, none"], strict=True))
        for name in ("native", "supervised")
    }
    for name, took in each.items():
        print(f"  {name:<34} {took * 1e3:8.2f} ms")
    print(f"  added by supervision               {(each['supervised'] - each['native']) * 1e3:8.2f} ms")


def opens(folder: Path, count: int, calls: int) -> None:
    """One audited open and close, against the same unsupervised and under strace."""
    loop = program(folder, "loop", LOOP, PYTHON_LOOP)
    target = folder / "target"
    target.write_text("x")
    (folder / "an.blocked").write_text("x")
    (folder / "static.yaml").write_text(STATIC)
    (folder / "served.yaml").write_text(SERVED)
    supervise = [str(Path(sys.executable).with_name("asl-supervise")), "-q"]
    work = [*loop, str(target)]
    prefixes = {
        "native": [],
        "bounded": [*supervise, "-p", str(folder / "static.yaml"), "--"],
        "served": [*supervise, "-p", str(folder / "served.yaml"), "--"],
    }
    strace = shutil.which("strace")
    if strace:
        prefixes["strace"] = [strace, "-f", "--seccomp-bpf", "-e", "trace=open,openat", "-o", "/dev/null"]
    commands = {}
    for name, prefix in prefixes.items():
        commands[name] = [*prefix, *work, str(calls)]
        commands[f"{name}, none"] = [*prefix, *work, "1"]  # what is not the loop's doing
    times = rounds(commands, folder, count)
    per_call = {
        name: [(a - b) / calls for a, b in zip(times[name], times[f"{name}, none"], strict=True)] for name in prefixes
    }
    for name, taken in per_call.items():
        print(f"  {name:<34} {statistics.median(taken) * 1e6:8.1f} us a call")
    under = "strace" if strace else "native"
    for name in ("bounded", "served"):
        print(f"  {name + ' / ' + under:<34} {ratio(per_call[name], per_call[under])}")


def calls(folder: Path, count: int) -> None:
    """A sandboxed call of a warm process, and a run through a warm ``Supervisor``, against a bare fork."""
    import library

    os.chdir(folder)
    for name, taken in library.measured(count).items():
        print(f"  {name:<44} {statistics.median(taken) * 1e3:8.2f} ms  (from {min(taken) * 1e3:.2f})")


def traced(folder: Path, count: int, calls: int) -> None:
    """CPU time of a stopped call on the ptrace backend, with its result or without, against strace's, by tracees."""
    strace = shutil.which("strace")
    if strace is None or shutil.which("cc") is None:
        print("  needs strace and a C compiler")
        return
    work = [*program(folder, "many", MANY, ""), str(folder / "target")]
    supervise = [str(Path(sys.executable).with_name("asl-supervise")), "-q", "-p", str(folder / "static.yaml")]
    prefixes = {
        "strace": [strace, "-f", "--seccomp-bpf", "-e", "trace=open,openat", "-o", str(folder / "strace")],
        "results": [*supervise, "--backend=ptrace", "-o"],
        "no results": [sys.executable, "-c", WITHOUT_LISTENER, *supervise[1:], "-o"],
    }
    for tracees, times_each in ((1, count), (10, count), (100, count), (1000, 1)):
        commands = {}
        for name, prefix in prefixes.items():
            for some in (calls, 0):
                trace = [str(folder / "trace"), "--"] if name != "strace" else []
                commands[f"{name} {some}"] = [*prefix, *trace, *work, str(tracees), str(some)]
        times = rounds(commands, folder, times_each, folder / "trace", cpu_seconds)
        per_call = {
            name: [(a - b) / calls for a, b in zip(times[f"{name} {calls}"], times[f"{name} 0"], strict=True)]
            for name in prefixes
        }
        for name, taken in per_call.items():
            under = f" {ratio(taken, per_call['strace'])}" if name != "strace" else ""
            print(f"  {tracees:>4} tracees, {name:<20} {statistics.median(taken) * 1e6:8.1f} us a call{under}")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=20000)
    parser.add_argument("--events", type=int, default=1_000_000, help="of the large trace")
    parser.add_argument("--processes", type=int, default=10_000, help="short-lived ones; a tenth of that at once")
    parser.add_argument("--cpu", type=int, default=min(os.sched_getaffinity(0)))
    wanted = parser.parse_args()
    os.sched_setaffinity(0, {wanted.cpu})
    with tempfile.TemporaryDirectory(prefix="asl-bench-") as name:
        folder = Path(name)
        os.environ["ASL_STATE"] = str(folder / "state")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its byte code
        work = folder / "work"
        work.mkdir()
        machine = os.uname()
        print(
            f"{time.strftime('%Y-%m-%d')}, Linux {machine.release} {machine.machine}, Python {sys.version.split()[0]},"
        )
        print(f"CPU {wanted.cpu}; medians of {wanted.rounds} rounds, ratios with their range\n")
        print("start of `true`, default profile")
        start(work, wanted.rounds * 2)
        print(f"\nopen and close of one file, {wanted.calls} times, recorded in the trace")
        print("  bounded: the kernel confines it, waved through; served: opened by the supervisor")
        opens(work, wanted.rounds, wanted.calls)
        print(f"\nthe same {wanted.calls} times on the ptrace backend, by several processes, over strace: CPU time")
        traced(work, max(wanted.rounds // 2, 1), wanted.calls)
        print("\nfrom a warm Python process")
        calls(work, wanted.rounds * 3)
        print("\nfork, exec and exit of `true`, 200 times, its opens included; judged, and verified after the exec")
        execs(work, wanted.rounds, 200)
        supervise = [str(Path(sys.executable).with_name("asl-supervise"))]
        print("\nasking a person")
        approvals.tell(supervise, work, 50, 1000)
        print("\nthe trace of a run")
        traces.cost(supervise, work)
        print("\nreading a large trace")
        traces.reading(work, wanted.events)
        print("\nthe supervisor itself, with many processes")
        processes.tell([*supervise, "-q"], wanted.processes, wanted.processes // 10)


if __name__ == "__main__":
    main()
