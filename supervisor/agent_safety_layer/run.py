"""A supervised run that this program has started: its streams, its events as they happen, its end.

One thread at a time talks with the run's supervisor (``_pump``): the one that waits in ``Supervisor.run``, or for
``popen`` a thread of the run's own. Everything else waits for what that finds out.
"""

from __future__ import annotations

import io
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Generic

from agent_safety_layer.approvals.linked import Answering
from agent_safety_layer.custom import Judges
from agent_safety_layer.errors import AslError
from agent_safety_layer.events import TraceEntry
from agent_safety_layer.link import Link, Message, rebuilt_error
from agent_safety_layer.outcome import Completed, Report, Text
from agent_safety_layer.policies import Policy
from agent_safety_layer.streams import Pipes, Streams

_DIED = "The supervisor of the run was killed; everything that it had started was ended."


class Run(Generic[Text]):
    """A run as ``Supervisor.popen`` returns it; may be used from any thread. Ends with this program at the latest.

    ``pid`` is the child's, ``run_id`` the run's name, ``trace_path`` where its events are recorded. ``stdin``,
    ``stdout`` and ``stderr`` are our ends of the pipes that were asked for, else None. Leaving a ``with`` block waits
    for the end, and ends the run first when that is by an exception.
    """

    def __init__(
        self,
        link: Link,
        args: tuple[str, ...],
        encoding: tuple[str, str] | None,
        policies: Sequence[Policy] = (),
        gate: object = None,
    ) -> None:
        self._judges = Judges(policies, self._tell)
        self._answering = Answering(gate, self._tell)
        self.args = args
        self.pid = 0
        self.run_id = ""
        self.trace_path = ""
        self.stdin: IO[Any] | None = None
        self.stdout: IO[Any] | None = None
        self.stderr: IO[Any] | None = None
        self._link = link
        self._pipes = Pipes({}, b"")
        self._encoding = encoding
        self._news = threading.Condition()
        self._completed: Completed[Text] | None = None
        self._error: AslError | None = None
        self._over: list[Callable[[], object]] = []
        link.end_with_us()

    # -- for users -----------------------------------------------------------------------------------------------------

    def poll(self) -> int | None:
        """The ``returncode`` if the run is over, else None."""
        return None if self._completed is None else self._completed.returncode

    def wait(self, timeout: float | None = None) -> Completed[Text]:
        """The run, over. Raises ``TimeoutError`` after *timeout* seconds, and the run goes on; ``AslError`` when the
        supervisor failed.

        With ``stdout=PIPE`` somebody must read what is printed, or the child waits for that for ever.
        """
        with self._news:
            if not self._news.wait_for(self._is_over, timeout):
                raise TimeoutError(f"{self.args[0]} still runs after {timeout} s")
        return self._result()

    def send_signal(self, number: int) -> None:
        """Send the child a signal. Nothing happens when the run is over."""
        self._tell({"signal": int(number)})

    def terminate(self) -> None:
        """Send the child SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the whole tree at once."""
        self._tell({"kill": int(signal.SIGKILL)})

    def events(self) -> Iterator[TraceEntry]:
        """Every event of the run from its first, as they happen, until the run is over.

        May be called several times, each iterator sees all. They come from the trace: a slow consumer delays nobody.
        """
        from agent_safety_layer.trace.follow import follow

        looked_after_end = False

        def wait(seconds: float) -> None:
            nonlocal looked_after_end
            if looked_after_end:
                raise _NoMore
            with self._news:
                looked_after_end = self._news.wait_for(self._is_over, seconds)

        try:
            for line in follow(self.trace_path, 0, wait):
                if line.entry is not None:
                    yield line.entry
        except _NoMore:
            return

    def __enter__(self) -> Run[Text]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        self.wait()

    # -- for the supervisor --------------------------------------------------------------------------------------------

    def take(self, streams: Streams, kept: set[int], data: bytes) -> None:
        """Take our ends of the pipes: those in *kept* are fed with *data* and read here, the rest is the user's."""
        ours, streams.ours = streams.ours, {}
        self._pipes = Pipes({place: fd for place, fd in ours.items() if place in kept}, data)
        encoding, mistakes = self._encoding or ("", "")
        for place, name in enumerate(("stdin", "stdout", "stderr")):
            if place in ours and place not in kept:
                raw = os.fdopen(ours[place], "rb" if place else "wb")
                file = io.TextIOWrapper(raw, encoding, mistakes, write_through=not place) if encoding else raw
                setattr(self, name, file)

    def begin(self, request: Message, fds: tuple[int, ...]) -> None:
        """Ask for the run and wait until the child is there. Raises ``AslError`` when it does not start."""
        try:
            self._link.send(request, fds)
            while not self.trace_path:
                self._heard(self._link.receive())
                if self._error is not None:
                    raise self._error
        except BaseException:
            self.abandon()
            raise

    def finish(self) -> Completed[Text]:
        """Talk with the supervisor, feed and read the pipes, until the run is over."""
        self._pump()
        return self._result()

    def go_on_aside(self) -> None:
        """Do the same in a thread."""
        threading.Thread(target=self._pump, name=f"asl-run-{self.run_id}", daemon=True).start()

    def when_over(self, call: Callable[[], object]) -> None:
        """Have *call* called once the run is over, from whichever thread finds out."""
        with self._news:
            if not self._is_over():
                self._over.append(call)
                return
        call()

    def abandon(self) -> None:
        """End the run, and everything that was for it here."""
        self.kill()
        while not self._is_over():
            self._heard(self._link.receive())
        self._pipes.close()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    # -- what happens --------------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        return self._completed is not None or self._error is not None

    def _result(self) -> Completed[Text]:
        if self._error is not None:
            raise self._error
        assert self._completed is not None
        return self._completed

    def _tell(self, message: Message) -> None:
        with self._news:
            if not self._is_over():
                with suppress(OSError):
                    self._link.send(message)

    def _pump(self) -> None:
        poll = select.poll()
        poll.register(self._link.fileno(), select.POLLIN)
        pipes = self._pipes
        pipes.register(poll)
        ended: Message | None = None
        ready = [(self._link.fileno(), select.POLLIN)]  # something may have come along with the news of the start
        while True:
            for fd, _ in ready:
                if fd != self._link.fileno():
                    pipes.move(fd, poll)
                    continue
                messages = self._link.arrived()
                for message in messages:
                    if "asked" in message:
                        self._judges.asked(message["asked"])
                    else:
                        self._answering.heard(message)
                ended = next((each for each in messages if "ended" in each or "failed" in each), ended)
                if self._link.ended:
                    poll.unregister(fd)
            if self._link.ended and not pipes.open:  # everything of the tree is dead: their other ends are closed
                break
            ready = poll.poll()
        self._heard(ended)

    def _heard(self, message: Message | None) -> None:
        if message is not None and "started" in message:
            told = message["started"]
            self.pid, self.run_id, self.trace_path = told["pid"], told["run"], told["trace"]
            return
        if message is not None and not message.keys() & {"ended", "failed"}:
            return  # it is being ended
        with self._news:
            if message is None:
                self._error = AslError(_DIED)
            elif "failed" in message:
                self._error = rebuilt_error(message["failed"])
            else:
                out, err = self._captured(1), self._captured(2)
                self._completed = Completed(self.args, Report.of(message["ended"]["report"]), out, err)
            self._link.close()
            self._news.notify_all()
            calls, self._over = self._over, []
        for call in calls:
            call()

    def _captured(self, place: int) -> Any:
        data = self._pipes.captured.get(place)
        if data is None or self._encoding is None:
            return None if data is None else bytes(data)
        text = bytes(data).decode(*self._encoding)
        return text.replace("\r\n", "\n").replace("\r", "\n")


class _NoMore(Exception):
    """The run is over, and all of its trace has been read."""


__all__ = ["Run"]
