"""The commands: ``supervise`` is ``asl-supervise``; ``main`` is ``asl``, whose subcommands are a module each."""
