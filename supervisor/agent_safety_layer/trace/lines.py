"""The lines of a trace that are not in its file yet, numbered and with their times."""

from __future__ import annotations

_NEXT = 9.9999995  # what would be written as ten


class Lines:
    """Event lines in memory: ``seq`` is the number of the latest, ``size`` how many bytes they are."""

    __slots__ = ("_base", "_lines", "_tens", "seq", "size")

    def __init__(self) -> None:
        self.seq = 0
        self.size = 0
        self._lines: list[bytes] = []
        self._base = 0.0  # events' seconds are formatted as a prefix for ten of them and a fraction: see add
        self._tens = b""

    def add(self, body: bytes, time: float, us: int = 0) -> int:
        """The event's position in the trace. ``body`` is of ``encode.body``; ``time`` is kept to the microsecond."""
        self.seq = seq = self.seq + 1
        since = time - self._base
        if not 0.0 <= since < _NEXT:
            since = self._rebase(time)
        # "%.6f" of a small number takes a third of the time that a whole timestamp takes; the subtraction is exact.
        line = b'{"type":"event","seq":%d,"time":%b%.6f,"us":%d,%b' % (seq, self._tens, since, us, body)
        self._lines.append(line)
        self.size += len(line)
        return seq

    def take(self) -> list[bytes]:
        """The lines since the last time."""
        taken, self._lines, self.size = self._lines, [], 0
        return taken

    def _rebase(self, time: float) -> float:
        time = max(time, 0.0)
        tens = int(time // 10)
        since = time - tens * 10.0
        if since >= _NEXT:
            tens, since = tens + 1, 0.0
        self._base = tens * 10.0
        self._tens = b"%d" % tens if tens else b""
        return since
