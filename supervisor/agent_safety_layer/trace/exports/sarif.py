"""What was denied, as SARIF 2.1.0: a rule of the policy is a rule, each distinct denial a result at the rule's line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote

from agent_safety_layer.events import BLOCK
from agent_safety_layer.terminal import visible
from agent_safety_layer.trace.encode import dumps
from agent_safety_layer.trace.stats import tally_of
from agent_safety_layer.wording import object_of

if TYPE_CHECKING:
    from agent_safety_layer.tally import Denial
    from agent_safety_layer.trace.reader import TraceReader

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def export(reader: TraceReader, out: TextIO) -> None:
    """Write one SARIF log. What was blocked is an error, what would have been (observe mode) a warning."""
    tally = tally_of(reader)
    rules: dict[str, int] = {}
    results = [_result(denial, rules) for denial in tally.denials]
    footer, run = reader.footer, reader.header
    driver = {
        "name": "agent-safety-layer",
        "informationUri": "https://pypi.org/project/agent-safety-layer/",
        "rules": [{"id": rule, "shortDescription": {"text": f"The policy's rule {rule}"}} for rule in rules],
    }
    invocation: dict[str, Any] = {
        "executionSuccessful": bool(footer) and footer is not None and footer.get("exit_code") == 0,
        "arguments": [visible(str(word)) for word in run.get("command") or ()],
    }
    if footer is not None and isinstance(footer.get("exit_code"), int):
        invocation["exitCode"] = footer["exit_code"]
    log = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "invocations": [invocation],
                "results": results,
                "automationDetails": {"id": f"agent-safety-layer/{visible(str(run.get('run', '')))}"},
                "columnKind": "unicodeCodePoints",
            }
        ],
    }
    out.write(dumps(log) + "\n")


def _result(denial: Denial, rules: dict[str, int]) -> dict[str, Any]:
    decision, event = denial.decision, denial.event
    rule = visible(decision.rule) or "no rule"
    said = visible(f"{event.kind} {object_of(event)}", 500)
    times = f" ({denial.n} times)" if denial.n > 1 else ""
    reason = f": {visible(decision.reason, 500)}" if decision.reason else ""
    done = "Blocked" if denial.effective == BLOCK else "Would have blocked"
    result: dict[str, Any] = {
        "ruleId": rule,
        "ruleIndex": rules.setdefault(rule, len(rules)),
        "level": "error" if denial.effective == BLOCK else "warning",
        "message": {"text": f"{done} {said}{times}{reason}"},
        "occurrenceCount": denial.n,
        "properties": {"kind": event.kind, "remedy": visible(denial.remedy)},
    }
    file, _, line = decision.where.rpartition(":")
    if file and line.isdigit() and int(line) > 0:
        place = {"artifactLocation": {"uri": quote(file)}, "region": {"startLine": int(line)}}
        result["locations"] = [{"physicalLocation": place}]
    return result
