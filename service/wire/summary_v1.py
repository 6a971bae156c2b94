"""The answers of `/v1/classify` and `/v1/embed`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

import numpy as np
import orjson

from service.values import Classification, Embedding
from service.wire.json_v1 import describe_class


def encode(found: Classification, timing_ms: Mapping[str, float], request_id: str) -> bytes:
    """Return the body of a classification's answer.

    Args:
        found: the class and all scores.
        timing_ms: every stage of the request.
        request_id: the id that the logs know the request by.
    """
    classes = [
        {**describe_class(info), "score": float(score)} for info, score in zip(found.classes, found.scores, strict=True)
    ]
    best = next(one for one in classes if one["id"] == found.label)
    answer: dict[str, Any] = {
        "model": found.model,
        "label": found.label,
        "name": best["name"],
        "score": best["score"],
        "classes": classes,
        "points": found.points,
        "warnings": list(found.warnings),
        "timing_ms": dict(timing_ms),
        "request_id": request_id,
    }
    return orjson.dumps(answer)


def write(found: Embedding, file: IO[bytes]) -> None:
    """Write features as NPZ: one array `feature` (N, F) float16."""
    np.savez(file, feature=found.feature)
