"""Network calls: the address is copied once, judged, and used by the supervisor on a copy of the very socket.

Nothing here is waved through: ``connect`` and sends run on a duplicate of the tracee's socket (pidfd_getfd(2)) with
the copied address, so neither another thread nor a ``dup2`` can change what was judged. A socket that would block is
dialled on a thread of its own; the tracee waits, the loop does not.
"""

from __future__ import annotations

import ctypes
import os
import struct
from _functools import partial
from errno import EAFNOSUPPORT, ECONNREFUSED, EINVAL, EMSGSIZE, ENOBUFS, EOPNOTSUPP, EPERM

from agent_safety_layer.engine.listeners import Listeners
from agent_safety_layer.engine.objects import signed
from agent_safety_layer.engine.operation import Operation
from agent_safety_layer.engine.sending import MSG_DONTWAIT, Outgoing, Sender, in_turn
from agent_safety_layer.engine.waiting import connect, connect_at_once
from agent_safety_layer.events import ASK, BLOCK, Event, text_of
from agent_safety_layer.policy.network import OWN
from asl_hooks import memory, sockaddr
from asl_hooks._abi import linux
from asl_hooks.identity import Being
from asl_hooks.paths import base_of, locate, split
from asl_hooks.sockets import SO_DOMAIN, SO_TYPE, SOL_SOCKET, check, name_of, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.engine.context import Context
    from agent_safety_layer.engine.egress import Egress
    from asl_hooks.backend import Call
    from asl_hooks.processes import Process

    Prepare = Callable[[Callable[[int], None]], None]

_INET = (sockaddr.AF_INET, sockaddr.AF_INET6)
_libc = ctypes.CDLL(None, use_errno=True)
_SO_LINGER = 13
_LINGER = struct.Struct("=2i")
_STREAM, _DGRAM, _SEQPACKET = 1, 2, 5
_MSG_FASTOPEN, _MSG_ZEROCOPY = 0x20000000, 0x4000000
_SCM_RIGHTS = 1
_MOST_MESSAGES, _MOST_RIGHTS = 64, 253  # SCM_MAX_FD


def _is_blocking(fd: int) -> bool:
    return os.get_blocking(fd)


class Network:
    """Describes the network calls of one run. ``egress`` is their way out."""

    def __init__(self, context: Context, egress: Egress) -> None:
        self._context = context
        self._egress = egress
        self._own = Listeners()

    # -- shared ----------------------------------------------------------------------------------------------------

    def _socket(self, call: Call, fd: int) -> tuple[int, int, int]:
        """A copy of the tracee's socket, its domain and type. ``OSError(ENOTSOCK)`` for anything else."""
        held = self._context.copy_descriptor(call, fd)
        try:
            domain, type_ = options(held, SO_DOMAIN, SO_TYPE)
            return held, domain, type_
        except BaseException:
            os.close(held)
            raise

    @staticmethod
    def _address(process: Process, at: int, size: int) -> bytes:
        size &= 0xFFFFFFFF
        if size > sockaddr.LONGEST:
            raise OSError(EINVAL, "an address too long")
        return memory.read(process.mem, at, size) if size else b""

    def _judged(
        self, kind: str, call: Call, process: Process, held: int, domain: int, type_: int, raw: bytes
    ) -> tuple[Event | None, bytes, int]:
        """The event for an address, the address to use in its place, and an object to hold open for that (or -1)."""
        try:
            address = sockaddr.parse(raw)
        except ValueError as error:
            raise OSError(EINVAL, str(error)) from error
        if domain == sockaddr.AF_UNIX:
            if address.family != sockaddr.AF_UNIX:
                raise OSError(EINVAL, "not a Unix address")
            return self._judged_unix(kind, call, process, type_, address.path, raw)
        if domain in _INET:
            if address.family == sockaddr.AF_UNSPEC and kind == "net.connect":
                return None, raw, -1  # dissolves the association; the next connect is judged anew
            if not address.ip:
                raise OSError(EAFNOSUPPORT, "not an internet address")
            event = self._judged_inet(kind, call, process, held, "tcp" if type_ == _STREAM else "udp", address)
            if event is None and not self._egress.is_question(address.port):
                raw = raw[:2] + bytes(2) + raw[4:]  # nobody receives what is sent to port 0, also later on
            return event, raw, -1
        return None, raw, -1  # netlink: the filter leaves only route queries

    def _judged_unix(
        self, kind: str, call: Call, process: Process, type_: int, name: bytes, raw: bytes
    ) -> tuple[Event | None, bytes, int]:
        event = self._context.event
        if not name:
            return None, raw, -1
        if name[:1] == b"\0":
            if kind == "net.bind":
                return None, raw, -1
            detail = OWN if self._own.has_abstract(name, type_, call.tid) else ""
            return event("net.unix", call, process, path="@" + text_of(name[1:]), proto="unix", detail=detail), raw, -1
        path = name if name.startswith(b"/") else base_of(call.tid, -100) + b"/" + name
        if kind == "net.bind":
            folder, last = split(path)
            parent = locate(folder, process.pid, call.tid, True)
            if parent.fd < 0:
                raise OSError(parent.errno, "no such folder")
            canonical = parent.path.rstrip(b"/") + b"/" + last
            through = canonical if len(canonical) < 108 else b"/proc/self/fd/%d/%s" % (parent.fd, last)
            made = event("file.create", call, process, path=text_of(canonical), detail="a socket", proto="unix")
            return made, _unix(through), parent.fd
        found = locate(path, process.pid, call.tid, True)
        if found.fd < 0:
            raise OSError(found.errno, "no such socket")
        detail = OWN if self._own.has_file(found.fd) else ""
        judged = event("net.unix", call, process, path=text_of(found.path), proto="unix", detail=detail)
        return judged, _unix(b"/proc/self/fd/%d" % found.fd), found.fd

    # -- the calls -------------------------------------------------------------------------------------------------

    def _judged_inet(
        self, kind: str, call: Call, process: Process, held: int, proto: str, address: sockaddr.Address
    ) -> Event | None:
        """The event; None for what is judged elsewhere or cannot leave the tree."""
        egress, context = self._egress, self._context
        host = ""
        if kind == "net.bind":
            own = egress.captured
        elif egress.is_question(address.port):
            return None
        else:
            host = egress.name_of(address.ip)
            own = _is_own(address.ip) and self._own.has_port(proto, address.ip, address.port, held, call.tid)
        ip = "" if host else address.ip
        detail = OWN if own else ""
        event = context.event(kind, call, process, host=host, ip=ip, port=address.port, proto=proto, detail=detail)
        if (
            egress.captured
            and kind == "net.connect"
            and proto == "udp"
            and context.decide(event).action in (ASK, BLOCK)
        ):
            return None  # it sends nothing (resolvers do it to sort addresses), and nothing receives what it would send
        return event

    def _prepared(
        self, event: Event | None, raw: bytes, domain: int, proto: str, target: list[bytes]
    ) -> Prepare | None:
        """What has to be done before something is sent to *raw*; the address to use goes into *target*."""
        if domain not in _INET or not raw:
            return None
        if event is not None and event.detail == OWN:
            return None
        if event is None and not self._egress.is_question(sockaddr.parse(raw).port):
            return None

        def prepare(done: Callable[[int], None]) -> None:
            def ready(errno: int, address: bytes) -> None:
                target[0] = address
                done(errno)

            self._egress.reach(raw, proto, ready)

        return prepare

    def _refusal(self, domain: int, raw: bytes) -> int:
        """How a refusal looks: on a loopback of the tree's own nobody listens whom it could reach."""
        inet = domain in _INET
        return ECONNREFUSED if inet and self._egress.captured and _is_own(sockaddr.parse(raw).ip) else 0

    def connect(self, call: Call, process: Process, name: str) -> Operation:
        """connect."""
        raw = self._address(process, call.args[1], call.args[2])
        held, domain, type_ = self._socket(call, call.args[0] & 0xFFFFFFFF)
        try:
            event, address, extra = self._judged("net.connect", call, process, held, domain, type_, raw)
        except BaseException:
            os.close(held)
            raise
        target = [address]
        waits = _is_blocking(held) and type_ != _DGRAM

        def dial(act: Callable[[], int]) -> int:
            self._left(event, held, domain, target[0])
            try:
                _as_the_caller(domain, process, act)
            finally:  # also where it goes on by itself (EINPROGRESS)
                self._left(event, held, domain, target[0])
            self._answers_come_to(call, process, held, domain, type_)
            return 0

        def perform() -> int:
            if waits:
                return dial(lambda: connect(held, target[0], call.tid))
            return dial(lambda: check(_libc.connect(held, target[0], len(target[0]))))

        def at_once() -> int:
            return dial(lambda: connect_at_once(held, target[0]))

        return Operation(
            event,
            perform,
            fds=(held, extra),
            blocking=waits,
            at_once=at_once if domain in _INET else None,  # a path can lead to where somebody else has to answer
            refusal=lambda: self._refusal(domain, raw),
            prepare=self._prepared(event, address, domain, "tcp" if type_ == _STREAM else "udp", target),
        )

    def _answers_come_to(self, call: Call, process: Process, held: int, domain: int, type_: int) -> None:
        """A datagram socket that was connected or has sent is bound: what the tree sends there stays in the tree."""
        if type_ == _DGRAM and domain in _INET:
            self._own.add_port("udp", held, process, call.args[0] & 0xFFFFFFFF)

    def _left(self, event: Event | None, held: int, domain: int, raw: bytes) -> None:
        """Something was sent to *raw*: the port that it came from tells later what belongs to it."""
        if event is not None and raw and domain in _INET:
            self._egress.left(event, lambda: name_of(held).port, raw)

    def bind(self, call: Call, process: Process, name: str) -> Operation:
        """bind."""
        raw = self._address(process, call.args[1], call.args[2])
        held, domain, type_ = self._socket(call, call.args[0] & 0xFFFFFFFF)
        try:
            event, address, extra = self._judged("net.bind", call, process, held, domain, type_, raw)
        except BaseException:
            os.close(held)
            raise

        def perform() -> int:
            if extra >= 0:
                spelled = sockaddr.parse(raw).path  # which getsockname(2) will show
                own = b"/proc" in spelled or b"/dev/" in spelled  # means something else to this process
                _bind_below(extra, held, address if own else _unix(spelled), call.tid, process.umask)
                self._own.add_file(sockaddr.parse(address).path)
                return 0
            check(_libc.bind(held, address, len(address)))
            if domain == sockaddr.AF_UNIX:
                self._own.add_abstract(sockaddr.parse(address).path, type_, held)
            elif type_ == _DGRAM:
                self._own.add_port("udp", held, process, call.args[0] & 0xFFFFFFFF)
            return 0

        prepare = None
        if domain in _INET:
            proto = "tcp" if type_ == _STREAM else "udp"

            def prepare(done: Callable[[int], None]) -> None:
                self._egress.vacate(address, proto, lambda errno, _: done(errno))

        return Operation(event, perform, fds=(held, extra), mutates=domain == sockaddr.AF_UNIX, prepare=prepare)

    def listen(self, call: Call, process: Process, name: str) -> Operation:
        """listen: an unbound socket binds itself to every address, so it is judged as that."""
        held, domain, _ = self._socket(call, call.args[0] & 0xFFFFFFFF)
        backlog = call.args[1] & 0x7FFFFFFF
        if domain not in _INET:

            def listen() -> int:
                return check(_libc.listen(held, backlog))

            return Operation(None, lambda: _as_the_caller(domain, process, listen), fds=(held,))
        try:
            bound = name_of(held)
        except BaseException:
            os.close(held)
            raise

        def perform() -> int:
            check(_libc.listen(held, backlog))
            self._own.add_port("tcp", held, process, call.args[0] & 0xFFFFFFFF)
            return 0

        detail = OWN if self._egress.captured else ""
        event = self._context.event(
            "net.listen", call, process, ip=bound.ip, port=bound.port, proto="tcp", detail=detail
        )
        return Operation(event, perform, fds=(held,))

    def linger(self, call: Call, process: Process, name: str) -> Operation:
        """setsockopt(SO_LINGER): how long a close may wait. Ours could be the last close of a copied socket, so none
        waits: what was sent is delivered as without the option. A close that resets the connection stays one.
        """
        size = signed(call.args[4])
        if size < _LINGER.size:
            raise OSError(EINVAL, "not a struct linger")
        on, seconds = _LINGER.unpack(memory.read(process.mem, call.args[3], _LINGER.size))
        value = _LINGER.pack(bool(on and not seconds), 0)
        held = self._context.copy_descriptor(call, signed(call.args[0]))

        def perform() -> int:
            return check(_libc.setsockopt(held, SOL_SOCKET, _SO_LINGER, value, len(value)))

        return Operation(None, perform, fds=(held,))

    def send(self, call: Call, process: Process, name: str) -> Operation:
        """sendto with an address (the filter lets the others through)."""
        args = call.args
        flags = args[3] & 0xFFFFFFFF
        _refuse_flags(flags)
        raw = self._address(process, args[4], args[5])
        held, domain, type_ = self._socket(call, args[0] & 0xFFFFFFFF)
        fds = [held]
        try:
            event, address, extra = self._message(call, process, held, domain, type_, raw)
            fds.append(extra)
            waits = _is_blocking(held) and not flags & MSG_DONTWAIT
            sender = self._sender(fds, type_, call, process, flags, waits)
        except BaseException:
            _close(fds)
            raise
        target = [address]
        message = Outgoing(
            event, [(args[1], args[2])], [], target, self._prepared(event, address, domain, "udp", target)
        )

        def perform() -> int:
            sent = _as_the_caller(domain, process, lambda: sender.send(message))
            self._left(event, held, domain, target[0])
            self._answers_come_to(call, process, held, domain, type_)
            return sent

        return Operation(event, perform, fds=tuple(fds), blocking=waits, prepare=message.prepare)

    @staticmethod
    def _sender(fds: list[int], type_: int, call: Call, process: Process, flags: int, waits: bool) -> Sender:
        """What sends on the first of *fds*. The memory's descriptor is copied: the process may be gone by then."""
        fds.append(os.dup(process.mem))
        return Sender(fds[0], type_, fds[-1], (process.pid, call.tid), flags, waits=waits)

    def _message(
        self, call: Call, process: Process, held: int, domain: int, type_: int, raw: bytes
    ) -> tuple[Event | None, bytes, int]:
        if not raw or (type_ == _STREAM and domain != sockaddr.AF_UNIX):
            return (
                None,
                b"",
                -1,
            )  # a stream goes where it was connected to; without fast open its address is not looked at
        return self._judged("net.send", call, process, held, domain, type_, raw)

    def sendmsg(self, call: Call, process: Process, name: str) -> Operation:
        """sendmsg, sendmmsg: every message with its own address; data and passed descriptors are copied with it.

        One operation judges the strictest of the addresses, and stands for all messages.
        """
        args = call.args
        many = name == "sendmmsg"
        flags = args[3 if many else 2] & 0xFFFFFFFF
        _refuse_flags(flags)
        held, domain, type_ = self._socket(call, args[0] & 0xFFFFFFFF)
        fds = [held]
        try:
            step = 64 if many else 56
            count = min(args[2] & 0xFFFFFFFF, _MOST_MESSAGES) if many else 1
            messages: list[Outgoing] = []
            for i in range(count):
                messages.append(self._read_message(call, process, args[1] + i * step, domain, type_, fds))
                if len(fds) > _MOST_RIGHTS:
                    break  # the caller asks again for the rest
            messages = self._up_to_the_refused(messages)
            waits = _is_blocking(held) and not flags & MSG_DONTWAIT
            sender = self._sender(fds, type_, call, process, flags, waits)
            mem = fds[-1]
        except BaseException:
            _close(fds)
            raise

        def perform() -> int:
            done = 0
            for i, message in enumerate(messages):
                try:
                    sent = _as_the_caller(domain, process, partial(sender.send, message))
                except OSError:
                    if not done:
                        raise
                    break
                self._left(message.event, held, domain, message.target[0])
                self._answers_come_to(call, process, held, domain, type_)
                if not many:
                    return sent
                memory.write(mem, args[1] + i * step + 56, sent.to_bytes(4, "little"))
                done += 1
            return done

        return Operation(
            self._strictest([message.event for message in messages if message.event is not None]),
            perform,
            fds=tuple(fds),
            blocking=waits,
            prepare=in_turn([message.prepare for message in messages if message.prepare is not None]),
        )

    def _up_to_the_refused(self, messages: list[Outgoing]) -> list[Outgoing]:
        """The messages that may go, where the first may: as with the kernel, a later one that may not ends the call."""
        decide = self._context.decide
        for i, message in enumerate(messages):
            if i and message.event is not None and decide(message.event).action in (ASK, BLOCK):
                return messages[:i]
        return messages

    def _strictest(self, events: list[Event]) -> Event | None:
        from agent_safety_layer.events import RANK

        decide = self._context.decide
        return max(events, key=lambda event: RANK[decide(event).action], default=None)

    def _read_message(self, call: Call, process: Process, at: int, domain: int, type_: int, fds: list[int]) -> Outgoing:
        """One message; ``fds`` begins with the socket, and gets what is held open for it."""
        header = memory.read(process.mem, at, 56)
        name, name_len, iov, iov_len, control, control_len = (
            int.from_bytes(header[i : i + n], "little") for i, n in ((0, 8), (8, 4), (16, 8), (24, 8), (32, 8), (40, 8))
        )
        if iov_len > 1024:
            raise OSError(EMSGSIZE, "too many parts")
        raw = self._address(process, name, name_len) if name and name_len else b""
        vector = memory.read(process.mem, iov, iov_len * 16) if iov_len else b""
        parts: list[tuple[int, int]] = []
        for i in range(0, len(vector), 16):
            base, size = (int.from_bytes(vector[j : j + 8], "little") for j in (i, i + 8))
            if size:
                parts.append((base, size))
        rights = self._rights(call, process, control, control_len, fds) if control and control_len else []
        event, address, extra = self._message(call, process, fds[0], domain, type_, raw)
        fds.append(extra)
        target = [address]
        return Outgoing(event, parts, rights, target, self._prepared(event, address, domain, "udp", target))

    def _rights(self, call: Call, process: Process, at: int, size: int, fds: list[int]) -> list[int]:
        """Descriptors that the message passes on, copied here."""
        if size > 65536:
            raise OSError(EINVAL, "control data too long")
        control = memory.read(process.mem, at, size)
        rights: list[int] = []
        start = 0
        while start + 16 <= len(control):
            length, level, kind = (
                int.from_bytes(control[start + i : start + i + n], "little") for i, n in ((0, 8), (8, 4), (12, 4))
            )
            if length < 16 or start + length > len(control):
                raise OSError(EINVAL, "malformed control data")
            if (level, kind) != (SOL_SOCKET, _SCM_RIGHTS):
                raise OSError(EPERM, "only descriptors are passed on")
            body = control[start + 16 : start + length]
            if len(rights) + len(body) // 4 > _MOST_RIGHTS:
                raise OSError(EINVAL, "too many descriptors")
            for i in range(0, len(body) - 3, 4):
                held = self._context.copy_descriptor(call, int.from_bytes(body[i : i + 4], "little"))
                fds.append(held)
                rights.append(held)
            start += (length + 7) & ~7
        return rights


def _refuse_flags(flags: int) -> None:
    """``OSError`` for the flags of a message that is not sent in a tracee's stead."""
    if flags & _MSG_FASTOPEN:
        raise OSError(EOPNOTSUPP, "no TCP fast open: a connect that nobody judged")
    if flags & _MSG_ZEROCOPY:
        # It sends, later, whatever then lies where the message lay: in this process's memory. Programs that get this
        # error send with a copy.
        raise OSError(ENOBUFS, "only copies are sent")


def _as_the_caller(domain: int, process: Process, act: Callable[[], int]) -> int:
    """What *act* returns, done on a Unix socket as the user whom the other side is to see."""
    if domain == sockaddr.AF_UNIX and (process.uid, process.gid) != (os.geteuid(), os.getegid()):
        with Being(process):
            return act()
    return act()


def _close(fds: list[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def _is_own(ip: str) -> bool:
    """Whether *ip* means the tree itself when that has a loopback of its own."""
    return ip.startswith("127.") or ip in ("::1", "0.0.0.0", "::")


def _bind_below(folder: int, fd: int, address: bytes, tid: int, umask: int) -> None:
    """bind(2) to a path, in the working directory and with the umask of thread *tid*. The tree may swap folders on the
    way (getsockname(2) must show the path that it used, so it cannot be one through *folder*): so it is done where
    nothing but that folder can be written.
    """
    from asl_hooks import landlock

    start = os.open(b"/proc/%d/cwd" % tid, os.O_PATH | os.O_CLOEXEC)

    def bind() -> None:
        linux.unshare(linux.CLONE_FS)
        os.fchdir(start)
        os.umask(umask)
        check(_libc.bind(fd, address, len(address)))

    try:
        landlock.below(folder, landlock.MAKE_SOCKET, bind)
    finally:
        os.close(start)


def _unix(path: bytes) -> bytes:
    return sockaddr.AF_UNIX.to_bytes(2, "little") + path + b"\0"
