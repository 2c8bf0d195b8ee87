"""The record of a run: one append-only file of JSON lines, and everything that reads and writes it.

    encode    an event as bytes                       hot
    redact    what of an argv must not be recorded    hot
    header    the first line's fields                 hot
    writer    the file: batches, checkpoints, footer  hot
    reader    lines back into values                  cold
    verify    intact, truncated, or changed, and where
    query     which events, and how many of what          follow    a trace that is still being written
    stats     the counts of a whole trace                 sql       tables for DuckDB
    show      lines for people
    replay    decided again, under the recorded policy or others
    page      a run as one HTML page
    files     plain or compressed                         retention which are kept, and compressed
    parts     the files of a trace that was split
    signing   Ed25519 over checkpoints and footer         exports   other programs' formats
    runs      past runs in the state folder

Hot modules run with every ``asl-supervise`` and import next to nothing; cold ones use msgspec.

A trace's lines, by ``type``:

    header      schema, run, command, policy, machine, backend, what is and is not enforced
    event       seq, time, us, what happened, decision, effective when it differs from the decision, result
    checkpoint  events and bytes so far; per line since the last one a CRC-32 (finds the line); SHA-256 (proves)
    footer      a checkpoint that also holds the totals; nothing follows it

``sha256`` covers every byte of the file before its own value, the start of its own line included. With a key, a
``signature`` (Ed25519, of the digest) follows it.
"""
