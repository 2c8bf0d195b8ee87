"""What no run's tree may change, whatever its policies say: the files by which runs are decided and recorded."""

from __future__ import annotations

import os

from agent_safety_layer.policy.globs import escape
from agent_safety_layer.policy.model import Entry, Files, Layer, Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def guarded(policy: Policy, paths: Iterable[str]) -> Policy:
    """*policy* with one more layer, under which *paths* and what is below them may be read but not changed."""
    entries = tuple(Entry(path, "built-in", (escape(form),)) for path in paths for form in _forms(path))
    own = Layer("own", files=Files(protect=entries))
    return Policy((*policy.layers, own), policy.sources)


def _forms(path: str) -> set[str]:
    """The canonical path and, where it ends in a link, that of the link. Devices are nobody's own."""
    parent, name = os.path.split(os.path.abspath(path))
    forms = {os.path.realpath(path), os.path.join(os.path.realpath(parent), name)}
    return {form for form in forms if not form.startswith(("/dev/", "/proc/"))}
