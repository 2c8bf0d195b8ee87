"""Us and others side by side in one run: wall time of whole processes, as ratios to the same work unsupervised.

Sides take turns in each round (native, ours, …, native, ours, …), so that a machine whose speed drifts treats them
alike. A cell is the median over the rounds of side / native in that round. ``pinned`` runs all on one CPU, where a
supervisor and its tracee hand over to each other; ``unpinned`` leaves them to the scheduler.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sides import Side, sides
from workloads import CHECKOUT, Workload, workloads

LATEST = Path(__file__).with_name("latest.json")
README = CHECKOUT / "README.md"
BEGIN, END = "<!-- scripts/bench --out tests/bench writes this part -->\n", "<!-- up to here -->\n"
TIMEOUT_S = 180
Cells = dict[str, dict[str, list[float]]]  # workload: side: a figure for each round


def seconds(side: Side, work: Workload, here: Path) -> float:
    """Wall time of one run; infinite if it failed or took too long."""
    work.reset()
    command = side.command(here, work.argv)
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=here, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return float("inf")
    took = time.perf_counter() - started
    if done.returncode:
        print(f"  {side.name}: {work.name} ended with {done.returncode}: {done.stderr[-200:]!r}", file=sys.stderr)
        return float("inf")
    return took


def measure(those: list[Side], works: list[Workload], here: Path, rounds: int) -> Cells:
    """The seconds of each run. A side that failed at a workload is not asked again."""
    cells: Cells = {}
    for work in works:
        print(f"  {work.name} ...", file=sys.stderr, flush=True)
        taken: dict[str, list[float]] = {side.name: [] for side in those}
        for turn in range(rounds + 1):  # the first fills caches and does not count
            for side in those:
                if taken[side.name] == [float("inf")]:
                    continue
                took = seconds(side, work, here)
                if took == float("inf"):
                    taken[side.name] = [took]
                elif turn:
                    taken[side.name].append(took)
        cells[work.name] = taken
    return cells


def ratios(cells: Cells) -> dict[str, dict[str, dict[str, float]]]:
    """For each workload and side: the median, lowest and highest ratio to native; native's own is in seconds."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for work, taken in cells.items():
        native = taken["native"]
        found[work] = {"native": {"seconds": round(statistics.median(native), 4)}}
        for side, times in taken.items():
            if side == "native" or not times or times == [float("inf")]:
                continue
            each = [a / b for a, b in zip(times, native, strict=True)]
            low, mid, high = min(each), statistics.median(each), max(each)
            found[work][side] = {"ratio": round(mid, 3), "low": round(low, 3), "high": round(high, 3)}
    return found


def table(result: dict[str, Any], mode: str) -> str:
    """The ratios as a Markdown table."""
    figures = result[mode]
    names = [side["name"] for side in result["sides"] if side["name"] != "native"]
    lines = [f"| {mode} | native | " + " | ".join(names) + " |", "|---|" + "---:|" * (len(names) + 1)]
    for work, row in figures.items():
        cells = [f"{row['native']['seconds'] * 1e3:.0f} ms"]
        cells += [f"{row[name]['ratio']:.2f}" if name in row else "fails" for name in names]
        lines.append(f"| {work} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def chart(result: dict[str, Any], where: Path) -> None:
    """A picture of the pinned ratios, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "asl"
    from matplotlib import pyplot

    figures = result["pinned"]
    names = [side["name"] for side in result["sides"] if side["name"] != "native"]
    figure, axes = pyplot.subplots(figsize=(9, 0.62 * len(figures) + 1.2))
    marks = "osD^v<>Pp*Xh"
    for i, name in enumerate(names):
        points = [(row[name]["ratio"], y) for y, row in enumerate(figures.values()) if name in row]
        ours = name.startswith("ours")
        axes.scatter(
            *zip(*points, strict=True), label=name, marker=marks[i], s=70 if ours else 32, zorder=3 if ours else 2
        )
    axes.set_xscale("log")
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_yticks(range(len(figures)), list(figures))
    axes.invert_yaxis()
    axes.set_xlabel("times as long as without a supervisor (logarithmic)")
    axes.grid(axis="x", which="both", alpha=0.25)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(where, bbox_inches="tight", metadata={"Date": None})


def into_readme(text: str) -> None:
    """Put the figures where the README shows them."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if end:
        README.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def worse(result: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """What of ours got slower than the committed figures by more than both runs' noise."""
    found = []
    for mode in ("pinned", "unpinned"):
        for work, row in result.get(mode, {}).items():
            for side, now in row.items():
                then = before.get(mode, {}).get(work, {}).get(side)
                if (
                    side.startswith("ours")
                    and then
                    and now["low"] > then["high"]
                    and now["ratio"] > then["ratio"] * 1.1
                ):
                    found.append(f"{mode}, {work}, {side}: {then['ratio']:.2f} -> {now['ratio']:.2f}")
    return found


def machine() -> dict[str, Any]:
    """What it was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    commit = subprocess.run(
        ["git", "-C", CHECKOUT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "kernel": platform.release(),
        "cpu": f"{os.cpu_count()} x {model or platform.machine()}",
        "python": platform.python_version(),
        "user": "root" if os.geteuid() == 0 else "an ordinary user",
        "commit": commit.stdout.strip(),
    }


def main() -> int:
    """Measure, print, and write or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", default=[], help="a side to measure beside native; repeatable")
    parser.add_argument("--work", action="append", default=[], help="a word in the names of the workloads to run")
    parser.add_argument(
        "--out", type=Path, help="a folder for latest.json, latest.md and latest.svg; tests/bench: the README, too"
    )
    parser.add_argument("--check", action="store_true", help="compare with the committed figures; 1 if ours got worse")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)))
    wanted = parser.parse_args()
    every = os.sched_getaffinity(0)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="asl-bench-") as name:
        here, stuff = Path(name) / "work", Path(name) / "stuff"
        here.mkdir()
        stuff.mkdir()
        os.environ["ASL_STATE"] = str(Path(name) / "state")
        those, absent = sides(stuff, frozenset(wanted.only))
        works, missing = workloads(here, stuff)
        works = [work for work in works if not wanted.work or any(word in work.name for word in wanted.work)]
        result: dict[str, Any] = {
            "machine": machine(),
            "rounds": wanted.rounds,
            "sides": [{"name": s.name, "enforces": s.enforces, "records": s.records} for s in those],
            "absent": [*absent, *missing],
        }
        for mode, cpus in (("pinned", {wanted.cpu}), ("unpinned", every)):
            os.sched_setaffinity(0, cpus)
            result[mode] = ratios(measure(those, works, here, wanted.rounds))
            os.sched_setaffinity(0, every)
            shutil.rmtree(Path(name) / "state", ignore_errors=True)
    about = result["machine"]
    lines = [f"{about['date']}, {about['cpu']}, Linux {about['kernel']}, Python {about['python']}, as {about['user']};"]
    lines.append(f"medians of {wanted.rounds} rounds, times as long as native.")
    lines += ["", table(result, "pinned"), "", table(result, "unpinned"), ""]
    lines += ["| side | enforces | records |", "|---|---|---|"]
    lines += [f"| {s['name']} | {s['enforces']} | {s['records']} |" for s in result["sides"]]
    lines += ["", *(f"Not measured: {line}" for line in result["absent"])]
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    if wanted.out:
        wanted.out.mkdir(parents=True, exist_ok=True)
        (wanted.out / "latest.json").write_text(json.dumps(result, indent=1) + "\n")
        (wanted.out / "latest.md").write_text(text)
        chart(result, wanted.out / "latest.svg")
        if wanted.out.resolve() == LATEST.parent:
            into_readme(text)
    if wanted.check:
        slower = worse(result, json.loads(LATEST.read_text()))
        print("\n".join(["Slower than the committed figures:", *slower] if slower else ["Nothing of ours got slower."]))
        return 1 if slower else 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
