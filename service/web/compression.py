"""Compressed answers, for clients that ask for them (Accept-Encoding): in a stream, at the quickest level."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Iterator

from flask import Response, request
from werkzeug.wsgi import ClosingIterator

from service.formats import by_name

MIN_BYTES = 4096
LEVEL = 1
WORTH = 0.5
PIECE_BYTES = 1 << 16
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
_PACKED = {media_type for name in ("laz", "npz") for media_type in by_name(name).media_types} | {"application/zip"}


def compress(response: Response) -> Response:
    """Compress the answer if the client takes that and it is worth it.

    Many clients ask without having thought of it, and coordinates shrink little: an answer whose beginning does not
    lose half is sent as it is. So is an error: clients of the Open Inference Protocol do not unpack those.
    """
    if not request.headers.get("Accept-Encoding"):
        return response
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
    pieces = response.iter_encoded()
    head = _first(pieces)
    close = getattr(response.response, "close", lambda: None)
    whole: Iterable[bytes] = itertools.chain(head, pieces)
    response.direct_passthrough = False
    response.vary.add("Accept-Encoding")
    sample = b"".join(piece[:PIECE_BYTES] for piece in head)
    if len(zlib.compress(sample, LEVEL)) > WORTH * len(sample):
        response.response = ClosingIterator(whole, close)
        return response
    response.response = ClosingIterator(_packed(whole, _WINDOW_BITS[encoding]), close)
    del response.headers["Content-Length"]
    response.headers["Content-Encoding"] = encoding
    if (tag := response.get_etag()[0]) is not None:
        response.set_etag(tag, weak=True)
    return response


def _first(pieces: Iterator[bytes]) -> list[bytes]:
    """Return the first of an answer's pieces."""
    taken: list[bytes] = []
    for piece in pieces:
        taken.append(piece)
        if sum(map(len, taken)) >= PIECE_BYTES:
            break
    return taken


def _packed(pieces: Iterable[bytes], window_bits: int) -> Iterator[bytes]:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, window_bits)
    for piece in pieces:
        data = memoryview(piece)
        for start in range(0, len(data), PIECE_BYTES):
            if packed := packer.compress(data[start : start + PIECE_BYTES]):
                yield packed
    yield packer.flush()
