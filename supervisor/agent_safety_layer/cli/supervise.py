"""``asl-supervise``: reads the command line (``words``) and runs a session.

What is imported before ``bytecode.start`` is found file by file, so that is next to nothing.
"""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main(without: frozenset[str] = frozenset()) -> None:
    """The command. Exits with the child's status, or dies by the signal that ended it. Never returns."""
    gc.disable()  # until the child runs: a start makes many objects and no garbage
    import asl_hooks  # noqa: F401  # of several copies this one, before any is found in the file
    from agent_safety_layer import bytecode

    kept = bytecode.file()
    imports = bytecode.start(kept)
    from agent_safety_layer.cli.words import Stop, parse
    from agent_safety_layer.errors import AslError

    try:
        settings = parse(sys.argv[1:])
        if without:
            from asl_hooks.value import replace

            settings = replace(settings, without=without)
        from agent_safety_layer.session import Session

        ending = Session(settings).run()
        if imports is not None:
            bytecode.keep(kept, imports)
    except Stop as stop:
        try:
            if sys.stdout is not None:
                sys.stdout.write(str(stop))
                sys.stdout.flush()
        except OSError:  # whoever reads it has had enough, or the disk is full
            os._exit(1)
        sys.exit(0)
    except AslError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        os._exit(130)
    except OSError as error:  # this machine has no descriptors, processes or memory left for us
        named = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        _fail(f"{named}{error.strerror or error}")
    except Exception as error:
        if sys.stderr is not None:
            sys.excepthook(*sys.exc_info())
        _fail(f"Internal error: {type(error).__name__}. This is a bug in agent-safety-layer; please report it.")
    if ending.outcome == "signaled" and ending.signal:
        _die_by(ending.signal)
    os._exit(ending.exit_code)  # nothing is left to tear down; the interpreter's own end costs milliseconds


def _fail(message: str, status: int = 125) -> NoReturn:
    if sys.stderr is not None:  # the caller may have closed it
        sys.stderr.write(f"asl-supervise: {message}\n")
        sys.stderr.flush()
    os._exit(status)


def _die_by(number: int) -> None:
    """End this process as the child ended, so that whoever waits sees the same."""
    import _signal
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in (_signal.SIGKILL, _signal.SIGSTOP):
        _signal.signal(number, _signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # a signal that does not end by default


if __name__ == "__main__":
    main()
