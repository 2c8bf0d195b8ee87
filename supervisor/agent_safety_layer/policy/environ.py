"""The environment of the child: the supervisor's own, less what the policy strips."""

from __future__ import annotations

from agent_safety_layer.policy.globs import Wildcard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent_safety_layer.policy.model import Entry, Policy


def environment(policy: Policy, variables: Mapping[str, str]) -> dict[str, str]:
    """*variables* less what any enforcing layer strips, and with what the layers set.

    In a layer, ``block`` drops a name whatever else is said; a name that ``secrets`` fits is dropped unless ``pass``
    fits it, too. Where several layers set one name, the last of them counts: the administrator's policy comes last.
    """
    kept = dict(variables)
    layers = policy.enforced.layers
    for layer in layers:
        section = layer.environment
        blocked, secret, passed = (_Names(entries) for entries in (section.block, section.secrets, section.keep))
        for name in variables:
            if blocked.fit(name) or (secret.fit(name) and not passed.fit(name)):
                kept.pop(name, None)
    for layer in layers:
        kept.update(layer.environment.put)
    return kept


class _Names:
    """Name patterns: plain ones in a set, wildcards in a list."""

    __slots__ = ("_plain", "_wild")

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        wildcards = [Wildcard(form) for entry in entries for form in entry.forms]
        self._plain = {wildcard.literal() for wildcard in wildcards}
        self._wild = [wildcard for wildcard in wildcards if wildcard.literal() is None]

    def fit(self, name: str) -> bool:
        return name in self._plain or any(wildcard.matches(name) for wildcard in self._wild)
