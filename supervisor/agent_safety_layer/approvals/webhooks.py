"""Webhooks: questions and what came of them go out, answers come in, each signed with a shared key.

    X-ASL-Timestamp: 1700000000
    X-ASL-Signature: v1=HEX    HMAC-SHA-256 of "TIMESTAMP.BODY"

What goes out is ``{"type": "asked" | "settled", "text": one line, "request": {...}}``: chat tools show the ``text``.
What comes in is ``{"id", "approved", "responder", "scope", "message"}``. A signature is good for five minutes, and for
one message.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import queue
import stat
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from agent_safety_layer.approvals.question import cut, object_line, verdict
from agent_safety_layer.errors import AslError, UsageError
from agent_safety_layer.terminal import visible

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from http.client import HTTPMessage
    from typing import IO

    from agent_safety_layer.approval import ApprovalRequest

GOOD_S = 300.0
_TRIES = (0.0, 1.0, 5.0, 25.0)
_TIMEOUT_S = 10.0
_SHORTEST_KEY = 32
_MOST = 1000


def read_key(path: str) -> bytes:
    """The key in a file that only its owner can read. ``AslError`` when it is none."""
    try:
        with open(path, "rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise AslError(f"Others can read the key in {path}.", remedy=f"chmod 600 {path}")
            key = file.read(4096).strip()
    except OSError as error:
        raise AslError(f"Cannot read the key in {path}: {error.strerror}.") from error
    if len(key) < _SHORTEST_KEY:
        raise AslError(
            f"The key in {path} is shorter than {_SHORTEST_KEY} bytes.", remedy="openssl rand -hex 32 makes one."
        )
    return key


def signature(key: bytes, stamp: str, body: bytes) -> str:
    """The signature of a message."""
    return "v1=" + hmac.new(key, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def verified(key: bytes, stamp: str, given: str, body: bytes, spent: MutableMapping[str, tuple[float, object]]) -> bool:
    """Whether the message is signed with *key*, of now, and new: *spent* remembers the signatures that were used."""
    if not stamp.isascii() or not stamp.isdigit() or len(stamp) > 12:
        return False
    now = time.time()
    good = signature(key, stamp, body)
    if not hmac.compare_digest(good.encode(), given.encode("utf-8", "replace")) or abs(now - int(stamp)) > GOOD_S:
        return False
    for old in [name for name, (until, _) in tuple(spent.items()) if until < now]:
        spent.pop(old, None)
    mine = object()
    return spent.setdefault(good, (now + 2 * GOOD_S, mine))[1] is mine


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """What was meant for one address goes to no other."""


class Hooks:
    """Tells addresses, from a thread; one that cannot be reached is tried again a few times, then left out."""

    def __init__(self, urls: tuple[str, ...], key: bytes) -> None:
        if urls and not key:
            raise UsageError("Webhooks are signed, so --webhook needs --webhook-key.")
        for url in urls:
            if not url.startswith(("https://", "http://")):
                raise UsageError(f"{url!r} is no address for a webhook.", remedy="It begins with https://.")
        self._urls = urls
        self._key = key
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._outbox: queue.Queue[bytes | None] = queue.Queue(_MOST)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="asl-webhooks", daemon=True)
        if urls:
            self._thread.start()

    def tell(self, request: ApprovalRequest) -> None:
        """Tell of a question, or of what came of it. Never waits: beyond a thousand messages the latest are lost."""
        if not self._urls:
            return
        what = cut(f"{request.operation} {object_line(request)}", 300)
        said = f"asks: {what}" if request.is_pending else f"{what}: {visible(verdict(request), 300)}"
        name = visible(str(request.metadata.get("name") or request.metadata.get("run") or ""), 80)
        message: dict[str, Any] = {
            "type": "asked" if request.is_pending else "settled",
            "text": f"asl {request.id} {name} {said}",
            "request": request.to_dict(),
        }
        try:
            self._outbox.put_nowait(json.dumps(message, default=repr).encode())
        except queue.Full:
            return

    def close(self) -> None:
        """Stop after what is being sent."""
        self._closing.set()
        if self._thread.is_alive():
            try:
                self._outbox.put_nowait(None)
            except queue.Full:
                pass
            self._thread.join(_TIMEOUT_S)

    def _work(self) -> None:
        while (body := self._outbox.get()) is not None:
            for url in self._urls:
                self._send(url, body)

    def _send(self, url: str, body: bytes) -> None:
        for wait_s in _TRIES:
            if self._closing.wait(wait_s) and wait_s:
                return
            stamp = str(int(time.time()))
            headers = {
                "Content-Type": "application/json",
                "X-ASL-Timestamp": stamp,
                "X-ASL-Signature": signature(self._key, stamp, body),
            }
            try:
                with self._opener.open(urllib.request.Request(url, body, headers), timeout=_TIMEOUT_S):
                    return
            except (OSError, ValueError):
                continue
