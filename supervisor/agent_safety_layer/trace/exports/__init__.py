"""A trace in other programs' formats: one module each, with ``export(reader, out)`` that writes text.

    csv       a table, one event a row                         spreadsheets, pandas
    strace    text like that of ``strace -f -ttt -T``          what reads strace
    chrome    Chrome's trace event format                      ui.perfetto.dev, chrome://tracing
    sarif     SARIF 2.1.0: what was denied                     CI annotations
    ocsf      OCSF 1.6 events, one JSON object a line          SIEMs
    otel      spans and logs over OTLP (extra)                  collectors; ``send`` instead of ``export``

To add one: a module here and a line in ``FORMATS``. Names in a trace are hostile text: each format escapes them its own
way, and a test feeds it the worst.
"""

from __future__ import annotations

FORMATS = {
    "csv": "a table, one event a row",
    "strace": "text like that of strace -f -ttt -T",
    "chrome": "Chrome's trace events: open it in ui.perfetto.dev",
    "sarif": "SARIF 2.1.0: what was denied, for CI",
    "ocsf": "OCSF 1.6 events, one JSON object a line",
}
