"""A run as one HTML page that needs nothing else: no network, no server, no second file.

    digest      what the page shows, collected from a trace in one pass
    html        the page: the verdict as plain HTML, the rest as data for page.js
    page.css page.js

Everything that came from the run is hostile text. It is made visible (``terminal.visible``), escaped where it stands in
HTML, and put into the page by ``textContent`` only; a content security policy allows this script and this style and
nothing else.
"""
