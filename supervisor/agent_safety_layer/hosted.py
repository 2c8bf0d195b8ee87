"""A session that another program hosts: its settings come over a link, and so does every word about it.

    program → run   settings and descriptors · signal · kill · said · settled
    run → program   ready · started · asked · request · withdrawn · ended, or failed

The program's end of the link closing is its death: the tree is ended.
"""

from __future__ import annotations

import os
import sys
from itertools import count
from typing import TYPE_CHECKING, Any

from agent_safety_layer.errors import AslError, InternalError
from agent_safety_layer.events import Decision
from agent_safety_layer.link import plain_error
from agent_safety_layer.policy.model import Policy
from agent_safety_layer.policy.plain import rebuilt
from agent_safety_layer.session import Session, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_safety_layer.approvals.approver import Approver
    from agent_safety_layer.approvals.linked import Linked
    from agent_safety_layer.engine.loop import Engine
    from agent_safety_layer.events import Event
    from agent_safety_layer.link import Link, Message
    from agent_safety_layer.policy.remembered import Plans
    from agent_safety_layer.terminal import Stderr
    from agent_safety_layer.tree import Tree


class Hosted:
    """The host of a session, at the other end of a link. See ``session.Host`` for what it may be given."""

    def __init__(
        self,
        link: Link,
        span: str = "",
        call: Callable[[], int] | None = None,
        keep: tuple[int, ...] = (),
        plans: Plans | None = None,
        place: str = "",
    ) -> None:
        self.span = span
        self.call = call
        self.keep = keep
        self.plans = plans
        self.place = place
        self._link = link
        self._tree: Tree | None = None
        self._policies = Elsewhere(link)
        self._questions: Linked | None = None

    def begins(self, session: Session, engine: Engine, tree: Tree, pid: int) -> None:
        """Tell the program what it started, and listen to it from now on."""
        self._tree = tree
        for fd in self.keep:
            os.close(fd)  # the child has it
        try:
            self._link.send({"started": {"pid": pid, "run": session.run_id, "trace": session.trace_path}})
        except BrokenPipeError:
            pass  # the program died, which the loop is about to hear
        engine.watch(self._link.fileno(), lambda: self._hear(engine))

    def approver(self, state_dir: str, stderr: Stderr) -> Approver:
        """The program's gate."""
        from agent_safety_layer.approvals.linked import ByProgram, Linked

        self._questions = Linked(self._link)
        return ByProgram(self._questions, state_dir, stderr)

    def custom(self) -> Elsewhere:
        """The program's Python policies."""
        return self._policies

    def _hear(self, engine: Engine) -> None:
        tree = self._tree
        assert tree is not None
        for message in self._link.arrived():
            if "signal" in message:
                tree.signal(int(message["signal"]))
            elif "kill" in message:
                tree.kill(int(message["kill"]))
            elif "said" in message:
                self._policies.said(message["said"])
            elif "settled" in message and self._questions is not None:
                self._questions.answered(message["settled"])
        if self._link.ended:
            engine.unwatch(self._link.fileno())
            tree.kill(9)


class Elsewhere:
    """Python policies at the other end of a link. Questions that are open when the program dies stay open: the tree is
    ended then.
    """

    def __init__(self, link: Link) -> None:
        self.binding = True
        self._link = link
        self._numbers = count()
        self._open: dict[int, Callable[[Decision | None], None]] = {}

    def ask(self, events: tuple[Event, ...], said: Callable[[Decision | None], None]) -> None:
        """Put a question."""
        number = next(self._numbers)
        self._open[number] = said
        plain: list[tuple[Any, ...]] = [*events]  # type: ignore[list-item]  # every value is a tuple
        try:
            self._link.send({"asked": {"number": number, "events": plain}})
        except OSError:
            pass  # the program died, which the loop is about to hear

    def said(self, answer: Message) -> None:
        """Hand an answer on."""
        decision = answer["decision"]
        self._open.pop(answer["number"])(None if decision is None else Decision(*decision))


def serve(link: Link) -> None:
    """Run what the other side asks for, tell it how that ended, and exit. Never returns."""
    try:
        link.send({"ready": os.getpid()})
        message = link.receive()
        if message is None:
            os._exit(0)
        _settle_in(message, link)
        settings, host = _settings(message), Hosted(link)
        run(link, Session(settings, host), host)
    except AslError as error:
        _fail(link, error)
    finally:
        os._exit(0)


def run(link: Link, session: Session, host: Hosted) -> None:
    """Run the session of *host*, tell the other side how that ended, and exit. Never returns."""
    try:
        host.custom().binding = not session.settings.observe
        session.run()
        link.send({"ended": {"report": session.result}})
    except AslError as error:
        _fail(link, error)
    except BrokenPipeError:
        pass  # the program died, and with it the run
    except BaseException as error:
        import traceback

        traceback.print_exc()
        _fail(link, InternalError(f"{type(error).__name__} around the run"))
    finally:
        os._exit(0)


def _settle_in(message: Message, link: Link) -> None:
    """Be where the program is: its folder, its environment, the descriptors that the child shall have."""
    fds, link.fds = link.fds, []
    places = message["places"]
    for place in (0, 1, 2):
        if place not in places:
            os.close(place)
    for fd, place in zip(fds, places, strict=True):
        os.dup2(fd, place)
        os.close(fd)
    sys.stdin = sys.stdout = None
    os.umask(message["umask"])
    os.environ.clear()
    os.environ.update(message["own_environment"])
    try:
        os.chdir(message["cwd"])
    except OSError as error:
        raise AslError(f"Cannot run in {message['cwd']}: {error.strerror}.") from None


def _settings(message: Message) -> Settings:
    plain: dict[str, Any] = message["settings"]
    fields: dict[str, Any] = {key: tuple(of) if isinstance(of, list) else of for key, of in plain.items()}
    layers = rebuilt(message["layers"]).layers
    environment = message["environment"]
    return Settings(
        **fields,
        extra=tuple((section, tuple(entries.items())) for section, entries in message["extra"].items()),
        given=Policy(layers, tuple((str(file), str(digest)) for file, digest in message["sources"])),
        environment=None if environment is None else tuple(environment.items()),
        without=frozenset(message["without"]),
    )


def _fail(link: Link, error: AslError) -> None:
    try:
        link.send({"failed": plain_error(error)})
    except OSError:
        pass


__all__ = ["serve"]
