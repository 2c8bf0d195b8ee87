"""A headless Chromium, spoken to over a pipe in the DevTools protocol: pages as a person sees and uses them.

The fixture ``page`` (tests/conftest.py) is an empty page with cookies and storage of its own, in a browser that a
module's tests share.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import time
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_S = 120.0  # a busy machine is slow; nothing takes this long on an idle one
# Without its own sandbox: root has to, and the pages are ours. Fixed colours and scale: screenshots are alike.
_FLAGS = shlex.split("""
    --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe
    --no-first-run --disable-breakpad --disable-background-networking --disable-component-update --disable-sync
    --force-color-profile=srgb --force-device-scale-factor=1 --hide-scrollbars
""")


class Browser:
    """A running Chromium with a profile in *folder*. Raises ``OSError`` with what it said when it does not start."""

    def __init__(self, folder: str) -> None:
        if PROGRAM is None:
            raise FileNotFoundError("Chromium is not installed")
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()
        script = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
        fds = (read_commands, write_answers)
        self._profile = f"{folder}/profile"
        self._said = f"{folder}/said"
        with open(self._said, "wb") as said:
            self._process = subprocess.Popen(
                ["bash", "-c", script, "bash", *map(str, fds), PROGRAM, *_FLAGS, f"--user-data-dir={self._profile}"],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        for fd in fds:
            os.close(fd)
        self._rest = b""
        self._numbers = itertools.count(1)
        self._pages: dict[str, Page] = {}
        try:
            self.version = self.call("Browser.getVersion")["product"]
        except BaseException:
            self.close()
            raise

    def page(self) -> Page:
        """A new page that shares nothing with the others."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, context, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        return page

    def forget(self, page: Page) -> None:
        """Close a page and all that belongs to it."""
        del self._pages[page.session]
        self.call("Target.disposeBrowserContext", browserContextId=page.context)

    def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """The result of a command, to a page if *session* names one."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        while (answer := self.receive()).get("id") != number:
            pass
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def receive(self) -> dict[str, Any]:
        """The browser's next message; an event is also kept by its page."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], PATIENCE_S)
            data = os.read(self._answers, 1 << 20) if ready else b""
            if not data:
                with open(self._said, encoding="utf-8", errors="replace") as said:
                    raise OSError(f"Chromium {'ended' if ready else 'is stuck'}: {said.read()[-2000:]}")
            self._rest += data
        raw, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        page = self._pages.get(message.get("sessionId", ""))
        if "method" in message and page is not None:
            page.messages.append(message)
        return message

    def close(self) -> None:
        """End the browser. Postcondition: nothing of it runs, and its profile is gone."""
        os.close(self._commands)
        os.close(self._answers)
        self._process.kill()
        self._process.wait()
        until = time.monotonic() + 10
        try:
            while time.monotonic() < until:  # its helpers, till the last is gone and reaped
                os.killpg(self._process.pid, signal.SIGKILL)
                time.sleep(0.01)
        except ProcessLookupError:
            pass
        shutil.rmtree(self._profile, ignore_errors=True)


class Page:
    """One page. ``messages`` are the events that came since it was opened."""

    def __init__(self, browser: Browser, context: str, session: str) -> None:
        self.browser, self.context, self.session = browser, context, session
        self.messages: list[dict[str, Any]] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a DevTools command."""
        return self.browser.call(method, self.session, **params)

    def open(self, address: str) -> None:
        """Open a URL or a file and wait until it is loaded."""
        self.messages.clear()
        self.call("Page.navigate", url=address if "://" in address else f"file://{address}")
        while not self.of("Page.loadEventFired"):
            self.browser.receive()

    def of(self, method: str) -> list[dict[str, Any]]:
        """The events of this name that came since the page was opened."""
        return [message["params"] for message in self.messages if message["method"] == method]

    def complaints(self) -> list[str]:
        """Exceptions, errors and refusals (of the content security policy, say) that the browser noted."""
        self.value("0")  # whatever it noted before this has come by now
        thrown = [str(one["exceptionDetails"]) for one in self.of("Runtime.exceptionThrown")]
        return thrown + [one["entry"]["text"] for one in self.of("Log.entryAdded")]

    def value(self, expression: str) -> Any:
        """What the JavaScript expression is, promises waited for."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """The JavaScript expression's first true value."""
        until = time.monotonic() + PATIENCE_S
        while not (found := self.value(expression)):
            assert time.monotonic() < until, f"never true: {expression}"
            self.value("new Promise((done) => setTimeout(done, 20))")
        return found

    def text(self, selector: str) -> str:
        """The visible text of the first element that the selector finds."""
        found: str = self.value(f"document.querySelector({json.dumps(selector)}).innerText")
        return found

    def click(self, selector: str) -> None:
        """Click, with the mouse, in the middle of the first element that the selector finds."""
        found = json.dumps(selector)
        # What has just been shown or moved is where a click looks for it only once it has been painted.
        x, y = self.wait(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {"
            f" const one = document.querySelector({found});"
            " one.scrollIntoView({block: 'center', behavior: 'instant'}); const box = one.getBoundingClientRect();"
            " const x = box.x + box.width / 2, y = box.y + box.height / 2;"
            " done(one.contains(document.elementFromPoint(x, y)) && [x, y]); })))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, text: str = "") -> None:
        """Press and release a key: ``"ArrowDown"``, ``"Tab"``, or ``"a", "a"`` for one that types something."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, " ": 32, "ArrowDown": 40, "ArrowUp": 38, "End": 35, "Home": 36}
        text = text or {"Enter": "\r", " ": " "}.get(key, "")
        code = {"windowsVirtualKeyCode": codes[key]} if key in codes else {}
        typed = {"text": text} if text else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **code, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, **code)

    def type(self, text: str) -> None:
        """Insert text where the focus is."""
        self.call("Input.insertText", text=text)

    def look(self, width: int = 1280, height: int = 900, *, scheme: str = "light", media: str = "") -> None:
        """Give the window a size, and the person a preference for ``light`` or ``dark``; ``media`` may be ``print``."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        preference = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=preference)

    def screenshot(self, path: str | os.PathLike[str], *, whole: bool = False) -> None:
        """Write what is seen, or the whole page, as PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def close(self) -> None:
        """Close it."""
        self.browser.forget(self)
