"""The environment of the child: the supervisor's own, less what the policy strips."""

from __future__ import annotations

from agent_safety_layer.policy.globs import Node, Wildcard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent_safety_layer.policy.model import Entry, Environment, Policy


_secrets: tuple[Entry, ...] = ()  # of the built-in profiles, once somebody has asked
_known: dict[tuple[Environment, tuple[Entry, ...], tuple[str, ...]], tuple[str, ...]] = {}


def environment(policy: Policy, variables: Mapping[str, str], *, cache: str | None = None) -> dict[str, str]:
    """*variables* less what any enforcing layer strips, and with what the layers set.

    In a layer, ``block`` drops a name whatever else is said; a name that ``secrets`` fits is dropped unless ``pass``
    fits it, too. Where several layers set one name, the last of them counts: the administrator's policy comes last.
    What looks like a secret to the built-in profiles does so also where no layer extends one. ``cache`` is as for
    ``load``.
    """
    kept = dict(variables)
    layers = policy.enforced.layers
    more = () if knows_secrets(policy) else built_in(cache)
    for section in dict.fromkeys(layer.environment for layer in layers):  # equal ones strip the same
        for name in _stripped(section, more, tuple(variables)):
            kept.pop(name, None)
    for layer in layers:
        kept.update(layer.environment.put)
    return kept


def _stripped(section: Environment, more: tuple[Entry, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of *names* that a layer's section strips, which are the same in the next run."""
    found = _known.get((section, more, names))
    if found is None:
        blocked, secret, passed = map(_Names, (section.block, section.secrets + more, section.keep))
        found = tuple(n for n in names if blocked.fit(n) or (secret.fit(n) and not passed.fit(n)))
        if len(_known) >= 16:
            _known.clear()
        _known[section, more, names] = found
    return found


def knows_secrets(policy: Policy) -> bool:
    """Whether a layer has the built-in profiles' list of secrets, or nothing is enforced."""
    layers = policy.enforced.layers
    return not layers or any(e.origin.startswith("profiles/") for layer in layers for e in layer.environment.secrets)


def built_in(cache: str | None) -> tuple[Entry, ...]:
    """What the built-in profiles take for names of variables that hold secrets. *cache* is as for ``load``."""
    global _secrets
    if not _secrets:
        from agent_safety_layer.policy.loading import secret_names

        _secrets = secret_names(cache)
    return _secrets


class _Names:
    """Name patterns, found as those of one segment of a path are."""

    __slots__ = ("_node",)

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self._node: Node[None] = Node()
        for entry in entries:
            for form in entry.forms:
                wildcard = Wildcard(form)
                literal = wildcard.literal()
                self._node.child(wildcard if literal is None else literal)

    def fit(self, name: str) -> bool:
        return bool(self._node.step(name))
