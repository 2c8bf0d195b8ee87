"""Command patterns: which executions a line of the ``exec`` section means.

- ``sudo``, a bare word: the name that the program was called by, or the name of the file that is run.
- ``/opt/tools``, an absolute path or path pattern: the file that is run, or everything below a folder.
- ``git push*``, with a space or a wildcard: the whole command, as a shell would print it, its first word without the
  folder. ``*`` stands for anything, spaces and slashes included; a literal star is ``[*]``.
"""

from __future__ import annotations

from agent_safety_layer.policy.globs import PathIndex, Wildcard, expand_braces
from agent_safety_layer.policy.model import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-")


def quote(word: str) -> str:
    """The word as a shell needs it written. The same as ``shlex.quote``, which would import ``re``."""
    if word and not set(word) - _SAFE:
        return word
    return "'" + word.replace("'", "'\"'\"'") + "'"


def join(argv: Sequence[str]) -> str:
    """The command line that a shell would read back as *argv*."""
    return " ".join(map(quote, argv))


def basename(path: str) -> str:
    """What follows the last slash."""
    return path.rpartition("/")[2]


def parse(pattern: str) -> tuple[bool, tuple[Any, ...]]:
    """Whether the pattern is about the executable's path, and its parsed choices (see ``paths``); else its wildcards,
    braces expanded. ``ValueError`` says what is wrong with it.
    """
    if pattern.startswith(("/", "~", "${", "**/")) and " " not in pattern:
        from agent_safety_layer.policy import paths

        return True, paths.parse(pattern)
    found = tuple(expand_braces(pattern))
    for form in found:
        if not form.strip():
            raise ValueError("it is empty")
        Wildcard(form)
    return False, found


class CommandIndex:
    """Command patterns; ``find(argv, path, names)`` gives the first entry that means this execution."""

    __slots__ = ("_by_word", "_loose", "_paths", "_words")

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._words: dict[str, Entry] = {}
        self._paths: PathIndex[Entry] | None = None
        self._by_word: dict[str, list[tuple[Wildcard, Entry]]] = {}
        self._loose: list[tuple[Wildcard, Entry]] = []
        for entry in entries:
            if entry.text != "*":  # everything: see ``everything``
                for form in entry.forms:
                    self._add(form, entry)

    def _add(self, form: str, entry: Entry) -> None:
        if form.startswith(("/", "**/")) and " " not in form:
            self._paths = self._paths or PathIndex()
            self._paths.add(form, entry)
            return
        wildcard = Wildcard(form)
        literal = wildcard.literal()
        if literal is not None and " " not in literal:
            self._words.setdefault(literal, entry)
            return
        # A pattern that begins with a whole plain word is looked up by it, so that many cost what one costs.
        first, space, _ = form.partition(" ")
        plain = Wildcard(first).literal() if space and "[" not in first else None
        if plain is None:
            self._loose.append((wildcard, entry))
        else:
            self._by_word.setdefault(plain, []).append((wildcard, entry))

    def find(self, argv: Sequence[str], path: str, names: Iterable[str] = ()) -> Entry | None:
        """The first entry that names the command: by one of *names* (without any, by ``called``), or by the file *path*
        that is run.
        """
        names = names or called(argv, path)
        for name in names:
            if name in self._words:
                return self._words[name]
        if self._paths is not None and path.startswith("/"):
            covering = self._paths.find(path)
            if covering:
                return covering[0]
        if not self._loose and not any(name in self._by_word for name in names):
            return None
        rest = "".join(f" {quote(word)}" for word in argv[1:])
        for name in names:
            line = quote(name) + rest
            for wildcard, entry in self._by_word.get(name, []) + self._loose:
                if wildcard.matches(line):
                    return entry
        return None


def called(argv: Sequence[str], path: str, spelled: str = "") -> set[str]:
    """Every name that an execution goes by, its own claim (``argv[0]``) among them: what to look for in a ``block``."""
    return {basename(argv[0]) if argv else "", basename(path), basename(spelled)} - {""}


def vouched(argv: Sequence[str], path: str, spelled: str = "") -> set[str]:
    """The names of the file that is run, as it was spelled and as it is. A program chooses its ``argv[0]`` itself, so
    that counts for an ``allow`` only where no file is known (a guarded function's command).
    """
    return {basename(path), basename(spelled)} - {""} or called(argv, path)


def everything(entries: Iterable[Entry]) -> Entry | None:
    """The first entry that stands for every command."""
    return next((entry for entry in entries if entry.text == "*"), None)
