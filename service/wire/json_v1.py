"""The JSON answer of `/v1/segment`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from service.values import IGNORED, ClassInfo, Segmentation


def count(segmentation: Segmentation) -> dict[int, int]:
    """Return how many points each class has; classes without points count 0, ignored points stand under -1."""
    ids, counts = np.unique(segmentation.label, return_counts=True)
    found = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    return {IGNORED: found.get(IGNORED, 0), **{c.id: found.get(c.id, 0) for c in segmentation.classes}}


def describe_class(info: ClassInfo) -> dict[str, Any]:
    """Return a class as JSON values."""
    return {"id": info.id, "name": info.name, "color": hex_color(info.color)}


def hex_color(color: Sequence[int]) -> str:
    """Return (r, g, b) in 0..255 as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def encode(segmentation: Segmentation, timing_ms: Mapping[str, float], request_id: str) -> bytes:
    """Return the answer's body.

    Args:
        segmentation: labels, and scores when these were asked for.
        timing_ms: every stage of the request.
        request_id: the id that the logs know the request by.
    """
    counts = count(segmentation)
    answer: dict[str, Any] = {
        "model": segmentation.model,
        "classes": [{**describe_class(info), "count": counts[info.id]} for info in segmentation.classes],
        "ignored": counts[IGNORED],
        "labels": np.ascontiguousarray(segmentation.label),
    }
    if segmentation.scores is not None:
        answer["scores"] = np.ascontiguousarray(segmentation.scores)
    if segmentation.instance is not None:
        answer["instance"] = np.ascontiguousarray(segmentation.instance)
        answer["instances"] = [
            {"id": one.id, "class": one.class_id, "score": round(one.score, 4), "points": one.points}
            for one in segmentation.instances
        ]
    answer |= {"warnings": list(segmentation.warnings), "timing_ms": dict(timing_ms), "request_id": request_id}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
