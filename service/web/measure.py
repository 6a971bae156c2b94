"""POST /v1/measure: a point cloud in, the dimensions of its boxes out."""

from __future__ import annotations

import os
from typing import Any

import structlog
from apiflask import APIBlueprint
from flask import Response, current_app, g, request, send_file
from flask.typing import ResponseReturnValue

from service import formats
from service.engine.client import EngineClient
from service.errors import MalformedRequest
from service.settings import Settings
from service.values import Measurement, Segmentation
from service.web import client
from service.web.body import receive
from service.web.measure_schemas import MEDIA_TYPES, MeasureQuery
from service.web.schemas import parse_query
from service.web.segment import choose_model
from service.web.stopwatch import Stopwatch
from service.wire import measurement_v1

blueprint = APIBlueprint("measure", __name__, tag="Measuring")


@blueprint.post("/v1/measure")
@blueprint.doc(summary="Measure the boxes of a point cloud", operation_id="measure")
def measure() -> ResponseReturnValue:
    """Find the boxes of a cloud and measure each.

    The body is as for /v1/segment: the file as it is, a multipart form, or JSON with `points`.
    """
    settings: Settings = current_app.extensions["settings"]
    engine: EngineClient = current_app.extensions["engine"]
    g.watch = watch = Stopwatch()
    deadline, gone = client.deadline(request, settings.deadline_s), client.gone(request)
    with receive(request, settings.max_body_bytes, deadline) as upload:
        watch.lap("receive")
        query = parse_query({**upload.options, **request.args.to_dict()}, MeasureQuery)
        source = formats.recognise(
            upload.head,
            declared=query.format,
            media_type=upload.media_type,
            filename=query.filename or upload.filename,
        )
        g.format = source.name
        form = query.form([media_type for media_type, _ in request.accept_mimetypes])
        g.model = model = choose_model(engine, query.model)
        options, unit = query.file_options(settings.max_points), query.metres_per_unit()
        calls: dict[str, Any] = {"request_id": g.request_id, "gone": gone}
        with engine.read(upload.descriptor, source, options, deadline, metres_per_unit=unit or 1.0, **calls) as cloud:
            watch.lap("read")
            segmentation = engine.segment(cloud, model, deadline, tta=query.tta, condition=query.condition, **calls)
            watch.within("segment", segmentation.timing_ms)
            if segmentation.instance is None:
                raise MalformedRequest(
                    f"the model {model} tells no objects apart, so that there is nothing to measure; choose one that "
                    "does, as the bundled model parcels"
                )
            # Where the user says nothing of the unit, the model's own view of it holds.
            taken = segmentation.metres_per_unit if unit is None else 1.0
            frame = query.frame(taken if unit is None else unit)
            drawing = form if form in ("ply", "png") else "none"
            measured, drawn = engine.measure(
                cloud, segmentation, frame, deadline, to_metres=taken, drawing=drawing, **calls
            )
        watch.lap("measure")
        g.points = len(segmentation.label)
        structlog.contextvars.bind_contextvars(points=g.points, format=source.name, model=model)
        return _answer(segmentation, measured, drawn, form, query, upload.filename, watch)


def _answer(
    segmentation: Segmentation,
    measured: Measurement,
    drawn: int,
    form: str,
    query: MeasureQuery,
    filename: str | None,
    watch: Stopwatch,
) -> Response:
    """Return the answer in the form that is wanted; the drawing's descriptor is closed with it."""
    file = os.fdopen(drawn, "rb")
    if form in ("json", "csv"):
        file.close()
        if form == "json":
            body = measurement_v1.encode(segmentation, measured, watch.read(), g.request_id, labels=query.labels)
        else:
            body = measurement_v1.tabulate(measured)
        response = Response(body, mimetype=MEDIA_TYPES[form])
    else:
        size = os.fstat(drawn).st_size
        file.seek(0)
        response = send_file(file, mimetype=MEDIA_TYPES[form])
        response.content_length = size
    if form != "json":
        name = measured_name(query.filename or filename, form)
        response.headers.set("Content-Disposition", "attachment", filename=name)
        response.headers["X-Points"] = str(len(segmentation.label))
        for warning in (*segmentation.warnings, *measured.warnings):
            response.headers.add("X-Warning", warning.encode("ascii", "replace").decode())
    response.headers["Server-Timing"] = watch.header()
    return response


def measured_name(filename: str | None, form: str) -> str:
    """Return the name of an answer that is a file: `scan.ply` becomes `scan_boxes.csv`."""
    stem = (filename or "cloud").replace("\\", "/").rsplit("/", 1)[-1].split(".")[0]
    stem = "".join(c for c in stem if c.isascii() and c.isprintable() and c not in '"\\/')[:100].strip() or "cloud"
    return f"{stem}_boxes.{form}"
