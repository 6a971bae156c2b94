"""POST /v1/segment: a point cloud in, a label for each of its points out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import structlog
from apiflask import APIBlueprint
from flask import Response, current_app, g, request, send_file
from flask.typing import ResponseReturnValue

from service import formats
from service.engine.client import EngineClient
from service.errors import NotReady, UnknownModel, UnusableModel
from service.formats.format import Format
from service.settings import Settings
from service.values import Segmentation
from service.web import client
from service.web.body import receive
from service.web.schemas import SegmentQuery, parse_query
from service.web.stopwatch import Stopwatch
from service.wire import json_v1, outputs

blueprint = APIBlueprint("segment", __name__, tag="Segmentation")
log = structlog.get_logger()


@blueprint.post("/v1/segment")
@blueprint.doc(summary="Label a point cloud", operation_id="segment")
def segment() -> ResponseReturnValue:
    """Label each point of a cloud.

    The body is the file as it is, a multipart form with the file in the part `file`, or JSON with `points`.
    """
    settings: Settings = current_app.extensions["settings"]
    engine: EngineClient = current_app.extensions["engine"]
    g.watch = watch = Stopwatch()
    deadline, gone = client.deadline(request, settings.deadline_s), client.gone(request)
    with receive(request, settings.max_body_bytes, deadline) as upload:
        watch.lap("receive")
        query = parse_query({**upload.options, **request.args.to_dict()}, SegmentQuery)
        source = formats.recognise(
            upload.head,
            declared=query.format,
            media_type=upload.media_type,
            filename=query.filename or upload.filename,
        )
        g.format = source.name
        target = outputs.choose(query.output, [media_type for media_type, _ in request.accept_mimetypes], source)
        g.model = model = choose_model(engine, query.model)
        options = query.file_options(settings.max_points)
        read = engine.read(upload.descriptor, source, options, deadline, g.request_id, gone)
    # From here on only the engine holds the file, and the cloud, which may be larger.
    with read as cloud:
        watch.lap("read")
        segmentation = engine.segment(
            cloud,
            model,
            deadline,
            scores=query.scores,
            tta=query.tta,
            arrays=target is None,
            request_id=g.request_id,
            gone=gone,
        )
        watch.within("segment", segmentation.timing_ms)
        g.points = cloud.points
        structlog.contextvars.bind_contextvars(points=g.points, format=source.name, model=model)
        if target is None:
            return _json_answer(segmentation, watch)
        written = engine.write(source, target, options, deadline, g.request_id, gone)
    watch.lap("write")
    return _file_answer(written, target, query.filename or upload.filename, segmentation.warnings, watch)


def choose_model(engine: EngineClient, wanted: str | None) -> str:
    """Return the name of the model to use.

    Raises:
        UnusableModel: it is known not to work, and why.
        UnknownModel, NotReady: as `find_model`.
    """
    card = find_model(engine, wanted)
    if card.get("state") == "failed":
        raise UnusableModel(f"the model {card['name']} cannot be used: {card['reason']}")
    name: str = card["name"]
    return name


def find_model(engine: EngineClient, wanted: str | None) -> dict[str, Any]:
    """Return the card of a model as the engine has it, whatever its state; the default one where none is named.

    Raises:
        UnknownModel: it is not served.
        NotReady: no model is known yet, or the service is about to end.
    """
    status = engine.recent_status()
    if status["state"] == "stopping":
        raise NotReady(status["reason"], retry_after_s=5)
    cards: dict[str, dict[str, Any]] = {card["name"]: card for card in status["models"]}
    if not cards:
        raise NotReady(status["reason"], retry_after_s=5)
    if wanted is not None and wanted not in cards:
        raise UnknownModel(f"there is no model {wanted!r}; there are: {', '.join(cards)}")
    return cards[wanted or next(iter(cards))]


def _json_answer(segmentation: Segmentation, watch: Stopwatch) -> Response:
    body = json_v1.encode(segmentation, watch.read(), g.request_id)
    response = Response(body, mimetype="application/json")
    response.headers["Server-Timing"] = watch.header()
    return response


def _file_answer(
    descriptor: int, target: Format, filename: str | None, warnings: Sequence[str], watch: Stopwatch
) -> Response:
    size = os.fstat(descriptor).st_size
    file = os.fdopen(descriptor, "rb")
    file.seek(0)
    response = send_file(
        file, mimetype=target.media_types[0], as_attachment=True, download_name=labelled_name(filename, target)
    )
    response.content_length = size
    response.headers["Server-Timing"] = watch.header()
    response.headers["X-Points"] = str(g.points)
    for warning in warnings:
        response.headers.add("X-Warning", warning.encode("ascii", "replace").decode())
    return response


def labelled_name(filename: str | None, target: Format) -> str:
    """Return the name of the labelled file: `scan.ply` becomes `scan_labelled.las`."""
    stem = (filename or "cloud").replace("\\", "/").rsplit("/", 1)[-1]
    for suffix in sorted({suffix for known in formats.FORMATS for suffix in known.suffixes}, key=len, reverse=True):
        if stem.lower().endswith(suffix):
            stem = stem[: -len(suffix)]
            break
    stem = "".join(c for c in stem if c.isprintable() and c not in '"\\/')[:100].strip(". ") or "cloud"
    return f"{stem}_labelled{target.suffixes[0]}"
