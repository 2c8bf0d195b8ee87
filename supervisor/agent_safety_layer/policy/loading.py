"""Policies from files, profiles and the command line: found, joined, checked as a whole, and made into a ``Policy``.

``extends`` joins: lists are joined, of scalars the nearer one counts, ``without`` takes lines of what is extended away.
Several sources are layers; nothing joins them. Every mistake in all of them is told in one ``PolicyMistakes``.
"""

from __future__ import annotations

import os

from agent_safety_layer.errors import PolicyError
from agent_safety_layer.policy import draft as drafts
from agent_safety_layer.policy.draft import Draft
from agent_safety_layer.policy.globs import escape
from agent_safety_layer.policy.model import (
    Address,
    After,
    Approvals,
    Condition,
    Entry,
    Environment,
    Exec,
    Files,
    Host,
    Layer,
    Limits,
    Network,
    Policy,
    Rule,
)
from agent_safety_layer.policy.paths import Paths
from asl_hooks.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from agent_safety_layer.policy.draft import Item

PROFILES = ("workspace", "offline", "ci", "strict")
DEFAULT = "workspace"
ADMINISTRATOR = "/etc/asl/policy.yaml"
_LIMITS = (  # in the order of the fields of ``Limits``
    *("wall_time", "cpu_time", "memory", "processes", "open_files", "file_size", "output"),
    *("written", "operations", "idle_time", "cpu", "grace"),
)
BUILT_IN = (*PROFILES, "secrets")
_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "profiles")


def load(
    sources: Sequence[str] = (),
    *,
    variables: Mapping[str, str],
    extra: Mapping[str, Any] | None = None,
    cache: str | None = None,
    observe: bool = False,
) -> Policy:
    """The policy that the sources make, one layer each; ``workspace`` when there are none.

    A source is a built-in profile's name or the path of a file. ``variables`` gives ``WORKSPACE`` and ``HOME`` and
    may give ``TMP USER STATE CWD``, as absolute paths. ``extra`` joins the first layer: it is shaped like a policy
    (``{"files": {"read": ["/opt"]}}``), relative paths in it start from ``CWD``, and its entries are shown as the
    flags that they came from. An allow entry in it never closes a section that was open. ``cache`` is a folder for
    parsed files. ``observe`` makes every layer observe but the administrator's, which nobody loosens.

    Raises ``PolicyMistakes`` (a ``PolicyError``) with everything that is wrong.
    """
    loader = _Loader(variables, cache)
    wanted = tuple(sources) or (DEFAULT,)
    policy = loader.policy([(_name(source), loader.source(source)) for source in wanted], extra)
    if not observe:
        return policy
    layers = (
        layer if source == ADMINISTRATOR else replace(layer, mode="observe")
        for layer, source in zip(policy.layers, wanted, strict=True)
    )
    return Policy(tuple(layers), policy.sources)


def load_text(
    text: str, *, name: str = "policy.yaml", variables: Mapping[str, str], extra: Mapping[str, Any] | None = None
) -> Policy:
    """Like ``load`` for one policy that is at hand as text; ``name`` is what errors and decisions call it."""
    loader = _Loader(variables, None)
    return loader.policy([(_name(name), loader.text(text.encode(), name))], extra)


def secret_names(cache: str | None = None) -> tuple[Entry, ...]:
    """What the built-in profiles take for names of variables that hold secrets. *cache* is as for ``load``."""
    loader = _Loader({}, cache)
    return tuple(map(loader.entry, loader.source("secrets").lists["environment.secrets"]))


def profile_path(name: str) -> str:
    """The file of a built-in profile."""
    return os.path.join(_FOLDER, f"{name}.yaml")


def _name(source: str) -> str:
    return os.path.basename(source).removesuffix(".yaml").removesuffix(".yml") or source


class _Loader:
    def __init__(self, variables: Mapping[str, str], cache: str | None) -> None:
        self.mistakes: list[PolicyError] = []
        self.paths = Paths(variables)
        self.cache = cache
        self.sources: dict[str, str] = {}
        self.own: list[str] = []  # the files that the policy is made of
        self.known: dict[str, Draft] = {}
        self.open: list[str] = []

    # Finding and joining

    def source(self, source: str, *, beside: str = "", at: tuple[str, int] = ("", 0)) -> Draft:
        """The joined draft of a profile or file; ``beside`` is the file whose ``extends`` (at *at*) names it."""
        if source in BUILT_IN:
            path, shown = profile_path(source), f"profiles/{source}.yaml"
        elif "/" in source or source.endswith((".yaml", ".yml")) or (not beside and os.path.exists(source)):
            path = os.path.join(os.path.dirname(beside), source) if beside else source
            shown = path
        else:
            from agent_safety_layer.policy.reader import suggest

            remedy = suggest(source, PROFILES) + " A file is named with its path or its ending: ./name or name.yaml."
            self.wrong(f"There is no profile '{source}'.", at, "extends", remedy)
            return Draft()
        real = os.path.realpath(path)
        if real in self.open:
            circle = " -> ".join(map(_name, [*self.open[self.open.index(real) :], real]))
            self.wrong(f"Policies extend each other in a circle: {circle}.", at, "extends")
            return Draft()
        if real not in self.known:
            try:
                draft, digest = drafts.read(path, shown=shown, cache=self.cache, mistakes=self.mistakes)
            except PolicyError as error:
                if error.line or not at[0]:
                    self.mistakes.append(error)
                else:
                    self.wrong(str(error), at, "extends")
                return self.known.setdefault(real, Draft())
            self.sources[shown] = digest
            if source not in BUILT_IN:
                self.own += [real, os.path.abspath(path)]
            self.open.append(real)
            self.known[real] = self._joined(draft, path, shown)
            self.open.pop()
        return self.known[real]

    def text(self, raw: bytes, name: str) -> Draft:
        """The joined draft of a policy at hand; what it extends is looked for beside *name*."""
        try:
            draft, digest = drafts.parse(raw, shown=name, cache=self.cache, mistakes=self.mistakes)
        except PolicyError as error:
            self.mistakes.append(error)
            return Draft()
        self.sources[name] = digest
        return self._joined(draft, name, name)

    def _joined(self, draft: Draft, path: str, shown: str) -> Draft:
        parents = Draft()
        for name, line in draft.extends:
            parents.join(self.source(name, beside=path, at=(shown, line)))
        for key, text, line in draft.without:
            items = parents.lists.get(key, [])
            parents.lists[key] = [item for item in items if item[0] != text]
            if len(parents.lists[key]) == len(items):
                from agent_safety_layer.policy.reader import suggest

                remedy = suggest(text, [item[0] for item in items]) if items else ""
                message = f"What is extended has no '{text}' in {key}."
                self.wrong(message, (shown, line), f"without.{key}", remedy)
        joined = Draft()
        joined.join(draft)
        joined.join(parents)
        return joined

    # Building

    def policy(self, named: list[tuple[str, Draft]], extra: Mapping[str, Any] | None) -> Policy:
        """The policy of the drafts; raises when any mistake was found on the way."""
        if extra:
            from agent_safety_layer.policy.reader import Reader

            name, first = named[0]
            flags = Reader("", self.mistakes).read(_node(extra))
            flags.join(first)
            named = [(name, flags), *named[1:]]
        layers = _guarded(tuple(self.layer(name, draft) for name, draft in named), self.own)
        if self.mistakes:
            from agent_safety_layer.policy.reader import PolicyMistakes

            raise PolicyMistakes(sorted(self.mistakes, key=lambda mistake: (mistake.file, mistake.line)))
        return Policy(layers, tuple(self.sources.items()))

    def layer(self, name: str, draft: Draft) -> Layer:
        """The layer of one joined draft."""
        return Layer(
            name=draft.scalars["name"][0] if "name" in draft.scalars else name,
            mode=self._scalar(draft, "mode", "enforce"),
            files=self._files(draft),
            network=self._network(draft),
            exec=self._exec(draft),
            limits=Limits(*(self._scalar(draft, f"limits.{key}", None) for key in _LIMITS)),
            rules=tuple(self._rule(plain) for plain in draft.rules),
            approvals=Approvals(
                self._scalar(draft, "approvals.timeout", 300.0), self._scalar(draft, "approvals.on_timeout", "deny")
            ),
            on_violation=self._scalar(draft, "on_violation", "continue"),
            environment=Environment(
                self._entries(draft, "environment.pass"),
                self._entries(draft, "environment.block"),
                self._entries(draft, "environment.secrets"),
                tuple((name, text) for name, (text, _) in draft.variables.items()),
            ),
            record=self._scalar(draft, "record", ""),
        )

    def _files(self, draft: Draft) -> Files | None:
        if not _has(draft, "files"):
            return None
        read_list = draft.present.get("files.read", "")
        return Files(
            read=self._entries(draft, "files.read", allows=True),
            write=self._entries(draft, "files.write", allows=True),
            block=self._entries(draft, "files.block"),
            ask=self._entries(draft, "files.ask"),
            protect=self._entries(draft, "files.protect"),
            read_list=read_list,
            write_list=draft.present.get("files.write", read_list),
        )

    def _network(self, draft: Draft) -> Network | None:
        if not _has(draft, "network"):
            return None
        return Network(
            allow=self._hosts(draft, "network.allow"),
            block=self._hosts(draft, "network.block"),
            ask=self._hosts(draft, "network.ask"),
            listen=self._hosts(draft, "network.listen") if "network.listen" in draft.lists else None,
            unix=self._entries(draft, "network.unix", allows=True) if "network.unix" in draft.lists else None,
            private_ips=self._scalar(draft, "network.private_ips", False),
            allow_list=draft.present.get("network.allow", ""),
            origin=draft.present.get("network", ""),
        )

    def _exec(self, draft: Draft) -> Exec | None:
        if not _has(draft, "exec"):
            return None
        allow, block, ask = (self._entries(draft, f"exec.{key}") for key in ("allow", "block", "ask"))
        return Exec(allow, block, ask, draft.present.get("exec.allow", ""))

    def _scalar(self, draft: Draft, key: str, default: Any) -> Any:
        found = draft.scalars.get(key)
        return default if found is None else found[0]

    def _entries(self, draft: Draft, key: str, *, allows: bool = False) -> tuple[Entry, ...]:
        return tuple(self.entry(item, allows=allows) for item in draft.lists.get(key, ()))

    def entry(self, item: Item, *, allows: bool = False) -> Entry:
        """The entry with its patterns filled in."""
        text, origin, (is_path, made) = item
        if not is_path:
            return Entry(text, origin, made)
        try:
            return Entry(text, origin, self.paths.forms(made, allows=allows))
        except ValueError as error:
            file, _, line = origin.rpartition(":")
            self.wrong(f"'{text}' cannot be used: {error}.", (file, int(line) if file else 0), "")
            return Entry(text, origin)

    def _hosts(self, draft: Draft, key: str) -> tuple[Host, ...]:
        return tuple(_host(item) for item in draft.lists.get(key, ()))

    def _rule(self, plain: tuple[Any, ...]) -> Rule:
        name, action, condition, after, reason, origin = plain
        earlier = None if after is None else After(self._condition(after[0]), after[1])
        return Rule(name, action, self._condition(condition), earlier, reason, origin)

    def _condition(self, plain: tuple[Any, ...]) -> Condition:
        on, path, host, argv, match = plain
        return Condition(
            on,
            None if path is None else self.entry(path),
            None if host is None else _host(host),
            None if argv is None else self.entry(argv),
            match,
        )

    def wrong(self, message: str, at: tuple[str, int], key: str, remedy: str = "") -> None:
        """Note a mistake at a file and line."""
        self.mistakes.append(PolicyError(message, file=at[0], line=at[1], key=key, remedy=remedy))


def _guarded(layers: tuple[Layer, ...], own: list[str]) -> tuple[Layer, ...]:
    """The layers with the policy's own files protected, lest a run loosens the next. Where no layer has an opinion
    about files, that would be the only one: then there is nothing that it could keep up.
    """
    for position, layer in enumerate(layers):
        if layer.files is not None and own:
            entry = Entry("the policy of this run", "built-in", tuple(dict.fromkeys(map(escape, own))))
            files = replace(layer.files, protect=(*layer.files.protect, entry))
            return (*layers[:position], replace(layer, files=files), *layers[position + 1 :])
    return layers


def _host(item: Item) -> Host:
    text, origin, made = item
    return Host(text, origin, tuple(Address(*address) for address in made))


def _has(draft: Draft, section: str) -> bool:
    return section in draft.present or any(key.startswith(f"{section}.") for key in draft.lists)


def _node(value: Any) -> Any:
    """Plain values as nodes of no line."""
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(key): _node(inner) for key, inner in value.items()}, 0
    if isinstance(value, list | tuple):
        return [_node(inner) for inner in value], 0
    return value, 0


__all__ = ["ADMINISTRATOR", "BUILT_IN", "DEFAULT", "PROFILES", "load", "load_text", "profile_path"]
