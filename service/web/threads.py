"""Gunicorn's threads: how long requests wait for one, and how long a client may take for a request's header."""

from __future__ import annotations

import threading
import time
from typing import Any

from service.web.patience import Patience

HEADER_S = 10.0
"""Without it, as many clients as there are threads could each send half a header and hold all of them for ever."""
_patience = Patience()
_own = threading.local()


def waited_s() -> float:
    """Return for how many seconds the request that this thread handles waited for a thread."""
    found: float = getattr(_own, "waited_s", 0.0)
    return found


def time_waits(worker: Any) -> None:
    """Have a gthread worker note how long each request waits for a thread."""
    enqueue, handle = worker.enqueue_req, worker.handle

    def enqueue_timed(conn: Any) -> None:
        conn.queued = time.monotonic()
        enqueue(conn)

    def handle_timed(conn: Any) -> Any:
        _own.waited_s = time.monotonic() - conn.queued
        return handle(conn)

    worker.enqueue_req, worker.handle = enqueue_timed, handle_timed


def bound_headers(worker: Any) -> None:
    """Have a gthread worker end connections whose next header does not arrive in time."""
    handle = worker.handle

    def patiently(conn: Any) -> Any:
        begin = conn.init

        def init() -> None:
            begin()
            if not conn.is_http2 and not isinstance(conn.parser, _Bounded):
                conn.parser = _Bounded(conn.parser, conn.sock)

        conn.init = init
        try:
            return handle(conn)
        finally:
            conn.init = begin

    worker.handle = patiently


class _Bounded:
    """A connection's parser whose next request must come in time. Everything else is the parser's own."""

    def __init__(self, parser: Any, connection: Any) -> None:
        self._parser, self._connection = parser, connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def __next__(self) -> Any:
        with _patience.until(time.monotonic() + HEADER_S, self._connection):
            return next(self._parser)
