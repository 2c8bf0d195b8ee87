"""Runs without a kernel: events judged one after the other as the engine does it, and written down as a trace."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from agent_safety_layer.events import ASK, BLOCK, Decision, Event
from agent_safety_layer.policy import Policy, State, advance, decide
from agent_safety_layer.policy.loading import load_text
from agent_safety_layer.report import Ending, footer
from agent_safety_layer.tally import Tally
from agent_safety_layer.trace.encode import body
from agent_safety_layer.trace.header import header, with_policy
from agent_safety_layer.trace.writer import TraceWriter
from asl_hooks.value import replace

VARIABLES = {
    "WORKSPACE": "/w",
    "HOME": "/home/u",
    "TMP": "/tmp/run",
    "USER": "u",
    "STATE": "/home/u/.state",
    "CWD": "/w",
}
ALLOWED = Decision("allow")

STATEFUL = """
version: 1
name: stateful
files:
  read: ["/"]
  write: ["${WORKSPACE}", "/tmp"]
  block: ["/home/u/.ssh"]
network:
  allow: ["*.example.com"]
  ask: ["*:443"]
exec:
  block: [sudo]
rules:
  - name: no-exfiltration
    on: net
    after: {on: file.read, path: "**/customers/**"}
    action: block
    reason: it has read customers' data
  - name: no-downloads
    on: process.exec
    after: {on: file.write, same: path}
    action: require_approval
  - {name: no-root-delete, on: process.exec, match: 'rm -rf /( |$)', action: block}
"""
LOOSE = """
version: 1
name: loose
files: {read: ["/"], write: ["/"]}
network: {allow: ["*"], private_ips: true}
"""


def policy(text: str) -> Policy:
    """The policy in *text*."""
    return load_text(text, name="policy.yaml", variables=VARIABLES)


def write(
    path: os.PathLike[str] | str, own: Policy, lines: Iterable[tuple[Event, Decision, str]], **ending: float
) -> str:
    """A whole trace of these events, decided and answered so."""
    fields = header(
        run="run",
        time=1000.0,
        command=["agent"],
        cwd="/w",
        policies=[own.name],
        policy_hash=own.sha256,
        mode=own.mode,
        backend="notify",
        enforced={},
    )
    writer = TraceWriter(os.fspath(path), with_policy(fields, own, VARIABLES))
    tally = Tally()
    for event, decision, effective in lines:
        writer.add(body(event, decision, effective, "EACCES" if effective == BLOCK else ""), event.time, 5)
        tally.add(event, decision, effective)
    writer.close(footer(tally, Ending("exited", 0, **ending)))
    return os.fspath(path)


def judged(own: Policy, events: Sequence[Event]) -> list[tuple[Event, Decision, str]]:
    """What the engine records: each event with its decision in the state at that time, and what was done."""
    state = State()
    lines = []
    for number, event in enumerate(events):
        timed = replace(event, time=1000.0 + number / 1000)
        decision = ALLOWED if event.kind == "process.exit" else decide(own, state, timed)
        state = advance(own, state, timed, decision)
        lines.append((timed, decision, BLOCK if decision.action == ASK else decision.action))
    return lines
