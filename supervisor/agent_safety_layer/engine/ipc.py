"""System V IPC where the tree shares its namespace with all, and POSIX message queues: only what it made itself.

Making and finding are done here, so that it is known what the tree has made. The other calls of System V name their
object by a number in a register: nothing can change that after the look, so those on the tree's own objects are waved
through. Queues are always opened here, because Landlock lets nobody open one (Linux 6.18), in whatever namespace. What
the tree leaves behind is removed at the end.
"""

from __future__ import annotations

import os
from errno import EACCES, EEXIST, ENOENT, EPERM

from agent_safety_layer.engine.objects import signed
from agent_safety_layer.engine.operation import Injected, Operation
from agent_safety_layer.events import text_of
from asl_hooks import ipc, memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent_safety_layer.engine.objects import Objects
    from agent_safety_layer.engine.view import View
    from asl_hooks.backend import Call
    from asl_hooks.processes import Process

_KNOWN_FLAGS = ipc.IPC_CREAT | ipc.IPC_EXCL | ipc.MODE | 0o4000 | 0o10000  # IPC_NOWAIT means nothing; SHM_NORESERVE
_SHM_HUGETLB = 0o4000
_LONGEST_NAME = 256


class Ipc:
    """Describes the calls of one run on objects with names outside the file system."""

    def __init__(self, view: View, objects: Objects) -> None:
        self._view = view
        self._objects = objects
        self._own: set[tuple[str, int]] = set()
        self._queues: dict[bytes, tuple[int, int]] = {}

    def ipc(self, call: Call, process: Process, name: str) -> Operation:
        """shmget, semget, msgget, and what is done with their ids."""
        kind = name[:3]
        if name.endswith("get"):
            return self._get(call, process, kind)
        ident = signed(call.args[0])
        if name.endswith("ctl"):
            command = signed(call.args[2 if kind == "sem" else 1])
            if command in ipc.LOOKS[kind]:
                return Operation(None, None, bounded=True)
            if command == ipc.IPC_RMID and (kind, ident) in self._own:
                return Operation(None, lambda: self._remove(kind, ident))
        if (kind, ident) not in self._own:
            return self._refused(call, process, f"{kind} {ident} is not of this run")
        return Operation(None, None, bounded=True)

    def _refused(self, call: Call, process: Process, why: str) -> Operation:
        event = self._view.event("process.deny", call, process, detail=why)
        return Operation(event, None, bounded=True, outside=True, refusal=lambda: EACCES)

    def _get(self, call: Call, process: Process, kind: str) -> Operation:
        key = signed(call.args[0])
        size, flags = (0, signed(call.args[1])) if kind == "msg" else (call.args[1], signed(call.args[2]))
        if kind == "sem":
            size = signed(size)
        elif kind == "shm" and (flags & _SHM_HUGETLB or flags & ~_KNOWN_FLAGS):
            raise OSError(EPERM, "huge pages take capabilities that a root supervisor has and its tree has not")
        there = ipc.find(kind, key) if key != ipc.IPC_PRIVATE else -1
        if there >= 0 and (kind, there) not in self._own:
            return self._refused(call, process, f"{kind} with key {key:#x} is not of this run")

        def perform() -> int:
            if there >= 0:
                return ipc.get(kind, key, size, flags)
            if key != ipc.IPC_PRIVATE and not flags & ipc.IPC_CREAT:
                raise OSError(ENOENT, "no such object")
            made = ipc.get(kind, key, size, flags | ipc.IPC_EXCL)  # so that it is new
            self._own.add((kind, made))
            if (process.uid, process.gid) != (os.geteuid(), os.getegid()):
                ipc.hand_over(kind, made, process.uid, process.gid)
            return made

        return Operation(None, perform)

    def _remove(self, kind: str, ident: int) -> int:
        ipc.remove(kind, ident)
        self._own.discard((kind, ident))  # the number can come to mean another object
        return 0

    def queue(self, call: Call, process: Process, name: str) -> Operation:
        """mq_open, mq_unlink."""
        queue = memory.read_string(process.mem, call.args[0], _LONGEST_NAME)
        there = ipc.inode_of_queue(queue)
        if there is not None and there != self._queues.get(queue):
            return self._refused(call, process, f"message queue {text_of(queue)} is not of this run")
        if name == "mq_unlink":
            return Operation(None, lambda: self._unlink(queue))
        flags, mode = call.args[1] & 0xFFFFFFFF, call.args[2] & 0o7777
        attributes = b""
        if flags & os.O_CREAT and call.args[3]:
            attributes = memory.read(process.mem, call.args[3], ipc.MQ_ATTR_SIZE)

        def perform() -> Injected:
            self._objects.as_creator(process)
            if there is None and flags & os.O_CREAT:
                fd = ipc.open_queue(queue, flags | os.O_EXCL, mode, attributes)
                found = os.fstat(fd)
                self._queues[queue] = found.st_dev, found.st_ino
            else:
                if there is not None and flags & os.O_CREAT and flags & os.O_EXCL:
                    raise OSError(EEXIST, "it exists")
                fd = ipc.open_queue(queue, flags & ~os.O_CREAT)
                found = os.fstat(fd)
                if (found.st_dev, found.st_ino) != self._queues.get(queue):
                    os.close(fd)
                    raise OSError(EACCES, "another one has come to be there")
            return Injected(fd, True)

        return Operation(None, perform)

    def _unlink(self, queue: bytes) -> int:
        ipc.remove_queue(queue)
        self._queues.pop(queue, None)
        return 0

    def close(self) -> None:
        """Remove what the tree has left."""
        for kind, ident in self._own:
            try:
                ipc.remove(kind, ident)
            except OSError:
                continue  # somebody else of this user has
        for queue, inode in self._queues.items():
            try:
                if ipc.inode_of_queue(queue) == inode:
                    ipc.remove_queue(queue)
            except OSError:
                continue
