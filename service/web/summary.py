"""POST /v1/classify and /v1/embed: a point cloud in, its class or its points' features out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from apiflask import APIBlueprint
from flask import Response, current_app, g, request
from flask.typing import ResponseReturnValue

from service import formats
from service.engine import shared
from service.engine.client import DecodedCloud, EngineClient
from service.settings import Settings
from service.web import client
from service.web.body import receive
from service.web.schemas import SummaryQuery, parse_query
from service.web.segment import choose_model, file_answer
from service.web.stopwatch import Stopwatch
from service.wire import summary_v1

blueprint = APIBlueprint("summary", __name__, tag="Summaries")
NPZ = next(known for known in formats.FORMATS if known.name == "npz")


@dataclass(frozen=True)
class Received:
    """A request's cloud, decoded, with the model that shall look at it and what its calls of the engine take."""

    cloud: DecodedCloud
    model: str
    filename: str | None
    deadline: float
    calls: dict[str, Any]


@blueprint.post("/v1/classify")
@blueprint.doc(summary="Tell the class of a point cloud", operation_id="classify")
def classify() -> ResponseReturnValue:
    """Tell which class a cloud as a whole is of, an object most often, and how likely each class is.

    The body is as for /v1/segment: the file as it is, a multipart form, or JSON with `points`.
    """
    engine: EngineClient = current_app.extensions["engine"]
    with _received("classify") as got:
        found = engine.classify(got.cloud, got.model, got.deadline, **got.calls)
    g.watch.within("classify", found.timing_ms)
    response = Response(summary_v1.encode(found, g.watch.read(), g.request_id), mimetype="application/json")
    response.headers["Server-Timing"] = g.watch.header()
    return response


@blueprint.post("/v1/embed")
@blueprint.doc(summary="Return features of a cloud's points", operation_id="embed")
def embed() -> ResponseReturnValue:
    """Return the features that a network has of each point, before any classes, as NPZ.

    The body is as for /v1/segment: the file as it is, a multipart form, or JSON with `points`.
    """
    engine: EngineClient = current_app.extensions["engine"]
    with _received("embed") as got:
        found = engine.embed(got.cloud, got.model, got.deadline, **got.calls)
    g.watch.within("embed", found.timing_ms)
    written = shared.create()
    with os.fdopen(os.dup(written), "w+b") as file:
        summary_v1.write(found, file)
    g.watch.lap("write")
    return file_answer(written, NPZ, got.filename, found.warnings, g.watch, "_features")


@contextmanager
def _received(task: str) -> Iterator[Received]:
    """Take the request's cloud, and let the engine keep it for as long as the block lasts."""
    settings: Settings = current_app.extensions["settings"]
    engine: EngineClient = current_app.extensions["engine"]
    g.watch = Stopwatch()
    deadline, gone = client.deadline(request, settings.deadline_s), client.gone(request)
    calls: dict[str, Any] = {"request_id": g.request_id, "gone": gone}
    with receive(request, settings.max_body_bytes, deadline) as upload:
        g.watch.lap("receive")
        query = parse_query({**upload.options, **request.args.to_dict()}, SummaryQuery)
        filename = query.filename or upload.filename
        source = formats.recognise(upload.head, declared=query.format, media_type=upload.media_type, filename=filename)
        g.format = source.name
        g.model = model = choose_model(engine, query.model, task)
        read = engine.read(upload.descriptor, source, query.file_options(settings.max_points), deadline, **calls)
    with read as cloud:
        g.watch.lap("read")
        g.points = cloud.points
        structlog.contextvars.bind_contextvars(points=g.points, format=source.name, model=model)
        yield Received(cloud, model, filename, deadline, calls)
