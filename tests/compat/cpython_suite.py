"""Runs one module of CPython's own tests and writes what became of each test: ``cpython_suite.py MODULE RESULT.json``.

A program of its own, run inside and outside of a supervised run by whichever interpreter ships its tests.
"""

from __future__ import annotations

import json
import os
import sys
import time
import unittest

from test import support


class Outcomes(unittest.TestResult):
    """Each test's outcome by its id; a subtest that fails is its test's failure."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.why: dict[str, str] = {}

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.found[test.id()] = "passed"
        self.seconds[test.id()] = time.monotonic()

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self.seconds[test.id()] = time.monotonic() - self.seconds[test.id()]

    def _note(self, test: unittest.TestCase, what: str, why: object = "") -> None:
        self.found[test.id()] = what
        self.why[test.id()] = str(why)

    def addError(self, test: unittest.TestCase, err: object) -> None:
        super().addError(test, err)
        self._note(test, "failed", self.errors[-1][1])

    def addFailure(self, test: unittest.TestCase, err: object) -> None:
        super().addFailure(test, err)
        self._note(test, "failed", self.failures[-1][1])

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: object) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._note(test, "failed", (self.errors + self.failures)[-1][1])

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._note(test, "skipped", reason)

    def addExpectedFailure(self, test: unittest.TestCase, err: object) -> None:
        super().addExpectedFailure(test, err)
        self._note(test, "failed as expected")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self._note(test, "passed unexpectedly")


def main() -> None:
    module, where = sys.argv[1:3]
    support.use_resources = []
    support.verbose = 0
    outcomes = Outcomes()
    suite = unittest.defaultTestLoader.loadTestsFromNames([f"test.{module}"])
    suite.run(outcomes)
    with open(where, "w") as file:
        json.dump({"outcomes": outcomes.found, "seconds": outcomes.seconds, "why": outcomes.why}, file)
    os._exit(0)


if __name__ == "__main__":
    main()
