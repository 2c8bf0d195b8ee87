"""Events of the Open Cybersecurity Schema Framework 1.6, one JSON object a line.

    file.*                     File System Activity (1001)         net.*, net.dns   Network Activity (4001)
    process.*                  Process Activity (1007)             limit.hit        Detection Finding (2004)

Every event has the profile ``security_control``: action and disposition say what was done, ``firewall_rule`` by which
line. Something blocked is a Detection Finding besides. Other kinds have no counterpart and are left out.
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TextIO

from agent_safety_layer.events import ASK, BLOCK, WARN, Event, TraceEntry
from agent_safety_layer.trace.encode import dumps
from agent_safety_layer.wording import object_of, shell_joined

if TYPE_CHECKING:
    from agent_safety_layer.trace.reader import TraceReader

VERSION = "1.6.0"
FILE, PROCESS, FINDING, NETWORK = 1001, 1007, 2004, 4001
_FILE_ACTIVITY = {
    "file.create": 1,
    "file.read": 2,
    "file.list": 2,
    "file.write": 3,
    "file.delete": 4,
    "file.rename": 5,
    "file.meta": 6,
    "file.link": 99,
}
_PROCESS_ACTIVITY = {"process.exec": 1, "process.fork": 1, "process.exit": 2}
_NETWORK_ACTIVITY = {"net.connect": 1, "net.unix": 1, "net.bind": 99, "net.listen": 7, "net.send": 6, "net.dns": 6}


def export(reader: TraceReader, out: TextIO) -> None:
    """Write the events."""
    make = Maker(reader.header)
    for entry in reader:
        for event in make.events(entry):
            out.write(dumps(event) + "\n")


class Maker:
    """Makes OCSF events of one run's entries."""

    def __init__(self, header: dict[str, Any]) -> None:
        machine = header.get("machine") or {}
        self._run = str(header.get("run", ""))
        product = {"name": "agent-safety-layer", "vendor_name": "agent-safety-layer"}
        try:
            product["version"] = version("agent-safety-layer")
        except PackageNotFoundError:
            pass
        self._metadata = {
            "version": VERSION,
            "product": product,
            "profiles": ["security_control", "host"],
            "correlation_uid": self._run,
            "log_name": "asl trace",
        }
        system = str(machine.get("system", "Linux"))
        self._device = {
            "type_id": 0,
            "name": os.uname().nodename if not machine else system,
            "os": {
                "name": system,
                "type_id": 200 if system == "Linux" else 0,
                "version": str(machine.get("release", "")),
            },
        }

    def events(self, entry: TraceEntry) -> list[dict[str, Any]]:
        """The events that the entry is: none, one, or one and a finding."""
        event = entry.event
        found = []
        if event.kind in _FILE_ACTIVITY and event.path:
            found.append(self._event(entry, FILE, _FILE_ACTIVITY[event.kind], **_files(event)))
        elif event.kind.startswith("process."):
            about = _process(event) | ({"cmd_line": shell_joined(event.argv)} if event.argv else {})
            if event.kind == "process.exec" and event.path:
                about["file"] = _file(event.path)
            found.append(self._event(entry, PROCESS, _PROCESS_ACTIVITY.get(event.kind, 99), process=about))
        elif event.kind in _NETWORK_ACTIVITY and (event.ip or event.host or event.path):
            found.append(self._event(entry, NETWORK, _NETWORK_ACTIVITY[event.kind], **_network(event)))
        if event.kind == "limit.hit" or (BLOCK in (entry.decision.action, entry.outcome.effective) and found):
            found.append(self._finding(entry))
        return found

    def _event(self, entry: TraceEntry, of: int, activity: int, **more: Any) -> dict[str, Any]:
        event, decision, outcome = entry.event, entry.decision, entry.outcome
        blocked = outcome.effective == BLOCK
        made: dict[str, Any] = {
            "category_uid": of // 1000,
            "class_uid": of,
            "activity_id": activity,
            "type_uid": of * 100 + activity,
            "time": int(event.time * 1000),
            "severity_id": _severity(entry),
            "metadata": {**self._metadata, "uid": f"{self._run}/{entry.seq}", "sequence": entry.seq},
            "actor": {"process": _process(event)},
            "device": self._device,
            "status_id": 2 if blocked or outcome.result.startswith("E") else 1,
            "action_id": 2 if blocked else 1,
            "disposition_id": 2 if blocked else 15 if decision.action == BLOCK else 1,
            "message": f"{event.kind} {object_of(event)}",
            **more,
        }
        if outcome.result:
            made["status_code"] = outcome.result
        if activity == 99:
            made["activity_name"] = event.kind
        if decision.rule:
            made["firewall_rule"] = {"name": decision.rule, "uid": decision.where or decision.rule}
            if decision.reason:
                made["firewall_rule"]["desc"] = decision.reason
        return made

    def _finding(self, entry: TraceEntry) -> dict[str, Any]:
        decision = entry.decision
        title = f"{entry.event.kind}: {decision.reason or decision.rule or 'blocked'}"
        info = {"uid": f"{self._run}/{entry.seq}", "title": title, "types": [decision.rule or entry.event.kind]}
        return self._event(entry, FINDING, 1, finding_info=info)


def _severity(entry: TraceEntry) -> int:
    return {BLOCK: 4, ASK: 3, WARN: 2}.get(entry.decision.action, 1)


def _process(event: Event) -> dict[str, Any]:
    made: dict[str, Any] = {"pid": event.pid}
    if event.exe:
        made |= {"name": os.path.basename(event.exe) or event.exe, "file": _file(event.exe)}
    if event.ppid:
        made["parent_process"] = {"pid": event.ppid}
    return made


def _file(path: str, type_id: int = 1) -> dict[str, Any]:
    return {"path": path, "name": os.path.basename(path) or path, "type_id": type_id}


def _files(event: Event) -> dict[str, Any]:
    made: dict[str, Any] = {"file": _file(event.path, 2 if event.kind == "file.list" else 0)}
    if event.path2:
        made["file_result"] = _file(event.path2, 0)
    return made


def _network(event: Event) -> dict[str, Any]:
    end: dict[str, Any] = {}
    if event.ip:
        end["ip"] = event.ip
    if event.host:
        end["hostname"] = event.host
    if event.port:
        end["port"] = event.port
    if event.path:
        end["name"] = event.path
    inbound = event.kind in ("net.bind", "net.listen")
    info: dict[str, Any] = {"direction_id": 1 if inbound else 2}
    if event.proto:
        info["protocol_name"] = event.proto
    return {"src_endpoint" if inbound else "dst_endpoint": end, "connection_info": info}
