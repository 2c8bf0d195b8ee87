"""What is no run's tree's business, whatever its policies say: the files by which runs are decided and recorded; and
what they refuse, by whatever path it is mounted.
"""

from __future__ import annotations

import os

from agent_safety_layer.policy.globs import escape
from agent_safety_layer.policy.model import Entry, Files, Layer, Network, Policy
from asl_hooks.paths import is_special
from asl_hooks.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from asl_hooks.mounts import Mount


def guarded(
    policy: Policy,
    paths: Iterable[str],
    others: Iterable[str] = (),
    *,
    mounted: Iterable[Mount] = (),
    asked: Iterable[str] = (),
    hosts: Sequence[str] = (),
    split: str = "",
) -> Policy:
    """*policy* with one more layer: *paths* and what is below them may be read but not changed, *others* neither, and
    *hosts* not be reached. The gate is asked for what is *asked*. *split* is a trace whose parts are guarded, too,
    those to come included. What any layer refuses it then refuses by all paths at which it is *mounted*.
    """
    protect = tuple(Entry(path, "built-in", (escape(form),)) for path in paths for form in forms(path))
    if split:
        roots = sorted(form.removesuffix(".jsonl") for form in forms(split))
        protect += tuple(Entry(split, "built-in", (f"{escape(root)}.part*",)) for root in roots)
    block = tuple(Entry(path, "built-in", (escape(path),)) for path in others)
    ask = tuple(Entry(path, "built-in", (path,)) for path in asked)
    own = Layer("own", files=Files(protect=protect, block=block, ask=ask), network=_away(hosts))
    layers = (*policy.layers, own)
    return Policy((*layers, *_mounted_again(layers, mounted)), policy.sources)


def _mounted_again(layers: Iterable[Layer], mounted: Iterable[Mount]) -> tuple[Layer, ...]:
    """What the layers refuse or ask about, by its other paths."""
    from agent_safety_layer.policy.mounted import elsewhere, views

    pairs = views(mounted)

    def again(entry: Entry | None) -> Entry | None:
        other = dict.fromkeys(form for path in entry.forms for form in elsewhere(path, pairs)) if entry else ()
        return Entry(f"{entry.text}, mounted here, too", "built-in", tuple(other)) if entry and other else None

    def all_again(entries: Iterable[Entry]) -> tuple[Entry, ...]:
        return tuple(made for entry in entries if (made := again(entry)))

    found = []
    for layer in layers if pairs else ():
        files = layer.files or Files()
        there = Files(block=all_again(files.block), protect=all_again(files.protect), ask=all_again(files.ask))
        rules = tuple(
            replace(rule, condition=replace(rule.condition, path=path))
            for rule in layer.rules
            if (path := again(rule.condition.path))
        )
        if rules or there.block or there.protect or there.ask:
            found.append(Layer(layer.name, mode=layer.mode, files=there, rules=rules))
    return tuple(found)


def _away(hosts: Sequence[str]) -> Network | None:
    """A section that has an opinion about these hosts only; none where there are none."""
    if not hosts:
        return None
    from agent_safety_layer.policy.hosts import parse_host

    return Network(block=tuple(parse_host(host, "built-in") for host in hosts), private_ips=True)


def odd_mounts(mounted: Iterable[Mount]) -> list[str]:
    """Where there are mounts of which no path tells what is there: message queues, which whoever may read a queue's
    file takes other programs' messages from; and processes and terminals in another place than their own.
    """
    return [mount.at for mount in mounted if mount.kind == "mqueue" or _is_stray(mount)]


def _is_stray(mount: Mount) -> bool:
    home = {"proc": "/proc", "devpts": "/dev"}.get(mount.kind)
    return home is not None and mount.at != home and not mount.at.startswith(home + "/")


def forms(path: str) -> set[str]:
    """The canonical path and, where it ends in a link, that of the link. Devices are nobody's own."""
    parent, name = os.path.split(os.path.abspath(path))
    found = {os.path.realpath(path), os.path.join(os.path.realpath(parent), name)}
    return {form for form in found if not is_special(form)}
