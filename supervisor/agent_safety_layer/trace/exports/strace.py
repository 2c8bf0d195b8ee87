"""Events as text like that of ``strace -f -ttt -T``: what is known of each call. Arguments that a trace does not hold
are left out, and a result that nobody saw is ``?``.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING, TextIO

from agent_safety_layer.events import Event, TraceEntry
from asl_hooks import syscalls

if TYPE_CHECKING:
    from agent_safety_layer.trace.reader import TraceReader

# After the access mode, which comes first.
_FLAGS = (
    *("O_CREAT", "O_EXCL", "O_NOCTTY", "O_TRUNC", "O_APPEND", "O_NONBLOCK", "O_DSYNC", "O_DIRECT", "O_NOFOLLOW"),
    *("O_NOATIME", "O_CLOEXEC", "O_PATH", "O_DIRECTORY", "O_TMPFILE"),
)


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
        return [quoted(event.spelled or event.path or event.exe), f"[{', '.join(map(quoted, event.argv))}]"]
    if event.kind == "process.signal":
        return [str(event.target), _signal(event.signal)]
    kinds = syscalls.spec(event.syscall).args if event.syscall else ()
    if "path" in kinds:
        return _on_paths(event, kinds)
    found = [quoted(path) for path in (event.path, event.path2) if path]
    if event.ip or event.host:
        family, field = ("AF_INET6", "sin6") if ":" in event.ip else ("AF_INET", "sin")
        address = quoted(event.ip or event.host)
        found.append(f"{{sa_family={family}, {field}_port=htons({event.port}), {field}_addr=inet_addr({address})}}")
    if event.flags:
        found.append(_flags(event.flags))
    if event.mode != -1:
        found.append(f"{event.mode:04o}")
    return found


def _on_paths(event: Event, kinds: tuple[str, ...]) -> list[str]:
    """The arguments of a call on paths: paths, flags and mode as far as they are known.

    Paths are recorded whole, so the folder that they start from is of no consequence, and written as AT_FDCWD.
    """
    paths = [path for path in (event.spelled or event.path, event.path2) if path]
    found = []
    for kind in kinds:
        if kind == "dirfd" and paths:
            found.append("AT_FDCWD")
        elif kind in ("path", "str") and paths:
            found.append(quoted(paths.pop(0)))
        elif kind == "flags" and event.flags:
            found.append(_flags(event.flags))
        elif kind == "mode" and event.mode != -1:
            found.append(f"0{event.mode:03o}" if event.mode else "000")
    return found


def _flags(text: str) -> str:
    """Open flags in the order in which strace names them."""
    names = [name for name in text.split("|") if name.isidentifier()]
    return "|".join(sorted(names, key=lambda name: _FLAGS.index(name) if name in _FLAGS else -1))


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
