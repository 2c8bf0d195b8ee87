"""One policy document, read and checked but not yet filled in; and the cache of such drafts.

A draft keeps lists and scalars under dotted keys (``files.read``), so that joining two documents is joining two
dicts. It is made of builtins only: it is cached with ``marshal``, so that a run whose policies did not change imports
neither the YAML parser (35 ms) nor what reads and checks the language.
"""

from __future__ import annotations

import os
import stat
import sys

from agent_safety_layer.errors import PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    # What was written, where that is (``file:line`` or the flag), and what the reader made of it.
    Item: TypeAlias = tuple[str, str, Any]

SIZE_LIMIT = 1 << 20
_MOST_KNOWN = 32
# What a draft depends on besides its document. When these files change, what was cached before is another draft's.
_READERS = ("draft", "reader", "rules", "yaml", "paths", "hosts", "commands", "globs", "quantities")


class Draft:
    """What one document says, or several joined.

    ``present`` says where each section and each list stands that a file (not a flag) wrote. ``rules`` are as
    ``rules.RuleReader`` makes them, ``without`` are entries to take out of what is extended.
    """

    __slots__ = ("extends", "lists", "present", "rules", "scalars", "variables", "without")

    def __init__(self) -> None:
        self.lists: dict[str, list[Item]] = {}
        self.scalars: dict[str, tuple[Any, str]] = {}
        self.present: dict[str, str] = {}
        self.variables: dict[str, tuple[str, str]] = {}
        self.rules: list[tuple[Any, ...]] = []
        self.extends: list[tuple[str, int]] = []
        self.without: list[tuple[str, str, int]] = []

    def join(self, further: Draft) -> None:
        """Join *further* in: lists are joined, each line once; of scalars the nearer one stays."""
        for key, items in further.lists.items():
            mine = self.lists.get(key)
            if mine is None:
                self.lists[key] = list(items)
            else:
                known = {item[:2] for item in mine}
                self.lists[key] = mine + [item for item in items if item[:2] not in known]
        for name in ("scalars", "present", "variables"):
            table: dict[str, Any] = getattr(self, name)
            setattr(self, name, {**getattr(further, name), **table})
        self.rules += [rule for rule in further.rules if rule not in self.rules]


# By the document's name and digest. Nobody changes a draft: joining makes another.
_known: dict[tuple[str, str], Draft] = {}


def read(path: str, *, shown: str, cache: str | None, mistakes: list[PolicyError]) -> tuple[Draft, str]:
    """The draft of the file at *path* and the SHA-256 of its bytes. ``shown`` is what errors and decisions call it."""
    try:
        with open(path, "rb") as file:
            raw = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise PolicyError(f"The policy cannot be read: {error.strerror}.", file=shown) from None
    if len(raw) > SIZE_LIMIT:
        raise PolicyError(f"The policy is larger than {SIZE_LIMIT >> 20} MiB.", file=shown)
    return parse(raw, shown=shown, cache=cache, mistakes=mistakes)


def parse(raw: bytes, *, shown: str, cache: str | None, mistakes: list[PolicyError]) -> tuple[Draft, str]:
    """The draft of the document in *raw* and its SHA-256; what is wrong with it is added to *mistakes*.

    Sound drafts are kept in the folder *cache*, and taken from there; and in this process, which may load them again.
    """
    digest = sha256(raw)
    known = _known.get((shown, digest))
    if known is not None:
        return known, digest
    kept = f"{cache}/policy-{sha256(_stamp() + shown.encode() + bytes(1) + raw)}" if cache else ""
    draft = _cached(kept) if kept else None
    if draft is None:
        from agent_safety_layer.policy.reader import Reader
        from agent_safety_layer.policy.yaml import compose

        before = len(mistakes)
        draft = Reader(shown, mistakes).read(compose(raw, shown))
        if kept and len(mistakes) == before:
            _keep(kept, draft)
        if len(mistakes) > before:
            return draft, digest
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known[shown, digest] = draft
    return draft, digest


def _stamp() -> bytes:
    """What tells this version of the readers from another."""
    folder = os.path.dirname(__file__)
    times = [str(os.stat(f"{folder}/{name}.py").st_mtime_ns) for name in _READERS]
    return " ".join((sys.version, *times)).encode()


def sha256(raw: bytes) -> str:
    """The SHA-256 of *raw* in hex, without importing hashlib and with it OpenSSL."""
    if sys.version_info >= (3, 12):
        from _sha2 import sha256 as hasher
    else:
        from _sha256 import sha256 as hasher
    digest: str = hasher(raw).hexdigest()
    return digest


def _cached(path: str) -> Draft | None:
    """The draft kept at *path*; None when there is none, or when someone else could have written it."""
    import marshal

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            return None
        with open(fd, "rb", closefd=False) as file:
            fields: Any = marshal.loads(file.read())
    except (OSError, ValueError, EOFError, TypeError):
        return None
    finally:
        os.close(fd)
    if not isinstance(fields, dict) or sorted(fields) != sorted(Draft.__slots__):
        return None
    draft = Draft()
    for name, field in fields.items():
        setattr(draft, name, field)
    return draft


def _keep(path: str, draft: Draft) -> None:
    """Write *draft* to *path*, whole or not at all. A cache that cannot be written is no error."""
    import marshal

    scratch = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(marshal.dumps({name: getattr(draft, name) for name in Draft.__slots__}))
            os.rename(scratch, path)
        except OSError:
            os.unlink(scratch)
    except OSError:
        pass
