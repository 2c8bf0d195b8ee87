"""The words of ``asl-supervise``: its options as a table, so that help, parsing and completion cannot disagree.

Options end at the first word that is not one. click parses ``asl``; here its import would double the time to the
child's first instruction.
"""

from __future__ import annotations

from agent_safety_layer.errors import UsageError
from agent_safety_layer.session import Settings
from asl_hooks.value import value


@value
class Option:
    """One option. ``sets`` says where its value goes: a field of ``Settings``, or a key of the policy
    (``files.read``)."""

    flags: tuple[str, ...]
    metavar: str
    sets: str
    help: str
    choices: tuple[str, ...] = ()


APPROVERS = ("tty", "queue", "postgresql://...", "deny")
OPTIONS = (
    Option(("-p", "--policy"), "NAME|FILE", "policies", "policy or built-in profile; repeatable, each is a layer"),
    Option(("--observe",), "", "observe", "block nothing, record everything"),
    Option(("--allow-read",), "PATH", "files.read", "may be read"),
    Option(("--allow-write",), "PATH", "files.write", "may be read and changed"),
    Option(("--block-path",), "GLOB", "files.block", "may be neither read nor changed"),
    Option(("--allow-host",), "HOST[:PORT]", "network.allow", "may be connected to"),
    Option(("--block-host",), "HOST[:PORT]", "network.block", "may not be connected to"),
    Option(("--timeout",), "DUR", "limits.wall_time", "end the run after this time (90s, 10m, 1h)"),
    Option(("--cpu-time",), "DUR", "limits.cpu_time", "CPU time of the whole tree"),
    Option(("--memory",), "SIZE", "limits.memory", "memory of the whole tree (512MiB, 2GiB)"),
    Option(("--max-processes",), "N", "limits.processes", "processes alive at once"),
    Option(("--max-open-files",), "N", "limits.open_files", "open files of each process"),
    Option(("--max-file-size",), "SIZE", "limits.file_size", "size of a file that is written"),
    Option(("--approve",), "HOW", "approve", "who answers what the policy asks (deny: nobody)", APPROVERS),
    Option(("-o", "--trace"), "PATH", "trace", "where the trace goes"),
    Option(("--trace-split",), "SIZE|DUR", "trace_split", "go on in another file when one is so large, or so old"),
    Option(("--report",), "FILE.json", "report", "write the result as JSON"),
    Option(("--name",), "NAME", "name", "a name for the run, in the trace and the report"),
    Option(("--backend",), "NAME", "backend", "how calls are intercepted", ("auto", "notify", "ptrace")),
    Option(("--best-effort",), "", "best_effort", "start even if a part of the policy cannot be enforced here"),
    Option(("-q", "--quiet"), "", "verbosity-", "print nothing but errors"),
    Option(("-v", "--verbose"), "", "verbosity+", "also print counts; on a terminal, how the run is going"),
    Option(("--color",), "WHEN", "colour", "colours on stderr", ("auto", "always", "never")),
    Option(("-h", "--help"), "", "help", "print this and exit"),
    Option(("--version",), "", "version", "print the version and exit"),
)
_BY_FLAG = {flag: option for option in OPTIONS for flag in option.flags}
_LISTS = ("policies",)
USAGE = "Usage: asl-supervise [OPTIONS] [--] COMMAND [ARG]..."


def help_text() -> str:
    """What ``asl-supervise --help`` prints."""
    lines = [
        USAGE,
        "",
        "Run COMMAND, and everything it starts, under a policy that the kernel enforces.",
        "",
    ]
    for option in OPTIONS:
        left = ", ".join(option.flags) + (f" {'|'.join(option.choices) or option.metavar}" if option.metavar else "")
        lines.append(f"  {left:<28} {option.help}" if len(left) <= 28 else f"  {left}\n{'':31}{option.help}")
    lines += [
        "",
        "Without -p the profile `workspace` holds: read all but secrets, write the working directory and a",
        "private temporary folder, no network but --allow-host. `asl policy show workspace` prints it.",
        "Exit status: the command's own; 124 time limit, 125 not started, 126 not allowed, 127 not found, 137 memory.",
    ]
    return "\n".join(lines) + "\n"


class Stop(Exception):
    """Something to print instead of a run."""


def parse(words: list[str]) -> Settings:
    """The settings that a command line asks for. ``UsageError`` names the word that makes no sense."""
    fields: dict[str, object] = {}
    extra: dict[str, dict[str, object]] = {}
    at = 0
    taken = ""  # the last word, as an option's value
    verbosity = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            at += 1
            break
        if not word.startswith("-") or word == "-":
            break
        at += 1
        taken = ""
        flag, equals, given = word.partition("=") if word.startswith("--") else (word[:2], word[2:], word[2:])
        option = _BY_FLAG.get(flag)
        if option is None:
            raise UsageError(f"No such option: {flag}.", remedy=_did_you_mean(flag))
        if option.metavar:
            if not equals:
                if at >= len(words):
                    raise UsageError(f"{flag} needs a value: {flag} {option.metavar}.")
                given = words[at]
                at += 1
                taken = f": {given!r} was taken for the value of {flag}"
        elif equals:
            if word.startswith("--"):
                raise UsageError(f"{flag} takes no value; found {given!r}.")
            words.insert(at, "-" + given)  # -qv is -q -v
        shared = option.choices is APPROVERS and given.startswith("postgresql://")
        if option.choices and given not in option.choices and not shared:
            raise UsageError(f"{flag} is one of {', '.join(option.choices)}; found {given!r}.")
        if option.sets in ("help", "version"):
            raise Stop(help_text() if option.sets == "help" else f"asl-supervise {_version()}\n")
        if option.sets in ("verbosity+", "verbosity-"):
            verbosity += 1 if option.sets.endswith("+") else -1
        elif option.sets in _LISTS:
            fields[option.sets] = (*fields.get(option.sets, ()), given)  # type: ignore[misc]
        elif "." in option.sets:
            section, key = option.sets.split(".")
            if section == "limits":
                extra.setdefault(section, {})[key] = given
            else:
                extra.setdefault(section, {}).setdefault(key, []).append(given)  # type: ignore[attr-defined]
        else:
            fields[option.sets] = given if option.metavar else True
    if at >= len(words):
        raise UsageError(f"No command to run{taken}.", remedy=USAGE)
    joined = tuple((section, tuple(entries.items())) for section, entries in extra.items())
    return Settings(command=tuple(words[at:]), extra=joined, verbosity=verbosity, **fields)  # type: ignore[arg-type]


def _did_you_mean(flag: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(flag, _BY_FLAG, 1)
    hint = f"Did you mean {close[0]}? " if close else ""
    return f"{hint}See asl-supervise --help; options end at the first word that is not one."


def _version() -> str:
    from agent_safety_layer import __version__

    return __version__
