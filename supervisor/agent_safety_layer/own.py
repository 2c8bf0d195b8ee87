"""What is no run's tree's business, whatever its policies say: the files by which runs are decided and recorded, and
other people's terminals.
"""

from __future__ import annotations

import os

from agent_safety_layer.policy.globs import escape
from agent_safety_layer.policy.model import Entry, Files, Layer, Network, Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def guarded(
    policy: Policy,
    paths: Iterable[str],
    others: Iterable[str] = (),
    *,
    asked: Iterable[str] = (),
    hosts: Iterable[str] = (),
    split: str = "",
) -> Policy:
    """*policy* with one more layer: *paths* and what is below them may be read but not changed, *others* neither, and
    *hosts* not be reached. The gate is asked for what is *asked*. *split* is a trace whose parts are guarded, too,
    those to come included.
    """
    protect = tuple(Entry(path, "built-in", (escape(form),)) for path in paths for form in forms(path))
    if split:
        roots = sorted(form.removesuffix(".jsonl") for form in forms(split))
        protect += tuple(Entry(split, "built-in", (f"{escape(root)}.part*",)) for root in roots)
    block = tuple(Entry(path, "built-in", (escape(path),)) for path in others)
    ask = tuple(Entry(path, "built-in", (path,)) for path in asked)
    own = Layer("own", files=Files(protect=protect, block=block, ask=ask), network=_away(hosts))
    return Policy((*policy.layers, own), policy.sources)


def _away(hosts: Iterable[str]) -> Network | None:
    """A section that has an opinion about these hosts only; none where there are none."""
    from agent_safety_layer.policy.hosts import parse_host

    block = tuple(parse_host(host, "built-in") for host in hosts)
    return Network(block=block, private_ips=True) if block else None


def queues() -> list[str]:
    """Where POSIX message queues are mounted: whoever may read a queue's file takes other programs' messages away."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
            return [words[1] for line in file if (words := line.split(" "))[2] == "mqueue" and "\\" not in words[1]]
    except OSError:
        return []


def terminals() -> list[str]:
    """The terminals that are open now and are not the one we run on: what is typed there is not for the tree."""
    try:
        found = [f"/dev/pts/{name}" for name in os.listdir("/dev/pts") if name.isdigit()]
    except OSError:
        return []
    mine = _controlling()
    return [path for path in found if _device(path) != mine]


def _controlling() -> int:
    """The device number of the terminal that controls us, 0 for none."""
    with open("/proc/self/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[4])


def _device(path: str) -> int:
    try:
        return os.stat(path).st_rdev
    except OSError:
        return 0


def forms(path: str) -> set[str]:
    """The canonical path and, where it ends in a link, that of the link. Devices are nobody's own."""
    parent, name = os.path.split(os.path.abspath(path))
    found = {os.path.realpath(path), os.path.join(os.path.realpath(parent), name)}
    return {form for form in found if not form.startswith(("/dev/", "/proc/"))}
