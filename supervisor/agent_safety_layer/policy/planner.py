"""The part of a policy that the kernel can hold: path prefixes for a Landlock ruleset, and whether they have holes.

Landlock knows prefixes only, and it grants: what is below an allowed folder cannot be taken out again. So

- a **literal** hole (``~/.ssh``) in a folder that the tree cannot change is cut out by naming the folder's children
  instead; what appears in such a folder later is outside, and is served;
- a **wildcard** hole (``${WORKSPACE}/**/.env``) is looked for, with a budget: each match is a literal hole; when
  there is none, none can come to be by the tree's own doing, because creating one is served and refused;
- a hole in a folder that the tree may change cannot be cut out without making what it creates there impossible to
  execute (execve needs READ in the domain). Then the folder stays whole, and ``wave_reads`` is false: no open may be
  waved through;
- a hole with another name, a **hard link**, can be anywhere: no open may be waved through, nor any change.

WRITE has no holes at all: a folder below which any pattern could ever match is left out, and what changes it is served.
Then every other folder is left out as well. A folder moves in one piece only between places that are held alike; where
it has to be copied (EXDEV), installing a package takes twice as many calls.
"""

from __future__ import annotations

import os
import stat

from agent_safety_layer.events import ASK, BLOCK, FILE_KINDS
from agent_safety_layer.policy.decision import judge_of
from agent_safety_layer.policy.files import DEVICES, EVERYTHING, covers_all
from agent_safety_layer.policy.globs import PathIndex, follow, has_meta
from asl_hooks.paths import several_named
from asl_hooks.value import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Protocol

    from agent_safety_layer.policy.files import FilesJudge
    from agent_safety_layer.policy.globs import Node
    from agent_safety_layer.policy.model import Entry, Layer, Policy, Rule
else:
    Protocol = object

BUDGET = 20_000
BUILT_IN = "built-in"  # the origin of what holds in every run
OFTEN = frozenset({"/etc/ld.so.cache"})  # files that every program opens at its start
SERVED = frozenset({"/dev/pts"})  # folders in which others' things come to be during the run: terminals
FOLDER, PROGRAM, FILE = "folder", "program", "file"
_READS = ("file.read", "file.list")
_REFUSING = ("block", "ask", "protect")


class Tree(Protocol):
    """The file system, as far as planning looks at it. Paths are canonical; symbolic links count as absent."""

    def children(self, path: str, programs: bool = True) -> list[tuple[str, str]] | None:
        """Names and kinds (``folder``, ``program`` for a file that can be executed, ``file`` for anything else) of what
        is in a folder; None when it cannot be listed. Without ``programs`` they may count as files: to tell takes a
        look at each."""

    def exists(self, path: str) -> bool:
        """Whether something is there."""

    def linked(self, paths: Iterable[str]) -> str:
        """A file that has another name (a hard link): one of *paths*, or one in a folder among them; empty for none."""

    def sealed(self, path: str) -> bool:
        """Whether the tracee could not read *path* anyway, nor make it: others own it and keep it to themselves."""


@value
class Plan:
    """What the kernel is to hold: the READ and the WRITE part of the Landlock domain, as canonical path prefixes.

    ``wave_reads``: the READ part has no holes, so an open for reading below it may go on by itself. ``unseen_reads``:
    it also holds all that may be read, and nobody wants to know of it, so such an open need not even be stopped.
    ``notes`` say why not, and what else could not be bounded.
    """

    read: tuple[str, ...]
    write: tuple[str, ...]
    wave_reads: bool
    notes: tuple[str, ...] = ()
    unseen_reads: bool = False


class Bounds:
    """Path prefixes; ``covers(path)`` is true of each and of everything below it."""

    __slots__ = ("_memory", "_prefixes")

    def __init__(self, prefixes: Iterable[str]) -> None:
        self._prefixes = frozenset(prefixes)
        self._memory: dict[str, bool] = {}

    def covers(self, path: str) -> bool:
        """Whether the canonical *path* is one of the prefixes or lies below one."""
        if path in self._prefixes:
            return True
        if path[:1] != "/":
            return False
        folder = path.rpartition("/")[0]
        known = self._memory.get(folder)
        if known is None:
            if len(self._memory) > 8192:
                self._memory.clear()
            known = self._memory[folder] = self._look(folder)
        return known

    def _look(self, folder: str) -> bool:
        prefixes = self._prefixes
        while folder:
            if folder in prefixes:
                return True
            folder = folder.rpartition("/")[0]
        return "/" in prefixes


def plan(
    policy: Policy,
    tree: Tree,
    *,
    record: str = "all",
    landlock: bool = True,
    budget: int = BUDGET,
    asks: bool = False,
) -> Plan:
    """The plan for *policy* on the file system that *tree* shows. ``budget`` bounds how many entries are looked at;
    ``record`` tells what is to be written down (``Policy.record``); with ``asks`` there is somebody who answers
    questions.

    Without ``landlock`` nothing is bounded. Postcondition: what ``read`` covers and is there when ``wave_reads``, and
    whatever ``write`` covers, is decided allow, audit or warn.
    """
    if not landlock:
        return Plan((), (), False, ("Landlock is not to be had here, so every file operation is served.",))
    unseen = record == "changes" and _may_go_unseen(policy)
    return _Planner(policy, tree, budget, unseen=unseen, asks=asks).plan()


class _Planner:
    def __init__(self, policy: Policy, tree: Tree, budget: int, *, unseen: bool, asks: bool) -> None:
        self.tree = tree
        self.asks = asks
        self.left = budget
        self.whole = unseen
        self.notes: list[str] = []
        self.waves = True
        self.judges = [layer.files for layer in judge_of(policy).layers if layer.files is not None]
        self.ruled: PathIndex[str] = PathIndex()  # paths that rules can refuse
        self.anywhere = False  # some rule could refuse a change anywhere
        self.wild: PathIndex[str] = PathIndex()  # patterns for what must not be read
        self.blocked: set[str] = set()  # concrete paths that must not be read
        self.present: set[str] = set()  # those of them that a pattern found
        for layer in policy.layers:
            self._note_holes(layer)
        if self.waves:
            self._look_for_matches()
        self.served = [path for path in SERVED if tree.exists(path)]
        self.above = {folder for path in (*self.blocked, *self.served) for folder in _ancestors(path)}

    def plan(self) -> Plan:
        read: list[str] = []
        for root in self._roots("read"):
            self._emit(root, read)
        roots = self._roots("write")
        write = [] if self.anywhere else [root for root in roots if self._clean(root)]
        if not all(root in write or _is_device(root) for root in roots):
            # Folders move in one piece only between places that are held alike (``Entries.rename``).
            write = [root for root in write if _is_device(root)]
        named = self.tree.linked(sorted(self.blocked - self.present))
        if named:
            self._serve_all(f"{named} has another name, wherever that is")
        if named or self._may_hold_protected(write):
            write = []
        notes = tuple(dict.fromkeys(self.notes))
        return Plan(tuple(sorted(read)), tuple(sorted(write)), self.waves, notes, self.waves and self.whole)

    def _may_hold_protected(self, write: list[str]) -> bool:
        """Whether a protected file has another name, which may lie in one of the folders."""
        # What was made for this run holds none, nor do devices: then nobody need look.
        made = {form for judge in self.judges for entry in judge.files.write for form in entry.forms if _is_tmp(entry)}
        if all(root in made or root.startswith("/dev/") for root in write):
            return False
        protected = [form for judge in self.judges for entry in judge.files.protect for form in entry.forms]
        return bool(self.tree.linked(form for form in protected if not has_meta(form)))

    # What is refused, and where

    def _note_holes(self, layer: Layer) -> None:
        files = layer.files
        if files is not None:
            for entry in files.block:
                self._hole(entry)
            for entry in files.ask:
                if self.asks and entry.origin != BUILT_IN:
                    self._may_run(f"'{entry.text}' ({entry.origin})")
                elif not covers_all(entry):
                    self._hole(entry)
        for rule in layer.rules:
            self._look_back(rule)
            condition = rule.condition
            if rule.action not in (ASK, BLOCK) or not any(kind in FILE_KINDS for kind in condition.on):
                continue
            reads = any(kind in _READS for kind in condition.on)
            if condition.path is not None:
                for form in condition.path.forms:
                    self.ruled.add(form, rule.name)
                if reads and rule.action == ASK and self.asks:
                    self._may_run(f"the rule '{rule.name}' ({rule.origin})")
                elif reads:
                    self._hole(condition.path)
                continue
            self.anywhere = True
            if reads:
                self._serve_all(f"the rule '{rule.name}' ({rule.origin}) can refuse to read any file")

    def _look_back(self, rule: Rule) -> None:
        """What a rule looks back on has to be known for certain: an open that goes on by itself, the kernel looks up
        anew, and may find something else by that name.
        """
        if rule.after is None:
            return
        condition = rule.after.condition
        if any(kind in _READS for kind in condition.on):
            self._serve_all(f"the rule '{rule.name}' ({rule.origin}) looks back on what was read")
        if not any(kind in FILE_KINDS and kind not in _READS for kind in condition.on):
            return
        if condition.path is None:
            self.anywhere = True
        else:
            for form in condition.path.forms:
                self.ruled.add(form, rule.name)

    def _hole(self, entry: Entry) -> None:
        for form in entry.forms:
            if not has_meta(form):
                if not self.tree.sealed(form):
                    self.blocked.add(form)
            elif form.startswith("/**"):
                self._serve_all(f"'{entry.text}' ({entry.origin}) can match anywhere")
            else:
                self.wild.add(form, entry.text)

    def _may_run(self, what: str) -> None:
        """What a person allows to be run, the kernel has to read by itself: it stays within, and no open is waved."""
        self._serve_all(f"what {what} asks about may be a program that is to be run when it is allowed")

    def _look_for_matches(self) -> None:
        matches, complete = self._matches(self.wild)
        if not complete:
            self._serve_all("there is too much to look through for what its patterns match")
        self.present.update(matches)
        self.blocked.update(matches)

    def _serve_all(self, why: str) -> None:
        self.waves = False
        self.notes.append(f"Every open is served, because {why}.")

    def _matches(self, index: PathIndex[str]) -> tuple[list[str], bool]:
        """What is there that a pattern of *index* matches, and whether that is all: the search ends with the budget."""
        matches: list[str] = []
        _, active = index.start()
        todo: list[tuple[str, list[Node[str]]]] = [("", active)]
        while todo:
            path, active = todo.pop()
            for name, kind in self._candidates(path, active):
                self.left -= 1
                if self.left < 0:
                    return matches, False
                found: list[str] = []
                following = follow(active, name, found)
                if found:
                    matches.append(f"{path}/{name}")
                elif following and kind == FOLDER:
                    todo.append((f"{path}/{name}", following))
        return matches, True

    def _candidates(self, path: str, active: list[Node[str]]) -> Iterable[tuple[str, str]]:
        """The children of *path* that could matter to the active nodes; probed by name where only names are wanted."""
        if any(node.wild() for node in active):
            return self.tree.children(path or "/", programs=False) or ()
        names = {name for node in active for name in node.names}
        return [(name, FOLDER) for name in names if self.tree.exists(f"{path}/{name}")]

    # What is allowed

    def _roots(self, access: str) -> list[str]:
        """Where allowed folders begin: the outermost paths that every layer lists and that are there."""
        candidates: set[str] = set()
        bounded = False
        for judge in self.judges:
            forms = _listed(judge, access)
            if forms is None:
                continue
            bounded = True
            wild: PathIndex[str] = PathIndex()
            for form in forms:
                if not has_meta(form):
                    candidates.add(form)
                elif access == "read" and not form.startswith("/**"):
                    wild.add(form, form)
            candidates.update(self._matches(wild)[0])
        candidates.update(DEVICES)
        if access == "read" and self.asks:
            asked = [entry for judge in self.judges for entry in judge.files.ask if entry.origin != BUILT_IN]
            candidates.update(self._present(form for entry in asked for form in entry.forms))
        if not bounded:
            candidates.add("/")
        decided = [path for path in candidates if self._allows(access, path) and self.tree.exists(path)]
        chosen = set(decided)
        return sorted(path for path in decided if not any(folder in chosen for folder in _ancestors(path)))

    def _present(self, forms: Iterable[str]) -> Iterator[str]:
        """The literal among *forms*, and what is there that the others match."""
        wild: PathIndex[str] = PathIndex()
        for form in forms:
            if form in EVERYTHING:
                yield "/"
            elif not has_meta(form):
                yield form
            elif not form.startswith("/**"):
                wild.add(form, form)
        yield from self._matches(wild)[0]

    def _allows(self, access: str, path: str) -> bool:
        if path in self.blocked or any(folder in self.blocked for folder in _ancestors(path)):
            return False
        write = access == "write"
        return all(judge.whole(path, write=write, asked=self.asks and not write) for judge in self.judges)

    def _clean(self, path: str) -> bool:
        """Whether no pattern that takes something away covers *path*, or could ever match below it."""
        if path in SERVED or (path in ("/", "/dev") and self.judges):
            return False  # devices may be used there, not replaced
        found, active = self.ruled.walk(path)
        is_device = path in DEVICES  # nothing is below it
        if found or (active and not is_device):
            return False
        for judge in self.judges:
            roles, alive = judge.index.walk(path)
            if is_device:
                alive = []
            below = (item for node in alive for inner in node.below() for item in inner.items)
            if any(role in _REFUSING and not (role == "ask" and covers_all(entry)) for role, entry in (*roles, *below)):
                return False
        return True

    def _emit(self, path: str, read: list[str]) -> None:
        """Add *path*, or what can be had of it around the holes, to the READ part."""
        if path in self.blocked or path in SERVED:
            return
        if path not in self.above:
            read.append(path)
            return
        if self._allows("write", path):
            inside = [hole for hole in self.blocked if hole.startswith(path.rstrip("/") + "/")]
            there = [hole for hole in inside if hole in self.present or self.tree.exists(hole)]
            there = [hole for hole in there if not SERVED.intersection(_ancestors(hole))]
            if there:
                self._serve_all(f"{there[0]} must not be read and lies where the tree may create and run files")
            if there or not any(path in _ancestors(folder) for folder in self.served):
                read.append(path)
                return
        children = self.tree.children(path)
        if children is None:
            self.notes.append(f"{path} cannot be listed, so opening what is in it is served.")
            return
        for name, kind in children:
            # Beside a hole, a file that is no program is served, if it can be: that costs less than naming it to the
            # kernel.
            below = f"{path.rstrip('/')}/{name}"
            if kind != FILE or self.whole or below in OFTEN or below in DEVICES:
                self._emit(below, read)


def _is_device(path: str) -> bool:
    return path == "/dev" or path.startswith("/dev/")


def _is_tmp(entry: Entry) -> bool:
    return entry.text == "${TMP}"


def _may_go_unseen(policy: Policy) -> bool:
    """Whether nothing hangs on a read but that it is allowed."""
    return policy.on_violation != "kill" and not any(
        kind in _READS
        for layer in policy.layers
        for rule in layer.rules
        for condition in (rule.condition, *((rule.after.condition,) if rule.after else ()))
        for kind in condition.on
    )


def _listed(judge: FilesJudge, access: str) -> list[str] | None:
    """The patterns that a layer's lists allow; None when nothing has to be listed."""
    files = judge.files
    asks = any(covers_all(entry) for entry in files.ask)
    closed = files.write_list if access == "write" else files.read_list
    if not closed and not asks:
        return None
    entries = files.write if access == "write" else (*files.read, *files.write)
    return [form for entry in entries for form in entry.forms if not form.endswith("/.")]


def _ancestors(path: str) -> Iterator[str]:
    """The folders above *path*, the root folder last."""
    while path not in ("/", ""):
        path = path.rpartition("/")[0] or "/"
        yield path


class System:
    """The ``Tree`` of this machine."""

    def __init__(self) -> None:
        self._root = os.geteuid() == 0
        self._writable: dict[str, bool] = {}

    def children(self, path: str, programs: bool = True) -> list[tuple[str, str]] | None:
        """See ``Tree``."""
        try:
            with os.scandir(path) as entries:
                return [(entry.name, _kind(entry, programs)) for entry in entries if not entry.is_symlink()]
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """See ``Tree``."""
        try:
            return not stat.S_ISLNK(os.lstat(path).st_mode)
        except (OSError, ValueError):
            return False

    def linked(self, paths: Iterable[str]) -> str:
        """See ``Tree``."""
        return next((path for path, _ in several_named(paths)), "")

    def sealed(self, path: str) -> bool:
        """See ``Tree``. Nothing is sealed for root."""
        if self._root:
            return False
        parent = path.rpartition("/")[0] or "/"
        writable = self._writable.get(parent)
        if writable is None:
            writable = self._writable[parent] = os.access(parent, os.W_OK)
        if writable:
            return False
        if os.path.lexists(path):
            return not os.access(path, os.R_OK) and not os.access(path, os.X_OK)
        # To make it takes the nearest folder that is there.
        return os.path.lexists(parent) or self.sealed(parent)


def _kind(entry: os.DirEntry[str], programs: bool) -> str:
    if entry.is_dir(follow_symlinks=False):
        return FOLDER
    if not programs or not entry.is_file(follow_symlinks=False):
        return FILE
    return PROGRAM if entry.stat(follow_symlinks=False).st_mode & 0o111 else FILE


__all__ = ["FILE", "FOLDER", "PROGRAM", "Bounds", "Plan", "System", "Tree", "plan"]
