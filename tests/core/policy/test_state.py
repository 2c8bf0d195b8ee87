"""What happened earlier: who counts it as their own, and that states are values."""

from __future__ import annotations

from agent_safety_layer.events import ALLOW, ASK, BLOCK, Decision, Event
from agent_safety_layer.policy import State, advance, decide, load_text

HERE = {"WORKSPACE": "/w", "HOME": "/home/u"}
EXFILTRATION = load_text(
    """
rules:
  - name: no-exfiltration
    on: net
    after: {on: file.read, path: "**/customers/**"}
    action: require_approval
""",
    variables=HERE,
)
DOWNLOADS = load_text(
    """
rules:
  - name: downloaded
    on: process.exec
    after: {on: file.write, path: "/w/downloads", same: path}
    action: ask
""",
    variables=HERE,
)
READ = Event("file.read", pid=10, ppid=1, path="/data/customers/x.csv")
ALLOWED = Decision(ALLOW)


def after(*events: Event, decision: Decision = ALLOWED) -> State:
    state = State()
    for event in events:
        state = advance(EXFILTRATION, state, event, decision)
    return state


def reach(state: State, pid: int, ppid: int = 0) -> str:
    return decide(EXFILTRATION, state, Event("net.connect", pid=pid, ppid=ppid, ip="8.8.8.8", port=1)).action


def fork(parent: int, child: int) -> Event:
    return Event("process.fork", pid=parent, target=child)


def test_a_rule_holds_once_the_earlier_event_has_happened() -> None:
    assert reach(State(), 10) == ALLOW
    state = after(READ)
    assert reach(state, 10) == ASK
    assert reach(state, 20) == ALLOW
    decision = decide(EXFILTRATION, state, Event("net.dns", pid=10, host="x.com"))
    assert (decision.rule, decision.where) == ("no-exfiltration", "policy.yaml:3")


def test_who_asks_for_a_name_is_not_known_so_anybody_s_past_counts() -> None:
    question = Event("net.dns", host="x.com")
    assert decide(EXFILTRATION, State(), question).action == ALLOW
    assert decide(EXFILTRATION, after(READ), question).action == ASK
    assert decide(EXFILTRATION, after(READ, Event("process.exit", pid=10)), question).action == ALLOW


def test_what_does_not_fit_or_was_blocked_does_not_count() -> None:
    assert reach(after(Event("file.write", pid=10, path="/data/customers/x")), 10) == ALLOW
    assert reach(after(Event("file.write", pid=10, path="/data/customers/x", flags="O_RDWR")), 10) == ASK
    assert reach(after(Event("file.read", pid=10, path="/data/orders/x")), 10) == ALLOW
    assert reach(after(READ, decision=Decision(BLOCK)), 10) == ALLOW


def test_descendants_count_it_whether_forked_before_or_after() -> None:
    assert reach(after(READ, fork(10, 11), fork(11, 12)), 12) == ASK
    assert reach(after(fork(10, 11), fork(11, 12), READ), 12) == ASK
    assert reach(after(fork(1, 10), fork(1, 11), READ), 11) == ALLOW
    assert reach(after(fork(1, 10), READ), 1) == ALLOW


def test_a_parent_named_by_the_event_alone_is_enough() -> None:
    assert reach(after(READ), 11, ppid=10) == ASK
    assert reach(after(READ, Event("file.read", pid=11, ppid=10, path="/x")), 11, ppid=1) == ASK


def test_a_process_that_is_gone_leaves_its_children_what_it_carried() -> None:
    gone = Event("process.exit", pid=10)
    assert reach(after(READ, fork(10, 11), gone), 11, ppid=1) == ASK
    state = after(fork(9, 10), fork(10, 11), gone, Event("file.read", pid=9, path="/customers/x"))
    assert reach(state, 11, ppid=1) == ASK
    assert reach(after(READ, gone), 10) == ALLOW  # the number is used again


def test_a_new_process_with_an_old_number_starts_clean() -> None:
    assert reach(after(READ, fork(1, 10)), 10) == ALLOW


def test_the_same_path_counts_whoever_wrote_it() -> None:
    state = State()
    for event in (Event("file.write", pid=5, path="/w/downloads/tool"), Event("file.write", pid=5, path="/w/other")):
        state = advance(DOWNLOADS, state, event, ALLOWED)
    assert (
        decide(DOWNLOADS, state, Event("process.exec", pid=9, path="/w/downloads/tool", argv=("tool",))).action == ASK
    )
    assert (
        decide(DOWNLOADS, state, Event("process.exec", pid=9, path="/w/downloads/two", argv=("two",))).action == ALLOW
    )
    assert decide(DOWNLOADS, state, Event("process.exec", pid=9, path="/w/other", argv=("other",))).action == ALLOW


def test_states_are_values() -> None:
    first = after(READ)
    kept = State(dict(first.parents), dict(first.marks), first.paths)
    advance(EXFILTRATION, first, fork(10, 11), ALLOWED)
    advance(EXFILTRATION, first, Event("process.exit", pid=10), ALLOWED)
    assert first == kept
    assert State() == State({}, {}, frozenset())


def test_a_policy_without_memory_keeps_the_very_same_state() -> None:
    plain = load_text("rules: [{on: file, action: audit}]", variables=HERE)
    state = State()
    assert not plain.stateful
    assert EXFILTRATION.stateful
    assert advance(plain, state, READ, ALLOWED) is state


def test_a_replay_is_exact() -> None:
    events = [
        fork(1, 10),
        READ,
        fork(10, 11),
        Event("net.connect", pid=11, ip="8.8.8.8", port=1),
        Event("process.exit", pid=10),
    ]

    def run() -> list[Decision]:
        state, decisions = State(), []
        for event in events:
            decision = decide(EXFILTRATION, state, event)
            state = advance(EXFILTRATION, state, event, decision)
            decisions.append(decision)
        return decisions

    assert run() == run()
    assert [decision.action for decision in run()] == [ALLOW, ALLOW, ALLOW, ASK, ALLOW]
