"""The compiled core, where it was built: what most calls of a run need, once more in C (``_core.c``).

It does what ``engine.routine``, ``engine.plans``, ``trace.lines`` and ``asl_hooks.notify`` do; those stay, and are what
it is tested against. ``ASL_PURE=1`` in the environment does without it.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

_VERSION = 1


def built() -> ModuleType | None:
    """The compiled core, where there is one that these sources can work with."""
    try:
        from agent_safety_layer import _core
    except ImportError:  # installed where there was no compiler
        return None
    return _core if _core.VERSION == _VERSION else None  # another one was built of other sources and left in a checkout


core = None if os.environ.get("ASL_PURE") else built()
