"""Values from a process that nobody trusts: they come back as they were, and never as code that runs."""

from __future__ import annotations

import enum
import pickle
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_safety_layer import PolicyError
from agent_safety_layer.plaindata import NotPlain, SandboxedError, dumps, error_from, loads, plain_error

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.datetimes()
    | st.timedeltas()
    | st.uuids()
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(ATOMS, inner)
        | st.tuples(inner, inner)
        | st.sets(ATOMS)
        | st.frozensets(ATOMS)
    ),
    max_leaves=20,
)


@settings(deadline=None, database=None)
@given(VALUES)
def test_plain_data_comes_back_as_it_was(value: Any) -> None:
    back = loads(dumps(value))
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        *(date(2024, 2, 29), time(1, 2, 3), datetime(2024, 1, 1, tzinfo=UTC), timedelta(-1, 5), Path("/tmp/x")),
        *("\udc80", bytearray(b"x"), -(2**70), {(1, 2): [None]}, Decimal("1e400"), Fraction(-1, 3), float("inf")),
    ],
)
def test_so_do_these(value: Any) -> None:
    back = loads(dumps(value))
    assert back == value and type(back) is type(value)


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Found:
    path: Path
    colours: list[Colour]
    when: datetime
    inner: Found | None = None
    extra: dict[str, int] = field(default_factory=dict)


class Row(msgspec.Struct):
    a: int
    b: bytes


class Pair(NamedTuple):
    a: int
    where: Path


FOUND = Found(Path("/x"), [Colour.RED], datetime(2024, 1, 1), Found(Path("/y"), [], datetime(2024, 1, 2)))


@pytest.mark.parametrize(
    ("value", "of"), [(FOUND, Found), ([FOUND], list[Found]), (Row(1, b"x"), Row), (Pair(1, Path("/")), Pair)]
)
def test_objects_come_back_where_it_is_said_of_which_type(value: Any, of: Any) -> None:
    assert loads(dumps(value), of) == value
    with pytest.raises(NotPlain, match="return annotation"):
        loads(dumps(value))
    with pytest.raises(NotPlain, match="is not"):
        loads(dumps(value), dict[str, int])


@pytest.mark.parametrize("value", [print, open, object(), lambda: 1, int, [print]])
def test_what_is_no_data_does_not_travel(value: object) -> None:
    with pytest.raises(NotPlain):
        dumps(value)


def test_what_holds_itself_does_not_travel() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(NotPlain, match="nested"):
        dumps(circle)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('code ran')",)


@pytest.mark.parametrize(
    "raw",
    [
        pickle.dumps(Hostile()),
        b"",
        b"\xc1",
        msgspec.msgpack.encode(["os.system", "id"]),
        msgspec.msgpack.encode(["object"]),
        msgspec.msgpack.encode(["bytearray", 1 << 40]),
        msgspec.msgpack.encode(["path", 1]),
        msgspec.msgpack.encode(["dict", [[["list", []], 1]]]),
        msgspec.msgpack.encode(["timedelta", [1e300, 0, 0]]),
        msgspec.msgpack.encode(["fraction", f"{'f' * 20000}/1"]),
        msgspec.msgpack.encode(["fraction", "1/0"]),
        msgspec.msgpack.encode({"untagged": 1}),
        msgspec.msgpack.encode([["list", []], 1]),
        msgspec.msgpack.encode(["int", "0x1", "2"]),
        msgspec.msgpack.encode(["text", "no bytes"]),
        msgspec.msgpack.encode(["uuid", 5]),
        msgspec.msgpack.encode(["fraction", [1]]),
    ],
)
def test_hostile_bytes_are_no_value(raw: bytes) -> None:
    with pytest.raises(NotPlain):
        loads(raw)


@pytest.mark.parametrize("made", [lambda one: one, lambda one: ["tuple", [one, 1]]], ids=["numbers", "pairs"])
def test_members_made_to_have_one_hash_are_no_set(made: Any) -> None:
    """A few thousand take seconds to be told apart, a hundred times as many take hours."""
    step = (1 << 61) - 1
    members = [made(["fraction", f"{step * number:x}/1"]) for number in range(1, 2000)]
    assert len({hash(each) for each in loads(msgspec.msgpack.encode(["list", members[:50]]))}) == 1
    for raw in (["set", members], ["frozenset", members], ["dict", [[each, 0] for each in members]]):
        with pytest.raises(NotPlain, match="one hash"):
            loads(msgspec.msgpack.encode(raw))
    assert len(loads(dumps(set(range(5000))))) == 5000
    assert loads(dumps(dict.fromkeys(range(5000)))) == dict.fromkeys(range(5000))


@settings(deadline=None, database=None)
@given(st.binary())
def test_any_bytes_are_a_value_or_none(raw: bytes) -> None:
    try:
        loads(raw)
    except NotPlain:
        pass


@pytest.mark.parametrize(
    "raw",
    [
        b"\xdd" + (5_000_000).to_bytes(4, "big") + b"\x90" * 5_000_000,  # empty lists, one after the other
        b"\x91" * 5_000_000,
        b"\xdd\xff\xff\xff\xff" * 400,  # lists that say they are long
    ],
)
def test_more_values_than_memory_should_be_spent_on_are_none(raw: bytes) -> None:
    with pytest.raises(NotPlain):
        loads(raw)


@pytest.mark.parametrize("kind", [bytes, bytearray, str])
@pytest.mark.parametrize("size", [30, 200, 60_000, 2_000_000])
def test_what_is_large_comes_back_whole(kind: type, size: int) -> None:
    each = kind("x" * size) if kind is str else kind(b"x" * size)
    several = [each] * (3_000_000 // size)
    many = {"found": several, "n": [*range(-70_000, 70_000, 7), 1 << 40, -(1 << 40), 0.5, None, True]}
    assert loads(dumps(many)) == many


def test_nesting_has_an_end() -> None:
    raw: Any = 1
    for _ in range(300):
        raw = ["list", [raw]]
    with pytest.raises(NotPlain):
        loads(msgspec.msgpack.encode(raw))


class Told(Exception):
    """Whose own methods must not run when it comes from outside."""

    ran: ClassVar[list[str]] = []

    def __new__(cls, *args: object) -> Told:
        cls.ran.append("__new__")
        return super().__new__(cls, *args)

    def __init__(self, *args: object) -> None:
        self.ran.append("__init__")
        super().__init__(*args)


def back(error: BaseException) -> Exception:
    return error_from(loads(dumps(plain_error(error))))


def test_exceptions_come_back_with_class_arguments_and_words() -> None:
    for error in (ValueError("x", 1), FileNotFoundError(2, "No such file", "/x"), KeyError("k")):
        made = back(error)
        assert (type(made), made.args) == (type(error), error.args)
        assert type(error).__name__ in made.__notes__[0]
    missing = back(FileNotFoundError(2, "No such file", "/x"))
    assert isinstance(missing, FileNotFoundError) and (missing.errno, missing.filename) == (2, "/x")


def test_a_class_of_ones_own_is_made_without_running_it() -> None:
    told = Told("a")
    Told.ran.clear()
    made = back(told)
    assert (type(made), made.args, Told.ran) == (Told, ("a",), [])


@pytest.mark.parametrize(
    ("error", "kind"), [(SystemExit(3), "builtins.SystemExit"), (KeyboardInterrupt(), "builtins.KeyboardInterrupt")]
)
def test_what_would_end_this_program_does_not_come_back_as_it_is(error: BaseException, kind: str) -> None:
    made = back(error)
    assert isinstance(made, SandboxedError) and made.kind == kind


@pytest.mark.parametrize("name", ["os:system", "builtins:eval", "subprocess:Popen", "nowhere:X", "builtins:", "x"])
def test_only_exceptions_are_found_by_name(name: str) -> None:
    made = error_from({"class": name, "args": ("id",), "attributes": {}, "words": "it said so"})
    assert isinstance(made, SandboxedError) and str(made) == "it said so"


@pytest.mark.parametrize("told", [5, {}, {"class": "x", "args": 5, "attributes": {}, "words": ""}])
def test_what_tells_of_no_exception_makes_none(told: Any) -> None:
    with pytest.raises(NotPlain, match="no exception"):
        error_from(told)


def test_attributes_of_pythons_own_are_left_out() -> None:
    made = error_from({"class": "builtins:ValueError", "args": (), "attributes": {"__notes__": 1}, "words": "said"})
    assert type(made) is ValueError and made.__notes__ == ["in the sandbox:\nsaid"]


def test_attributes_come_back_as_far_as_they_are_data() -> None:
    error = PolicyError("wrong", file="x.yaml", line=3, remedy="do better")
    error.lock = open  # type: ignore[attr-defined]
    made = back(error)
    assert isinstance(made, PolicyError) and str(made) == str(error)
    assert (made.line, made.remedy, made.lock) == (3, "do better", repr(open))  # type: ignore[attr-defined]


def test_a_class_that_is_gone_comes_back_in_words() -> None:
    class Local(Exception):
        pass

    made = back(Local("why"))
    assert isinstance(made, SandboxedError) and "Local: why" in str(made)
