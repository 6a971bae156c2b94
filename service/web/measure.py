"""POST /v1/measure: a point cloud in, the dimensions of its boxes out."""

from __future__ import annotations

import os

from apiflask import APIBlueprint
from flask import Response, g

from service.engine import shared
from service.errors import MalformedRequest
from service.values import Measurement, Segmentation
from service.web.answers import file_answer, file_name, json_answer
from service.web.measure_schemas import MEDIA_TYPES, MeasureQuery
from service.web.received import received
from service.wire import archive, measurement_v1, outputs

blueprint = APIBlueprint("measure", __name__, tag="Measuring")


@blueprint.post("/v1/measure")
@blueprint.doc(summary="Measure the boxes of a point cloud", operation_id="measure")
def measure() -> Response:
    """Find the boxes of a cloud and measure each.

    The body is as for /v1/segment: the file as it is, a multipart form, or JSON with `points`.
    """
    with received(MeasureQuery) as got:
        query = got.query
        form, unit = query.form(got.accepted), query.metres_per_unit()
        target = outputs.choose_file(query.cloud, got.source) if form == "zip" else None
        model = got.choose("segment")
        read = got.read(unit or 1.0)
    with read as cloud:
        labelled = got.engine.segment(
            cloud,
            model,
            got.deadline,
            scores=query.scores and target is not None,
            tta=query.tta,
            condition=query.condition,
            **got.calls,
        )
        g.watch.within("segment", labelled.timing_ms)
        if labelled.instance is None:
            raise MalformedRequest(
                f"the model {model} tells no objects apart, so that there is nothing to measure; choose one that "
                "does, as the bundled model parcels"
            )
        # Where the user says nothing of the unit, the model's own view of it holds.
        taken = labelled.metres_per_unit if unit is None else 1.0
        frame = query.frame(taken if unit is None else unit)
        drawing = form if form in ("ply", "png") else "none"
        measured, drawn = got.engine.measure(
            cloud, labelled, frame, got.deadline, to_metres=taken, drawing=drawing, **got.calls
        )
        g.watch.lap("measure")
        if target is None:
            return _answer(form, query, got.filename, labelled, measured, drawn)
        os.close(drawn)
        written = got.engine.write(got.source, target, got.options, got.deadline, **got.calls)
    members: list[tuple[str, bytes | int]] = [
        (file_name(got.filename, f"_labelled{target.suffixes[0]}"), written),
        (file_name(got.filename, "_boxes.json"), _json(query, labelled, measured)),
        (file_name(got.filename, "_boxes.csv"), measurement_v1.tabulate(measured)),
    ]
    with os.fdopen(written, "rb"), os.fdopen(shared.create(), "w+b") as file:
        archive.write(members, file)
        packed = os.dup(file.fileno())
    g.watch.lap("write")
    return _answer(form, query, got.filename, labelled, measured, packed)


def _answer(
    form: str, query: MeasureQuery, filename: str | None, labelled: Segmentation, measured: Measurement, file: int
) -> Response:
    """Return the answer in the form that is wanted; `file`, the drawing or the archive, is closed with it."""
    if form in ("json", "csv"):
        os.close(file)
    if form == "json":
        return json_answer(_json(query, labelled, measured))
    content = measurement_v1.tabulate(measured) if form == "csv" else file
    warnings = (*labelled.warnings, *measured.warnings)
    return file_answer(content, MEDIA_TYPES[form], file_name(filename, f"_boxes.{form}"), warnings)


def _json(query: MeasureQuery, labelled: Segmentation, measured: Measurement) -> bytes:
    return measurement_v1.encode(labelled, measured, g.watch.read(), g.request_id, labels=query.labels)
