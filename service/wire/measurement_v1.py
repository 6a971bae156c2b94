"""The answers of `/v1/measure`: JSON, and a table of comma-separated values."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from service.values import MeasuredBox, Measurement, Segmentation
from service.wire.json_v1 import count, describe_class

EDGES = ("length_m", "width_m", "height_m")
NUMBERS = (*EDGES, "volume_m3")
COLUMNS = (
    *("id", "class", "score", "points", "measured", "reason", *NUMBERS),
    *(f"{name}_uncertainty" for name in NUMBERS),
    *("pose", "faces_seen", "center_x", "center_y", "center_z"),
    *(f"{name}_at_least" for name in NUMBERS),
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
    """Return a box as JSON values; numbers that are not known are null, and `at_least` says what they are at least."""
    size, part, one = box.size, box.part, box.instance
    values: tuple[float | None, ...] = (None,) * 4
    unsure = least = values
    if size is not None:
        values = (*_rounded(size.size_m, 5), round(size.volume_m3, 8))
        unsure = (*_rounded(size.size_uncertainty_m, 5), round(size.volume_uncertainty_m3, 8))
    elif part is not None:
        values = (*_rounded(part.size_m, 5), None)
        unsure = (*_rounded(part.size_uncertainty_m, 5), None)
        least = (*_rounded(part.at_least_m, 5), round(part.volume_at_least_m3, 8))
    known = size or part
    return {
        "id": one.id,
        "class": one.class_id,
        "score": round(one.score, 4),
        "points": one.points,
        "measured": size is not None,
        "reason": box.reason,
        **dict(zip(NUMBERS, values, strict=True)),
        "uncertainty": dict(zip(NUMBERS, unsure, strict=True)),
        "at_least": dict(zip(NUMBERS, least, strict=True)),
        "center": None if size is None else size.center,
        "rotation": None if known is None else known.rotation,
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
    return [*numbers, box["pose"], " ".join(box["faces_seen"]), *center, *box["at_least"].values()]


def _rounded(values: Sequence[float | None], digits: int) -> tuple[float | None, ...]:
    return tuple(None if value is None else round(value, digits) for value in values)
