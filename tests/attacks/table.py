"""A pytest plugin that prints what became of each class of attacks as a table: held, open, or not applicable here."""

from __future__ import annotations

from collections import defaultdict

import pytest

_results: dict[tuple[str, str], list[str]] = defaultdict(list)
_titles: dict[str, tuple[str, str]] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        assert isinstance(item, pytest.Function)
        heading = (item.module.__doc__ or item.module.__name__).partition("\n")[0]
        group, _, what = heading.partition(": ")
        _titles[item.nodeid] = (group, what.rstrip("."))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.nodeid in _titles and (report.when == "call" or report.outcome != "passed"):
        _results[_titles[report.nodeid]].append(report.outcome)


def verdict(outcomes: list[str]) -> str:
    """What several runs of one class come to: one that got out is enough."""
    if "failed" in outcomes:
        return "OPEN"
    return "held" if "passed" in outcomes else "not applicable"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    write = terminalreporter.write_line
    shown = ""
    for (group, what), outcomes in sorted(_results.items()):
        if group != shown:
            write(f"\n{group}")
            shown = group
        passed = f"{outcomes.count('passed')} of {len(outcomes) - outcomes.count('skipped')}"
        write(f"  {verdict(outcomes):<15}{passed:>9}  {what}")
