"""The decision: what a policy says to an event. A pure function of policy, state and event.

Every section of every layer, and every rule, that is about the event's kind gives its answer; the strictest one is the
decision. Order never matters, except that of several equally strict answers the first is the one that is told.
"""

from __future__ import annotations

from _stat import S_IFDIR, S_IFLNK

from agent_safety_layer.events import ALLOW, ASK, BLOCK, RANK, Decision, Event, strictest
from agent_safety_layer.policy.commands import CommandIndex, basename, called, everything, vouched
from agent_safety_layer.policy.files import FilesJudge
from agent_safety_layer.policy.model import Entry, Exec, Layer, Network, Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.policy.alike import Varying
    from agent_safety_layer.policy.network import NetworkJudge
    from agent_safety_layer.policy.ruleset import RuleSet
    from agent_safety_layer.policy.state import State

    Answer = Callable[[Event, State], Decision | None]

_TYPE = 0o170000  # the bits of the file type (inode(7)); in the stat module it is a function's name
_UNNAMED = Decision(ALLOW, "exec", "", "no list in exec is about it")
_UNGOVERNED = Decision(ALLOW, "", "", "nothing in the policy is about it")


def decide(policy: Policy, state: State, event: Event) -> Decision:
    """The action that *policy* gives *event*, with the rule that gave it, where that rule stands, and why.

    Equal arguments give equal decisions: there is no clock, no disk and no environment in it.
    """
    return judge_of(policy).decide(state, event)


def judge_of(policy: Policy) -> Judge:
    """The policy made ready, once."""
    judge: Judge | None = policy.judge
    if judge is None:
        judge = policy.judge = Judge(policy)
    return judge


class Judge:
    """A policy made ready: for each kind of event, what has something to say about it."""

    __slots__ = ("_answers", "alike", "layers", "triggers")

    def __init__(self, policy: Policy) -> None:
        self.layers = tuple(LayerJudge(layer) for layer in policy.layers)
        self.triggers = tuple(trigger for layer in self.layers if layer.rules for trigger in layer.rules.triggers)
        self._answers: dict[str, tuple[Answer, ...]] = {}
        self.alike: dict[tuple[object, ...], Varying] = {}  # see alike.varying

    def decide(self, state: State, event: Event) -> Decision:
        """The strictest answer."""
        answers = self._answers.get(event.kind)
        if answers is None:
            answers = tuple(answer for layer in self.layers for answer in layer.answers(event.kind))
            self._answers[event.kind] = answers
        best = None
        for answer in answers:
            decision = answer(event, state)
            if decision is None:
                continue
            if decision.action == BLOCK:
                return decision
            if best is None or RANK[decision.action] > RANK[best.action]:
                best = decision
        return best or _UNGOVERNED


class LayerJudge:
    """One layer made ready. Sections that it does not have are None."""

    __slots__ = ("_layer", "_network", "commands", "files", "rules")

    def __init__(self, layer: Layer) -> None:
        self.files = FilesJudge(layer.files) if layer.files is not None else None
        self._layer = layer
        self._network: NetworkJudge | None = None
        self.commands = ExecJudge(layer.exec) if layer.exec is not None else None
        self.rules: RuleSet | None = None
        if layer.rules:
            from agent_safety_layer.policy.ruleset import RuleSet

            self.rules = RuleSet(layer.rules)

    def _about_networks(self, section: Network) -> NetworkJudge:
        """Made when first needed: a run without a socket call does without."""
        if self._network is None:
            from agent_safety_layer.policy.network import NetworkJudge

            self._network = NetworkJudge(section)
        return self._network

    def answers(self, kind: str) -> list[Answer]:
        """What in this layer has something to say about events of *kind*."""
        found: list[Answer] = []
        if self.files is not None and kind in _FILE_ANSWERS:
            found.append(_FILE_ANSWERS[kind](self.files))
        if self._layer.network is not None and kind in _NET_ANSWERS:
            found.append(_NET_ANSWERS[kind](self._about_networks(self._layer.network)))
        if self.commands is not None and kind == "process.exec":
            found.append(self.commands.run)
        if kind == "process.deny":
            found.append(_refused)
        if self.rules is not None:
            answer = self.rules.answer(kind)
            if answer is not None:
                found.append(answer)
        return found


class ExecJudge:
    """Answers for executions under one layer's ``exec`` section."""

    __slots__ = ("_all_allowed", "_all_blocked", "allow", "ask", "block", "otherwise", "section")

    def __init__(self, section: Exec) -> None:
        self.section = section
        self.allow = CommandIndex(section.allow)
        self.block = CommandIndex(section.block)
        self.ask = CommandIndex(section.ask)
        self.otherwise = everything(section.ask)
        self._all_allowed = everything(section.allow)
        self._all_blocked = everything(section.block)

    def run(self, event: Event, _: State) -> Decision:
        """The decision on executing ``path`` (or ``exe``, where that is what is known) with ``argv``."""
        argv, path, section = event.argv, event.path or event.exe, self.section
        names = called(argv, path, event.spelled)
        blocked = self._all_blocked or self.block.find(argv, path, names)
        if blocked is not None:
            reason = f"running {_name(argv, path)} is blocked by '{blocked.text}'"
            return _told(BLOCK, "exec.block", blocked, reason)
        asked = self.ask.find(argv, path, names) if section.ask else None
        if asked is not None:
            reason = f"running {_name(argv, path)} needs approval because of '{asked.text}'"
            return _told(ASK, "exec.ask", asked, reason)
        allowed = self.allow.find(argv, path, vouched(argv, path, event.spelled)) if section.allow else None
        if allowed is not None:
            return _told(ALLOW, "exec.allow", allowed)
        if self.otherwise is not None:
            reason = f"running {_name(argv, path)} needs approval because no entry in exec names it"
            return _told(ASK, "exec.ask", self.otherwise, reason)
        if self._all_allowed is not None:
            return _told(ALLOW, "exec.allow", self._all_allowed)
        if section.allow_list:
            reason = f"running {_name(argv, path)} is not allowed: exec.allow does not name it"
            return Decision(BLOCK, "exec.allow", section.allow_list, reason)
        return _UNNAMED


def _name(argv: tuple[str, ...], path: str) -> str:
    return basename(argv[0]) if argv else basename(path)


def _told(action: str, rule: str, entry: Entry, reason: str = "") -> Decision:
    return Decision(action, rule, entry.origin, reason)


def _refused(event: Event, _: State) -> Decision:
    reason = f"{event.syscall or 'this system call'} is not available to a supervised process"
    return Decision(BLOCK, "system calls", "built-in", reason)


def _reads(files: FilesJudge) -> Answer:
    read = files.read
    return lambda event, _: read(event.path)


def _writes(files: FilesJudge) -> Answer:
    def answer(event: Event, _: State) -> Decision:
        decision = files.write(event.path)
        return decision if _is_folder(event) else _placed(files, decision, event.path, link=False)

    return answer


def _alters(files: FilesJudge) -> Answer:
    alter = files.alter
    return lambda event, _: alter(event.path)


def _makes(files: FilesJudge) -> Answer:
    def answer(event: Event, _: State) -> Decision:
        decision = files.alter(event.path)
        if _is_folder(event):
            return decision
        return _placed(files, decision, event.path, link=_type(event) == S_IFLNK)

    return answer


def _both(files: FilesJudge) -> Answer:
    # A link's new name opens the same file for writing, and a rename takes its old name away: both ends are changed.
    # What a renamed folder takes along is the engine's to judge, entry by entry: only it can see what there is.
    def answer(event: Event, _: State) -> Decision:
        decision = strictest(files.alter(event.path), files.alter(event.path2))
        if _type(event) in (0, S_IFDIR):
            return decision
        return _placed(files, decision, event.path2, link=_type(event) == S_IFLNK)

    return answer


def _type(event: Event) -> int:
    """The file type in the event's mode, 0 when there is none."""
    return event.mode & _TYPE if event.mode >= 0 else 0


def _is_folder(event: Event) -> bool:
    return event.syscall in ("mkdir", "mkdirat") or _type(event) == S_IFDIR


def _placed(files: FilesJudge, decision: Decision, path: str, *, link: bool) -> Decision:
    place = files.place(path, link=link)
    return decision if place is None else strictest(decision, place)


def _runs(files: FilesJudge) -> Answer:
    # A command known by its arguments alone (a guarded function's) has no file to judge.
    return lambda event, _: files.read(event.path) if event.path else None


def _connects(files: FilesJudge) -> Answer:
    # Whether a socket may be reached is the network section's to say; what files blocks or asks for is not reached
    # either.
    return lambda event, _: files.touches(event.path) if event.path.startswith("/") else None


_FILE_ANSWERS: dict[str, Callable[[FilesJudge], Answer]] = {
    "file.read": _reads,
    "file.list": _reads,
    "file.write": _writes,
    "file.create": _makes,
    **dict.fromkeys(("file.delete", "file.meta"), _alters),
    **dict.fromkeys(("file.link", "file.rename"), _both),
    "process.exec": _runs,
    **dict.fromkeys(("net.unix", "net.connect", "net.send"), _connects),
}
_NET_ANSWERS: dict[str, Callable[[NetworkJudge], Answer]] = {
    **dict.fromkeys(("net.connect", "net.send"), lambda network: lambda event, _: network.reach(event)),
    **dict.fromkeys(("net.bind", "net.listen"), lambda network: lambda event, _: network.listen(event)),
    "net.dns": lambda network: lambda event, _: network.resolve(event),
    "net.unix": lambda network: lambda event, _: network.local(event),
}

__all__ = ["Judge", "decide", "judge_of"]
