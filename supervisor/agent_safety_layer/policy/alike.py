"""Where a name makes a difference: which names in a folder some pattern of a policy could be about.

All other names there are alike to the policy: it decides the same about events of one kind on any of them. So one
decision stands for as many files as the folder has, and for all folders that the same patterns cover.
"""

from __future__ import annotations

from agent_safety_layer.policy.decision import judge_of

_MOST = 1024

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from agent_safety_layer.policy.globs import Node
    from agent_safety_layer.policy.model import Policy


class Varying:
    """The names in a folder that patterns could be about. Folders with the same one (the same object, that is) are
    alike, too: what the policy says to one kind of event on another name in the one, it says in the other.
    """

    __slots__ = ("_globs", "_heads", "_names", "_tails")

    def __init__(self, nodes: Iterable[Node[Any]]) -> None:
        nodes = tuple(nodes)
        self._names = frozenset(name for node in nodes for name in node.names)
        self._heads = tuple({head for node in nodes for heads in node.heads.values() for head in heads})
        self._tails = tuple({tail for node in nodes for tails in node.tails.values() for tail in tails})
        self._globs = tuple(glob for node in nodes for glob, _ in node.globs.values())

    def about(self, name: str) -> bool:
        """Whether a pattern could be about the file *name*, or about something below it: true of more names than those
        that match, as of each that begins like a pattern does.
        """
        if name in self._names or name.startswith(self._heads) or name.endswith(self._tails):
            return True
        return bool(self._globs) and any(glob.matches(name) for glob in self._globs)


def varying(policy: Policy, kind: str, folder: str) -> Varying | None:
    """The names directly in the absolute, canonical *folder* that *policy* may treat unlike others when it decides
    about a ``file.read``, ``list``, ``write``, ``create``, ``delete`` or ``meta``; None where no name is like another.

    Not for ``/dev`` and ``/proc``, whose names stand for more than files, nor for policies with a memory.
    """
    judge = judge_of(policy)
    nodes: list[Node[Any]] = []
    seen: list[int] = []  # what covers the folder, and what could go on from there
    for layer in judge.layers:
        walks = [] if layer.files is None else layer.files.walks(folder)
        if layer.rules is not None:
            walk = layer.rules.walk(kind, folder)
            if walk is None:
                return None
            walks.append(walk)
        for covering, alive in walks:
            nodes += alive
            seen += (*map(id, covering), 0, *map(id, alive), 0)
    key = kind, *seen
    found = judge.alike.get(key)
    if found is None:
        if len(judge.alike) >= _MOST:
            judge.alike.clear()
        found = judge.alike[key] = Varying(nodes)
    return found
