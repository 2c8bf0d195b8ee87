"""The ``files`` section as a judge: one walk of an index answers for a path, and the answer is remembered.

Writing implies reading. ``block`` beats ``ask`` beats ``protect`` beats the lists; an ``ask`` for everything (``/``)
is what becomes of paths that no list names.
"""

from __future__ import annotations

from agent_safety_layer.events import ALLOW, ASK, BLOCK, WARN, Decision
from agent_safety_layer.policy.globs import PathIndex
from agent_safety_layer.policy.model import Entry, Files
from agent_safety_layer.policy.wording import listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.policy.globs import Node

    Item = tuple[str, Entry]

# Devices that hold nothing and that every program expects; readable and writable unless a policy blocks them by name.
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
# The kinds of events that change what is at their paths.
CHANGES = frozenset(("file.write", "file.create", "file.delete", "file.rename", "file.link", "file.meta"))
_REMEMBERED = 8192
# Elsewhere in /dev, whoever may write to a device may use it, not replace it or close it to others.
_NOT_DEVICES = (
    "/dev/shm/",
    "/dev/mqueue/",
    "/dev/pts/",
)  # files in memory; terminals, whose owners close them to others
_DEVICE = Decision(ALLOW, "devices", "built-in", "every program may use this device")
_ANYTHING = Decision(ALLOW)
EVERYTHING = ("/", "/*", "/**", "**")
_KEEPING = ("block", "protect")


def covers_all(entry: Entry) -> bool:
    """Whether the entry stands for every path there is."""
    return any(form in EVERYTHING for form in entry.forms)


class FilesJudge:
    """Answers for reading and for writing a path under one layer's section."""

    __slots__ = ("_alone", "_otherwise", "_places", "_reads", "_writes", "files", "index")

    def __init__(self, files: Files) -> None:
        self.files = files
        self.index: PathIndex[Item] = PathIndex()
        self._alone: PathIndex[Item] | None = None  # of patterns for a folder without what is below it
        self._otherwise = next((entry for entry in files.ask if covers_all(entry)), None)
        self._reads: dict[str, Decision] = {}
        self._writes: dict[str, Decision] = {}
        self._places: dict[str, Decision] = {}
        for role, entries in (("read", files.read), ("write", files.write)):
            for entry in entries:
                if self._otherwise and covers_all(entry):
                    continue  # what is allowed everywhere is what is asked about everywhere
                for form in entry.forms:
                    if form.endswith("/."):
                        self._alone = self._alone or PathIndex()
                        self._alone.add(form, (role, entry))
                    else:
                        self.index.add(form, (role, entry))
        for role, entries in (("block", files.block), ("ask", files.ask), ("protect", files.protect)):
            for entry in entries:
                if role == "ask" and covers_all(entry):
                    continue
                for form in entry.forms:
                    self.index.add(form, (role, entry))

    def read(self, path: str) -> Decision:
        """The decision on reading the file, or listing the folder, at *path*."""
        found = self._reads.get(path)
        if found is None:
            found = _remember(self._reads, path, self._judge(path, write=False))
        return found

    def write(self, path: str) -> Decision:
        """The decision on writing to what is at *path*."""
        found = self._writes.get(path)
        if found is None:
            found = _remember(self._writes, path, self._judge(path, write=True))
        return found

    def alter(self, path: str) -> Decision:
        """The decision on making or removing what is at *path*, or changing its owner, mode or times."""
        decision = self.write(path)
        if decision.action != BLOCK and path.startswith("/dev/") and not path.startswith(_NOT_DEVICES):
            reason = f"{path} is a device's place: devices may be used, not made, removed or changed"
            return Decision(BLOCK, "files.devices", "built-in", reason)
        return decision

    def whole(self, path: str, *, write: bool, asked: bool = False) -> bool:
        """Whether the lists allow *path* together with what is below it, as far as that is not named itself; with
        ``asked`` also where they ask.
        """
        action = self._judge(path, write=write, whole=True).action
        return action == ALLOW or (asked and action == ASK)

    def _judge(self, path: str, *, write: bool, whole: bool = False) -> Decision:
        roles: dict[str, Entry] = {}
        if path.startswith("/"):  # anything else is no path: a pipe, a memfd, an empty name; no pattern fits it
            for role, entry in self.index.find(path):
                roles.setdefault(role, entry)
            if self._alone is not None and not whole:
                for role, entry in self._alone.find(f"{path.rstrip('/')}/."):
                    roles.setdefault(role, entry)
        verb = "changing" if write else "reading"
        if "block" in roles:
            entry = roles["block"]
            return Decision(BLOCK, "files.block", entry.origin, f"{verb} {path} is blocked by '{entry.text}'")
        if write and "protect" in roles:
            entry = roles["protect"]
            reason = f"{path} may be read but not changed because of '{entry.text}'"
            return Decision(BLOCK, "files.protect", entry.origin, reason)
        if "ask" in roles:
            entry = roles["ask"]
            return Decision(ASK, "files.ask", entry.origin, f"{verb} {path} needs approval because of '{entry.text}'")
        role = "read" if "read" in roles and not write else "write"
        listed_by = roles.get(role)
        if listed_by is not None:
            return Decision(ALLOW, f"files.{role}", listed_by.origin)
        if path in DEVICES:
            return _DEVICE
        if self._otherwise is not None:
            reason = f"{verb} {path} needs approval because nothing else in files names it"
            return Decision(ASK, "files.ask", self._otherwise.origin, reason)
        key, closed = ("files.write", self.files.write_list) if write else ("files.read", self.files.read_list)
        if closed:
            entries = self.files.write if write else (*self.files.read, *self.files.write)
            return Decision(BLOCK, key, closed, f"{verb} {path} is not allowed; allowed is {listed(entries)}")
        return Decision(ALLOW, "files", "", "no list in files is about it")

    def place(self, path: str, *, link: bool) -> Decision | None:
        """The decision on having something else than a folder at *path*, a symbolic ``link`` or a file; None where it
        may be anything.

        A name above protected ones belongs to a folder: as a link it would lead what looks for those names to a place
        where anybody may write them. So would a file, to who takes it for one (git does). Which of the names above
        count is what the pattern spells out; behind a ``**`` a file is only told of, as git's own submodules and
        worktrees have one.
        """
        key = f"{path}\0" if link else path
        found = self._places.get(key)
        if found is None:
            found = _remember(self._places, key, self._judge_place(path, link) or _ANYTHING)
        return None if found is _ANYTHING else found

    def _judge_place(self, path: str, link: bool) -> Decision | None:
        parent, _, name = path.rpartition("/")
        literal: Node[Item] | None = self.index.root
        for part in path.split("/")[1:]:
            literal = literal.names.get(part) if literal is not None else None
        nodes = [node.names[name] for node in self.index.alive(parent or "/") if name in node.names]
        for node in sorted(nodes, key=lambda node: node is not literal):
            entry = _kept_below(node)
            if entry is not None:
                what = "a link" if link else "a file"
                reason = f"{path} may only be a folder, not {what}, because of '{entry.text}'"
                return Decision(BLOCK if link or node is literal else WARN, "files.protect", entry.origin, reason)
        return None

    def walks(self, folder: str) -> list[tuple[list[Item], list[Node[Item]]]]:
        """What covers the names in *folder*, and the nodes from which they could match something more."""
        return [index.walk(folder) for index in (self.index, self._alone) if index is not None]

    def touches(self, path: str) -> Decision | None:
        """The decision of a ``block`` or ``ask`` entry that names *path*; the lists of what is allowed have no say."""
        named = any(role in ("block", "ask") for role, _ in self.index.find(path))
        return self.read(path) if named else None


def _remember(memory: dict[str, Decision], path: str, decision: Decision) -> Decision:
    if len(memory) >= _REMEMBERED:
        memory.clear()
    memory[path] = decision
    return decision


def _kept_below(node: Node[Item]) -> Entry | None:
    """What is blocked or protected further down, by names or wildcards but not across a ``**``."""
    children = [*node.names.values(), *(child for _, child in node.wildcards())]
    for child in children:
        found = next((entry for role, entry in child.items if role in _KEEPING), None) or _kept_below(child)
        if found is not None:
            return found
    return None
