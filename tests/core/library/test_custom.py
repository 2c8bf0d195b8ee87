"""Python policies under a supervisor: every question is answered, by no more threads than are good for the program."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from agent_safety_layer import Policy, PolicyResult
from agent_safety_layer.custom import MOST, Judges
from agent_safety_layer.events import Event

PATIENCE_S = 60.0
EVENT = [*Event("file.read", path="/x")]  # type: ignore[call-overload]


class Answers:
    """Keeps what is answered."""

    def __init__(self, wanted: int) -> None:
        self.said: dict[int, Any] = {}
        self._wanted = wanted
        self._all = threading.Event()

    def tell(self, message: dict[str, Any]) -> None:
        said = message["said"]
        self.said[said["number"]] = said["decision"]
        if len(self.said) == self._wanted:
            self._all.set()

    def complete(self) -> dict[int, Any]:
        assert self._all.wait(PATIENCE_S)
        return self.said


def test_a_flood_of_questions_is_no_flood_of_threads() -> None:
    go_on, names = threading.Event(), set()

    def slow(operation: str, context: dict[str, Any]) -> PolicyResult | None:
        names.add(threading.get_ident())
        assert go_on.wait(PATIENCE_S)
        return None

    answers = Answers(3 * MOST)
    judges = Judges([Policy.custom("slow", slow)], answers.tell)
    before = threading.active_count()
    for number in range(3 * MOST):
        judges.asked({"number": number, "events": [EVENT]})
    assert threading.active_count() - before <= MOST
    assert answers.said == {}
    go_on.set()
    assert answers.complete() == dict.fromkeys(range(3 * MOST))
    assert len(names) <= MOST


@pytest.mark.parametrize("error", [ValueError("why"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_a_policy_raises_is_an_answer(error: BaseException) -> None:
    def broken(operation: str, context: dict[str, Any]) -> PolicyResult | None:
        raise error

    answers = Answers(1)
    Judges([Policy.custom("broken", broken)], answers.tell).asked({"number": 1, "events": [EVENT]})
    decision = answers.complete()[1]
    assert decision[0] == "block" and type(error).__name__ in " ".join(decision)
