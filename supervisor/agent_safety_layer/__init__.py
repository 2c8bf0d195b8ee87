"""Run AI agents under a policy that the kernel enforces.

    events, errors  what flows, and what can go wrong    policy/  the policy file, decisions, the plan for the kernel
    session         one supervised run, start to report  engine/  the run loop: calls in, answers out
    trace/          the record: written, read, verified  egress/  names and connections of a tree without a network
    tally, report, summary, denials, doctor              cli/     asl-supervise and asl
    bytecode        what a start leaves for the next one

The library, for functions and sessions of this process, has what users of release 0.1 import, by the same names:

    layer, sessions  SafetyLayer, SafetySession            policies, filepolicy   policies; policy files as policies
    operation        one operation: judged, run, recorded  boundaries, resources  limits; what arguments reach for
    guards, calls    functions that guard() wraps          approval               questions to a person
    violations       what checks find; SafetyViolation     tracing, replay        traces; recordings judged anew
    core             the names that 0.1 kept there

and, for commands under kernel enforcement:

    supervisor, run, outcome  Supervisor; a run that goes on; what it came to
    sandbox, compiled         a function in a confined child; a layer's policies and boundaries for the kernel
    plaindata                 values from a process that nobody trusts
    spans                     telling a supervisor which operation runs
    helper, forker            the process that forks supervisors, from outside and inside
    hosted, link              a session in one; what program and supervisor say to each other

``asl_hooks`` does what touches the kernel and knows no policy; this package imports it, never the reverse.

Importing the package imports nothing: each name is found when it is first used, because ``asl-supervise`` pays for
every import before the child starts.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.approval import ApprovalGate as ApprovalGate
    from agent_safety_layer.approval import ApprovalQueue as ApprovalQueue
    from agent_safety_layer.approval import ApprovalRequest as ApprovalRequest
    from agent_safety_layer.approval import ApprovalResponse as ApprovalResponse
    from agent_safety_layer.approval import ApprovalStatus as ApprovalStatus
    from agent_safety_layer.approval import AsyncApprovalGate as AsyncApprovalGate
    from agent_safety_layer.approval import InMemoryApprovalQueue as InMemoryApprovalQueue
    from agent_safety_layer.boundaries import Boundary as Boundary
    from agent_safety_layer.boundaries import BoundarySet as BoundarySet
    from agent_safety_layer.boundaries import BoundaryViolation as BoundaryViolation
    from agent_safety_layer.boundaries import NetworkBoundary as NetworkBoundary
    from agent_safety_layer.boundaries import PathBoundary as PathBoundary
    from agent_safety_layer.boundaries import ResourceBoundary as ResourceBoundary
    from agent_safety_layer.boundaries import TimeBoundary as TimeBoundary
    from agent_safety_layer.errors import AslError as AslError
    from agent_safety_layer.errors import PolicyError as PolicyError
    from agent_safety_layer.filepolicy import load_policy as load_policy
    from agent_safety_layer.layer import SafetyLayer as SafetyLayer
    from agent_safety_layer.layer import create_safety_layer as create_safety_layer
    from agent_safety_layer.outcome import Completed as Completed
    from agent_safety_layer.outcome import Denied as Denied
    from agent_safety_layer.outcome import Report as Report
    from agent_safety_layer.outcome import RunFailed as RunFailed
    from agent_safety_layer.plaindata import SandboxedError as SandboxedError
    from agent_safety_layer.policies import ApprovalPolicy as ApprovalPolicy
    from agent_safety_layer.policies import AuditPolicy as AuditPolicy
    from agent_safety_layer.policies import BlockPolicy as BlockPolicy
    from agent_safety_layer.policies import CustomPolicy as CustomPolicy
    from agent_safety_layer.policies import PatternPolicy as PatternPolicy
    from agent_safety_layer.policies import Policy as Policy
    from agent_safety_layer.policies import PolicyAction as PolicyAction
    from agent_safety_layer.policies import PolicyResult as PolicyResult
    from agent_safety_layer.policies import PolicySet as PolicySet
    from agent_safety_layer.policies import WarnPolicy as WarnPolicy
    from agent_safety_layer.replay import RecordedOperation as RecordedOperation
    from agent_safety_layer.replay import RecordedSession as RecordedSession
    from agent_safety_layer.replay import ReplayResult as ReplayResult
    from agent_safety_layer.replay import SessionRecorder as SessionRecorder
    from agent_safety_layer.replay import SessionReplayer as SessionReplayer
    from agent_safety_layer.run import Run as Run
    from agent_safety_layer.sandbox import SandboxDied as SandboxDied
    from agent_safety_layer.sessions import SafetySession as SafetySession
    from agent_safety_layer.supervisor import Supervisor as Supervisor
    from agent_safety_layer.tracing import Trace as Trace
    from agent_safety_layer.tracing import TraceEntry as TraceEntry
    from agent_safety_layer.tracing import TraceExporter as TraceExporter
    from agent_safety_layer.tracing import TraceLevel as TraceLevel
    from agent_safety_layer.tracing import Tracer as Tracer
    from agent_safety_layer.tracing import TraceStatus as TraceStatus
    from agent_safety_layer.violations import SafetyCheckResult as SafetyCheckResult
    from agent_safety_layer.violations import SafetyViolation as SafetyViolation

__version__ = "0.2.0"

_HOMES = {
    "SafetyLayer": "layer",
    "create_safety_layer": "layer",
    "SafetySession": "sessions",
    "SafetyViolation": "violations",
    "SafetyCheckResult": "violations",
    "Policy": "policies",
    "PolicyAction": "policies",
    "PolicyResult": "policies",
    "PolicySet": "policies",
    "BlockPolicy": "policies",
    "WarnPolicy": "policies",
    "AuditPolicy": "policies",
    "ApprovalPolicy": "policies",
    "PatternPolicy": "policies",
    "CustomPolicy": "policies",
    "load_policy": "filepolicy",
    "Boundary": "boundaries",
    "BoundarySet": "boundaries",
    "BoundaryViolation": "boundaries",
    "PathBoundary": "boundaries",
    "NetworkBoundary": "boundaries",
    "TimeBoundary": "boundaries",
    "ResourceBoundary": "boundaries",
    "Tracer": "tracing",
    "Trace": "tracing",
    "TraceEntry": "tracing",
    "TraceExporter": "tracing",
    "TraceLevel": "tracing",
    "TraceStatus": "tracing",
    "SessionRecorder": "replay",
    "SessionReplayer": "replay",
    "ReplayResult": "replay",
    "RecordedOperation": "replay",
    "RecordedSession": "replay",
    "ApprovalGate": "approval",
    "AsyncApprovalGate": "approval",
    "ApprovalQueue": "approval",
    "ApprovalRequest": "approval",
    "ApprovalResponse": "approval",
    "ApprovalStatus": "approval",
    "InMemoryApprovalQueue": "approval",
    "Supervisor": "supervisor",
    "Run": "run",
    "Completed": "outcome",
    "Report": "outcome",
    "Denied": "outcome",
    "RunFailed": "outcome",
    "SandboxDied": "sandbox",
    "SandboxedError": "plaindata",
    "AslError": "errors",
    "PolicyError": "errors",
}
_MODULES = ("core", "policies", "boundaries", "tracing", "replay", "approval")  # attributes since 0.1


def __getattr__(name: str) -> object:
    home = name if name in _MODULES else _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    __import__(f"{__name__}.{home}")
    from sys import modules

    module = modules[f"{__name__}.{home}"]
    found: object = module if name in _MODULES else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})


__all__ = [
    "ApprovalGate",
    "ApprovalPolicy",
    "ApprovalQueue",
    "ApprovalRequest",
    "ApprovalResponse",
    "ApprovalStatus",
    "AslError",
    "AsyncApprovalGate",
    "AuditPolicy",
    "BlockPolicy",
    "Boundary",
    "BoundarySet",
    "BoundaryViolation",
    "Completed",
    "CustomPolicy",
    "Denied",
    "InMemoryApprovalQueue",
    "NetworkBoundary",
    "PathBoundary",
    "PatternPolicy",
    "Policy",
    "PolicyAction",
    "PolicyError",
    "PolicyResult",
    "PolicySet",
    "RecordedOperation",
    "RecordedSession",
    "ReplayResult",
    "Report",
    "ResourceBoundary",
    "Run",
    "RunFailed",
    "SafetyCheckResult",
    "SafetyLayer",
    "SafetySession",
    "SafetyViolation",
    "SandboxDied",
    "SandboxedError",
    "SessionRecorder",
    "SessionReplayer",
    "Supervisor",
    "TimeBoundary",
    "Trace",
    "TraceEntry",
    "TraceExporter",
    "TraceLevel",
    "TraceStatus",
    "Tracer",
    "WarnPolicy",
    "create_safety_layer",
    "load_policy",
]
