"""Run AI agents under a policy that the kernel enforces.

    events, errors   what flows, and what can go wrong          policy/   the policy file, decisions, the plan for the kernel
    session          one supervised run, start to report        engine/   the run loop: calls in, answers out
    trace/           the record: written, read, verified        egress/   names and connections of a tree without a network
    tally, report, summary, denials, doctor                     cli/      asl-supervise and asl

``asl_hooks`` does what touches the kernel and knows no policy; this package imports it, never the reverse.
"""
