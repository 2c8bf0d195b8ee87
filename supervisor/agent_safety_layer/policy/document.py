"""YAML text as plain nodes that know their line: what a policy file says, before anyone asks what it means.

A node is ``(value, line)``. The value is a scalar (``str int float bool None``), a list of nodes, or a dict from keys
to nodes; a node in a dict carries the line of its key. YAML 1.2, so ``on`` and ``yes`` are words. Nodes are made of
builtins only, so they are cached with ``marshal``: parsing takes ruamel.yaml (35 ms to import), reading them back 0.1
ms.
"""

from __future__ import annotations

import os
import stat

from agent_safety_layer.errors import PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Scalar: TypeAlias = str | int | float | bool | None
    Value: TypeAlias = "Scalar | list[Node] | dict[str, Node]"
    Node: TypeAlias = "tuple[Value, int]"

SIZE_LIMIT = 1 << 20
NODE_LIMIT = 200_000
_FORMAT = b"asl-policy-1\n"  # change it when the shape of nodes changes: it is part of what names a cached file


def read(path: str, *, name: str = "", cache: str | None = None) -> tuple[Node, str]:
    """The document in the file at *path*, and the SHA-256 of its bytes in hex. ``name`` is how errors call the file."""
    name = name or path
    try:
        with open(path, "rb") as file:
            raw = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise PolicyError(f"The policy cannot be read: {error.strerror}.", file=name) from None
    if len(raw) > SIZE_LIMIT:
        raise PolicyError(f"The policy is larger than {SIZE_LIMIT >> 20} MiB.", file=name)
    return parse(raw, name=name, cache=cache)


def parse(raw: bytes, *, name: str, cache: str | None = None) -> tuple[Node, str]:
    """The document that *raw* holds, and its SHA-256 in hex. Reads and feeds the cache in the folder *cache*."""
    digest = sha256(_FORMAT + raw)
    kept = f"{cache}/policy-{digest}" if cache else ""
    node = _cached(kept) if kept else None
    if node is None:
        from agent_safety_layer.policy.yaml import compose

        node = compose(raw, name)
        if kept:
            _keep(kept, node)
    return node, sha256(raw)


def sha256(raw: bytes) -> str:
    """The SHA-256 of *raw* in hex, without importing hashlib and with it OpenSSL."""
    try:
        from _sha2 import sha256 as hasher  # Python 3.12 and later
    except ImportError:
        try:
            from _sha256 import sha256 as hasher  # Python 3.11
        except ImportError:
            from hashlib import sha256 as hasher
    digest: str = hasher(raw).hexdigest()
    return digest


def _cached(path: str) -> Node | None:
    """The nodes kept at *path*; None when there are none, or when someone else could have written them."""
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
            node: Any = marshal.loads(file.read())
    except (OSError, ValueError, EOFError, TypeError):
        return None
    finally:
        os.close(fd)
    return node if isinstance(node, tuple) and len(node) == 2 else None


def _keep(path: str, node: Node) -> None:
    """Write *node* to *path*, whole or not at all. A cache that cannot be written is no error."""
    import marshal

    scratch = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(marshal.dumps(node))
            os.rename(scratch, path)
        except OSError:
            os.unlink(scratch)
    except OSError:
        pass
