"""The page's HTML. What matters most, the verdict and what was refused, is there without the script."""

from __future__ import annotations

import os
import time
from base64 import b64encode
from hashlib import sha256
from html import escape
from typing import TYPE_CHECKING, Any

from agent_safety_layer.events import ALLOW, ASK, BLOCK, WARN
from agent_safety_layer.terminal import visible
from agent_safety_layer.trace.encode import dumps
from agent_safety_layer.trace.page.digest import GROUPS, Digest, data
from agent_safety_layer.wording import object_of, shell_joined

if TYPE_CHECKING:
    from agent_safety_layer.tally import Denial

_HERE = os.path.dirname(os.path.abspath(__file__))
WIDTH = 960  # of the timeline, in its own units
_SHOWN = 200  # distinct denials
_GOOD = ("exited",)
_OUTCOMES = {
    "signaled": "ended by a signal",
    "wall_time": "time limit reached",
    "cpu_time": "CPU time limit reached",
    "memory": "memory limit reached",
    "output": "output limit reached",
    "written": "limit of written bytes reached",
    "operations": "limit of operations reached",
    "idle_time": "idle for too long",
    "violation": "ended by a violation",
    "trace_full": "the trace's disk was full",
    "not_found": "command not found",
    "refused": "refused to start",
}


def page(found: Digest, integrity: str, sound: bool) -> str:
    """The whole page. ``integrity`` is what verifying the trace said, ``sound`` whether that was good."""
    style, script = _asset("page.css"), _asset("page.js")
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; base-uri 'none'"
    title = f"{_headline(found)[0]} - {_command(found, 80)}"
    return "".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}; form-action \'none\'">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n',
            f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n",
            '<a class="skip" href="#events">Skip to the events</a>\n',
            _top(found, integrity, sound),
            "<main>\n",
            _denials(found),
            _timeline(found),
            _SECTIONS,
            _resources(found),
            _EVENTS,
            "</main>\n",
            f'<script type="application/json" id="data">{_inert(data(found))}</script>\n',
            f"<script>{script}</script>\n</body>\n</html>\n",
        )
    )


_SECTIONS = """<section id="processes" aria-labelledby="processes-title" data-script hidden>
<h2 id="processes-title">Processes <small></small></h2>
<div class="scroll tree" role="list"></div>
</section>
<div class="pair">
<section id="files" aria-labelledby="files-title" data-script hidden>
<h2 id="files-title">Files <small></small></h2>
<div class="scroll"></div>
</section>
<section id="hosts" aria-labelledby="hosts-title" data-script hidden>
<h2 id="hosts-title">Network <small></small></h2>
<div class="scroll"></div>
</section>
</div>
"""

_EVENTS = """<section id="events" aria-labelledby="events-title" data-script hidden>
<h2 id="events-title">Events <small></small></h2>
<form class="filters" role="search">
<input type="search" id="search" placeholder="Search objects, rules, programs   ( / )" aria-label="Search events"
 autocomplete="off" spellcheck="false">
<select id="kind" aria-label="Kind"><option value="">all kinds</option></select>
<select id="action" aria-label="Decision"><option value="">all decisions</option></select>
<button type="reset">Clear</button>
<output id="matches" aria-live="polite"></output>
</form>
<div class="grid" role="table" aria-label="Events">
<div class="row head" role="row"><span role="columnheader">Time</span><span role="columnheader">Process</span>
<span role="columnheader">Kind</span><span role="columnheader">Decision</span>
<span role="columnheader">Object</span></div>
<div id="viewport" tabindex="0" aria-label="Rows; arrow keys move, Enter shows details"><div id="space"></div></div>
</div>
<div id="details" aria-live="polite" hidden></div>
</section>
<noscript><p class="note">The rest of this report (processes, files, hosts, events) needs JavaScript; nothing is loaded
from anywhere.</p></noscript>
"""


def _asset(name: str) -> str:
    with open(os.path.join(_HERE, name), encoding="utf-8") as file:
        return file.read()


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _inert(value: Any) -> str:
    """JSON that cannot end the element that it stands in."""
    return dumps(value).replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _text(said: object, limit: int = 600) -> str:
    """Hostile text, as HTML."""
    return escape(visible(str(said), limit))


def _command(found: Digest, limit: int) -> str:
    return visible(shell_joined(map(str, found.header.get("command") or ())), limit)


def _headline(found: Digest) -> tuple[str, str]:
    """The verdict in a few words, and how serious it is."""
    tally = found.tally
    asked = sum(of_kind.get(ASK, 0) for of_kind in tally.counts().values())
    refused = tally.blocked
    if refused:
        return f"{_count(refused, 'operation')} blocked", BLOCK
    if tally.would_block:
        return f"{_count(tally.would_block, 'operation')} would have been blocked", WARN
    if asked:
        return f"{_count(asked, 'operation')} asked about", ASK
    return "Nothing was blocked", ALLOW


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _top(found: Digest, integrity: str, sound: bool) -> str:
    headline, seriousness = _headline(found)
    header, footer = found.header, found.footer
    policy = header.get("policy") or {}
    names = " + ".join(map(str, policy.get("names", ()))) or "?"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.began))
    outcome = str((footer or {}).get("outcome", "no end recorded"))
    said = _OUTCOMES.get(outcome, outcome)
    ended = f"{said}, exit status {footer.get('exit_code', '?')}" if footer else said
    machine = header.get("machine") or {}
    facts = [
        ("Outcome", ended, "" if footer and outcome in _GOOD else "bad"),
        ("Began", when, ""),
        ("Lasted", _duration(found.lasted), ""),
        ("Policy", f"{names}, {policy.get('mode', '?')}", "bad" if policy.get("mode") == "observe" else ""),
        ("Events", f"{found.tally.events:,}", ""),
        ("Trace", integrity, "" if sound else "bad"),
        ("Machine", f"{machine.get('system', '?')} {machine.get('release', '')} {machine.get('arch', '')}", ""),
        ("Run", str(header.get("run", "?")), ""),
    ]
    missing = [str(rule) for rule in header.get("not_enforced") or ()]
    if missing:
        facts.append(("Not enforced", "; ".join(missing), "bad"))
    told = "".join(
        f'<div class="{mood}"><dt>{escape(name)}</dt><dd>{_text(said)}</dd></div>\n' for name, said, mood in facts
    )
    kinds = len(found.tally.denials)
    by = f" <small>{_count(kinds, 'distinct denial')}</small>" if kinds else ""
    return (
        f'<header class="top {seriousness}">\n<p class="brand">agent safety report'
        '<button id="theme" type="button" hidden>Dark</button></p>\n'
        f"<h1>{escape(headline)}{by}</h1>\n"
        f'<p class="command"><code>{escape(_command(found, 600)) or "?"}</code></p>\n<dl class="facts">\n{told}</dl>\n'
        "</header>\n"
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _denials(found: Digest) -> str:
    denials = sorted(found.tally.denials, key=lambda denial: -denial.n)
    if not denials:
        return '<section id="denials"><h2>What was refused</h2>\n<p class="note">Nothing.</p></section>\n'
    rows = "".join(map(_denial, denials[:_SHOWN]))
    left = len(denials) - _SHOWN
    more = (
        f'<p class="note">and {_count(left, "distinct denial")} more; see the events below.</p>\n' if left > 0 else ""
    )
    if found.tally.unlisted:
        more += f'<p class="note">{_count(found.tally.unlisted, "further denial")} only counted.</p>\n'
    return (
        '<section id="denials" aria-labelledby="denials-title"><h2 id="denials-title">What was refused '
        f"<small>{_count(len(denials), 'distinct operation')}</small></h2>\n"
        '<div class="scroll"><table><thead><tr><th scope="col" class="num times">Times</th>'
        '<th scope="col" class="kind">Kind</th>'
        '<th scope="col">What</th><th scope="col" class="rule">Rule</th><th scope="col" class="remedy">To allow it</th>'
        "</tr></thead>\n"
        f"<tbody>{rows}</tbody></table></div>\n{more}</section>\n"
    )


def _denial(denial: Denial) -> str:
    decision = denial.decision
    cells = (
        f'<td class="num">{denial.n:,}</td>',
        f'<td><span class="tag {_mood(denial.effective)}">{_text(denial.kind)}</span></td>',
        f"<td><code>{_text(object_of(denial.event), 300)}</code>",
        f'<div class="why">{_text(decision.reason, 300)}</div></td>',
        f'<td><code>{_text(decision.rule)}</code><div class="why">{_text(decision.where)}</div></td>',
        f'<td class="why">{_text(denial.remedy, 300)}</td>',
    )
    return f"<tr>{''.join(cells)}</tr>\n"


def _mood(action: str) -> str:
    return action if action in (ALLOW, ASK, BLOCK, WARN) else "audit"


def _timeline(found: Digest) -> str:
    """Events over time as stacked bars, in the colours of their groups; what was refused is drawn below the line."""
    buckets = found.timeline.buckets
    scale = WIDTH / found.lasted  # of a second
    step = found.timeline.width_s * scale
    highest = max(1, *(sum(bucket.get(group, 0) for group in GROUPS) for bucket in buckets or ({},)))
    most_denied = max(1, *(bucket.get(BLOCK, 0) for bucket in buckets or ({},)))
    bars = []
    for place, bucket in enumerate(buckets):
        across = f'x="{place * step:.2f}" width="{step * 0.84:.2f}"'
        y = 80.0
        for group in GROUPS:
            if bucket.get(group):
                height = max(0.8, 78 * bucket[group] / highest)
                y -= height
                bars.append(f'<rect class="{group}" {across} y="{y:.1f}" height="{height:.1f}"/>')
        if bucket.get(BLOCK):
            height = 3 + 15 * bucket[BLOCK] / most_denied
            bars.append(f'<rect class="block" {across} y="82" height="{height:.1f}"/>')
    marks = ""
    for at, said, _ in found.limits[:50]:
        x = f"{at * scale:.1f}"
        marks += f'<line class="limit" x1="{x}" x2="{x}" y1="0" y2="100"><title>{_text(said)}</title></line>'
    key = "".join(f'<span class="key {group}">{group}</span>' for group in (*GROUPS, "refused"))
    return (
        '<section id="timeline" aria-labelledby="timeline-title"><h2 id="timeline-title">Activity '
        f"<small>{key}</small></h2>\n"
        f'<svg viewBox="0 0 {WIDTH} 102" preserveAspectRatio="none" role="img" '
        f'aria-label="Events over {escape(_duration(found.lasted))}">{"".join(bars)}{marks}'
        f'<line class="axis" x1="0" x2="{WIDTH}" y1="81" y2="81"/></svg>\n'
        f'<p class="ends"><span>0 s</span><span>{escape(_duration(found.lasted))}</span></p></section>\n'
    )


def _resources(found: Digest) -> str:
    footer = found.footer or {}
    cpu = footer.get("cpu_user_seconds", 0.0) + footer.get("cpu_system_seconds", 0.0)
    used: list[tuple[str, str, float, str]] = [
        ("Real time", "wall_time_s", found.lasted, _duration(found.lasted)),
        ("CPU time", "cpu_time_s", cpu, _duration(cpu)),
        ("Peak memory", "memory_bytes", *_bytes(footer.get("tree_peak_memory_bytes", 0))),
        ("Processes, in all", "", footer.get("processes", 0), f"{footer.get('processes', 0):,}"),
        ("Bytes read", "", *_bytes(footer.get("read_bytes", 0))),
        ("Bytes written", "written_bytes", *_bytes(footer.get("written_bytes", 0))),
        ("Operations", "operations", found.tally.events, f"{found.tally.events:,}"),
    ]
    stats = []
    for name, key, amount, said in used:
        limit = _limit(found, key)
        of = ""
        if limit is not None:
            told = _amount(limit, key)
            part = min(1.0, amount / limit) if limit else 0.0
            meter = f'<meter min="0" max="1" high="0.8" optimum="0" value="{part:.4f}">{part:.0%}</meter>'
            of = f'{meter}<span class="why">of {escape(told)}</span>'
        stats.append(f"<div><dt>{name}</dt><dd>{escape(said)}{of}</dd></div>\n")
    hits = "".join(
        f'<li><span class="tag {_mood(action)}">{at:.2f} s</span> {_text(said)}</li>\n'
        for at, said, action in found.limits
    )
    return (
        '<section id="resources" aria-labelledby="resources-title"><h2 id="resources-title">Resources and limits</h2>\n'
        f'<dl class="facts resources">{"".join(stats)}</dl>\n{_over_time(found)}'
        f'{f"""<ul class="hits">{hits}</ul>""" if hits else ""}</section>\n'
    )


_CURVES = (  # name, place in a sample, key of the limit, colour
    ("CPU time", 1, "cpu_time_s", "process"),
    ("Memory", 2, "memory_bytes", "net"),
    ("Processes", 3, "processes", "file"),
)


def _over_time(found: Digest) -> str:
    """What the tree used over time, each against its limit where there is one."""
    samples = _samples(found)
    if len(samples) < 3:
        return ""
    figures = "".join(
        _curve(name, [(sample[0], sample[at]) for sample in samples], found.lasted, _limit(found, key), key, colour)
        for name, at, key, colour in _CURVES
    )
    return f'<div class="curves">{figures}</div>\n'


def _samples(found: Digest) -> list[list[float]]:
    usage = (found.footer or {}).get("usage")
    samples = usage.get("samples") if isinstance(usage, dict) else None
    if not isinstance(samples, list):
        return []
    return [one for one in samples if isinstance(one, list) and len(one) == 4 and all(map(_is_number, one))]


def _is_number(said: object) -> bool:
    return isinstance(said, int | float)


def _limit(found: Digest, key: str) -> float | None:
    limits = [given[key] for layer in _layers(found) if key in (given := layer.get("limits") or {})]
    return min(limits, default=None)


def _curve(
    name: str, points: list[tuple[float, float]], lasted: float, limit: float | None, key: str, colour: str
) -> str:
    highest = max(amount for _, amount in points)
    near = limit is not None and limit <= 4 * highest
    top = max(highest, limit if near and limit is not None else 0, 1e-9) * 1.05

    def y(amount: float) -> float:
        return 60 - 58 * amount / top

    line = " ".join(f"{WIDTH * min(1.0, at / lasted):.1f},{y(amount):.1f}" for at, amount in points)
    first, last = (WIDTH * min(1.0, points[place][0] / lasted) for place in (0, -1))
    bound = (
        f'<line class="limit" x1="0" x2="{WIDTH}" y1="{y(limit):.1f}" y2="{y(limit):.1f}"/>' if near and limit else ""
    )
    said = _amount(highest, key) + (f" of {_amount(limit, key)}" if limit is not None else "")
    return (
        f"<figure><figcaption>{name} <small>{escape(said)}</small></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} 62" preserveAspectRatio="none" role="img" '
        f'aria-label="{name} over time, at most {escape(said)}">'
        f'<polygon class="{colour}" points="{first:.1f},60 {line} {last:.1f},60"/>{bound}'
        f'<line class="axis" x1="0" x2="{WIDTH}" y1="60.5" y2="60.5"/></svg></figure>'
    )


def _amount(amount: float, key: str) -> str:
    return _duration(amount) if key.endswith("_s") else _bytes(amount)[1] if "bytes" in key else f"{amount:,.0f}"


def _layers(found: Digest) -> list[dict[str, Any]]:
    layers = (found.header.get("policy") or {}).get("layers")
    return [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []


def _bytes(amount: float) -> tuple[float, str]:
    size, unit = float(amount), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return amount, f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
