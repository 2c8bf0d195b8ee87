"""Events as JSON without a JSON library: importing one costs more than recording a short run."""

from __future__ import annotations

from agent_safety_layer.trace import redact
from asl_hooks.value import replace

try:
    from _json import encode_basestring_ascii as _quote
    from _json import make_encoder
except ImportError:  # not CPython
    from json.encoder import encode_basestring_ascii as _quote

    make_encoder = None  # type: ignore[assignment, misc]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from agent_safety_layer.events import Decision, Event

_TEXTS = ("exe", "op", "path", "path2", "spelled", "host", "cwd", "span", "detail")


def body(event: Event, decision: Decision, effective: str, result: str = "") -> bytes:
    """An event line's fields but for ``seq``, ``time`` and ``us``, through the closing brace and newline: pure ASCII.

    Fields that have their default are left out. ``argv`` and ``detail`` are redacted; ``"redacted":true`` then says
    that the decision was made on more than the line shows, and a replay keeps the recorded one.
    """
    fields: tuple[Any, ...] = event  # type: ignore[assignment]  # every value is a tuple
    kind, pid, tid, ppid, exe, syscall, op, path, path2, spelled, flags, mode = fields[:12]
    fd, host, ip, port, proto, argv, cwd, signal, target, span, detail, _ = fields[12:]
    line = f'"kind":{_quote(kind)},"pid":{pid},"tid":{tid},"ppid":{ppid}'
    if exe:
        line += f',"exe":{_quote(exe)}'
    if op:
        line += f',"op":{_quote(op)}'
    if syscall:
        line += f',"syscall":{_quote(syscall)}'
    if path:
        line += f',"path":{_quote(path)}'
        if path2:
            line += f',"path2":{_quote(path2)}'
        if spelled:
            line += f',"spelled":{_quote(spelled)}'
    elif path2 or spelled:
        line += f',"path2":{_quote(path2)},"spelled":{_quote(spelled)}'
    if flags:
        line += f',"flags":{_quote(flags)}'
    if mode != -1:
        line += f',"mode":{mode}'
    if fd != -1:
        line += f',"fd":{fd}'
    if host or ip or port or proto:
        line += f',"host":{_quote(host)},"ip":{_quote(ip)},"port":{port},"proto":{_quote(proto)}'
    redacted = False
    if argv:
        shown = redact.arguments(argv)
        redacted = shown is not argv
        line += f',"argv":[{",".join(map(_quote, shown))}]'
    if cwd:
        line += f',"cwd":{_quote(cwd)}'
    if signal or target:
        line += f',"signal":{signal},"target":{target}'
    if span:
        line += f',"span":{_quote(span)}'
    if detail:
        said = redact.text(detail)
        redacted = redacted or said is not detail
        line += f',"detail":{_quote(said)}'
    if redacted and decision.reason:  # it may quote what it is about
        decision = type(decision)(decision.action, decision.rule, decision.where, redact.text(decision.reason))
    line += _decided.get((decision, effective)) or _decide(decision, effective)
    if result:
        line += f',"result":{_quote(result)}'
    line += ',"redacted":true}\n' if redacted else "}\n"
    if "\\ud" in line:  # Hangul or a pair of surrogates, all well, or half a pair
        texts = {name: _whole(getattr(event, name)) for name in _TEXTS}
        whole = replace(event, argv=tuple(map(_whole, argv)), **texts)
        judged = replace(decision, **{name: _whole(getattr(decision, name)) for name in ("rule", "where", "reason")})
        if whole != event or judged != decision:
            return body(whole, judged, effective, result)
    return line.encode()


_decided: dict[tuple[Decision, str], str] = {}  # a run has few distinct decisions and writes each of them often


def _decide(decision: Decision, effective: str) -> str:
    action, rule, where, reason = decision.action, decision.rule, decision.where, decision.reason
    part = f',"decision":{{"action":{_quote(action)}'
    if rule:
        part += f',"rule":{_quote(rule)}'
    if where:
        part += f',"where":{_quote(where)}'
    part += f',"reason":{_quote(reason)}}}' if reason else "}"
    if effective != action:
        part += f',"effective":{_quote(effective)}'
    if len(_decided) >= 1024:
        _decided.clear()
    _decided[decision, effective] = part
    return part


class Encoded(str):
    """JSON as it is: ``dumps`` leaves it alone."""

    __slots__ = ()


def encoded(value: object) -> Encoded:
    """What ``dumps`` makes of a value without anything ``Encoded`` in it, in a tenth of the time where it is large."""
    if make_encoder is None:
        return Encoded(dumps(value))
    text = "".join(make_encoder(None, _no_json, _quote, None, ":", ",", False, False, False)(value, 0))
    return Encoded(dumps(value) if "\\ud" in text else text)


def _no_json(value: object) -> NoReturn:
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def dumps(value: object) -> str:
    """The value as one line of JSON, pure ASCII: None, bool, int, finite float, str, list, tuple, dict with str keys.

    A lone surrogate (a byte of ``sys.argv`` that is not UTF-8) comes out as ``\\xNN``, as in events.
    """
    if isinstance(value, str):
        return str(value) if isinstance(value, Encoded) else _quote(_whole(value))
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        if value - value != 0:
            raise ValueError(f"JSON has no {value!r}")
        return float.__repr__(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{dumps(key)}:{dumps(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(dumps, value)) + "]"
    _no_json(value)


def _whole(text: str) -> str:
    r"""The text with each half of a surrogate pair, which JSON readers refuse, as ``\xNN`` or ``\uNNNN``."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(_half(ord(c)) if "\ud800" <= c <= "\udfff" else c for c in text)
    return text


def _half(code: int) -> str:
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
