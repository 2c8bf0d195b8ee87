"""What the README shows is what the program takes."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import agent_safety_layer
from agent_safety_layer.policy import load_text
from agent_safety_layer.policy.reader import LISTS, SCALARS, TOP

README = (Path(__file__).parents[2] / "README.md").read_text()
POLICIES = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PROGRAMS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
VARIABLES = {"WORKSPACE": "/home/u/w", "HOME": "/home/u", "TMP": "/tmp/run", "USER": "u", "STATE": "/home/u/.state"}


@pytest.mark.parametrize("text", POLICIES)
def test_policies_load(text: str) -> None:
    assert load_text(text, variables=VARIABLES).layers


@pytest.mark.parametrize("text", PROGRAMS)
def test_programs_call_what_is_there(text: str) -> None:
    for call in ast.walk(ast.parse(text)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            known = getattr(agent_safety_layer, call.func.id, None)
            if known is not None:
                keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
                inspect.signature(known).bind(*call.args, **keywords)


def test_every_key_is_shown() -> None:
    shown = max(POLICIES, key=len)
    keys = {
        *TOP,
        *(key for keys in LISTS.values() for key in keys),
        *(key for keys in SCALARS.values() for key in keys),
    }
    assert {key for key in keys if not re.search(rf"(^|[\s{{,]){key}:", shown)} == set()
