"""Wildcards that cannot hang, and an index that finds every pattern that covers a path in one walk over its segments.

A path pattern means what it matches *and everything below it*. ``*`` and ``?`` stay within one segment and match
leading dots too, ``**`` crosses segments (none or more; at the end one or more), ``[a-z]`` and ``[!a-z]`` are
character classes, ``{a,b}`` is either, ``\\`` takes the next character literally. Case matters. No regular expression
is involved: a wildcard is a list of chunks between its stars, matched leftmost first, which costs at most length
times length.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Generic, TypeVar

    T = TypeVar("T")
    # One atom of a chunk: a character, None for "?", or (negated, ranges) for a class.
    Class = tuple[bool, tuple[tuple[str, str], ...]]
    Globs = dict[str, tuple["Wildcard", "Node[T]"]]
    Chunk = str | tuple["str | Class | None", ...]
else:

    class Generic:  # at run time the index is an ordinary class; importing typing costs 9 ms
        __slots__ = ()

        def __class_getitem__(cls, item):
            return cls

    T = None

BRACE_LIMIT = 512
_EMPTY: Any = {}  # never changed
_FOLDERS = 4096  # remembered by an index
_SPECIAL = frozenset("*?[]{}\\")


def escape(text: str) -> str:
    """The pattern that matches exactly *text*."""
    if not has_meta(text) and "{" not in text and "}" not in text and "]" not in text:
        return text
    return "".join("\\" + c if c in _SPECIAL else c for c in text)


def has_meta(text: str) -> bool:
    """Whether *text*, braces already expanded, is more than a literal."""
    return "*" in text or "?" in text or "[" in text or "\\" in text


def expand_braces(pattern: str) -> list[str]:
    """Every alternative of ``a{b,c}d``, nested ones too; ``${NAME}`` and braces without a comma stay as they are.

    Raises ``ValueError`` when there are more than 512 of them.
    """
    if "{" not in pattern:
        return [pattern]
    found = _first_braces(pattern)
    if found is None:
        return [pattern]
    before, choices, after = found
    tails = expand_braces(after)
    heads = [before + choice for part in choices for choice in expand_braces(part)]
    if len(heads) * len(tails) > BRACE_LIMIT:
        raise ValueError(f"the braces stand for more than {BRACE_LIMIT} patterns")
    return [head + tail for head in heads for tail in tails]


def _first_braces(pattern: str) -> tuple[str, list[str], str] | None:
    """What stands before, within and after the first pair of braces that holds a comma."""
    opened: list[tuple[int, list[int]]] = []  # where each brace opened, and its commas
    best: tuple[int, list[int], int] | None = None
    i, end = 0, len(pattern)
    while i < end:
        c = pattern[i]
        if c == "\\":
            i += 1
        elif c == "$" and pattern.startswith("{", i + 1):
            close = pattern.find("}", i)
            i = close if close > 0 else end
        elif c == "{":
            opened.append((i, []))
        elif c == "," and opened:
            opened[-1][1].append(i)
        elif c == "}" and opened:
            start, commas = opened.pop()
            if commas and (best is None or start < best[0]):
                best = (start, commas, i)
            if not opened and best is not None:
                break
        i += 1
    if best is None:
        return None
    start, commas, stop = best
    edges = [start, *commas, stop]
    parts = [pattern[edges[i] + 1 : edges[i + 1]] for i in range(len(edges) - 1)]
    return pattern[:start], parts, pattern[stop + 1 :]


class Wildcard:
    """A compiled wildcard over one string: ``matches(text)`` is true when all of *text* fits."""

    __slots__ = ("chunks", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        plain = "?" not in text and "[" not in text and "\\" not in text
        self.chunks: tuple[Chunk, ...] = _plain_chunks(text) if plain else tuple(_chunks(text))

    def matches(self, text: str) -> bool:
        """Whether the whole of *text* fits."""
        chunks = self.chunks
        first = chunks[0]
        if len(chunks) == 1:
            return len(first) == len(text) and _fits(first, text, 0)
        last = chunks[-1]
        at, end = len(first), len(text) - len(last)
        if at > end or not _fits(first, text, 0) or not _fits(last, text, end):
            return False
        for chunk in chunks[1:-1]:
            at = _find(chunk, text, at, end)
            if at < 0:
                return False
            at += len(chunk)
        return True

    def literal(self) -> str | None:
        """The one string that it matches, or None when it is a real wildcard."""
        return self.chunks[0] if len(self.chunks) == 1 and isinstance(self.chunks[0], str) else None


def _fits(chunk: Chunk, text: str, at: int) -> bool:
    if isinstance(chunk, str):
        return text.startswith(chunk, at)
    return all(_one(atom, text[at + i]) for i, atom in enumerate(chunk))


def _find(chunk: Chunk, text: str, start: int, end: int) -> int:
    if isinstance(chunk, str):
        return text.find(chunk, start, end)
    for at in range(start, end - len(chunk) + 1):
        if _fits(chunk, text, at):
            return at
    return -1


def _one(atom: str | Class | None, c: str) -> bool:
    if atom is None:
        return True
    if isinstance(atom, str):
        return atom == c
    negated, ranges = atom
    return any(low <= c <= high for low, high in ranges) != negated


def _plain_chunks(text: str) -> tuple[Chunk, ...]:
    """The stretches between the stars of a wildcard that has nothing but stars."""
    first, *others = text.split("*")
    if not others:
        return (first,)
    return (first, *(chunk for chunk in others[:-1] if chunk), others[-1])


def _chunks(text: str) -> Iterator[Chunk]:
    """The stretches between stars; a stretch of plain characters is a plain string."""
    atoms: list[str | Class | None] = []
    i, end = 0, len(text)
    while i < end:
        c = text[i]
        i += 1
        if c == "*":
            yield _chunk(atoms)
            atoms = []
            while i < end and text[i] == "*":
                i += 1
        elif c == "?":
            atoms.append(None)
        elif c == "[":
            atom, i = _class(text, i)
            atoms.append(atom)
        elif c == "\\":
            if i == end:
                raise ValueError("it ends in a lone backslash")
            atoms.append(text[i])
            i += 1
        else:
            atoms.append(c)
    yield _chunk(atoms)


def _chunk(atoms: list[str | Class | None]) -> Chunk:
    plain = [atom for atom in atoms if isinstance(atom, str)]
    return "".join(plain) if len(plain) == len(atoms) else tuple(atoms)


def _class(text: str, i: int) -> tuple[Class, int]:
    """The class whose opening bracket stands just before *i*, and where the text goes on."""
    start = i
    negated = text.startswith(("!", "^"), i)
    if negated:
        i += 1
    ranges: list[tuple[str, str]] = []
    first = True
    while i < len(text) and (first or text[i] != "]"):
        first = False
        if text.startswith("[:", i):
            raise ValueError("named classes such as [:alpha:] are not supported; write the range, as in [a-zA-Z]")
        if text[i] == "\\" and i + 1 < len(text):
            i += 1
        low = high = text[i]
        if text.startswith("-", i + 1) and i + 2 < len(text) and text[i + 2] != "]":
            i += 2
            if text[i] == "\\" and i + 1 < len(text):
                i += 1
            high = text[i]
            if high < low:
                raise ValueError(f"the range {low}-{high} runs backwards")
        ranges.append((low, high))
        i += 1
    if i >= len(text):
        raise ValueError(f"the bracket before {text[start:]!r} is never closed (a literal one is written \\[)")
    return (negated, tuple(ranges)), i + 1


def segments(pattern: str) -> list[str | Wildcard | None]:
    """The parts of an absolute path pattern: a literal name, a ``Wildcard``, or None for ``**``.

    ``**`` next to ``**`` counts once, and a trailing ``**`` is ``*``: a pattern covers what is below its matches
    anyway.
    """
    parts: list[str | Wildcard | None] = []
    for name in pattern.split("/"):
        if not name:
            continue
        if name == "**":
            if not parts or parts[-1] is not None:
                parts.append(None)
        elif has_meta(name):
            wildcard = Wildcard(name)
            literal = wildcard.literal()
            parts.append(wildcard if literal is None else literal)
        else:
            parts.append(name)
    if parts and parts[-1] is None:
        parts[-1] = Wildcard("*")
    return parts


class Node(Generic[T]):
    """One place in the index. ``loops`` marks the node of a ``**``: it stays active whatever comes.

    Children with a wildcard stand in ``heads`` by the literal they begin with, in ``tails`` by the one they end with,
    each by its length, so that a thousand of them cost a few look-ups; ``globs`` holds those that have neither.
    """

    __slots__ = ("deep", "globs", "heads", "items", "leaf", "loops", "names", "tails")

    def __init__(self, loops: bool = False) -> None:
        # Most nodes have one child or none, so what is empty is shared, and made when something is put into it.
        self.names: dict[str, Node[T]] = _EMPTY
        self.heads: dict[int, dict[str, Globs[T]]] = _EMPTY
        self.tails: dict[int, dict[str, Globs[T]]] = _EMPTY
        self.globs: Globs[T] = _EMPTY
        self.deep: Node[T] | None = None
        self.loops = loops
        self.leaf = True
        self.items: tuple[T, ...] = ()

    def child(self, part: str | Wildcard | None) -> Node[T]:
        """The node below for one part of a pattern, made when it is new."""
        if part is None:
            if self.deep is None:
                self.deep = Node(loops=True)
            return self.deep
        self.leaf = False
        if isinstance(part, str):
            node = self.names.get(part)
            if node is None:
                if self.names is _EMPTY:
                    self.names = {}
                node = self.names[part] = Node()
            return node
        return self._globs(part.chunks[0], part.chunks[-1]).setdefault(part.text, (part, Node()))[1]

    def _globs(self, first: Chunk, last: Chunk) -> Globs[T]:
        if first and isinstance(first, str):
            if self.heads is _EMPTY:
                self.heads = {}
            return self.heads.setdefault(len(first), {}).setdefault(first, {})
        if last and isinstance(last, str):
            if self.tails is _EMPTY:
                self.tails = {}
            return self.tails.setdefault(len(last), {}).setdefault(last, {})
        if self.globs is _EMPTY:
            self.globs = {}
        return self.globs

    def step(self, name: str) -> list[Node[T]]:
        """The nodes reached from here by the segment *name* (not this node itself, when it loops)."""
        node = self.names.get(name)
        reached = [] if node is None else [node]
        if not (self.globs or self.heads or self.tails):
            return reached
        tables = [self.globs]
        tables += [heads[name[:length]] for length, heads in self.heads.items() if name[:length] in heads]
        tables += [tails[name[-length:]] for length, tails in self.tails.items() if name[-length:] in tails]
        for table in tables:
            for wildcard, child in table.values():
                if wildcard.matches(name):
                    reached.append(child)
        return reached

    def wild(self) -> bool:
        """Whether it takes more than asking for names to see what could match from here."""
        return self.loops or bool(self.globs or self.heads or self.tails)

    def wildcards(self) -> Iterator[tuple[Wildcard, Node[T]]]:
        """The children with a wildcard."""
        yield from self.globs.values()
        for by in (self.heads, self.tails):
            for tables in by.values():
                for table in tables.values():
                    yield from table.values()

    def below(self) -> Iterator[Node[T]]:
        """Every node that hangs below this one, each once."""
        children = [*self.names.values(), *(child for _, child in self.wildcards())]
        if self.deep is not None:
            children.append(self.deep)
        for child in children:
            yield child
            yield from child.below()


class PathIndex(Generic[T]):
    """Patterns with something attached; ``find(path)`` gives what is attached to every pattern that covers *path*.

    All patterns share one tree of segments, walked once with the set of nodes that are still alive, so a look-up costs
    what the path is long, hardly what the patterns are many.
    """

    __slots__ = ("_folders", "root")

    def __init__(self, patterns: Iterable[tuple[str, T]] = ()) -> None:
        self.root: Node[T] = Node()
        # What was found on the way to a folder: paths that are looked up share few of them.
        self._folders: dict[str, tuple[list[T], list[Node[T]]]] = {}
        for pattern, item in patterns:
            self.add(pattern, item)

    def add(self, pattern: str, item: T) -> None:
        """Attach *item* to an absolute pattern whose braces are expanded."""
        self._folders.clear()
        node = self.root
        if has_meta(pattern):
            for part in segments(pattern):
                node = node.child(part)
        else:
            for name in pattern.split("/"):
                if name:
                    below = node.names.get(name)
                    if below is None:
                        below = node.child(name)
                    node = below
        node.items += (item,)

    def find(self, path: str) -> list[T]:
        """What is attached to the patterns that match the absolute, canonical *path* or a folder above it."""
        return self.walk(path)[0]

    def alive(self, path: str) -> list[Node[T]]:
        """The nodes from which a longer path below *path* could still match something more."""
        return self.walk(path)[1]

    def start(self) -> tuple[list[T], list[Node[T]]]:
        """What covers the root folder, and the nodes alive there."""
        active: list[Node[T]] = []
        found: list[T] = []
        enter(self.root, found, active)
        return found, active

    def walk(self, path: str) -> tuple[list[T], list[Node[T]]]:
        """``find`` and ``alive`` in one."""
        if path == "/":
            return self.start()
        folder, _, name = path.rpartition("/")
        known = self._folders.get(folder)
        if known is None:
            if len(self._folders) >= _FOLDERS:
                self._folders.clear()
            known = self._folders[folder] = self._walk(folder)
        found = known[0].copy()
        return found, follow(known[1], name, found)

    def _walk(self, path: str) -> tuple[list[T], list[Node[T]]]:
        found, active = self.start()
        for name in path.split("/")[1:]:
            if not active:
                break
            active = follow(active, name, found)
        return found, active


def enter(node: Node[T], found: list[T], active: list[Node[T]]) -> None:
    """Count *node* in: what is attached to it, and where matching can go on from it."""
    if node.items:
        found += node.items
    if not node.leaf:
        active.append(node)
    deep = node.deep
    if deep is not None and deep not in active:
        active.append(deep)


def follow(active: list[Node[T]], name: str, found: list[T]) -> list[Node[T]]:
    """The nodes alive after one more segment; what it matched is added to *found*."""
    following: list[Node[T]] = [node for node in active if node.loops]
    for node in active:
        for child in node.step(name):
            enter(child, found, following)
    return following
