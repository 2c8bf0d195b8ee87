"""``asl approvals``: what runs ask, and how to answer from anywhere but the run's own terminal."""

from __future__ import annotations

import os
import select
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from agent_safety_layer.approvals.question import ALWAYS, ONCE, SCOPES, Answered, lines, object_line, user, verdict
from agent_safety_layer.approvals.queues import OWN, open_queue
from agent_safety_layer.cli.options import AS_JSON
from agent_safety_layer.errors import AslError, UsageError
from agent_safety_layer.terminal import visible

if TYPE_CHECKING:
    from agent_safety_layer.approval import ApprovalRequest
    from agent_safety_layer.approvals.stored import StoredQueue

QUEUE = click.option(
    "--queue",
    "how",
    metavar="queue|URL",
    default=OWN,
    show_default=True,
    help="Which queue: your own, or a shared one.",
)
NAMES = click.argument("names", metavar="ID...", nargs=-1, required=True)


@click.group()
def approvals() -> None:
    """Answer what runs ask that were started with --approve queue or --approve postgresql://..."""


@approvals.command("list")
@QUEUE
@AS_JSON
@click.option("--all", "everything", is_flag=True, help="Those that were settled, too.")
def list_(how: str, as_json: bool, everything: bool) -> None:
    """List the questions that wait for an answer."""
    queue = open_queue(how)
    pending = queue.get_pending()
    settled = queue.history() if everything else []
    queue.close()
    if as_json:
        import json

        click.echo(json.dumps([request.to_dict() for request in (*pending, *settled)], indent=2))
        return
    if not pending and not settled:
        click.echo("Nothing is asked.")
    for request in pending:
        click.echo(f"{request.id}  {_left(request)} left")
        _show(request)
    for request in settled:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(request.responded_at or request.requested_at))
        what = visible(f"{request.operation} {object_line(request)}", 120)
        click.echo(f"{request.id}  {when}  {what}: {visible(verdict(request), 200)}")


@approvals.command()
@QUEUE
@NAMES
@click.option("--scope", type=click.Choice(SCOPES), default=ONCE, show_default=True, help="How far the answer goes.")
@click.option("-m", "--message", help="A word with it, for the record.")
@click.option("--yes", is_flag=True, help="Do not show the line that `always` writes before writing it.")
def approve(how: str, names: tuple[str, ...], scope: str, message: str | None, yes: bool) -> None:
    """Say yes. An ID may be cut short as long as it is clear which is meant."""
    queue = open_queue(how)
    for request in _pending(queue, names):
        if scope not in request.metadata.get("scopes", [ONCE]):
            raise UsageError(
                f"{request.id} cannot be approved for {scope!r}.", remedy=f"It can be: {_offered(request)}."
            )
        if scope == ALWAYS and not yes:
            written = request.metadata["always"]
            click.echo(f"This line is added to {visible(written['file'])}:\n  {visible(written['line'])}")
            if not click.confirm("Write it?"):
                raise SystemExit(1)
        _answer(queue, Answered(request.id, True, _me(), message, scope))
    queue.close()


@approvals.command()
@QUEUE
@NAMES
@click.option("-m", "--message", help="Why; the agent is told.")
@click.option(
    "--scope", type=click.Choice(SCOPES[:3]), default=ONCE, show_default=True, help="How far the answer goes."
)
def deny(how: str, names: tuple[str, ...], message: str | None, scope: str) -> None:
    """Say no."""
    queue = open_queue(how)
    for request in _pending(queue, names):
        _answer(queue, Answered(request.id, False, _me(), message, scope))
    queue.close()


@approvals.command()
@QUEUE
def watch(how: str) -> None:
    """Show questions as they come, and answer them with a key when this is a terminal. Ctrl-C ends it."""
    queue = open_queue(how)
    try:
        if sys.stdin.isatty() and sys.stdout.isatty():
            _answer_here(queue)
        else:
            _follow(queue)
    except KeyboardInterrupt:
        pass
    finally:
        queue.close()


@approvals.command()
@QUEUE
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Which port; a free one when not given.")
@click.option("--webhook", "hooks", metavar="URL", multiple=True, help="Tell this address of questions and answers.")
@click.option("--webhook-key", "key", metavar="FILE", help="The key that webhooks are signed with, at least 32 bytes.")
def serve(how: str, port: int, hooks: tuple[str, ...], key: str | None) -> None:
    """Serve a page on loopback that shows questions as they come and takes answers. Ctrl-C ends it."""
    from agent_safety_layer.approvals.serve import run

    run(open_queue(how), port, hooks, key)


def _me() -> str:
    return f"{user()}@{os.uname().nodename}"


def _left(request: ApprovalRequest) -> str:
    left = int(request.time_remaining)
    return f"{left // 60}:{left % 60:02d}"


def _offered(request: ApprovalRequest) -> str:
    return ", ".join(request.metadata.get("scopes", [ONCE]))


def _show(request: ApprovalRequest) -> None:
    for label, text in lines(request):
        click.echo(f"  {label:<7}{text}")
    click.echo(f"  {'scopes':<7}{_offered(request)}")


def _pending(queue: StoredQueue, names: tuple[str, ...]) -> list[ApprovalRequest]:
    """The request that each of the names means."""
    found = []
    for name in names:
        meant = queue.find(name) if name else []
        if not meant:
            raise UsageError(f"There is no request {name!r}.", remedy="See asl approvals list.")
        if len(meant) > 1:
            raise UsageError(
                f"{name!r} can mean {', '.join(request.id for request in meant)}.", remedy="Write more of it."
            )
        found += meant
    return found


def _answer(queue: StoredQueue, answer: Answered) -> None:
    if not queue.respond(answer):
        now = queue.get_request(answer.request_id)
        raise AslError(f"{answer.request_id} is no longer open: {verdict(now) if now else 'it is not known'}.")
    now = queue.get_request(answer.request_id)
    if now is not None:
        click.echo(f"{now.id} {visible(verdict(now))}")


def _follow(queue: StoredQueue) -> None:
    known: dict[str, Any] = {}
    while True:
        queue.hush()
        pending = {request.id: request for request in queue.get_pending()}
        for name, request in pending.items():
            if name not in known:
                click.echo(f"{name}  {_left(request)} left")
                _show(request)
        for name in known:
            if name not in pending and (now := queue.get_request(name)) is not None:
                click.echo(f"{name}  {visible(verdict(now))}")
        known = pending
        _wait(queue, pending)


def _wait(queue: StoredQueue, pending: dict[str, ApprovalRequest]) -> None:
    poll = select.poll()
    poll.register(queue.fileno(), select.POLLIN)
    soonest = min((request.time_remaining for request in pending.values()), default=60.0)
    poll.poll(min(soonest, 60.0) * 1000 + 10)


def _answer_here(queue: StoredQueue) -> None:
    """One question after the other, on this terminal."""
    from agent_safety_layer.approvals.prompt import Interrupt, Prompt

    click.echo("Waiting for questions. Ctrl-C ends this.")
    with open("/dev/tty", "r+b", buffering=0) as tty:
        prompt = Prompt(tty.fileno(), _me(), wake=queue.fileno(), hush=queue.hush)
        while True:
            queue.hush()
            pending = queue.get_pending()
            if not pending:
                _wait(queue, {})
                continue
            asked = pending[0]

            def is_open(name: str = asked.id) -> bool:
                now = queue.get_request(name)
                return now is not None and now.is_pending

            try:
                answer = prompt.put(asked, is_open)
            except Interrupt:
                raise KeyboardInterrupt from None
            if answer is not None and not queue.respond(answer):
                click.echo("asl: somebody else was faster, or it was too late")
