"""The answers of `/v1/measure`: JSON, and a table of comma-separated values."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from service.values import MeasuredBox, Measurement, Segmentation
from service.wire.json_v1 import count, describe_class

EDGES = ("length_m", "width_m", "height_m")
COLUMNS = (
    *("id", "class", "score", "points", "measured", "reason", *EDGES, "volume_m3"),
    *(f"{name}_uncertainty" for name in (*EDGES, "volume_m3")),
    *("pose", "faces_seen", "center_x", "center_y", "center_z"),
)


def encode(
    segmentation: Segmentation,
    measurement: Measurement,
    timing_ms: Mapping[str, float],
    request_id: str,
    *,
    labels: bool = False,
) -> bytes:
    """Return the JSON answer's body.

    Args:
        segmentation, measurement: of one cloud.
        timing_ms: every stage of the request.
        request_id: the id that the logs know the request by.
        labels: whether each point's class and object are in it.
    """
    counts = count(segmentation)
    support = measurement.support
    answer: dict[str, Any] = {
        "model": segmentation.model,
        "points": len(segmentation.label),
        "metres_per_unit": measurement.metres_per_unit,
        "up": measurement.up,
        "support": None
        if support is None
        else {"point": support.point, "normal": support.normal, "rms_m": round(support.rms_m, 6)},
        "classes": [{**describe_class(info), "count": counts[info.id]} for info in segmentation.classes],
        "boxes": [describe(box) for box in measurement.boxes],
    }
    if labels:
        answer["labels"] = np.ascontiguousarray(segmentation.label)
        answer["instance"] = None if segmentation.instance is None else np.ascontiguousarray(segmentation.instance)
    answer["warnings"] = [*segmentation.warnings, *measurement.warnings]
    answer |= {"timing_ms": dict(timing_ms), "request_id": request_id}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def describe(box: MeasuredBox) -> dict[str, Any]:
    """Return a box as JSON values; its numbers are null where it is not measured."""
    size, one = box.size, box.instance
    names = (*EDGES, "volume_m3")
    values = (None,) * 4 if size is None else (*_rounded(size.size_m, 5), round(size.volume_m3, 8))
    unsure = (
        (None,) * 4 if size is None else (*_rounded(size.size_uncertainty_m, 5), round(size.volume_uncertainty_m3, 8))
    )
    return {
        "id": one.id,
        "class": one.class_id,
        "score": round(one.score, 4),
        "points": one.points,
        "measured": size is not None,
        "reason": box.reason,
        **dict(zip(names, values, strict=True)),
        "uncertainty": dict(zip(names, unsure, strict=True)),
        "center": None if size is None else size.center,
        "rotation": None if size is None else size.rotation,
        "corners": None if size is None else size.corners,
        "faces_seen": list(box.faces_seen),
        "pose": box.pose,
    }


def tabulate(measurement: Measurement) -> bytes:
    """Return the boxes as comma-separated values (RFC 4180), a line each, empty where there is no number."""
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(COLUMNS)
    table.writerows(row(describe(box)) for box in measurement.boxes)
    return out.getvalue().encode()


def row(box: Mapping[str, Any]) -> list[Any]:
    """Return a described box as the values of COLUMNS."""
    center = box["center"] or (None,) * 3
    numbers = [box[name] for name in COLUMNS[:10]] + list(box["uncertainty"].values())
    return [*numbers, box["pose"], " ".join(box["faces_seen"]), *center]


def _rounded(values: tuple[float, ...], digits: int) -> tuple[float, ...]:
    return tuple(round(value, digits) for value in values)
