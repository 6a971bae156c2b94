"""Answers on their way out of gunicorn: the head leaves with the first piece of the body, in one call."""

from __future__ import annotations

import time
from typing import Any

import gunicorn.http.wsgi

from service.web.body import SEND_S

SLICE_BYTES = 1 << 20
"""Each has its own limit: an answer of hundreds of them may take long, as long as they are taken steadily."""


class Sent(gunicorn.http.wsgi.Response):
    """Gunicorn's response, written to a socket in blocking mode.

    Gunicorn writes the head alone, which wakes the client for nothing, and a socket with a timeout asks before each
    write whether there is room. Here the kernel waits by itself, for as long as the socket's SO_SNDTIMEO says.
    """

    headers_sent: bool

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._head = b""
        self._body_follows = False

    def send_headers(self) -> None:
        """Send the head, or keep it for the body that follows."""
        if self.headers_sent:
            return
        lines = [*self.default_headers(), *(f"{name}: {value}\r\n" for name, value in self.headers), "\r\n"]
        self._head = "".join(lines).encode("latin-1")
        self.headers_sent = True
        if not self._body_follows:
            self._send()

    def write(self, arg: bytes) -> None:
        """Send a piece of the body."""
        self._body_follows = True
        super().write(arg)
        if self._head:
            self._send()  # an answer without a body

    def sendfile(self, respiter: Any) -> bool:
        """Send a file, if the answer is one; what sends it waits for ever where the socket has no timeout."""
        self.sock.settimeout(SEND_S)
        try:
            return bool(super().sendfile(respiter))
        finally:
            self.sock.settimeout(None)

    def _emit_body(self, data: bytes) -> None:
        if self.chunked:
            self._send(b"%X\r\n" % len(data), data, b"\r\n")
            return
        whole = memoryview(data)
        for start in range(0, len(whole), SLICE_BYTES):
            self._send(whole[start : start + SLICE_BYTES])

    def _send(self, *parts: bytes | memoryview) -> None:
        """Send the head, where it was kept, and these.

        Raises:
            TimeoutError: the client takes nothing, or too little of them in SEND_S.
        """
        left = [memoryview(part) for part in (self._head, *parts) if part]
        self._head = b""
        until = time.monotonic() + SEND_S
        while left:
            try:
                sent = self.sock.sendmsg(left)
            except BlockingIOError:
                raise TimeoutError("the client does not take its answer") from None
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if left:
                left[0] = left[0][sent:]
                if time.monotonic() > until:
                    raise TimeoutError("the client takes its answer too slowly")


def install() -> None:
    """Have gunicorn's answers leave so."""
    gunicorn.http.wsgi.Response = Sent
