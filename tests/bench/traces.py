"""What traces cost: bytes of each event, the part of a run that writing takes, and reading a large one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from agent_safety_layer.events import Decision, Event
from agent_safety_layer.trace.encode import body
from agent_safety_layer.trace.files import compress
from agent_safety_layer.trace.header import header, with_policy
from agent_safety_layer.trace.reader import TraceReader
from agent_safety_layer.trace.writer import TraceWriter

# A build, more or less: many programs, many files, the same ones again and again.
WORK = r"""
for round in 1 2 3 4 5; do
    for name in a b c d e f g h; do echo "$round" > "$name.$round"; cat "$name.$round" > /dev/null; done
    ls -R /usr/share/doc/[a-c]* > listing 2>/dev/null; sort listing > sorted; grep -c copyright sorted > /dev/null
done
"""


def rewrite(path: str) -> float:
    """Seconds that it takes to write the events of a trace once more, one by one."""
    with TraceReader(path) as reader:
        entries = list(reader)
    target = f"{path}.again"
    began = time.perf_counter()
    writer = TraceWriter(target, {})
    for entry in entries:
        encoded = body(entry.event, entry.decision, entry.outcome.effective, entry.outcome.result)
        writer.add(encoded, entry.event.time, entry.outcome.us)
    writer.close({})
    took = time.perf_counter() - began
    os.unlink(target)
    return took


def cost(supervise: list[str], folder: Path) -> None:
    """Print what the trace of a run costs."""
    trace = folder / "cost.jsonl"
    began = time.perf_counter()
    subprocess.run([*supervise, "-q", "-o", str(trace), "sh", "-c", WORK], cwd=folder, check=True)
    took = time.perf_counter() - began
    with TraceReader(str(trace)) as reader:
        events = sum(1 for _ in reader)
    first = trace.read_bytes().index(b"\n") + 1
    size = trace.stat().st_size
    writing = min(rewrite(str(trace)) for _ in range(5))
    small = Path(compress(str(trace))).stat().st_size
    print(f"  {events} events in {took:.2f} s, the header's {first} bytes apart")
    print(f"  {'bytes of an event':<34} {(size - first) / events:8.1f}")
    print(f"  {'bytes of an event, compressed':<34} {small / events:8.1f}")
    print(f"  {'writing, of an event':<34} {writing / events * 1e6:8.1f} us")
    print(f"  {'writing, of the time of the run':<34} {writing / took * 100:8.1f} %")


def large(folder: Path, events: int) -> Path:
    """A trace of so many events: mostly reads of some thousand files by some hundred processes."""
    from agent_safety_layer.policy import load_text

    variables = {
        "WORKSPACE": "/w",
        "HOME": "/home/u",
        "TMP": "/tmp/x",
        "USER": "u",
        "STATE": "/home/u/.local/state/asl",
    }
    own = load_text(
        "version: 1\nname: big\nfiles: {read: [/usr, /w], write: [/w], block: ['/home/u/.ssh']}\n"
        "network: {allow: ['*.example.com:443']}\n",
        name="policy.yaml",
        variables=variables,
    )
    about = header(
        run="big",
        time=1_000_000_000.0,
        command=["agent"],
        cwd="/w",
        policies=[own.name],
        policy_hash=own.sha256,
        mode=own.mode,
        backend="notify",
        enforced={},
    )
    path = folder / "large.jsonl"
    writer = TraceWriter(str(path), with_policy(about, own, variables))
    allow = Decision("allow", "files.read", "policy.yaml:3")
    block = Decision("block", "files.block", "policy.yaml:3", "reading it is blocked by '/home/u/.ssh'")
    bodies = []
    for number in range(20_000):
        pid = 2 + number % 331
        who = {"pid": pid, "tid": pid, "ppid": 1, "exe": f"/usr/bin/tool{pid % 40}", "syscall": "openat"}
        if number % 1000 == 7:
            bodies.append(
                body(Event("file.read", path=f"/home/u/.ssh/id{number % 3}", **who), block, "block", "EACCES")
            )
        else:
            path_ = f"/usr/lib/python3/dist-packages/package{number % 97}/module{number % 7919}.py"
            bodies.append(body(Event("file.read", path=path_, flags="O_RDONLY|O_CLOEXEC", **who), allow, "allow", "3"))
    for number in range(events):
        writer.add(bodies[number % len(bodies)], 1_000_000_000.0 + number / 20_000, 20)
        if not number % 500_000:
            writer.flush()
    writer.close({"outcome": "exited", "exit_code": 0, "wall_seconds": events / 20_000})
    return path


def reading(folder: Path, events: int) -> None:
    """Print what it takes to read a large trace in several ways."""
    path = str(large(folder, events))
    print(f"  {events} events, {os.stat(path).st_size / 2**20:.0f} MiB")
    words = {
        "stats": ("trace", "stats", path),
        "query --action block": ("trace", "query", path, "--action", "block"),
        "query --path, a glob": ("trace", "query", path, "--path", "/home/**/id1", "--count", "by", "path"),
        "verify": ("trace", "verify", path),
        "replay": ("replay", path),
    }
    for name, given in words.items():
        began = time.perf_counter()
        with open(os.devnull, "wb") as nothing:
            process = subprocess.Popen([sys.executable, "-m", "agent_safety_layer.cli.main", *given], stdout=nothing)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        took = time.perf_counter() - began
        assert process.returncode == 0, given
        print(f"  {name:<34} {took:8.2f} s {events / took / 1e3:8.0f} k events/s {used.ru_maxrss / 1024:6.0f} MiB peak")
    os.unlink(path)
