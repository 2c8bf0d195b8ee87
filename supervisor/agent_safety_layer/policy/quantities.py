"""Durations and sizes as people write them: ``1h``, ``10m``, ``500ms``, ``2GiB``, ``50MB``, or plain numbers."""

from __future__ import annotations

_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "": 1,
    "b": 1,
    **{
        f"{letter}{unit}": base**power
        for unit, base in (("b", 1000), ("ib", 1024), ("", 1024))
        for power, letter in enumerate("kmgt", 1)
    },
}


def seconds(text: str | int | float) -> float:
    """The duration in seconds: ``1h30m``, ``90s``, ``500ms``, or a number of seconds; else a ``ValueError``."""
    if isinstance(text, int | float):
        total = float(text)
    else:
        total = 0.0
        rest = text.strip().lower()
        if not rest:
            raise ValueError("it is empty")
        while rest:
            number, unit, rest = _leading(rest)
            if unit not in _SECONDS or (unit == "" and rest):
                raise ValueError(f"{text!r} is not a duration; write 90s, 10m, 1h30m or 500ms")
            total += number * _SECONDS[unit]
    if not 0 < total < 1e9:
        raise ValueError(f"{text!r} must be more than nothing and less than 30 years")
    return total


def size(text: str | int) -> int:
    """The size in bytes: ``2GiB``, ``50MB`` (10^6), ``64k`` (2^10), or a number of bytes."""
    if isinstance(text, int):
        total = text
    else:
        number, unit, rest = _leading(text.strip().lower())
        if rest or unit not in _BYTES:
            raise ValueError(f"{text!r} is not a size; write 2GiB, 500MB or 64k")
        total = int(number * _BYTES[unit])
    if not 0 < total < 1 << 62:
        raise ValueError(f"{text!r} must be more than nothing and less than 4 EiB")
    return total


def _leading(text: str) -> tuple[float, str, str]:
    """The number that *text* begins with, the unit after it, and the rest."""
    i = 0
    while i < len(text) and (text[i].isdigit() or text[i] == "."):
        i += 1
    j = i
    while j < len(text) and (text[j].isalpha() or text[j] == " "):
        j += 1
    try:
        number = float(text[:i])
    except ValueError:
        raise ValueError(f"{text!r} does not begin with a number") from None
    return number, text[i:j].strip(), text[j:]
