"""Calls of guarded functions: arguments by name, as policies and boundaries see them, and as text for patterns."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agent_safety_layer.resources import fields_of, role_of, role_of_annotation

# Contexts may bring measurements of this process; an argument that is called so is about something else.
_MEASUREMENTS = frozenset(("execution_time", "memory_mb", "cpu_percent", "open_files"))
_NESTED = 8


class Shape:
    """What there is to know about a function before it is called. ``name`` is its name.

    >>> shape = Shape(lambda cmd, *rest, cwd="/": None, {})
    >>> shape.bind(("ls", 1), {})
    {'cwd': '/', 'cmd': 'ls', 'rest': (1,)}
    """

    __slots__ = ("_annotated", "_defaults", "_given", "_own", "_positional", "_rest", "name")

    def __init__(self, func: Callable[..., object], given: Mapping[str, Any]) -> None:
        self.name: str = getattr(func, "__name__", type(func).__name__)
        self._given = dict(given)
        self._positional: tuple[str, ...] = ()
        self._defaults: dict[str, Any] = {}
        self._annotated: tuple[tuple[str, str], ...] = ()
        self._rest = "args"
        self._own = ""
        try:
            parameters = list(inspect.signature(func).parameters.values())
        except (TypeError, ValueError):  # some builtins tell nothing
            return
        by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        self._positional = tuple(parameter.name for parameter in parameters if parameter.kind in by_place)
        if self._positional[:1] in (("self",), ("cls",)):
            self._own = self._positional[0]
        for parameter in parameters:
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                self._rest = parameter.name
            elif parameter.default is not inspect.Parameter.empty:
                self._defaults[parameter.name] = parameter.default
        self._annotated = tuple(
            (parameter.name, f"argument_{role}")
            for parameter in parameters
            for role in [_annotated_role(parameter.annotation)]
            if role and role != role_of(parameter.name)
        ) + tuple(
            (parameter.name, f"argument_{role_of(parameter.name)}")
            for parameter in parameters
            if parameter.name in self._given and role_of(parameter.name)  # or the given value would hide the argument
        )

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by their parameters' names, defaults filled in, without ``self``."""
        names = self._positional
        bound = self._defaults.copy()
        bound.update(zip(names, args, strict=False))
        bound.update(kwargs)
        if len(args) > len(names):
            bound[self._rest] = args[len(names) :]
        if self._own:
            bound.pop(self._own, None)
        return bound

    def context(self, bound: dict[str, Any], shown: dict[str, Any]) -> dict[str, Any]:
        """What policies and boundaries get: the arguments, what was given to ``guard``, and what the trace shows."""
        context = {**bound, **shown}
        for name, key in self._annotated:
            if bound.get(name):
                context[key] = [*context.get(key, ()), bound[name]]
        if not _MEASUREMENTS.isdisjoint(bound):
            for name in _MEASUREMENTS.intersection(bound).difference(self._given):
                del context[name]
        return context

    def shown(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The input as the trace and an approver see it."""
        return {**self._given, "function": self.name, "args": args, "kwargs": kwargs}


def _annotated_role(annotation: object) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    text = str(annotation) if not text or hasattr(annotation, "__args__") else text
    return "" if "Literal" in text else role_of_annotation(text)


def texts_in(value: object, depth: int = 0) -> Iterator[str]:
    """Every text in a value, a mapping's keys as well, a list's members also joined, as in an argv.

    >>> list(texts_in(["rm", "-rf", {"path": "/"}]))
    ['rm', '-rf', 'path', '/', 'rm -rf']
    """
    kind = type(value)
    if kind is str:
        yield value  # type: ignore[misc]
    elif value is None or kind is bool:
        return
    elif kind is int or kind is float:
        yield repr(value)
    elif isinstance(value, str):
        yield str.__str__(value)
    elif isinstance(value, bytes | bytearray):
        yield value.decode("utf-8", "backslashreplace")
    elif isinstance(value, os.PathLike):
        yield os.fsdecode(os.fspath(value))
    elif depth < _NESTED:
        if isinstance(value, list | tuple | set | frozenset):
            texts: list[str] = []
            for member in value:
                texts += texts_in(member, depth + 1) if not isinstance(member, str) else (member,)
            yield from texts
            words = [member for member in value if isinstance(member, str)]
            if len(words) > 1:
                yield " ".join(words)
            return
        fields = fields_of(value)
        if fields is not None:
            for name, member in fields.items():
                if isinstance(value, Mapping) and isinstance(name, str):
                    yield name
                yield from texts_in(member, depth + 1)


def argument_texts(bound: Mapping[str, Any]) -> list[str]:
    """The texts of all arguments, in order."""
    found: list[str] = []
    for value in bound.values():
        if type(value) is str:
            found.append(value)
        else:
            found += texts_in(value)
    return found


__all__ = ["Shape", "argument_texts", "texts_in"]
