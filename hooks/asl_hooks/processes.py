"""The processes of the tree, as far as they have made themselves known by a stopped call.

A ``Process`` keeps what each call would otherwise look up anew: its memory descriptor, executable, parent,
credentials. It is found by the thread id of a call; a pidfd tells when it has gone, so that a reused id never meets
an old entry.
"""

from __future__ import annotations

import os
import struct
from errno import EINTR, ESRCH
from fcntl import ioctl

from asl_hooks._abi import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_ERESTARTSYS = 512
_INFO_BYTES = 64  # of pidfd_info: mask, cgroup id; pid, tgid, ppid, …
_info_ppid = struct.Struct("=I").unpack_from


class Process:
    """A living process: ``mem`` is its memory (see ``asl_hooks.memory``), ``pidfd`` polls readable when it has exited.

    ``cache`` belongs to whoever answers the process's calls; it is emptied by an exec. So does ``execs``: what each
    thread that is about to exec should become. ``span`` is what the process was started in, ``spans`` what each thread
    says it is in now, ``open_spans`` those that it says have begun and not ended, each with the one around it.
    ``uid``, ``gid``, ``groups`` and ``umask`` are read when they are first asked for: most processes make no call that
    is about them. ``OSError`` when it is gone by then.
    """

    __slots__ = (
        *("cache", "exe", "exec_pending", "execs", "gid", "groups", "mem", "open_spans", "pid", "pidfd", "ppid"),
        *("span", "spans", "tids", "uid", "umask"),
    )

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.ppid = _parent_of(pid, pidfd)
        self.tids: set[int] = {pid}
        self.cache: dict[Any, Any] = {}
        self.execs: dict[int, tuple[Any, ...]] = {}
        self.exec_pending = False
        self.span = ""
        self.spans: dict[int, str] = {}
        self.open_spans: dict[str, str] = {}
        self.mem = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            self.exe = _exe(pid)
        except OSError:
            os.close(self.mem)
            raise

    def __getattr__(self, name: str) -> Any:
        """A slot that is not filled yet."""
        if name == "umask":
            self.umask = int(read_status(self.pid).get(b"Umask", b"022"), 8)
            return self.umask
        if name in ("uid", "gid", "groups"):
            self.identify(self.pid)
            return object.__getattribute__(self, name)
        raise AttributeError(name)

    def identify(self, tid: int) -> None:
        """Read the credentials of the thread *tid* anew."""
        status = read_status(tid)
        self.uid = int(status[b"Uid"].split()[3])  # the fourth is the file system id
        self.gid = int(status[b"Gid"].split()[3])
        self.groups = tuple(int(group) for group in status[b"Groups"].split())

    def refresh(self, exe: str = "") -> None:
        """Look again after an exec: another address space, another program (*exe*, for who has looked already)."""
        fresh = os.open(f"/proc/{self.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        os.close(self.mem)
        self.mem = fresh
        self.exe = exe or _exe(self.pid)
        self.cache.clear()
        self.exec_pending = False
        if self.spans:
            self.span = self.span_of(self.pid)
            self.spans.clear()
            self.open_spans.clear()

    def span_of(self, tid: int) -> str:
        """The span that thread *tid* is in: what it says, else the innermost open one if that is a matter of course,
        else the process's own.
        """
        if not self.spans:
            return self.span
        said = self.spans.get(tid)
        if said is not None:
            return said or self.span
        around = set(self.open_spans.values())
        innermost = [span for span in self.open_spans if span not in around]
        return innermost[0] if len(innermost) == 1 else self.span

    def close(self) -> None:
        """Give up the descriptors: whoever still has the process finds nothing of another behind them."""
        os.close(self.mem)
        os.close(self.pidfd)
        self.mem = self.pidfd = -1


def read_status(tid: int) -> dict[bytes, bytes]:
    """``/proc/<tid>/status`` as a mapping; ``OSError`` when the thread is gone."""
    fd = os.open(f"/proc/{tid}/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 8192)
    finally:
        os.close(fd)
    fields = {}
    for line in text.split(b"\n"):
        key, _, content = line.partition(b":")
        fields[key] = content.strip()
    return fields


def interruption(tid: int) -> int:
    """The errno with which a call that the stopped thread *tid* waits in should end now; 0 while it may wait on.

    A thread that waits for a supervisor's answer is woken by fatal signals only (WAIT_KILLABLE_RECV), so whoever makes
    it wait long has to look for others.
    """
    try:
        status = read_status(tid)
        own, shared, blocked = (int(status[key], 16) for key in (b"SigPnd", b"ShdPnd", b"SigBlk"))
        alone = status[b"Threads"] == b"1"
        gone = status[b"State"][:1] in b"ZX"
    except (OSError, KeyError):
        gone = True
    if gone:
        return ESRCH
    if not (own | shared) & ~blocked:
        return 0
    # The kernel turns ERESTARTSYS into EINTR or a new call, by the handler's SA_RESTART. Only a thread that is sure to
    # take the signal may get it; another could take one that is for the whole process.
    return _ERESTARTSYS if own & ~blocked or alone else EINTR


def _parent_of(pid: int, pidfd: int) -> int:
    """The parent of process *pid*; ``OSError`` when it is gone."""
    info = bytearray(_INFO_BYTES)
    try:
        ioctl(pidfd, linux.PIDFD_GET_INFO, info)  # a tenth of what reading the status takes
    except OSError:  # before Linux 6.13
        return int(read_status(pid)[b"PPid"])
    ppid: int = _info_ppid(info, 24)[0]
    return ppid


def _exe(pid: int) -> str:
    return os.readlink(b"/proc/%d/exe" % pid).decode("utf-8", "backslashreplace")


class Processes:
    """Known processes by thread id."""

    def __init__(self) -> None:
        self.by_tid: dict[int, Process] = {}
        self._by_pidfd: dict[int, Process] = {}
        self.started = 0

    def find(self, tid: int) -> tuple[Process, bool]:
        """The process of thread *tid*, and whether it is new here. ``OSError`` when it is gone or cannot be read."""
        known = self.by_tid.get(tid)
        if known is not None:
            if known.exec_pending:
                known.refresh()
            return known, False
        pid = tid
        try:
            pidfd = os.pidfd_open(tid)
        except OSError:  # not the first thread of its process, or gone
            pid = int(read_status(tid)[b"Tgid"])
            known = self.by_tid.get(pid)
            if known is not None:
                known.tids.add(tid)
                self.by_tid[tid] = known
                if known.exec_pending:
                    known.refresh()
                return known, False
            pidfd = os.pidfd_open(pid)
        try:
            process = Process(pid, pidfd)
        except OSError:
            os.close(pidfd)
            raise
        process.tids.add(tid)
        self.by_tid[pid] = self.by_tid[tid] = process
        self._by_pidfd[process.pidfd] = process
        self.started += 1
        return process, True

    def get(self, tid: int) -> Process | None:
        """The process of thread *tid* if it is known."""
        return self.by_tid.get(tid)

    def by_pidfd(self, pidfd: int) -> Process | None:
        """The process whose exit *pidfd* tells."""
        return self._by_pidfd.get(pidfd)

    def forget_threads(self) -> None:
        """Drop the thread ids that are not process ids: a thread's exit is not told, so its id could be reused."""
        for process in self._by_pidfd.values():
            for tid in process.tids:
                if tid != process.pid:
                    self.by_tid.pop(tid, None)
            process.tids = {process.pid}

    def remove(self, process: Process) -> None:
        """Forget a process that has exited and close its descriptors."""
        for tid in process.tids:
            if self.by_tid.get(tid) is process:
                del self.by_tid[tid]
        self._by_pidfd.pop(process.pidfd, None)
        process.close()

    def __iter__(self) -> Iterator[Process]:
        return iter(tuple(self._by_pidfd.values()))

    def __len__(self) -> int:
        return len(self._by_pidfd)

    def close(self) -> None:
        """Forget all."""
        for process in self:
            self.remove(process)
