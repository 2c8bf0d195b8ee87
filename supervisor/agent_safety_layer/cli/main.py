"""``asl``: what there is to do before and after runs. A subcommand's module is imported when it is used."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click

from agent_safety_layer.errors import AslError
from agent_safety_layer.terminal import visible

if TYPE_CHECKING:
    from io import TextIOWrapper
    from typing import Any

# Name, module below this package, help in one line. The module holds a command of the same name.
COMMANDS = {
    "approvals": ("approvals", "Answer what runs ask: list, watch, approve, deny, or serve a web page."),
    "completion": ("completion", "Print a script that completes asl and asl-supervise in a shell."),
    "doctor": ("doctor", "Say what this machine can enforce, and what to do about the rest."),
    "policy": ("policy", "Check, show, explain, test, learn and compare policies."),
    "replay": ("replay", "Decide a recorded run again, under its own policy or others."),
    "report": ("report", "Make one self-contained HTML page of a run."),
    "top": ("top", "List what runs under supervision now."),
    "trace": ("trace", "List, show, query, follow, count, verify, export and keep traces."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in order."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported; None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"agent_safety_layer.cli.{COMMANDS[cmd_name][0]}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, said) in sorted(COMMANDS.items())])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="agent-safety-layer", prog_name="asl", message="%(prog)s %(version)s")
def cli() -> None:
    """Policies, traces and this machine. Runs are started with asl-supervise."""


def main(args: list[str] | None = None) -> Any:
    """Run the command and exit. Errors go to stderr with their remedy; their exit status is 125, that of usage 2."""
    stream: TextIOWrapper = sys.stdout  # type: ignore[assignment]
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")  # a locale without UTF-8 is no reason to fail
    try:
        try:
            cli.main(args=args, prog_name="asl")
        finally:
            if stream is not None:
                stream.flush()  # while it can still be told that it fails
    except AslError as error:
        message = "\n".join(visible(line) for line in str(error).splitlines())
        click.echo(f"asl: {message}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder that is not ours, no descriptors left
        if stream is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)  # for what it still holds
        if error.errno == errno.EPIPE:  # whoever reads has had enough
            sys.exit(1)
        named = f"{visible(os.fsdecode(error.filename))}: " if error.filename else ""
        click.echo(f"asl: {named}{error.strerror or error}", err=True)
        sys.exit(125)


if __name__ == "__main__":
    main()
