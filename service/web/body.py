"""A request's body on its way into shared memory, in pieces, once; never through a form parser by accident."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import IO

from flask import Request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.wsgi import get_input_stream

from service.engine import shared
from service.engine.pool import Piece, Pool
from service.errors import DeadlineExceeded, MalformedRequest, ServiceError, TooLarge
from service.web import direct
from service.web.inflate import Inflated
from service.web.patience import Patience
from service.web.threads import TAKE_S, afterwards, limit_sending

CHUNK_BYTES = 1 << 20
HEAD_BYTES = 4096
DRAIN_S = 60.0
SEND_S = 300.0
"""How long a piece of a labelled cloud may take. Who sends it is woken when a third of the kernel's buffer is free: on
the slowest links that takes longer than what other answers get."""
STALL_S = 30.0
"""Longest wait for the next bytes of a body: a client that has gone silent holds a thread no longer."""
MAX_FORM_BYTES = 4 << 20  # more than a piece that the parser takes at a time
FILE_FIELD = "file"
_patience = Patience()
_pool = Pool()


class SharedFileRequest(Request):
    """A request whose multipart files go straight to shared memory."""

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        return os.fdopen(shared.create(), "w+b", buffering=0)


@dataclass(frozen=True)
class Upload:
    """A user's file in shared memory, which is given back at the end of the `with` block.

    Attributes:
        descriptor: the bytes.
        size: how many.
        head: the first of them, to recognise the format by.
        filename: as the client calls the file, or None.
        media_type: as the client says, or None.
        options: form fields that came beside a multipart file.
        start: where the bytes begin in the shared memory.
        piece: that memory, where it is of the pool: then there is room behind the bytes, and the descriptor is its own.
    """

    descriptor: int
    size: int
    filename: str | None
    media_type: str | None
    options: Mapping[str, str] = field(default_factory=dict)
    start: int = 0
    piece: Piece | None = None

    @property
    def head(self) -> bytes:
        return self.first(HEAD_BYTES)

    def first(self, count: int) -> bytes:
        """Return so many of the first bytes, or all."""
        if self.piece is None:
            return os.pread(self.descriptor, count, self.start)
        return bytes(self.piece.memory[self.start : self.start + min(count, self.size)])

    def __enter__(self) -> Upload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.piece is None:
            os.close(self.descriptor)
            return
        # After an error a worker may still look into it, or write there.
        self.piece.spoiled = self.piece.spoiled or error is not None
        _pool.give(self.piece)


def receive(request: Request, max_bytes: int, deadline: float, *, start: int = 0, pooled: bool = False) -> Upload:
    """Take the request's file into shared memory, unpacked if it was sent with a Content-Encoding.

    Args:
        request: a multipart form with a part named `file`, or any other body as it is.
        max_bytes: size of the largest body, as it is sent and unpacked.
        deadline: `time.monotonic()` after which to give up.
        start: where in the shared memory a body that is no form shall begin.
        pooled: whether that may be memory that other requests have used: what reads strangers' files must not see it.

    Raises:
        TooLarge: more bytes; what the client still sends has been read and thrown away, so that it hears of it.
        MalformedRequest: the body ends early or is badly compressed, or the form has no part `file`.
        DeadlineExceeded: the body did not arrive in time.
        UnknownFormat: the Content-Encoding is neither gzip nor deflate.
    """
    environ = request.environ
    declared = request.content_length or 0
    straight = direct.body(environ["wsgi.input"], environ.get("gunicorn.socket"), STALL_S)
    raw = _Counted(get_input_stream(environ), declared)
    environ["wsgi.input"] = raw
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity" or request.mimetype == "multipart/form-data":
        straight = None
    try:
        with _bounded(request, deadline, straight is None):
            if declared > max_bytes:
                raise RequestEntityTooLarge
            if straight is not None:
                return _receive_straight(request, straight, max_bytes, deadline, start, pooled)
            if encoding != "identity":
                environ["wsgi.input"] = Inflated(raw, encoding, max_bytes)
                # What it unpacks to ends where the compressed data ends.
                environ["wsgi.input_terminated"] = True
                environ.pop("CONTENT_LENGTH", None)
            if request.mimetype == "multipart/form-data":
                return _receive_form(request, raw, max_bytes)
            return _receive_raw(request, raw, max_bytes, deadline, start)
    except RequestEntityTooLarge:
        drain(request, raw, 4 * max_bytes)
        raise TooLarge(f"the body is larger than {max_bytes} bytes") from None
    except ServiceError:
        drain(request, raw, 4 * max_bytes)
        raise
    except (ClientDisconnected, TimeoutError) as error:
        # A socket that waits too long is a disconnected client to werkzeug.
        if time.monotonic() >= deadline - 0.1:
            raise DeadlineExceeded("the body did not arrive within the request's deadline") from error
        raise MalformedRequest("the body ended before its Content-Length was reached") from error


def _receive_straight(
    request: Request, body: direct.Body, max_bytes: int, deadline: float, start: int, pooled: bool
) -> Upload:
    size = body.left
    # A third more takes the labels of a cloud of single-precision coordinates.
    piece = _pool.take(start + size + size // 3 + shared.ALIGNMENT) if pooled else None
    if piece is None:
        return _receive_pieces(request, body.pieces(), max_bytes, deadline, start)
    body.read_into(piece.memory[start : start + size])
    return Upload(piece.descriptor, size, _filename(request), request.mimetype or None, start=start, piece=piece)


def _receive_raw(request: Request, raw: _Counted, max_bytes: int, deadline: float, start: int) -> Upload:
    upload = _receive_pieces(request, iter(lambda: request.stream.read(CHUNK_BYTES), b""), max_bytes, deadline, start)
    try:
        raw.check_whole()
    except BaseException:
        os.close(upload.descriptor)
        raise
    return upload


def _receive_pieces(
    request: Request, pieces: Iterator[bytes] | Iterator[memoryview], max_bytes: int, deadline: float, start: int
) -> Upload:
    descriptor = shared.create()
    try:
        os.lseek(descriptor, start, os.SEEK_SET)
        size = 0
        for piece in pieces:
            size += len(piece)
            if size > max_bytes:
                raise RequestEntityTooLarge
            if time.monotonic() > deadline:
                raise TimeoutError
            _write_all(descriptor, piece)
    except BaseException:
        os.close(descriptor)
        raise
    return Upload(descriptor, size, _filename(request), request.mimetype or None, start=start)


def _receive_form(request: Request, raw: _Counted, max_bytes: int) -> Upload:
    request.max_content_length = max_bytes
    request.max_form_memory_size = MAX_FORM_BYTES
    file = request.files.get(FILE_FIELD)
    raw.check_whole()
    if file is None:
        names = ", ".join([*request.files, *request.form]) or "none"
        raise MalformedRequest(f"the form has no file part named {FILE_FIELD!r}; its parts: {names}")
    with file.stream as stream:
        descriptor = os.dup(stream.fileno())
    size = os.fstat(descriptor).st_size
    return Upload(descriptor, size, file.filename or None, file.mimetype or None, request.form.to_dict())


class _Counted:
    """A stream that knows how much of it was announced and read: of a form cut off the parser makes a shorter one."""

    def __init__(self, stream: IO[bytes], declared: int) -> None:
        self._stream = stream
        self._declared = declared
        self._count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._count += len(data)
        return data

    def check_whole(self) -> None:
        """Raise ClientDisconnected where it ended too early: gunicorn ends the stream quietly then."""
        if self._count < self._declared:
            raise ClientDisconnected


def _write_all(descriptor: int, chunk: bytes | memoryview) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _filename(request: Request) -> str | None:
    header = request.headers.get("Content-Disposition")
    return parse_options_header(header)[1].get("filename") if header else None


@contextmanager
def _bounded(request: Request, deadline: float, timed: bool = True) -> Iterator[None]:
    """A client that stops in the middle of its body must not hold a thread for ever. The answer gets more time.

    Args:
        request: what is read.
        deadline: `time.monotonic()` after which nothing is read any more.
        timed: whether the connection's own timeout is to end a silence.
    """
    connection = request.environ.get("gunicorn.socket")
    if not isinstance(connection, socket.socket):
        yield
        return
    limit_sending(connection, SEND_S)
    afterwards(partial(_limit_again, connection))
    if timed:
        connection.settimeout(max(0.1, min(deadline - time.monotonic(), STALL_S)))
    try:
        with _patience.until(deadline, connection):
            yield
    finally:
        if timed:
            connection.settimeout(None)


def _limit_again(connection: socket.socket) -> None:
    """Give the connection's next answer as much time as any."""
    with suppress(OSError):  # it may be closed
        limit_sending(connection, TAKE_S)


def drain(request: Request, body: IO[bytes] | _Counted, max_bytes: int, seconds: float = DRAIN_S) -> None:
    """Read on for a while: a client that is cut off in mid-body sees a broken pipe instead of the refusal.

    Args:
        request: what is refused.
        body: what is left of its body.
        max_bytes, seconds: how much is read, for how long; what still comes then is cut off.
    """
    left, until = max_bytes + CHUNK_BYTES, time.monotonic() + seconds
    with suppress(OSError), _bounded(request, until):
        while left > 0 and time.monotonic() < until and (chunk := body.read(CHUNK_BYTES)):
            left -= len(chunk)
