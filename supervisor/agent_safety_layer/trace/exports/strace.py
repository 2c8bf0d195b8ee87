"""Events as text like that of ``strace -f -ttt -T``: what is known of each call. Arguments that a trace does not hold
are left out, and a result that nobody saw is ``?``.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING, TextIO

from agent_safety_layer.events import Event, TraceEntry

if TYPE_CHECKING:
    from agent_safety_layer.trace.reader import TraceReader


def export(reader: TraceReader, out: TextIO) -> None:
    """Write a line for each event: thread, seconds since the epoch, the call, its result, the time it took."""
    for entry in reader:
        out.write(line(entry) + "\n")


def line(entry: TraceEntry) -> str:
    """The entry as a line without newline."""
    event = entry.event
    begin = f"{event.tid or event.pid} {event.time:.6f} "
    if event.kind == "process.exit":
        return f"{begin}+++ killed by {_signal(event.signal)} +++" if event.signal else f"{begin}+++ exited with ? +++"
    name = event.syscall or event.kind.replace(".", "_")
    call = f"{name}({', '.join(_arguments(event))})"
    return f"{begin}{call} = {_result(entry.outcome.result)} <{entry.outcome.us / 1e6:.6f}>"


def _arguments(event: Event) -> list[str]:
    if event.kind == "process.exec":
        return [quoted(event.path or event.exe), f"[{', '.join(map(quoted, event.argv))}]"]
    if event.kind == "process.signal":
        return [str(event.target), _signal(event.signal)]
    found = [quoted(path) for path in (event.path, event.path2) if path]
    if event.ip or event.host:
        family, field = ("AF_INET6", "sin6") if ":" in event.ip else ("AF_INET", "sin")
        address = quoted(event.ip or event.host)
        found.append(f"{{sa_family={family}, {field}_port=htons({event.port}), {field}_addr=inet_addr({address})}}")
    if event.flags:
        found.append("".join(c for c in event.flags if c.isalnum() or c in "_|"))
    if event.mode != -1:
        found.append(f"{event.mode:04o}")
    return found


def _result(text: str) -> str:
    if not text:
        return "?"
    number = getattr(errno, text, None) if text.startswith("E") else None
    if isinstance(number, int):
        return f"-1 {text} ({os.strerror(number)})"
    return text if text.isalnum() else quoted(text)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG_{number}" if number else "0"


def quoted(text: str) -> str:
    """The text as strace writes a string: in quotes, with every byte that is not printable ASCII in octal."""
    out = ""
    for byte in text.encode("utf-8", "backslashreplace"):
        char = chr(byte)
        short = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char)
        out += short or (char if 0x20 <= byte < 0x7F else f"\\{byte:03o}")
    return f'"{out}"'
