"""What the README shows is what the program takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent_safety_layer.policy import load_text
from agent_safety_layer.policy.reader import LISTS, SCALARS, TOP

README = (Path(__file__).parents[2] / "README.md").read_text()
POLICIES = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
VARIABLES = {"WORKSPACE": "/home/u/w", "HOME": "/home/u", "TMP": "/tmp/run", "USER": "u", "STATE": "/home/u/.state"}


@pytest.mark.parametrize("text", POLICIES)
def test_policies_load(text: str) -> None:
    assert load_text(text, variables=VARIABLES).layers


def test_every_key_is_shown() -> None:
    shown = max(POLICIES, key=len)
    keys = {
        *TOP,
        *(key for keys in LISTS.values() for key in keys),
        *(key for keys in SCALARS.values() for key in keys),
    }
    assert {key for key in keys if not re.search(rf"(^|[\s{{,]){key}:", shown)} == set()
