"""Values out of a process that nobody trusts: encoded there, decoded here without running any code of its choosing.

Pickle would let the sender call whatever it names. Here each value is plain data, or a pair of a tag and plain data,
and this module alone knows what a tag makes: no name of a class or function is ever looked up, except for exceptions
(see ``error_from``). Objects (dataclasses, enums, ``msgspec`` and ``attrs`` classes) travel as their fields and become
objects again only where the receiver says of which type.
"""

from __future__ import annotations

import builtins
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any
from uuid import UUID

import msgspec

LARGEST_BYTES = 256 << 20
_DEEPEST = 200
_LONGEST_FRACTION = 10_000
_MOST_ALIKE = 1000  # members of a set, or keys, of one hash: telling them apart takes time that grows with the square
_MOST_VALUES = 4_000_000  # each takes some 80 bytes once it is an object, and can have been a single one
_UNCOUNTED_BYTES = 1 << 20
_NO_VALUE = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError),  # msgspec's are, too
    MemoryError,  # a list that says how long it is, and is not
)
_KEPT = (datetime, date, time, timedelta, Decimal, UUID, bytes, bytearray)


class NotPlain(TypeError):
    """A value that cannot travel, or that was not expected."""


def dumps(value: object) -> bytes:
    """The value as bytes. Raises ``NotPlain`` for what is no data: functions, files, locks, cycles."""
    return msgspec.msgpack.encode(_packed(value, 0))


def loads(data: bytes, expected: Any = None) -> Any:
    """The value. Where it holds objects it is made as *expected* (a type or an annotation) says.

    Raises ``NotPlain`` when it holds objects and nothing says of which type, or is not what is expected.
    """
    try:
        if len(data) > _UNCOUNTED_BYTES:
            _count(data)
        found = _Unpacker()
        value = found.unpacked(msgspec.msgpack.decode(data), 0)
    except _NO_VALUE as error:
        raise NotPlain(f"what came back is no value: {error}") from None
    if not found.objects:
        return value
    if expected is None:
        raise NotPlain("what came back holds objects; say in the function's return annotation of which type")
    try:
        return msgspec.convert(value, expected, builtin_types=_KEPT, dec_hook=_as_it_is)
    except (msgspec.ValidationError, TypeError) as error:
        raise NotPlain(f"what came back is not {expected!r}: {error}") from None


def _sizes() -> tuple[tuple[int, int], ...]:
    """For each first byte of a value in MessagePack: how long what stands for its length is, and the bytes besides."""
    plain = {0xC4: (1, 2), 0xC5: (2, 3), 0xC6: (4, 5), 0xC7: (1, 3), 0xC8: (2, 4), 0xC9: (4, 6)}
    plain |= {0xD9: (1, 2), 0xDA: (2, 3), 0xDB: (4, 5)}
    widths = {0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}
    widths |= {0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18, 0xDC: 3, 0xDD: 5, 0xDE: 3, 0xDF: 5}
    widths |= {first: 1 + (first & 31) for first in range(0xA0, 0xC0)}
    return tuple(plain.get(first) or (0, widths.get(first, 1)) for first in range(256))


def _count(data: bytes) -> None:
    """Raise ``ValueError`` when there are more values in the encoded *data* than memory should be spent on."""
    sizes = _sizes()
    at, end, left = 0, len(data), _MOST_VALUES
    while at < end:
        left -= 1
        if left < 0:
            raise ValueError(f"more than {_MOST_VALUES} values")
        width, besides = sizes[data[at]]
        at += besides + (int.from_bytes(data[at + 1 : at + 1 + width], "big") if width else 0)


def _packed(value: object, depth: int) -> Any:
    if depth > _DEEPEST:
        raise NotPlain("a value nested too deeply, or in itself")
    kind = type(value)
    if value is None or kind in (bool, float, str, bytes):
        return value if kind is not str else _text(value)
    if kind is int:
        assert isinstance(value, int)
        return value if -(1 << 63) <= value < 1 << 63 else ["int", hex(value)]
    if kind in (list, tuple, set, frozenset):
        return [kind.__name__, [_packed(each, depth + 1) for each in value]]  # type: ignore[attr-defined]
    if kind is dict:
        assert isinstance(value, dict)
        return ["dict", [[_packed(key, depth + 1), _packed(each, depth + 1)] for key, each in value.items()]]
    for known, (tag, pack, _) in _SCALARS.items():
        if kind is known or (known is PurePath and isinstance(value, PurePath)):
            return [tag, pack(value)]
    return ["object", _packed(_fields(value), depth + 1)]


def _fields(value: object) -> Any:
    """What an object is made of, as the receiver's ``msgspec.convert`` wants it."""
    kind = type(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value) if each.init}
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return list(value)
    raise NotPlain(f"{kind.__module__}.{kind.__qualname__} is no plain data")


def _as_it_is(kind: type, value: Any) -> Any:
    if type(value) is kind or (isinstance(value, kind) and isinstance(value, PurePath)):
        return value
    raise ValueError(f"a {type(value).__qualname__} where a {kind.__qualname__} was expected")


def _text(value: object) -> Any:
    assert isinstance(value, str)
    try:
        value.encode()
    except UnicodeEncodeError:
        return ["text", value.encode("utf-8", "surrogatepass")]
    return value


def _fraction(text: str) -> Fraction:
    if len(text) > _LONGEST_FRACTION:  # reducing it takes time that grows with the square
        raise ValueError("a fraction of too many digits")
    above, _, below = text.partition("/")
    return Fraction(int(above, 16), int(below, 16))


def _wrong() -> Any:
    raise ValueError("not of its tag")


# Type: its tag, how it is written, how it is read. Whatever reads must be quick and harmless for any text.
_SCALARS: dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    complex: ("complex", lambda value: [value.real, value.imag], lambda pair: complex(*pair)),
    bytearray: ("bytearray", bytes, lambda data: bytearray(data) if isinstance(data, bytes) else _wrong()),
    datetime: ("datetime", datetime.isoformat, datetime.fromisoformat),
    date: ("date", date.isoformat, date.fromisoformat),
    time: ("time", time.isoformat, time.fromisoformat),
    timedelta: (
        "timedelta",
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: timedelta(*parts),
    ),
    Decimal: ("decimal", str, Decimal),
    Fraction: ("fraction", lambda value: f"{value.numerator:x}/{value.denominator:x}", _fraction),
    UUID: ("uuid", lambda value: value.hex, UUID),
    PurePath: ("path", str, Path),
}
_READERS = {tag: read for tag, _, read in _SCALARS.values()}


class _Unpacker:
    def __init__(self) -> None:
        self.objects = False

    def unpacked(self, value: Any, depth: int) -> Any:
        if depth > _DEEPEST:
            raise NotPlain("a value nested too deeply")
        if not isinstance(value, list):
            if isinstance(value, dict):
                raise NotPlain("an untagged value")
            return value
        tag, of = value
        if tag in ("list", "tuple", "set", "frozenset"):
            members = [self.unpacked(each, depth + 1) for each in of]
            if tag == "list":
                return members
            if tag == "tuple":
                return tuple(members)
            return set(_apart(members)) if tag == "set" else frozenset(_apart(members))
        if tag == "dict":
            keys = [self.unpacked(key, depth + 1) for key, _ in of]
            return dict(zip(_apart(keys), [self.unpacked(each, depth + 1) for _, each in of], strict=True))
        if tag == "object":
            self.objects = True
            return self.unpacked(of, depth + 1)
        if tag == "int":
            return int(of, 16)
        if tag == "text":
            return of.decode("utf-8", "surrogatepass")
        return _READERS[tag](of)


def _apart(members: list[Any]) -> list[Any]:
    """The members, unless they were made to have one hash."""
    if len(members) > _MOST_ALIKE and max(Counter(map(hash, members)).values()) > _MOST_ALIKE:
        raise ValueError("too many members of one hash")
    return members


# -- exceptions --------------------------------------------------------------------------------------------------------


class SandboxedError(RuntimeError):
    """An exception of a sandboxed call that cannot be made again here. ``kind`` is the full name of its class."""

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


def plain_error(error: BaseException) -> dict[str, Any]:
    """The exception as a value for ``dumps``: its class by name, its arguments and attributes as far as they are data
    (``repr`` where they are not), and what would be printed of it.
    """
    import traceback

    kind = type(error)
    given = error.args
    if isinstance(error, OSError) and error.filename is not None:
        given = (*given[:2], error.filename, *(() if error.filename2 is None else (None, error.filename2)))
    try:
        words = "".join(traceback.format_exception(error))
    except Exception:  # a __str__ of the user's that fails
        words = kind.__qualname__
    attributes = {name: _data_or_words(of) for name, of in vars(error).items() if not name.startswith("__")}
    name = f"{kind.__module__}:{kind.__qualname__}"
    return {"class": name, "args": tuple(map(_data_or_words, given)), "attributes": attributes, "words": words}


def _data_or_words(value: object) -> object:
    try:
        loads(dumps(value))
    except (NotPlain, RecursionError):
        return repr(value)
    return value


def error_from(told: Any) -> Exception:
    """The exception, to be raised. What the words were is added as a note.

    Of its class only the name came: it is looked for among the exceptions of modules that are loaded here. No method
    of a class that is not built in is called, so the arguments reach no code. Whatever cannot be had so, and what would
    end this program (``SystemExit``, ``KeyboardInterrupt``), becomes a ``SandboxedError``. Raises ``NotPlain`` when it
    is not told of an exception.
    """
    try:
        name, arguments, words = str(told["class"]), tuple(told["args"]), str(told["words"])
        attributes = {str(key): of for key, of in dict(told["attributes"]).items() if not str(key).startswith("__")}
    except _NO_VALUE as error:
        raise NotPlain(f"what came back is no exception: {error}") from None
    kind = _class_named(name)
    made: Exception
    try:
        if kind is None:
            raise TypeError
        base = next(each for each in kind.__mro__ if each.__module__ == "builtins")
        made = base.__new__(kind, *arguments)
        made.__dict__.update(attributes)
        base.__init__(made, *arguments)  # type: ignore[misc]  # a built-in class's own
    except (TypeError, ValueError, AttributeError):
        said = words.rstrip().rpartition("\n")[2]
        made = SandboxedError(said or name, name.replace(":", "."))
    made.add_note("in the sandbox:\n" + words.rstrip())
    return made


def _class_named(name: str) -> type[Exception] | None:
    module, _, path = name.partition(":")
    found: Any = builtins if module == "builtins" else sys.modules.get(module)
    for part in path.split("."):
        found = vars(found).get(part) if isinstance(found, type | type(sys)) else None
    if not isinstance(found, type) or not issubclass(found, Exception):
        return None
    return found


__all__ = ["LARGEST_BYTES", "NotPlain", "SandboxedError", "dumps", "error_from", "loads", "plain_error"]
