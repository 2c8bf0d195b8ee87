"""Policies from files, profiles and the command line: found, joined, checked as a whole, and made into a ``Policy``.

``extends`` joins: lists are joined, of scalars the nearer one counts, ``without`` takes lines of what is extended away.
Several sources are layers; nothing joins them. Every mistake in all of them is told in one ``PolicyMistakes``.
"""

from __future__ import annotations

import os

from agent_safety_layer.errors import PolicyError
from agent_safety_layer.policy import document
from agent_safety_layer.policy.commands import forms as command_forms
from agent_safety_layer.policy.commands import is_path
from agent_safety_layer.policy.draft import Draft, Mistakes, PolicyMistakes, Reader, suggest
from agent_safety_layer.policy.globs import Wildcard
from agent_safety_layer.policy.hosts import parse_host
from agent_safety_layer.policy.model import (
    Approvals,
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

PROFILES = ("workspace", "offline", "ci", "strict")
DEFAULT = "workspace"
ADMINISTRATOR = "/etc/asl/policy.yaml"
_BUILT_IN = (*PROFILES, "secrets")
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


def profile_path(name: str) -> str:
    """The file of a built-in profile."""
    return os.path.join(_FOLDER, f"{name}.yaml")


def _name(source: str) -> str:
    return os.path.basename(source).removesuffix(".yaml").removesuffix(".yml") or source


class _Loader:
    def __init__(self, variables: Mapping[str, str], cache: str | None) -> None:
        self.mistakes = Mistakes()
        self.paths = Paths(variables)
        self.cache = cache
        self.sources: dict[str, str] = {}
        self.known: dict[str, Draft] = {}
        self.open: list[str] = []

    # Finding and joining

    def source(self, source: str, *, beside: str = "", at: tuple[str, int] = ("", 0)) -> Draft:
        """The joined draft of a profile or file; ``beside`` is the file whose ``extends`` (at *at*) names it."""
        if source in _BUILT_IN:
            path, shown = profile_path(source), f"profiles/{source}.yaml"
        elif "/" in source or source.endswith((".yaml", ".yml")) or (not beside and os.path.exists(source)):
            path = os.path.join(os.path.dirname(beside), source) if beside else source
            shown = path
        else:
            file, line = at
            remedy = suggest(source, PROFILES) + " A file is named with its path or its ending: ./name or name.yaml."
            self.mistakes.add(
                f"There is no profile '{source}'.", file=file, line=line, key="extends" if file else "", remedy=remedy
            )
            return Draft()
        real = os.path.realpath(path)
        if real in self.open:
            circle = " -> ".join(map(_name, [*self.open[self.open.index(real) :], real]))
            self.mistakes.add(
                f"Policies extend each other in a circle: {circle}.", file=at[0], line=at[1], key="extends"
            )
            return Draft()
        if real not in self.known:
            try:
                node, digest = document.read(path, name=shown, cache=self.cache)
            except PolicyError as error:
                self.mistakes.found.append(_placed(error, at))
                return self.known.setdefault(real, Draft())
            self.sources[shown] = digest
            self.open.append(real)
            self.known[real] = self._joined(Reader(shown, self.mistakes).read(node), path, shown)
            self.open.pop()
        return self.known[real]

    def text(self, raw: bytes, name: str) -> Draft:
        """The joined draft of a policy at hand; what it extends is looked for beside *name*."""
        try:
            node, digest = document.parse(raw, name=name)
        except PolicyError as error:
            self.mistakes.found.append(error)
            return Draft()
        self.sources[name] = digest
        return self._joined(Reader(name, self.mistakes).read(node), name, name)

    def _joined(self, draft: Draft, path: str, shown: str) -> Draft:
        if not draft.extends:
            for key, text, line in draft.without:
                self.mistakes.add(
                    f"There is nothing extended to take '{text}' from.", file=shown, line=line, key=f"without.{key}"
                )
            return draft
        parents = Draft()
        for name, line in draft.extends:
            _join(parents, self.source(name, beside=path, at=(shown, line)))
        for key, text, line in draft.without:
            entries = parents.lists.get(key, [])
            left = [entry for entry in entries if entry[0] != text]
            if len(left) == len(entries):
                remedy = suggest(text, [entry[0] for entry in entries])
                self.mistakes.add(
                    f"What is extended has no '{text}' in {key}.",
                    file=shown,
                    line=line,
                    key=f"without.{key}",
                    remedy=remedy,
                )
            parents.lists[key] = left
        _join(draft, parents)
        return draft

    # Building

    def policy(self, drafts: list[tuple[str, Draft]], extra: Mapping[str, Any] | None) -> Policy:
        """The policy of the drafts; raises when any mistake was found on the way."""
        if extra:
            name, first = drafts[0]
            flags = Reader("", self.mistakes).read(_node(extra))
            _join(flags, first)
            drafts = [(name, flags), *drafts[1:]]
        layers = tuple(self.layer(name, draft) for name, draft in drafts)
        if self.mistakes.found:
            raise PolicyMistakes(sorted(self.mistakes.found, key=lambda mistake: (mistake.file, mistake.line)))
        return Policy(layers, tuple(self.sources.items()))

    def layer(self, name: str, draft: Draft) -> Layer:
        """The layer of one joined draft."""
        return Layer(
            name=draft.scalars["name"][0] if "name" in draft.scalars else name,
            mode=self._scalar(draft, "mode", "enforce"),
            files=self._files(draft),
            network=self._network(draft),
            exec=self._exec(draft),
            limits=Limits(
                *(
                    self._scalar(draft, f"limits.{key}", None)
                    for key in ("wall_time", "cpu_time", "memory", "processes", "open_files", "file_size", "output")
                )
            ),
            rules=self._rules(draft),
            approvals=Approvals(
                self._scalar(draft, "approvals.timeout", 300.0), self._scalar(draft, "approvals.on_timeout", "deny")
            ),
            on_violation=self._scalar(draft, "on_violation", "continue"),
            environment=Environment(
                self._names(draft, "environment.pass"),
                self._names(draft, "environment.block"),
                self._names(draft, "environment.secrets"),
                tuple((name, text) for name, (text, _) in draft.variables.items()),
            ),
        )

    def _files(self, draft: Draft) -> Files | None:
        if not _has(draft, "files"):
            return None
        read_list = draft.present.get("files.read", "")
        return Files(
            read=self._paths(draft, "files.read", allows=True),
            write=self._paths(draft, "files.write", allows=True),
            block=self._paths(draft, "files.block"),
            ask=self._paths(draft, "files.ask"),
            protect=self._paths(draft, "files.protect"),
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
            unix=self._unix(draft) if "network.unix" in draft.lists else None,
            private_ips=self._scalar(draft, "network.private_ips", False),
            allow_list=draft.present.get("network.allow", ""),
            origin=draft.present.get("network", ""),
        )

    def _exec(self, draft: Draft) -> Exec | None:
        if not _has(draft, "exec"):
            return None
        allow, block, ask = (self._commands(draft, f"exec.{key}") for key in ("allow", "block", "ask"))
        return Exec(allow, block, ask, draft.present.get("exec.allow", ""))

    def _scalar(self, draft: Draft, key: str, default: Any) -> Any:
        found = draft.scalars.get(key)
        return default if found is None else found[0]

    def _paths(self, draft: Draft, key: str, *, allows: bool = False) -> tuple[Entry, ...]:
        found = []
        forms = self.paths.forms
        for text, origin in draft.lists.get(key, ()):
            try:
                relative_to = "" if ":" in origin else "CWD"
                found.append(Entry(text, origin, forms(text, allows=allows, relative_to=relative_to)))
            except ValueError as error:
                self.wrong(key, text, origin, error)
        return tuple(found)

    def _unix(self, draft: Draft) -> tuple[Entry, ...]:
        found = []
        for text, origin in draft.lists["network.unix"]:
            try:
                forms = (text,) if text.startswith("@") else self.paths.forms(text, allows=True)
                if text.startswith("@"):
                    Wildcard(text)
                found.append(Entry(text, origin, forms))
            except ValueError as error:
                self.wrong("network.unix", text, origin, error)
        return tuple(found)

    def _hosts(self, draft: Draft, key: str) -> tuple[Host, ...]:
        found = []
        for text, origin in draft.lists.get(key, ()):
            try:
                found.append(parse_host(text, origin))
            except ValueError as error:
                self.wrong(key, text, origin, error)
        return tuple(found)

    def command(self, text: str, origin: str) -> Entry:
        """The command pattern; ``ValueError`` says what is wrong with it."""
        if is_path(text):
            return Entry(text, origin, self.paths.forms(text))
        return Entry(text, origin, command_forms(text))

    def _commands(self, draft: Draft, key: str) -> tuple[Entry, ...]:
        found = []
        for text, origin in draft.lists.get(key, ()):
            try:
                found.append(self.command(text, origin))
            except ValueError as error:
                self.wrong(key, text, origin, error)
        return tuple(found)

    def _names(self, draft: Draft, key: str) -> tuple[Entry, ...]:
        found = []
        for text, origin in draft.lists.get(key, ()):
            try:
                Wildcard(text)
                found.append(Entry(text, origin, (text,)))
            except ValueError as error:
                self.wrong(key, text, origin, error)
        return tuple(found)

    def _rules(self, draft: Draft) -> tuple[Rule, ...]:
        if not draft.rules:
            return ()
        from agent_safety_layer.policy.rules import RuleReader

        reader = RuleReader(self.mistakes, self.paths, self.command)
        made = [reader.rule(node, file, line, number) for number, (node, file, line) in enumerate(draft.rules, 1)]
        return tuple(rule for rule in made if rule is not None)

    def wrong(self, key: str, text: str, origin: str, error: ValueError) -> None:
        """Note that the entry *text* of the list *key* cannot be used."""
        file, _, line = origin.rpartition(":")
        where = key if file else origin
        self.mistakes.add(
            f"{where}: '{text}' cannot be used: {error}.", file=file, line=int(line) if file else 0, key=key
        )


def _has(draft: Draft, section: str) -> bool:
    return section in draft.present or any(key.startswith(f"{section}.") for key in draft.lists)


def _join(nearer: Draft, further: Draft) -> None:
    """Join *further* into *nearer*: lists are joined, each line once; of scalars the nearer one stays."""
    for key, entries in further.lists.items():
        mine = nearer.lists.get(key)
        if mine is None:
            nearer.lists[key] = list(entries)
        else:
            nearer.lists[key] = list(dict.fromkeys((*mine, *entries)))
    for name, held in (("scalars", further.scalars), ("present", further.present), ("variables", further.variables)):
        table = getattr(nearer, name)
        for key, item in held.items():
            table.setdefault(key, item)
    places = {(file, line) for _, file, line in nearer.rules}
    nearer.rules += [rule for rule in further.rules if rule[1:] not in places]


def _placed(error: PolicyError, at: tuple[str, int]) -> PolicyError:
    """The error of a file that another one extends, told at the line that does."""
    file, line = at
    if not file or error.line:
        return error
    return PolicyError(str(error), file=file, line=line, key="extends")


def _node(value: Any) -> Any:
    """Plain values as nodes of no line."""
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(key): _node(inner) for key, inner in value.items()}, 0
    if isinstance(value, list | tuple):
        return [_node(inner) for inner in value], 0
    return value, 0


__all__ = ["ADMINISTRATOR", "DEFAULT", "PROFILES", "PolicyMistakes", "load", "load_text", "profile_path"]
