"""A headless Chromium, spoken to over a pipe in the DevTools protocol: a page as a person sees and uses it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page. ``messages`` are the events that the browser sent so far."""

    def __init__(self, folder: str) -> None:
        assert PROGRAM is not None
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
        script = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
        fds = (read_commands, write_answers)
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *map(str, fds), PROGRAM, *flags, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=fds,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in fds:
            os.close(fd)
        self._rest = b""
        self._count = 0
        self._session = ""
        self.messages: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._answers, 1 << 20)
            assert data, "the browser is gone"
            self._rest += data
        raw, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        if "method" in message:
            self.messages.append(message)
        return message

    def open(self, path: str) -> None:
        """Open a file and wait until it is loaded."""
        self.messages.clear()
        self.call("Page.navigate", url=f"file://{path}")
        while not any(message["method"] == "Page.loadEventFired" for message in self.messages):
            self._receive()

    def value(self, expression: str) -> Any:
        """What the JavaScript expression is, promises waited for."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **({"text": text} if text else {}))

    def of(self, method: str) -> list[dict[str, Any]]:
        """The events of this name that came since the page was opened."""
        return [message["params"] for message in self.messages if message["method"] == method]

    def close(self) -> None:
        """End the browser."""
        os.close(self._commands)
        os.close(self._answers)
        self._process.kill()
        self._process.wait()
