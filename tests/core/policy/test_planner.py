"""Plans: the bounded part never holds what the policy refuses, and holds what it can."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_safety_layer.events import FILE_KINDS, RANK, WARN, Event
from agent_safety_layer.policy import Bounds, Plan, Policy, State, System, decide, load_text, plan
from agent_safety_layer.policy.planner import FILE, FOLDER, PROGRAM

HERE = {"WORKSPACE": "/home/u/w", "HOME": "/home/u", "TMP": "/tmp/run"}


class Fake:
    """A tree that is given by its paths: ``/a/b`` a file, ``/a/b!`` a program, ``/a/b/`` a folder."""

    def __init__(self, *paths: str, sealed: tuple[str, ...] = (), linked: tuple[str, ...] = ()) -> None:
        self.kinds = {"/": FOLDER}
        self.looks = 0
        self._sealed = sealed
        self._linked = linked
        for path in paths:
            kind = FOLDER if path.endswith("/") else PROGRAM if path.endswith("!") else FILE
            here = path.rstrip("/!")
            self.kinds.setdefault(here, kind)  # what has something below it is a folder, whatever else was said
            while here.count("/") > 1:
                here = here.rpartition("/")[0]
                self.kinds[here] = FOLDER

    def children(self, path: str, programs: bool = True) -> list[tuple[str, str]] | None:
        if self.kinds.get(path) != FOLDER:
            return None
        self.looks += 1
        front = "/" if path == "/" else f"{path}/"
        below = [
            (name[len(front) :], kind) for name, kind in self.kinds.items() if name.startswith(front) and name != "/"
        ]
        return sorted((name, kind) for name, kind in below if "/" not in name)

    def exists(self, path: str) -> bool:
        return path in self.kinds

    def linked(self, paths: Iterable[str]) -> str:
        return next((path for path in paths if path in self._linked), "")

    def sealed(self, path: str) -> bool:
        return path in self._sealed


def planned(text: str, *paths: str, **more: object) -> Plan:
    return plan(load_text(text, variables=HERE), Fake(*paths), **more)  # type: ignore[arg-type]


SYSTEM = (
    "/usr/bin/ls!",
    "/etc/passwd",
    "/etc/shadow",
    "/etc/ssl/",
    "/dev/null",
    "/tmp/run/",
    "/home/u/w/a",
    "/home/u/.ssh/id",
)


def test_without_a_files_section_everything_is_bounded() -> None:
    assert planned("", *SYSTEM) == Plan(("/",), ("/",), True)
    assert planned("network: {allow: []}", *SYSTEM) == Plan(("/",), ("/",), True)
    assert plan(Policy(()), Fake(*SYSTEM)) == Plan(("/",), ("/",), True)


def test_with_another_name_for_what_is_kept_nothing_is_waved() -> None:
    text = "record: changes\nfiles: {write: [/tmp/run], read: [/], block: [/home/u/.ssh/id], protect: [/home/u/w/a]}"
    policy = load_text(text, variables=HERE)
    free = plan(policy, Fake(*SYSTEM), record="changes")
    assert (free.wave_reads, free.unseen_reads, "/tmp/run" in free.write) == (True, True, True)
    secret = plan(policy, Fake(*SYSTEM, linked=("/home/u/.ssh/id",)), record="changes")
    assert (secret.wave_reads, secret.unseen_reads, secret.write) == (False, False, ())
    assert "/home/u/.ssh/id has another name" in secret.notes[0]
    changed = plan(policy, Fake(*SYSTEM, linked=("/home/u/w/a",)), record="changes")
    assert (changed.wave_reads, changed.unseen_reads, changed.write) == (True, True, ())


def test_lists_become_prefixes_and_devices_are_with_them() -> None:
    found = planned("files: {read: [/usr, /none], write: [/tmp/run]}", *SYSTEM)
    assert found == Plan(("/dev/null", "/tmp/run", "/usr"), ("/dev/null", "/tmp/run"), True)


def test_a_literal_hole_is_cut_out_by_naming_what_is_around_it() -> None:
    text = "files: {read: ['/'], write: [/tmp/run], block: [/etc/shadow, /home/u/.ssh, /home/u/.aws]}"
    found = planned(text, *SYSTEM, "/home/u/run!", "/home/u/notes", "/home/v/x")
    # Plain files beside a hole (/etc/passwd) are served.
    assert found.read == ("/dev", "/etc/ssl", "/home/u/run", "/home/u/w", "/home/v", "/tmp", "/usr")
    assert found.wave_reads


def test_a_folder_with_devices_is_no_part_in_which_anything_may_be_changed() -> None:
    for text in ("files: {write: ['/']}", "files: {write: ['/dev']}"):
        assert "/dev" not in planned(text, *SYSTEM).write
        assert "/" not in planned(text, *SYSTEM).write


def test_terminals_are_served_whoever_may_write_there() -> None:
    for text in ("files: {read: ['/'], write: [/dev/pts]}", "files: {read: ['/'], write: ['/'], block: [/dev/pts/3]}"):
        found = planned(text, *SYSTEM, "/dev/pts/3", "/dev/pts/4!")
        assert found.wave_reads
        assert not any(Bounds(part).covers("/dev/pts/4") for part in (found.read, found.write))
        assert any(Bounds(found.read).covers(path) for path in ("/usr/bin", "/usr"))
    elsewhere = planned("files: {read: ['/'], write: [/home/u/w], block: [/home/u/w/a]}", *SYSTEM)
    assert not elsewhere.wave_reads


def test_what_every_program_opens_is_named_to_the_kernel_even_beside_a_hole() -> None:
    found = planned("files: {read: ['/'], block: [/etc/shadow]}", *SYSTEM, "/etc/ld.so.cache")
    assert Bounds(found.read).covers("/etc/ld.so.cache")
    assert not Bounds(found.read).covers("/etc/passwd")


def test_a_hole_that_the_system_closes_itself_needs_no_cutting() -> None:
    text = "files: {read: ['/'], write: [/tmp/run], block: [/etc/shadow]}"
    found = plan(load_text(text, variables=HERE), Fake(*SYSTEM, sealed=("/etc/shadow",)))
    assert found.read == ("/",)


def test_a_wildcard_hole_that_nothing_fits_is_none() -> None:
    text = "files: {read: [/usr], write: ['${WORKSPACE}'], block: ['${WORKSPACE}/**/.env']}"
    found = planned(text, *SYSTEM)
    assert "/home/u/w" in found.read
    assert found.wave_reads
    assert "/home/u/w" not in found.write  # what is created there is served, and judged


def test_a_hole_in_a_folder_that_the_tree_writes_makes_every_open_served() -> None:
    text = "files: {read: [/usr], write: ['${WORKSPACE}'], block: ['${WORKSPACE}/**/.env']}"
    found = planned(text, *SYSTEM, "/home/u/w/sub/.env")
    assert "/home/u/w" in found.read  # so that what is made there can be executed
    assert not found.wave_reads
    assert "/home/u/w/sub/.env" in found.notes[0]
    literal = planned("files: {write: ['${WORKSPACE}'], block: ['${WORKSPACE}/key']}", *SYSTEM, "/home/u/w/key")
    assert not literal.wave_reads
    assert planned("files: {write: ['${WORKSPACE}'], block: ['${WORKSPACE}/key']}", *SYSTEM).wave_reads


def test_a_wildcard_hole_in_a_folder_that_is_only_read_is_cut_out() -> None:
    text = "files: {read: [/home], block: ['/home/*/src/*/.env']}"
    found = planned(text, *SYSTEM, "/home/u/src/p/.env", "/home/u/src/p/run!", "/home/u/src/q/x")
    assert found.read == ("/dev/null", "/home/u/.ssh", "/home/u/src/p/run", "/home/u/src/q", "/home/u/w")
    assert found.wave_reads


def test_a_search_beyond_the_budget_makes_every_open_served() -> None:
    text = "files: {read: [/home], block: ['/home/**/.env']}"
    many = [f"/home/u/{i}/x" for i in range(50)]
    assert planned(text, *many).wave_reads
    found = planned(text, *many, budget=20)
    assert not found.wave_reads
    assert "too much" in found.notes[0]


def test_a_pattern_without_an_anchor_is_not_even_looked_for() -> None:
    tree = Fake(*SYSTEM)
    found = plan(load_text("files: {read: [/usr], write: [/tmp/run], block: ['**/.env']}", variables=HERE), tree)
    assert not found.wave_reads
    assert found.write == ("/dev/null",)
    assert tree.looks == 0


def test_write_has_no_holes() -> None:
    base = "files: {write: [/tmp/run, '${WORKSPACE}'], "
    assert planned(base + "block: []}", *SYSTEM).write == ("/dev/null", "/home/u/w", "/tmp/run")
    for hole in ("block: ['${WORKSPACE}/key']", "ask: ['/home/*/w/x']", "protect: ['${WORKSPACE}/**/hooks']"):
        assert planned(base + hole + "}", *SYSTEM).write == ("/dev/null",), "folders move between places held alike"
    assert planned(base + "block: [/home]}", *SYSTEM).write == ("/dev/null", "/tmp/run")


@pytest.mark.parametrize(
    ("rule", "waves", "write"),
    [
        ("{on: file.read, action: audit}", True, ("/dev/null", "/tmp/run")),
        ("{on: file, action: warn, match: x}", True, ("/dev/null", "/tmp/run")),
        ("{on: net, action: block}", True, ("/dev/null", "/tmp/run")),
        ("{on: file.read, action: block, match: x}", False, ()),
        ("{on: file, action: ask, after: {on: net}}", False, ()),
        ("{on: net, action: block, after: {on: file.read, path: /usr/x}}", False, ("/dev/null", "/tmp/run")),
        ("{on: net, action: warn, after: {on: file.create, path: /tmp/run/x}}", True, ("/dev/null",)),
        ("{on: process.exec, action: ask, after: {on: file.write, same: path}}", True, ()),
        ("{on: file.delete, action: block}", True, ()),
        ("{on: file.delete, action: block, path: /tmp/run/x}", True, ("/dev/null",)),
        ("{on: file.read, action: block, path: /usr/bin, match: x}", True, ("/dev/null", "/tmp/run")),
    ],
)
def test_rules_make_holes_where_they_could_refuse_or_look_back(rule: str, waves: bool, write: tuple[str, ...]) -> None:
    found = planned(f"files: {{read: [/usr], write: [/tmp/run]}}\nrules: [{rule}]", *SYSTEM)
    assert (found.wave_reads, found.write) == (waves, write)
    if "path: /usr/bin" in rule:
        assert "/usr" not in found.read


def test_asking_for_the_unlisted_bounds_what_is_listed() -> None:
    found = planned("files: {read: [/usr], ask: ['/']}", *SYSTEM)
    assert found == Plan(("/dev/null", "/usr"), ("/dev/null",), True)


def test_layers_bound_what_all_of_them_allow() -> None:
    layers = [
        load_text(text, variables=HERE).layers[0]
        for text in ("files: {read: ['/'], write: [/tmp]}", "files: {read: [/usr], write: [/tmp/run]}", "")
    ]
    assert plan(Policy(tuple(layers)), Fake(*SYSTEM)) == Plan(
        ("/dev/null", "/tmp/run", "/usr"), ("/dev/null", "/tmp/run"), True
    )


def test_without_landlock_nothing_is_bounded() -> None:
    found = planned("", *SYSTEM, landlock=False)
    assert (found.read, found.write, found.wave_reads) == ((), (), False)
    assert found.notes


HOME = ("/home/u/w/a", "/home/u/.ssh/id", "/home/u/notes", "/home/u/bin/tool!", "/usr/bin/ls!")
CUT = "files: {read: [/], write: ['${WORKSPACE}'], block: [~/.ssh]}"


def test_reads_that_nobody_asks_for_are_held_whole() -> None:
    """Beside a hole every file is named, since none can be served that nobody stops."""
    seen, unseen = planned(CUT, *HOME), planned(CUT, *HOME, record="changes")
    assert (seen.unseen_reads, unseen.unseen_reads) == (False, True)
    assert not Bounds(seen.read).covers("/home/u/notes")
    assert all(Bounds(unseen.read).covers(path) for path in (*HOME[:1], *HOME[2:]))
    assert not Bounds(unseen.read).covers("/home/u/.ssh/id")


@pytest.mark.parametrize(
    "more",
    [
        "on_violation: kill",
        "rules: [{name: n, on: file.read, path: /x, action: audit}]",
        "rules: [{name: n, on: net, after: {on: file.read, path: '/x/**'}, action: block}]",
        "rules: [{name: n, on: file, match: x, action: block}]",
    ],
)
def test_reads_on_which_something_hangs_are_seen(more: str) -> None:
    assert not planned(f"{CUT}\n{more}", *HOME, record="changes").unseen_reads


def test_reads_are_seen_where_a_hole_cannot_be_cut_out() -> None:
    text = "files: {read: [/], write: ['${WORKSPACE}'], block: ['${WORKSPACE}/**/.env']}"
    assert planned(text, *HOME, record="changes").unseen_reads
    assert not planned(text, *HOME, "/home/u/w/.env", record="changes").unseen_reads


def test_bounds() -> None:
    bounds = Bounds(("/usr", "/a/b"))
    assert [bounds.covers(path) for path in ("/usr", "/usr/x/y", "/usrx", "/a", "/a/b", "/a/bc", "", "usr")] == [
        *(True, True, False, False, True, False, False, False)
    ]
    assert Bounds(("/",)).covers("/x")
    assert not Bounds(("/",)).covers("pipe:[1]")


# The invariant

NAMES = st.sampled_from(["a", "b", "c"])
PATH = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))
SEGMENT = st.sampled_from(["a", "b", "c", "a", "b", "*", "**", "[ab]"])
PATTERN = st.lists(SEGMENT, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts)) | st.just("/")
FOLDER_ALONE = PATTERN.map(lambda pattern: f"{pattern.rstrip('/')}/.")
LISTS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("read", "write"), st.lists(PATTERN | FOLDER_ALONE, max_size=3)),
        **dict.fromkeys(("block", "ask", "protect"), st.lists(PATTERN, max_size=3)),
    },
)
RULES = st.lists(
    st.fixed_dictionaries(
        {
            "on": st.sampled_from(["file", "file.read", "file.write", "file.delete"]),
            "action": st.sampled_from(["block", "ask", "audit"]),
        },
        optional={"path": PATTERN, "match": st.sampled_from(["a", "c$"])},
    ),
    max_size=1,
)
LAYERS = st.lists(st.tuples(LISTS | st.none(), st.just([]) | RULES), min_size=1, max_size=2)


def made_of(layers: list[tuple[dict[str, list[str]] | None, list[dict[str, str]]]]) -> Policy:
    texts = [json.dumps({"rules": rules, **({} if files is None else {"files": files})}) for files, rules in layers]
    return Policy(tuple(load_text(text, variables=HERE).layers[0] for text in texts))


@settings(max_examples=400, deadline=None)
@given(
    LAYERS,
    st.lists(PATH | PATH.map(lambda path: path + "!"), max_size=8),
    st.lists(PATH, max_size=8),
    st.integers(3, 60),
)
def test_what_is_bounded_is_allowed(
    layers: list[tuple[dict[str, list[str]] | None, list[dict[str, str]]]],
    tree: list[str],
    others: list[str],
    budget: int,
) -> None:
    policy, fake = made_of(layers), Fake(*tree)
    found = plan(policy, fake, budget=budget)
    reads, writes = Bounds(found.read), Bounds(found.write)

    def loose(kind: str, path: str) -> bool:
        return RANK[decide(policy, State(), Event(kind, path=path, path2=path)).action] <= RANK[WARN]

    for path in fake.kinds:
        if found.wave_reads and reads.covers(path):
            assert loose("file.read", path), path
    for path in (*fake.kinds, *others):  # also what is not there yet
        if writes.covers(path):
            assert all(loose(kind, path) for kind in FILE_KINDS), path


# The tree of this machine


def test_the_system_is_seen_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "program").write_text("")
    (tmp_path / "program").chmod(0o755)
    (tmp_path / "link").symlink_to("folder")
    os.mkfifo(tmp_path / "fifo")
    system = System()
    assert sorted(system.children(str(tmp_path)) or []) == [
        *(("fifo", FILE), ("file", FILE)),
        *(("folder", FOLDER), ("program", PROGRAM)),
    ]
    assert system.children(str(tmp_path / "file")) is None
    assert system.children(str(tmp_path / "none")) is None
    assert system.exists(str(tmp_path / "file"))
    assert not system.exists(str(tmp_path / "link"))
    assert not system.exists(str(tmp_path / "none"))
    assert not system.sealed(str(tmp_path / "file"))
    assert not system.sealed(str(tmp_path / "not-yet" / "below"))


def test_what_others_keep_to_themselves_is_sealed_to_users_and_never_to_root() -> None:
    assert System().sealed("/etc/shadow") is (os.geteuid() != 0)
    assert System().sealed("/etc/none/of/this") is (os.geteuid() != 0)
    assert not System().sealed("/etc/passwd")
