"""A request's body on its way into shared memory, in pieces, once; never through a form parser by accident."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO

from flask import Request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.http import parse_options_header

from service.engine import shared
from service.errors import DeadlineExceeded, MalformedRequest, TooLarge, UnknownFormat

CHUNK_BYTES = 1 << 20
HEAD_BYTES = 4096
DRAIN_S = 60.0
SEND_S = 300.0
MAX_FORM_BYTES = 4 << 20  # more than a piece that the parser takes at a time
FILE_FIELD = "file"


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
    """A user's file in shared memory.

    Attributes:
        descriptor: the bytes; given back at the end of the `with` block.
        size: how many.
        head: the first of them, to recognise the format by.
        filename: as the client calls the file, or None.
        media_type: as the client says, or None.
        options: form fields that came beside a multipart file.
    """

    descriptor: int
    size: int
    filename: str | None
    media_type: str | None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def head(self) -> bytes:
        return os.pread(self.descriptor, HEAD_BYTES, 0)

    def __enter__(self) -> Upload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)


def receive(request: Request, max_bytes: int, deadline: float) -> Upload:
    """Take the request's file into shared memory.

    Args:
        request: a multipart form with a part named `file`, or any other body as it is.
        max_bytes: size of the largest body.
        deadline: `time.monotonic()` after which to give up.

    Raises:
        TooLarge: more bytes; what the client still sends has been read and thrown away, so that it hears of it.
        MalformedRequest: the body ends early, or the form has no part `file`.
        DeadlineExceeded: the body did not arrive in time.
        UnknownFormat: the body is compressed as a whole.
    """
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise UnknownFormat(f"Content-Encoding {encoding}: send the file as it is")
    _bound_waiting(request, deadline - time.monotonic())
    try:
        if (request.content_length or 0) > max_bytes:
            raise RequestEntityTooLarge
        if request.mimetype == "multipart/form-data":
            return _receive_form(request, max_bytes)
        return _receive_raw(request, max_bytes, deadline)
    except RequestEntityTooLarge:
        _drain(request, max_bytes)
        raise TooLarge(f"the body is larger than {max_bytes} bytes") from None
    except (ClientDisconnected, TimeoutError) as error:
        # A socket that waits too long is a disconnected client to werkzeug.
        if time.monotonic() >= deadline - 0.1:
            raise DeadlineExceeded("the body did not arrive within the request's deadline") from error
        raise MalformedRequest("the body ended before its Content-Length was reached") from error
    finally:
        _bound_waiting(request, SEND_S)


def _receive_raw(request: Request, max_bytes: int, deadline: float) -> Upload:
    stream = request.stream
    descriptor = shared.create()
    try:
        size = 0
        while chunk := stream.read(CHUNK_BYTES):
            size += len(chunk)
            if size > max_bytes:
                raise RequestEntityTooLarge
            if time.monotonic() > deadline:
                raise TimeoutError
            _write_all(descriptor, chunk)
        if size < (request.content_length or 0):
            raise ClientDisconnected  # gunicorn ends the stream quietly
    except BaseException:
        os.close(descriptor)
        raise
    filename = _disposition_name(request.headers.get("Content-Disposition"))
    return Upload(descriptor, size, filename, request.mimetype or None)


def _receive_form(request: Request, max_bytes: int) -> Upload:
    request.max_content_length = max_bytes
    request.max_form_memory_size = MAX_FORM_BYTES
    request.environ["wsgi.input"] = whole = _Counted(request.environ["wsgi.input"])
    file = request.files.get(FILE_FIELD)
    if whole.count < (request.content_length or 0):
        raise ClientDisconnected
    if file is None:
        names = ", ".join([*request.files, *request.form]) or "none"
        raise MalformedRequest(f"the form has no file part named {FILE_FIELD!r}; its parts: {names}")
    with file.stream as stream:
        descriptor = os.dup(stream.fileno())
    size = os.fstat(descriptor).st_size
    return Upload(descriptor, size, file.filename or None, file.mimetype or None, request.form.to_dict())


class _Counted:
    """A stream that knows how much was read of it: of a form that is cut off, the parser makes a shorter one."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.count += len(data)
        return data

    def readline(self, size: int = -1) -> bytes:
        data = self._stream.readline(size)
        self.count += len(data)
        return data


def _write_all(descriptor: int, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _disposition_name(header: str | None) -> str | None:
    return parse_options_header(header)[1].get("filename") if header else None


def _bound_waiting(request: Request, seconds: float) -> None:
    """A client that stops in the middle of its body, or of the answer, must not hold a thread for ever."""
    connection = request.environ.get("gunicorn.socket")
    if isinstance(connection, socket.socket):
        connection.settimeout(max(0.1, seconds))


def _drain(request: Request, max_bytes: int) -> None:
    """Read on for a while: a client that is cut off in mid-body sees a broken pipe instead of the 413."""
    stream = request.environ["wsgi.input"]
    left, until = 4 * max_bytes + CHUNK_BYTES, time.monotonic() + DRAIN_S
    try:
        while left > 0 and time.monotonic() < until and (chunk := stream.read(CHUNK_BYTES)):
            left -= len(chunk)
    except OSError:
        return  # gone already
