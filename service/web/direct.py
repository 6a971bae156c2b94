"""A body of known length, read from its socket into one small buffer.

Gunicorn's own reader copies each byte six times, through fresh memory each time: for a megabyte that is most of what a
request costs the web process. What it has read ahead is taken over, and the rest comes from the socket itself.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

from werkzeug.exceptions import ClientDisconnected

PIECE_BYTES = 1 << 18
"""Fits a core's cache, so that the second copy costs little."""
_own = threading.local()


def pieces(stream: Any, connection: object) -> Iterator[memoryview] | None:
    """Return the pieces of a request's body, each valid until the next one; None where the server is not gunicorn.

    Args:
        stream: gunicorn's `wsgi.input`, of which nothing was read.
        connection: its `gunicorn.socket`.

    Raises, while the pieces are taken:
        ClientDisconnected: the body ends before its Content-Length.
        TimeoutError: the connection's timeout passed.
    """
    reader = getattr(stream, "reader", None)
    unreader = getattr(reader, "unreader", None)
    length = getattr(reader, "length", None)
    known = isinstance(length, int) and hasattr(unreader, "take_buffered")
    return _pieces(stream, reader, unreader, connection) if known and isinstance(connection, socket.socket) else None


def _pieces(stream: Any, reader: Any, unreader: Any, connection: socket.socket) -> Iterator[memoryview]:
    stream.failed = True  # until the end is reached nobody knows where the connection's next request begins
    ahead = unreader.take_buffered()
    if len(ahead) > reader.length:
        unreader.unread(ahead[reader.length :])
        ahead = ahead[: reader.length]
    reader.length -= len(ahead)
    if ahead:
        yield memoryview(ahead)
    buffer = _buffer()
    while reader.length > 0:
        try:
            size = connection.recv_into(buffer, min(reader.length, PIECE_BYTES))
        except TimeoutError:
            raise
        except OSError as error:
            raise ClientDisconnected from error
        if size == 0:
            raise ClientDisconnected
        reader.length -= size
        yield buffer[:size]
    stream.failed = False


def _buffer() -> memoryview:
    """Return this thread's buffer."""
    if not hasattr(_own, "buffer"):
        _own.buffer = memoryview(bytearray(PIECE_BYTES))
    buffer: memoryview = _own.buffer
    return buffer
