"""A trace in other programs' formats: one module each, with ``export(reader, out)``.

    csv       a table, one event a row

To add one: a module here with an ``export`` that writes what it is given to a text stream, and a line in ``FORMATS``.
"""

from __future__ import annotations

FORMATS = {"csv": "a table, one event a row"}
