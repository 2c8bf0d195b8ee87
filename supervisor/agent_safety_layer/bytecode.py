"""The byte code of all that a start imports, in one file beside Python's own.

A start imports a hundred small modules; what the import system does for each of them takes as long as running them. So
a start notes what it imports, in which order modules were done, and leaves their code in one file in ``__pycache__``,
which later starts run from. With it go the seccomp programs that were assembled: they are made of the sources alone,
too. It is used on the terms on which Python uses its own files there: while each source has the size and the time of
change that it had. Whoever can write there can change the program anyway; where we cannot write, modules are imported
one by one.

    length of what follows │ who made it, a row for each module, programs │ the code of each module, one after the other
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import (
    MAGIC_NUMBER,
    ExtensionFileLoader,
    PathFinder,
    SourceFileLoader,
    cache_from_source,
)
from _imp import source_hash
from marshal import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    # Name, file, what it is, the file's time of change (ns) and size, the length of its code here.
    Row = tuple[str, str, int, int, int, int]

_HEAD = 4  # bytes that tell the length
_MODULE, _PACKAGE, _LIBRARY = range(3)  # a library is a module of machine code
_OURS = ("agent_safety_layer", "asl_hooks")
# Python's own that every start imports, where they are not built in.
_OTHERS = ("_ctypes", "_json", "_sha2", "_sha256", "_struct", "binascii", "fcntl", "resource", "select", "struct")
_KERNEL = "agent_safety_layer.engine.kernel"
# What only some starts import, for what their command line, their policies or the command ask for.
_SELDOM = tuple(
    f"agent_safety_layer.{name}"
    for name in (
        *("approvals", "custom", "egress", "hosted", "link", "live", "output", "spans", "trace.exports", "trace.parts"),
        *("trace.signing", "engine.entries", "engine.ipc", "engine.metadata", "engine.network", "engine.sending"),
        *("engine.signals", "engine.terminals", "engine.waiting", "policy.matches", "policy.network", "policy.reader"),
        *("policy.remedies", "policy.rules", "policy.tiers", "policy.vain", "policy.yaml", "policy.quantities"),
    )
)


class Imports:
    """What this process imports from now on, in the order in which modules were done. A finder (``sys.meta_path``)."""

    def __init__(self) -> None:
        self.done: list[ModuleSpec] = []

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What Python itself finds, noted once it has been run."""
        if name.partition(".")[0] not in _OURS and name not in _OTHERS:
            return None
        spec: ModuleSpec | None = PathFinder.find_spec(name, path, target)
        loader = spec.loader if spec is not None else None
        if spec is not None and (type(loader) is SourceFileLoader or type(loader) is ExtensionFileLoader):
            run = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                self.done.append(spec)

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def file() -> str:
    """Where the byte code of starts is kept for this interpreter, which has libraries of its own."""
    which = source_hash(0, sys.base_exec_prefix.encode(errors="surrogateescape")).hex()
    return cache_from_source(os.path.join(os.path.dirname(os.path.abspath(__file__)), f"start-{which}.py"))


def start(path: str) -> Imports | None:
    """Run the modules that *path* holds. Without such a file, or when one of its sources has changed: what this process
    goes on to import, for ``keep``; None where that could not be written.
    """
    try:
        with open(path, "rb", buffering=1 << 16) as kept:
            head = int.from_bytes(kept.read(_HEAD), "little")
            made_by, rows, programs = loads(kept.read(head))
            whole = _HEAD + head + sum(row[5] for row in rows) == os.fstat(kept.fileno()).st_size
            if not whole or made_by != _maker() or not all(map(_same, rows)):
                raise ValueError
            for row in rows:
                code = kept.read(row[5])
                parent = row[0].rpartition(".")[0]
                # A package may import its own parts.
                if row[0] not in sys.modules and (not parent or parent in sys.modules):
                    _run(row, code)
    except (OSError, ValueError, EOFError, TypeError):
        if sys.dont_write_bytecode or not os.access(os.path.dirname(path), os.W_OK):
            return None
        imports = Imports()
        sys.meta_path.insert(sys.meta_path.index(PathFinder), imports)
        return imports
    if _KERNEL in sys.modules:
        sys.modules[_KERNEL].programs.update(programs)
    return None


def keep(path: str, imports: Imports) -> None:
    """Leave what was imported at *path* for the next start, so far as each needs it; where that cannot be written,
    nothing happens.
    """
    sys.meta_path.remove(imports)
    scratch = f"{path}.{os.getpid()}"
    try:
        kernel = sys.modules.get(_KERNEL)
        programs = kernel.usual() if kernel is not None else {}
        pairs = [_row(spec) for spec in imports.done if _is_usual(spec.name)]
        head = dumps((_maker(), [row for row, _ in pairs], programs))  # type: ignore[arg-type]  # it is all builtins
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            with open(fd, "wb") as file:
                file.writelines((len(head).to_bytes(_HEAD, "little"), head, *(code for _, code in pairs)))
            os.replace(scratch, path)
        except OSError:
            os.unlink(scratch)
    except (OSError, ImportError):
        pass


def _maker() -> tuple[object, ...]:
    """Which interpreter this is, on which kind of machine, and which of several copies of the packages it has begun to
    import.
    """
    return (MAGIC_NUMBER, os.uname().machine, *(getattr(sys.modules.get(name), "__file__", None) for name in _OURS))


def _is_usual(name: str) -> bool:
    return not any(name == seldom or name.startswith(f"{seldom}.") for seldom in _SELDOM)


def _row(spec: ModuleSpec) -> tuple[Row, bytes]:
    """The row of a module, and its code."""
    path = spec.origin or ""
    found = os.stat(path)
    if type(spec.loader) is ExtensionFileLoader:
        kind, data = _LIBRARY, b""
    else:
        kind = _MODULE if spec.submodule_search_locations is None else _PACKAGE
        code = SourceFileLoader(spec.name, path).get_code(spec.name)
        if code is None:
            raise ImportError(path)
        data = dumps(code)
    return (spec.name, path, kind, found.st_mtime_ns, found.st_size, len(data)), data


def _same(row: Row) -> bool:
    found = os.stat(row[1])
    return found.st_mtime_ns == row[3] and found.st_size == row[4]


def _run(row: Row, data: bytes) -> None:
    """Import one module, all that it imports in turn being there, as ``importlib`` would."""
    name, path, kind = row[:3]
    is_package = kind == _PACKAGE
    loader = ExtensionFileLoader(name, path) if kind == _LIBRARY else SourceFileLoader(name, path)
    spec = ModuleSpec(name, loader, origin=path, is_package=is_package)
    spec.has_location = True
    module = loader.create_module(spec) or type(sys)(name)
    module.__file__, module.__loader__, module.__spec__ = path, loader, spec
    parent, _, child = name.rpartition(".")
    module.__package__ = name if is_package else parent
    if is_package:
        spec.submodule_search_locations = module.__path__ = [os.path.dirname(path)]
    sys.modules[name] = module
    try:
        if kind == _LIBRARY:
            loader.exec_module(module)
        else:
            exec(loads(data), module.__dict__)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    if parent:
        setattr(sys.modules[parent], child, module)
