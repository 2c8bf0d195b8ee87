"""The byte code of all that a start imports, in one file beside Python's own.

A start imports eighty small modules; what the import system does for each of them takes as long as running them. So a
start notes what it imports, in which order modules were done, and leaves their code in one file in ``__pycache__``,
which later starts run from. It is used on the terms on which Python uses its own files there: while each source has the
size and the time of change that it had. Whoever can write there can change the program anyway; where we cannot write,
modules are imported one by one.
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER, PathFinder, SourceFileLoader, cache_from_source
from marshal import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType

    # Name, file, whether it is a package, the source's time of change (ns) and size, its code.
    Row = tuple[str, str, bool, int, int, CodeType]

_OURS = ("agent_safety_layer", "asl_hooks")
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
        if name.partition(".")[0] not in _OURS:
            return None
        spec: ModuleSpec | None = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                self.done.append(spec)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def file() -> str:
    """Where the byte code of starts is kept for this interpreter."""
    return cache_from_source(os.path.join(os.path.dirname(os.path.abspath(__file__)), "start.py"))


def start(path: str) -> Imports | None:
    """Run the modules that *path* holds. Without such a file, or when one of its sources has changed: what this process
    goes on to import, for ``keep``; None where that could not be written.
    """
    try:
        with open(path, "rb") as kept:
            made_by, rows = loads(kept.read())
        if made_by != _maker() or not all(_same(row) for row in rows):
            raise ValueError
    except (OSError, ValueError, EOFError, TypeError):
        if sys.dont_write_bytecode or not os.access(os.path.dirname(path), os.W_OK):
            return None
        imports = Imports()
        sys.meta_path.insert(0, imports)
        return imports
    for row in rows:
        parent = row[0].rpartition(".")[0]
        if row[0] not in sys.modules and (not parent or parent in sys.modules):  # a package may import its own parts
            _run(row)
    return None


def keep(path: str, imports: Imports) -> None:
    """Leave what was imported at *path* for the next start, so far as each needs it; where that cannot be written,
    nothing happens.
    """
    sys.meta_path.remove(imports)
    scratch = f"{path}.{os.getpid()}"
    try:
        rows = [_row(spec) for spec in imports.done if _is_usual(spec.name)]
        data = dumps((_maker(), rows))  # type: ignore[arg-type]  # it is all builtins
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            with open(fd, "wb") as file:
                file.write(data)
            os.replace(scratch, path)
        except OSError:
            os.unlink(scratch)
    except (OSError, ImportError):
        pass


def _maker() -> tuple[object, ...]:
    """Which interpreter this is, and which of several copies of the packages it has begun to import."""
    return (MAGIC_NUMBER, *(getattr(sys.modules.get(name), "__file__", None) for name in _OURS))


def _is_usual(name: str) -> bool:
    return not any(name == seldom or name.startswith(f"{seldom}.") for seldom in _SELDOM)


def _row(spec: ModuleSpec) -> Row:
    loader, path = SourceFileLoader(spec.name, spec.origin or ""), spec.origin or ""
    found = os.stat(path)
    code = loader.get_code(spec.name)
    if code is None:
        raise ImportError(path)
    return spec.name, path, spec.submodule_search_locations is not None, found.st_mtime_ns, found.st_size, code


def _same(row: Row) -> bool:
    found = os.stat(row[1])
    return found.st_mtime_ns == row[3] and found.st_size == row[4]


def _run(row: Row) -> None:
    """Import one module, all that it imports in turn being there, as ``importlib`` would."""
    name, path, is_package, _, _, code = row
    loader = SourceFileLoader(name, path)
    spec = ModuleSpec(name, loader, origin=path, is_package=is_package)
    spec.has_location = True
    module = type(sys)(name)
    module.__file__, module.__loader__, module.__spec__ = path, loader, spec
    parent, _, child = name.rpartition(".")
    module.__package__ = name if is_package else parent
    if is_package:
        spec.submodule_search_locations = module.__path__ = [os.path.dirname(path)]
    sys.modules[name] = module
    try:
        exec(code, module.__dict__)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    if parent:
        setattr(sys.modules[parent], child, module)
