"""``asl completion``: scripts by which shells complete the commands' words."""

from __future__ import annotations

import click

from agent_safety_layer.cli.words import OPTIONS, Option

_BASH = """
_asl_supervise() {
    local at=1 word ended=
    while [ "$at" -lt "$COMP_CWORD" ]; do
        word=${COMP_WORDS[at]}
        case $word in
            --) at=$((at + 1)); ended=yes; break ;;
            %(taking)s) at=$((at + 2)) ;;
            -*) at=$((at + 1)) ;;
            *) break ;;
        esac
    done
    word=${COMP_WORDS[COMP_CWORD]}
    if [ "$at" -gt "$COMP_CWORD" ]; then  # an option's value; where nothing is found here, the name of a file
        case ${COMP_WORDS[COMP_CWORD - 1]} in
%(values)s
        esac
    elif [ "$at" -lt "$COMP_CWORD" ]; then
        declare -F _command_offset >/dev/null && _command_offset "$at"
    elif [[ -z $ended && $word == -* ]]; then
        COMPREPLY=($(compgen -W '%(flags)s' -- "$word"))
    else
        COMPREPLY=($(compgen -c -- "$word"))
    fi
}
complete -o default -F _asl_supervise asl-supervise
"""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes asl and asl-supervise in a shell.

    \b
    bash: eval "$(asl completion bash)"          in ~/.bashrc
    zsh:  eval "$(asl completion zsh)"           in ~/.zshrc, after compinit
    fish: asl completion fish | source           in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    from agent_safety_layer.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None
    script = found(cli, {}, "asl", "_ASL_COMPLETE")
    click.echo(script.source_template % script.source_vars())
    click.echo({"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]())


def _bash() -> str:
    taking = "|".join(flag for option in OPTIONS if option.metavar for flag in option.flags)
    flags = " ".join(flag for option in OPTIONS for flag in option.flags)
    found = "COMPREPLY=($(compgen -W '%s' -- \"$word\")%s) ;;"
    values = [
        " " * 12 + "|".join(option.flags) + ") " + found % (words, ' $(compgen -f -- "$word")' * (not option.choices))
        for option in OPTIONS
        if (words := _words(option))
    ]
    return _BASH % {"taking": taking, "flags": flags, "values": "\n".join(values)}


def _words(option: Option) -> str:
    """What the option's value can be, as far as that can be listed."""
    from agent_safety_layer.policy import PROFILES

    return " ".join(PROFILES if option.sets == "policies" else (c for c in option.choices if "..." not in c))


def _zsh() -> str:
    lines = []
    for option in OPTIONS:
        said = option.help.replace("[", "(").replace("]", ")").replace("'", "").replace(":", ",")
        value = f":{option.metavar}:{_zsh_values(option)}" if option.metavar else ""
        value = value.replace("[", "").replace("]", "")
        lines += [f"    '*{flag}[{said}]{value}' \\" for flag in option.flags]
    lines = ["_asl_supervise() {", "  _arguments -S -A '-*' \\", *lines, "    '*::command:_normal'", "}"]
    return "\n".join([*lines, "compdef _asl_supervise asl-supervise", ""])


def _zsh_values(option: Option) -> str:
    return f"({_words(option)})" if option.choices else "_files"


def _fish() -> str:
    lines = ["complete -c asl-supervise -x -a '(__fish_complete_subcommand)'"]
    for option in OPTIONS:
        names = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
        words = _words(option)
        takes = f" {'-x' if option.choices else '-r'} -a '{words}'" if words else " -r" if option.metavar else ""
        lines.append(f"complete -c asl-supervise {names}{takes} -d '{option.help.replace(chr(39), '')}'")
    return "\n".join(lines) + "\n"
