"""POST /v1/classify and /v1/embed: a point cloud in, its class or its points' features out."""

from __future__ import annotations

import os

from apiflask import APIBlueprint
from flask import Response, g

from service import formats
from service.engine import shared
from service.web.answers import file_answer, file_name, json_answer
from service.web.received import received
from service.web.schemas import SummaryQuery
from service.wire import summary_v1

blueprint = APIBlueprint("summary", __name__, tag="Summaries")
NPZ = next(known for known in formats.FORMATS if known.name == "npz")


@blueprint.post("/v1/classify")
@blueprint.doc(summary="Tell the class of a point cloud", operation_id="classify")
def classify() -> Response:
    """Tell which class a cloud as a whole is of, an object most often, and how likely each class is.

    The body is as for /v1/segment: the file as it is, a multipart form, or JSON with `points`.
    """
    with received(SummaryQuery) as got:
        model = got.choose("classify")
        read = got.read()
    with read as cloud:
        found = got.engine.classify(cloud, model, got.deadline, **got.calls)
    g.watch.within("classify", found.timing_ms)
    return json_answer(summary_v1.encode(found, g.watch.read(), g.request_id))


@blueprint.post("/v1/embed")
@blueprint.doc(summary="Return features of a cloud's points", operation_id="embed")
def embed() -> Response:
    """Return the features that a network has of each point, before any classes, as NPZ.

    The body is as for /v1/segment: the file as it is, a multipart form, or JSON with `points`.
    """
    with received(SummaryQuery) as got:
        model = got.choose("embed")
        read = got.read()
    with read as cloud:
        found = got.engine.embed(cloud, model, got.deadline, **got.calls)
    g.watch.within("embed", found.timing_ms)
    with os.fdopen(shared.create(), "w+b") as file:
        summary_v1.write(found, file)
        written = os.dup(file.fileno())
    g.watch.lap("write")
    return file_answer(written, NPZ.media_types[0], file_name(got.filename, "_features.npz"), found.warnings)
