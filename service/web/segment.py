"""POST /v1/segment: a point cloud in, a label for each of its points out."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import g
from flask.typing import ResponseReturnValue

from service.web.answers import file_answer, file_name, json_answer
from service.web.received import received
from service.web.schemas import SegmentQuery
from service.wire import json_v1, outputs

blueprint = APIBlueprint("segment", __name__, tag="Segmentation")


@blueprint.post("/v1/segment")
@blueprint.doc(summary="Label a point cloud", operation_id="segment")
def segment() -> ResponseReturnValue:
    """Label each point of a cloud.

    The body is the file as it is, a multipart form with the file in the part `file`, or JSON with `points`.
    """
    with received(SegmentQuery) as got:
        target = outputs.choose(got.query.output, got.accepted, got.source)
        model = got.choose("segment")
        read = got.read()
    # From here on only the engine holds the file, and the cloud, which may be larger.
    with read as cloud:
        found = got.engine.segment(
            cloud,
            model,
            got.deadline,
            scores=got.query.scores,
            tta=got.query.tta,
            condition=got.query.condition,
            arrays=target is None,
            **got.calls,
        )
        g.watch.within("segment", found.timing_ms)
        if target is None:
            return json_answer(json_v1.encode(found, g.watch.read(), g.request_id))
        written = got.engine.write(got.source, target, got.options, got.deadline, **got.calls)
    g.watch.lap("write")
    name = file_name(got.filename, f"_labelled{target.suffixes[0]}")
    return file_answer(written, target.media_types[0], name, found.warnings)
