"""The policy: read, decided by, and turned into what the kernel can hold. Pure but for reading files when one is
loaded.

    draft      one document read and checked; cached                loading    files, profiles, extends, flags -> Policy
    reader rules yaml quantities   the language: imported only when a document is not in the cache
    profiles/  the built-in policies, to read and copy
    model      Policy, Layer, sections, entries                     paths      variables, braces, links -> patterns
    globs      wildcards and the path index                         hosts commands quantities   their patterns and units
    decision   decide(policy, state, event) -> Decision             files network ruleset       the sections as judges
    state      advance(...) -> State, for ``after``                 remedies   what would allow what was refused
    planner    plan(policy, tree) -> what Landlock can hold         environ    what the child gets
    summary    what is allowed, for a model to read

and, for the commands: effective (written out), operations, matches, past (explain), trial (test), evidence, tiers,
shapes, learning, lesson (learn), witnesses, differences (diff).

Everything is imported when first used, because ``asl-supervise`` pays for each import before the child starts.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.policy.alike import Varying, varying
    from agent_safety_layer.policy.decision import decide
    from agent_safety_layer.policy.environ import environment
    from agent_safety_layer.policy.loading import ADMINISTRATOR, DEFAULT, PROFILES, load, load_text, profile_path
    from agent_safety_layer.policy.model import Layer, Limits, Policy
    from agent_safety_layer.policy.planner import Bounds, Plan, System, Tree, plan
    from agent_safety_layer.policy.reader import PolicyMistakes
    from agent_safety_layer.policy.remedies import remedy
    from agent_safety_layer.policy.state import State, advance
    from agent_safety_layer.policy.summary import brief
    from agent_safety_layer.policy.wording import text_of_event

_HOMES = {
    "DEFAULT": "loading",
    "brief": "summary",
    "PROFILES": "loading",
    "Layer": "model",
    "Limits": "model",
    "Policy": "model",
    "PolicyMistakes": "reader",
    "Varying": "alike",
    "varying": "alike",
    "Bounds": "planner",
    "Plan": "planner",
    "System": "planner",
    "Tree": "planner",
    "plan": "planner",
    "remedy": "remedies",
    "ADMINISTRATOR": "loading",
    "State": "state",
    "environment": "environ",
    "advance": "state",
    "decide": "decision",
    "load": "loading",
    "load_text": "loading",
    "profile_path": "loading",
    "text_of_event": "wording",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    __import__(f"{__name__}.{home}")
    from sys import modules

    found: object = getattr(modules[f"{__name__}.{home}"], name)
    globals()[name] = found
    return found


__all__ = [
    "ADMINISTRATOR",
    "DEFAULT",
    "PROFILES",
    "Bounds",
    "Layer",
    "Limits",
    "Plan",
    "Policy",
    "PolicyMistakes",
    "State",
    "System",
    "Tree",
    "Varying",
    "advance",
    "brief",
    "decide",
    "environment",
    "load",
    "load_text",
    "plan",
    "profile_path",
    "remedy",
    "text_of_event",
    "varying",
]
