"""Answers that many routes give: JSON, and files with a name and what there is to say of them in headers."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence

from flask import Response, g, send_file

from service import formats

WARNINGS_HEADER = "X-Warnings"
"""A JSON list, in ASCII. X-Warning, one header for each, is what clients of earlier versions read: where headers of one
name arrive as one, with commas between them, nobody can tell where a sentence ends."""


def json_answer(body: bytes) -> Response:
    """Return the answer that is JSON."""
    return _timed(Response(body, mimetype="application/json"))


def file_answer(content: int | bytes, media_type: str, name: str, warnings: Sequence[str]) -> Response:
    """Return the answer that is a file.

    Args:
        content: its bytes, or a descriptor of them, which is closed with the answer.
        media_type: of the file.
        name: under which a browser keeps it.
        warnings: sentences about what was assumed.
    """
    file = io.BytesIO(content) if isinstance(content, bytes) else os.fdopen(content, "rb")
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    response = send_file(file, mimetype=media_type, as_attachment=True, download_name=name)
    response.content_length = size
    response.headers["X-Points"] = str(g.points)
    if warnings:
        response.headers[WARNINGS_HEADER] = json.dumps(list(warnings))
    for warning in warnings:
        response.headers.add("X-Warning", warning.encode("ascii", "replace").decode())
    return _timed(response)


def file_name(filename: str | None, ending: str) -> str:
    """Return the name of an answer that is a file: of `scan.ply` and `_labelled.las`, `scan_labelled.las`."""
    stem = (filename or "cloud").replace("\\", "/").rsplit("/", 1)[-1]
    for suffix in sorted({suffix for known in formats.FORMATS for suffix in known.suffixes}, key=len, reverse=True):
        if stem.lower().endswith(suffix):
            stem = stem[: -len(suffix)]
            break
    stem = "".join(c for c in stem if c.isprintable() and c not in '"\\/')[:100].strip(". ") or "cloud"
    return f"{stem}{ending}"


def _timed(response: Response) -> Response:
    response.headers["Server-Timing"] = g.watch.header()
    return response
