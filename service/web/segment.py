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
from service.errors import MalformedRequest, NotReady, UnknownModel, UnusableModel
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
            condition=query.condition,
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
    return file_answer(written, target, query.filename or upload.filename, segmentation.warnings, watch)


def choose_model(engine: EngineClient, wanted: str | None, task: str = "segment") -> str:
    """Return the name of the model to use for a task out of `service.values.TASKS`.

    Raises:
        UnusableModel: it is known not to work, and why.
        MalformedRequest: it is no model for that.
        UnknownModel, NotReady: as `find_model`.
    """
    card = find_model(engine, wanted, task)
    name: str = card["name"]
    if card.get("state") == "failed":
        raise UnusableModel(f"the model {name} cannot be used: {card['reason']}")
    tasks = _tasks(card)
    if task not in tasks:
        routes = ", ".join(f"POST /v1/{one}" for one in tasks)
        raise MalformedRequest(f"the model {name} cannot {task}; it serves {routes}")
    return name


def _tasks(card: dict[str, Any]) -> list[str]:
    return list(card.get("tasks", ("segment",)))


def find_model(engine: EngineClient, wanted: str | None, task: str = "segment") -> dict[str, Any]:
    """Return the card of a model as the engine has it, whatever its state.

    Where none is named, it is the first one that can do the task, or else the first one.

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
    if wanted is not None:
        return cards[wanted]
    return next((card for card in cards.values() if task in _tasks(card)), next(iter(cards.values())))


def _json_answer(segmentation: Segmentation, watch: Stopwatch) -> Response:
    body = json_v1.encode(segmentation, watch.read(), g.request_id)
    response = Response(body, mimetype="application/json")
    response.headers["Server-Timing"] = watch.header()
    return response


def file_answer(
    descriptor: int,
    target: Format,
    filename: str | None,
    warnings: Sequence[str],
    watch: Stopwatch,
    suffix: str = "_labelled",
) -> Response:
    """Return the answer that is a file; its descriptor is closed with it. Its name is the user's own with a suffix."""
    size = os.fstat(descriptor).st_size
    file = os.fdopen(descriptor, "rb")
    file.seek(0)
    response = send_file(
        file, mimetype=target.media_types[0], as_attachment=True, download_name=labelled_name(filename, target, suffix)
    )
    response.content_length = size
    response.headers["Server-Timing"] = watch.header()
    response.headers["X-Points"] = str(g.points)
    for warning in warnings:
        response.headers.add("X-Warning", warning.encode("ascii", "replace").decode())
    return response


def labelled_name(filename: str | None, target: Format, suffix: str = "_labelled") -> str:
    """Return the name of the labelled file: `scan.ply` becomes `scan_labelled.las`."""
    stem = (filename or "cloud").replace("\\", "/").rsplit("/", 1)[-1]
    for ending in sorted({ending for known in formats.FORMATS for ending in known.suffixes}, key=len, reverse=True):
        if stem.lower().endswith(ending):
            stem = stem[: -len(ending)]
            break
    stem = "".join(c for c in stem if c.isprintable() and c not in '"\\/')[:100].strip(". ") or "cloud"
    return f"{stem}{suffix}{target.suffixes[0]}"
