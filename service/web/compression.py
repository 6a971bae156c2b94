"""Compressed answers, for clients that ask for them (Accept-Encoding): in a stream, at the quickest level."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from flask import Response, request

from service.formats import by_name

MIN_BYTES = 4096
LEVEL = 1
PIECE_BYTES = 1 << 16
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
_PACKED = {media_type for name in ("laz", "npz") for media_type in by_name(name).media_types} | {"application/zip"}


def compress(response: Response) -> Response:
    """Compress the answer if the client takes that and it is worth it.

    An error stays as it is: clients of the Open Inference Protocol do not unpack those.
    """
    encoding = request.accept_encodings.best_match(_WINDOW_BITS)
    size = response.content_length
    if (
        encoding is None
        or response.status_code != 200
        or request.method == "HEAD"
        or "Content-Encoding" in response.headers
        or response.mimetype in _PACKED
        or (response.mimetype or "").startswith("image/")
        or (size is not None and size < MIN_BYTES)
    ):
        return response
    response.direct_passthrough = False
    response.response = _packed(response.response, _WINDOW_BITS[encoding])
    del response.headers["Content-Length"]
    response.headers["Content-Encoding"] = encoding
    response.vary.add("Accept-Encoding")
    if (tag := response.get_etag()[0]) is not None:
        response.set_etag(tag, weak=True)
    return response


def _packed(pieces: Iterable[bytes | str], window_bits: int) -> Iterator[bytes]:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, window_bits)
    try:
        for piece in pieces:
            data = memoryview(piece.encode() if isinstance(piece, str) else piece)
            for start in range(0, len(data), PIECE_BYTES):
                if packed := packer.compress(data[start : start + PIECE_BYTES]):
                    yield packed
        yield packer.flush()
    finally:
        if hasattr(pieces, "close"):
            pieces.close()
