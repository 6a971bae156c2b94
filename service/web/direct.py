"""A body of known length, read from its socket in as few calls as it comes in.

Gunicorn's own reader copies each byte six times, through fresh memory each time: for a megabyte that is most of what a
request costs the web process. What it has read ahead is taken over, and the rest comes from the socket itself. Each
call gives Python's lock to another thread, and waits for it afterwards; so the kernel is asked to come back with all of
it (MSG_WAITALL), and to keep the time by itself (SO_RCVTIMEO).
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from typing import Any

from werkzeug.exceptions import ClientDisconnected

PIECE_BYTES = 1 << 18
"""Fits a core's cache, so that the second copy costs little."""
WAIT_S = 5
"""How often the kernel comes back without a byte: silence is counted in so many seconds."""
_TIMEVAL = struct.Struct("@ll")
_LIMITED, _UNLIMITED = _TIMEVAL.pack(WAIT_S, 0), _TIMEVAL.pack(0, 0)
_own = threading.local()


class Body:
    """A request's body in its connection, in whose state gunicorn is left as if it had read it itself.

    Args:
        stream: gunicorn's `wsgi.input`, of which nothing was read.
        connection: its `gunicorn.socket`, in blocking mode.
        stall_s: longest wait for the next bytes, to WAIT_S.

    Both ways of reading raise:
        ClientDisconnected: the body ends before its Content-Length.
        TimeoutError: nothing comes.
    """

    def __init__(self, stream: Any, connection: socket.socket, stall_s: float) -> None:
        self._stream, self._reader, self._unreader = stream, stream.reader, stream.reader.unreader
        self._connection = connection
        self._waits = max(1, round(stall_s / WAIT_S))

    @property
    def left(self) -> int:
        """How many bytes are still to be read."""
        length: int = self._reader.length
        return length

    def read_into(self, memory: memoryview) -> None:
        """Read all of it into memory of its size."""
        ahead = self._begin()
        memory[: len(ahead)] = ahead
        self._fill(memory[len(ahead) :])
        self._stream.failed = False

    def pieces(self) -> Iterator[memoryview]:
        """Read it piece by piece, each valid until the next one."""
        if ahead := self._begin():
            yield memoryview(ahead)
        buffer = _buffer()
        while self.left > 0:
            piece = buffer[: min(self.left, PIECE_BYTES)]
            self._fill(piece)
            yield piece
        self._stream.failed = False

    def _begin(self) -> bytes:
        """Return what has been read ahead of it."""
        self._stream.failed = True  # until the end is reached nobody knows where the connection's next request begins
        ahead: bytes = self._unreader.take_buffered()
        if len(ahead) > self.left:
            self._unreader.unread(ahead[self.left :])
            ahead = ahead[: self.left]
        self._reader.length -= len(ahead)
        return ahead

    def _fill(self, memory: memoryview) -> None:
        if not memory:
            return
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _LIMITED)
        silent = 0
        while memory:
            try:
                size = self._connection.recv_into(memory, len(memory), socket.MSG_WAITALL)
            except BlockingIOError:
                silent += 1
                if silent >= self._waits:
                    raise TimeoutError from None
                continue
            except OSError as error:
                raise ClientDisconnected from error
            if size == 0:
                raise ClientDisconnected
            silent = 0
            self._reader.length -= size
            memory = memory[size:]
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _UNLIMITED)


def body(stream: Any, connection: object, stall_s: float) -> Body | None:
    """Return what reads a request's body; None where its length is not known, or the server is not gunicorn."""
    reader = getattr(stream, "reader", None)
    known = isinstance(getattr(reader, "length", None), int) and hasattr(
        getattr(reader, "unreader", None), "take_buffered"
    )
    if not known or not isinstance(connection, socket.socket) or connection.gettimeout() is not None:
        return None
    if isinstance(connection, ssl.SSLSocket):  # it knows no flags
        return None
    return Body(stream, connection, stall_s)


def _buffer() -> memoryview:
    """Return this thread's buffer."""
    if not hasattr(_own, "buffer"):
        _own.buffer = memoryview(bytearray(PIECE_BYTES))
    buffer: memoryview = _own.buffer
    return buffer
