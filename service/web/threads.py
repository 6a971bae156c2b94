"""Gunicorn's threads: how long requests wait for one, how long a client may take for a request's header or to take its
answer, and who takes the next request of a connection."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from gunicorn import util

from service.web.patience import Patience

HEADER_S = 10.0
"""Without it, as many clients as there are threads could each send half a header and hold all of them for ever."""
NEXT_S = 0.03
"""A thread waits so long for the next request of the connection that it has just answered: else the connection goes
back to gunicorn's main thread and, with its next request, to some thread again: three changes of threads."""
NEXT_BYTES = 1 << 13
TAKE_S = 60.0
"""After so long in which a client takes nothing of its answer, or twice that where a part fitted into the kernel's
buffer, its thread gives up: one that never reads would hold it for ever."""
LINGER_S = 0.5
"""A thread waits so long for the client's end of a connection that it has closed at its own: closed at both, what the
client still sends would be refused, and with that the rest of the answer lost."""
_NEXT, _UNLIMITED = struct.pack("@ll", 0, int(NEXT_S * 1e6)), struct.pack("@ll", 0, 0)  # struct timeval
_patience = Patience()
_own = threading.local()


def waited_s() -> float:
    """Return for how many seconds the request that this thread handles waited for a thread."""
    found: float = getattr(_own, "waited_s", 0.0)
    return found


def afterwards(call: Callable[[], object]) -> bool:
    """Have something called once the answer to the request that this thread handles is sent, or cannot be.

    Returns:
        Whether that will be done: False in threads that are not gunicorn's.
    """
    calls: list[Callable[[], object]] | None = getattr(_own, "calls", None)
    if calls is None:
        return False
    calls.append(call)
    return True


def limit_sending(connection: socket.socket, seconds: float) -> None:
    """Have calls that send on a connection in blocking mode come back after so many seconds."""
    limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))  # struct timeval
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def time_waits(worker: Any) -> None:
    """Have a gthread worker note how long each request waits for a thread, and its threads go on with a connection.

    The threads close connections too: gunicorn waits for the clients' ends, one after the other, in the thread that
    accepts connections and tells that the process lives.
    """
    enqueue, handle = worker.enqueue_req, worker.handle
    waiting: deque[Any] = deque()

    def enqueue_timed(conn: Any) -> None:
        if not conn.initialized:
            conn.sock = _Steady.of(conn.sock)
            limit_sending(conn.sock, TAKE_S)
        conn.queued = time.monotonic()
        waiting.append(conn)
        enqueue(conn)

    def handle_one(conn: Any) -> Any:
        _own.calls = []
        try:
            return handle(conn)
        finally:
            calls, _own.calls = _own.calls, None
            for call in calls:
                call()

    def handle_timed(conn: Any) -> Any:
        waiting.popleft()
        _own.waited_s = time.monotonic() - conn.queued
        kept = handle_one(conn)
        while kept is True and worker.alive and not waiting and _goes_on(conn):
            _own.waited_s = 0.0
            kept = handle_one(conn)
        if kept is False and isinstance(conn.sock, _Steady):
            util.close_graceful(conn.sock, LINGER_S)
        return kept

    worker.enqueue_req, worker.handle = enqueue_timed, handle_timed


class _Steady(socket.socket):
    """A connection that tells the kernel what has changed only: gunicorn says twice a request that it is to wait.

    And nothing once it is closed: of the error gunicorn would count a closed connection twice.
    """

    __slots__ = ()

    @classmethod
    def of(cls, connection: socket.socket) -> _Steady:
        """Return the connection as one of these; it is no other's then."""
        about = connection.family, connection.type, connection.proto, connection.gettimeout()
        made = cls(*about[:3], connection.detach())
        made.settimeout(about[3])
        return made

    def settimeout(self, value: float | None) -> None:
        if value != self.gettimeout() and self.fileno() >= 0:
            super().settimeout(value)

    def setblocking(self, flag: bool) -> None:
        self.settimeout(None if flag else 0.0)


def _goes_on(conn: Any) -> bool:
    """Return whether a connection's next request begins, or its end comes, in a moment."""
    if conn.is_http2 or conn.parser.unreader.buf.getvalue():
        return False  # gunicorn deals with these itself
    # The kernel waits, in the call that receives: each call is one more change of threads.
    conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _NEXT)
    try:
        conn.parser.unreader.unread(conn.sock.recv(NEXT_BYTES))
    except BlockingIOError:
        return False
    except OSError:
        pass
    finally:
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _UNLIMITED)
    return True  # of an end gunicorn hears too, when it asks for more


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

    def finish_body(self, *arguments: Any, **bounds: Any) -> bool:
        """Discard what is left of a body; gunicorn sets timeouts for that also where all of it was read."""
        body: Any = getattr(self._parser.mesg, "body", None)
        if getattr(getattr(body, "reader", None), "length", None) == 0 and not body.failed:
            return True
        discarded: bool = self._parser.finish_body(*arguments, **bounds)
        return discarded

    def __next__(self) -> Any:
        with _patience.until(time.monotonic() + HEADER_S, self._connection):
            return next(self._parser)
