"""Against the supervisor: a person's yes to one question is not a yes to the next; and what a question shows."""

from __future__ import annotations

import sys

from tests.attacks.scene import MARK, Scene
from tests.terminals import QUESTION, Typist

CODE = r"""
import os, sys
got = []
for _ in range(2):
    try: got.append(os.read(os.open("../asked/\x1b[2Jname", os.O_RDONLY), 99))
    except OSError: got.append(None)
open("loot", "w").write(repr(got))
"""


def test_yes_is_for_once(scene: Scene) -> None:
    asked = scene.base / "asked"
    asked.mkdir()
    (asked / "\x1b[2Jname").write_text(MARK)
    policy = scene.base / "asking.yaml"
    policy.write_text(
        f'version: 1\nname: asking\nfiles: {{read: ["/"], write: ["${{WORKSPACE}}"], ask: ["{asked}"]}}\n'
    )
    command = scene.command([sys.executable, "-c", CODE], "--approve", "tty", policy=policy)
    person = Typist(command, scene.ws, scene.environment())
    for key in (b"y", b"n"):  # the third try hears the same no, for it follows at once
        person.answer(key)
    person.finish()
    person.close()
    assert person.seen.count(QUESTION) == 2, person.seen
    assert scene.loot.read_text() == repr([MARK.encode(), None]), person.seen
    assert b"\x1b[2J" not in person.seen and rb"\x1b[2J" in person.seen
