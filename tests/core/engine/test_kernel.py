"""Filters that a start leaves for later ones: the same programs as are assembled anew, for root and anybody else."""

from __future__ import annotations

import pytest

from agent_safety_layer.engine import kernel
from agent_safety_layer.engine.kernel import CREDENTIAL_TAGS, NOTIFIED, Kernel


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("root", [False, True])
def test_what_is_left_are_the_programs_of_root_and_of_anybody_else(
    root: bool, traced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = frozenset(NOTIFIED)
    others, roots = tags.difference(CREDENTIAL_TAGS), tags.union(CREDENTIAL_TAGS)
    monkeypatch.setattr(kernel, "programs", {})
    made = Kernel(roots if root else others).program(traced=traced)
    left = dict(kernel.usual())
    assert set(left) == {(others, False, False, traced), (roots, False, False, traced)}
    assert left[roots if root else others, False, False, traced] == made
    for (notified, *_), program in left.items():
        monkeypatch.setattr(kernel, "programs", {})
        assert Kernel(notified).program(traced=traced) == program
    assert left[roots, False, False, traced] != left[others, False, False, traced]
