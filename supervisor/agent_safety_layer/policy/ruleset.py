"""The ``rules`` of a layer, made ready: found by kind, by path through an index, by text through one RE2 set."""

from __future__ import annotations

from agent_safety_layer.events import RANK, Decision, Event
from agent_safety_layer.policy.commands import CommandIndex
from agent_safety_layer.policy.globs import PathIndex
from agent_safety_layer.policy.model import Condition, Rule
from agent_safety_layer.policy.wording import text_of_event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from agent_safety_layer.policy.decision import Answer
    from agent_safety_layer.policy.hosts import HostIndex
    from agent_safety_layer.policy.state import State


_SET_MEMORY = 64 << 20


class RuleSet:
    """The rules of one layer. ``triggers`` are those with ``after``, each with what it waits for."""

    __slots__ = ("_kinds", "rules", "triggers")

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules
        self._kinds: dict[str, _KindRules | None] = {}
        self.triggers = tuple((rule, Matcher(rule.after.condition)) for rule in rules if rule.after is not None)

    def answer(self, kind: str) -> Answer | None:
        """What the rules that are about *kind* say, or None when none is."""
        rules = self._about(kind)
        return rules.strictest if rules is not None else None

    def walk(self, kind: str, folder: str) -> tuple[list[Any], list[Any]] | None:
        """The rules about *kind* whose paths cover *folder*, and the nodes from which a name in it could match another;
        None where one of these rules looks at something else than the path.
        """
        rules = self._about(kind)
        return rules.walk(folder) if rules is not None else ([], [])

    def _about(self, kind: str) -> _KindRules | None:
        if kind not in self._kinds:
            rules = tuple(
                rule
                for rule in self.rules
                if kind in rule.condition.on or (kind == "file.write" and "file.read" in rule.condition.on)
            )
            self._kinds[kind] = _KindRules(rules) if rules else None
        return self._kinds[kind]


class Matcher:
    """One condition, made ready; ``holds(event)`` when the event is of its kinds and all that it asks for is so."""

    __slots__ = ("_commands", "_hosts", "_on", "_paths", "_regex")

    def __init__(self, condition: Condition) -> None:
        self._on = frozenset(condition.on)
        path, host, argv = condition.path, condition.host, condition.argv
        self._paths: PathIndex[bool] | None = PathIndex((form, True) for form in path.forms) if path else None
        self._hosts: HostIndex | None = None
        if host:
            from agent_safety_layer.policy.hosts import HostIndex

            self._hosts = HostIndex((host,))
        self._commands = CommandIndex((argv,)) if argv and argv.text != "*" else None
        self._regex = Patterns((condition.match,)) if condition.match else None

    def holds(self, event: Event) -> bool:
        """Whether the event is like the condition says."""
        if event.kind not in self._on and not (_reads_too(event) and "file.read" in self._on):
            return False
        paths = self._paths
        if paths is not None and not any(path[:1] == "/" and paths.find(path) for path in (event.path, event.path2)):
            return False
        hosts = self._hosts
        if hosts is not None:
            from agent_safety_layer.policy.hosts import event_ip

            port = -1 if event.kind == "net.dns" else event.port
            if hosts.find(*event_ip(event), port) is None and hosts.find_any(port) is None:
                return False
        if self._commands is not None and self._commands.find(event.argv, event.path or event.exe) is None:
            return False
        return self._regex is None or bool(self._regex.matching(text_of_event(event)))


class _KindRules:
    """The rules about one kind of event. Those that could fit are looked up, then checked in full."""

    __slots__ = ("_anyhow", "_by_path", "_closer", "_patterns", "_set_rules")

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._by_path: PathIndex[tuple[Rule, Matcher]] = PathIndex()
        self._closer: PathIndex[bool] = PathIndex()  # the paths of rules that look at more than the path
        self._anyhow: list[tuple[Rule, Matcher]] = []
        self._set_rules: list[tuple[Rule, Matcher]] = []
        for rule in rules:
            condition = rule.condition
            if condition.path is not None:
                for form in condition.path.forms:
                    self._by_path.add(form, (rule, Matcher(condition)))
                    if condition.match or condition.argv or condition.host:
                        self._closer.add(form, True)
            elif condition.match:
                # The set has matched the pattern already when one of these becomes a candidate.
                rest = Condition(condition.on, None, condition.host, condition.argv)
                self._set_rules.append((rule, Matcher(rest)))
            else:
                self._anyhow.append((rule, Matcher(condition)))
        self._patterns = Patterns([rule.condition.match for rule, _ in self._set_rules]) if self._set_rules else None

    def walk(self, folder: str) -> tuple[list[Any], list[Any]] | None:
        """Of the paths, those that cover *folder*, and the nodes from which a name in it could match another; None
        where rules go by more.
        """
        if self._anyhow or self._set_rules or self._closer.find(folder):
            return None
        return self._by_path.walk(folder)

    def strictest(self, event: Event, state: State) -> Decision | None:
        """The strictest action of the rules that hold, or None when none does."""
        best: Rule | None = None
        for rule, matcher in self._candidates(event):
            if best is not None and RANK[rule.action] <= RANK[best.action]:
                continue
            if matcher.holds(event) and state.happened(rule, event):
                best = rule
        if best is None:
            return None
        return Decision(best.action, best.name, best.origin, best.reason or _words(best))

    def _candidates(self, event: Event) -> list[tuple[Rule, Matcher]]:
        found = list(self._anyhow)
        for path in (event.path, event.path2):
            if path[:1] == "/":
                found += self._by_path.find(path)
        if self._patterns is not None:
            found += [self._set_rules[i] for i in self._patterns.matching(text_of_event(event))]
        return found


class Patterns:
    """RE2 patterns, searched for in a text all at once: what it costs hardly grows with their number.

    A set that runs out of its memory budget reports no match, which must not pass for one: a last pattern that always
    matches tells, and then each pattern is searched for alone (where RE2 falls back to a slower way within its budget).
    """

    __slots__ = ("_alone", "_set", "_texts")

    def __init__(self, patterns: Iterable[str]) -> None:
        self._texts = tuple(patterns)
        self._alone: list[Any] | None = None
        self._set: Any = None
        import re2

        options = re2.Options()
        options.max_mem = _SET_MEMORY
        options.log_errors = False
        found = re2.Set.SearchSet(options)
        for pattern in (*self._texts, ""):
            found.Add(pattern)
        try:
            found.Compile()
            self._set = found
        except re2.error:
            pass  # too many or too large for one automaton

    def matching(self, text: str) -> list[int]:
        """The positions of the patterns that occur in *text*, in order."""
        found = self._set.Match(text) if self._set is not None else None
        if found:
            last = len(self._texts)
            return sorted(i for i in found if i != last)
        if self._alone is None:
            import re2

            self._alone = [re2.compile(pattern) for pattern in self._texts]
        return [i for i, pattern in enumerate(self._alone) if pattern.search(text) is not None]


def _reads_too(event: Event) -> bool:
    """Whether it is opening a file for writing and for reading."""
    return event.kind == "file.write" and event.flags.startswith("O_RDWR")


def _words(rule: Rule) -> str:
    """Why, for a rule that does not say it itself."""
    if rule.after is None:
        return f"the rule '{rule.name}' says so"
    return f"the rule '{rule.name}' says so, because of what happened earlier"
