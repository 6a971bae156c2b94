"""Compressed request bodies (Content-Encoding), unpacked as they come in."""

from __future__ import annotations

import zlib
from typing import Protocol

from service.errors import MalformedRequest, TooLarge, UnknownFormat

READ_BYTES = 1 << 16
# Coordinates shrink to a half or so; what unpacks to so much more is made to fill memory.
MAX_RATIO = 200
RATIO_COUNTS_FROM_BYTES = 16 << 20
GZIP, DEFLATE = ("gzip", "x-gzip"), ("deflate",)


class _Stream(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Inflated:
    """A stream of what a compressed stream unpacks to.

    Args:
        stream: the compressed bytes; its `read` returns b"" at their end.
        encoding: the Content-Encoding: gzip (RFC 1952) or deflate (RFC 1950, or RFC 1951 as some send it).
        max_bytes: more compressed bytes than this are refused, even if they unpack to nothing.

    Raises:
        UnknownFormat: the encoding is another one.
    """

    def __init__(self, stream: _Stream, encoding: str, max_bytes: int) -> None:
        self._encoding = encoding.strip().lower()
        if self._encoding not in GZIP + DEFLATE:
            raise UnknownFormat(f"Content-Encoding {encoding[:40]}: send the body as it is, or with gzip or deflate")
        self._stream = stream
        self._max_bytes = max_bytes
        self._packed = b""
        self._taken = self._given = 0
        self._unpacker: zlib._Decompress | None = None
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, b"" at the end.

        Raises:
            MalformedRequest: the bytes are not compressed as they say, or end too early.
            TooLarge: they are too many, or unpack to far more than a point cloud would.
        """
        limit = size if size > 0 else READ_BYTES
        while not self._ended:
            if not self._packed:
                self._take()
            if data := self._unpack(limit):
                self._given += len(data)
                if self._given > max(RATIO_COUNTS_FROM_BYTES, MAX_RATIO * self._taken):
                    raise TooLarge(f"the body unpacks to more than {MAX_RATIO} times its size")
                return data
        return b""

    def _take(self) -> bool:
        """Read on, and return whether there was more."""
        piece = self._stream.read(READ_BYTES)
        self._packed += piece
        self._taken += len(piece)
        if self._taken > self._max_bytes:
            raise TooLarge(f"the body is larger than {self._max_bytes} bytes")
        return bool(piece)

    def _unpack(self, limit: int) -> bytes:
        if self._unpacker is None:
            if not self._packed and self._taken:
                self._ended = True  # after the last of several members (RFC 1952, section 2.2)
                return b""
            self._unpacker = self._begin()
        at_end = not self._packed
        try:
            data = self._unpacker.decompress(self._packed, limit)
        except zlib.error as error:
            raise MalformedRequest(f"the body is not compressed as Content-Encoding says: {error}") from None
        self._packed = self._unpacker.unconsumed_tail
        if self._unpacker.eof:
            self._packed = self._unpacker.unused_data
            self._unpacker = None
            if self._encoding in DEFLATE:
                self._ended = True
        elif at_end and not data:
            raise MalformedRequest(f"the body ended before its {self._encoding} data did")
        return data

    def _begin(self) -> zlib._Decompress:
        if self._encoding in GZIP:
            return zlib.decompressobj(wbits=31)
        while len(self._packed) < 2 and self._take():
            pass
        head = self._packed[:2]
        # A zlib header: method 8, and a multiple of 31 as a whole.
        wrapped = len(head) == 2 and head[0] & 15 == 8 and (head[0] << 8 | head[1]) % 31 == 0
        return zlib.decompressobj(wbits=15 if wrapped else -15)
