"""The values that travel through the service: frozen records of numpy arrays, and nothing that computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORED = -1
"""Label of a point that no model looked at (a coordinate that is NaN or infinite)."""


@dataclass(frozen=True)
class PointCloud:
    """A cloud as its file has it: points in file order, none dropped, coordinates in the file's own units.

    Attributes:
        coord: (N, 3) float64. Rows with NaN or infinity are invalid points; they keep their place.
        color: (N, 3) uint8, or None when the file has no colours.
        normal: (N, 3) float32, or None.
        intensity: (N,) float32 as stored in the file, or None.
        attributes: every other attribute by its name in the file; each (N,) or (N, k), any dtype.
        organized: (height, width) of a depth camera's image, or None for an unordered cloud.
        notes: what the reader had to guess or correct, in sentences; they become warnings of the answer.
    """

    coord: NDArray[np.float64]
    color: NDArray[np.uint8] | None = None
    normal: NDArray[np.float32] | None = None
    intensity: NDArray[np.float32] | None = None
    attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    organized: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.coord)


@dataclass(frozen=True)
class ClassInfo:
    """One class that a model tells apart; `color` is (r, g, b) in 0..255."""

    id: int
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Instance:
    """One object that a model found.

    Attributes:
        id: its number in `Segmentation.instance`, from 0 on.
        class_id: what it is.
        score: 0..1, how sure the model is of it.
        points: how many points it has.
    """

    id: int
    class_id: int
    score: float
    points: int


@dataclass(frozen=True)
class Segmentation:
    """What a model says of a cloud, one row for each point of the input, in its order.

    Attributes:
        label: (N,) int32 class ids; IGNORED for invalid points.
        confidence: (N,) float32, probability of the chosen class, 0 for ignored points; None when not asked for.
        scores: (N, C) float32 class probabilities, 0 for ignored points; None when not asked for.
        classes: the classes that the ids mean.
        model: name of the model.
        warnings: sentences for the user.
        timing_ms: stage name to milliseconds.
        instance: (N,) int32, which of `instances` a point belongs to, -1: none; None where the model tells none apart.
        instances: the objects, by id.
    """

    label: NDArray[np.int32]
    classes: tuple[ClassInfo, ...]
    model: str
    confidence: NDArray[np.float32] | None = None
    scores: NDArray[np.float32] | None = None
    warnings: tuple[str, ...] = ()
    timing_ms: Mapping[str, float] = field(default_factory=dict)
    instance: NDArray[np.int32] | None = None
    instances: tuple[Instance, ...] = ()


def segmentation_from(message: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Segmentation:
    """Return the Segmentation that `segmentation_message` described, with its arrays beside it."""
    return Segmentation(
        label=arrays["label"],
        confidence=arrays.get("confidence"),
        scores=arrays.get("scores"),
        classes=tuple(ClassInfo(c["id"], c["name"], tuple(c["color"])) for c in message["classes"]),
        model=message["model"],
        warnings=tuple(message["warnings"]),
        timing_ms=dict(message["timing_ms"]),
        instance=arrays.get("instance"),
        instances=tuple(Instance(*values) for values in message["instances"]),
    )


def segmentation_arrays(segmentation: Segmentation) -> dict[str, NDArray[Any] | None]:
    """Return a Segmentation's arrays by their names, None for those that it has not."""
    return {
        "label": segmentation.label,
        "confidence": segmentation.confidence,
        "scores": segmentation.scores,
        "instance": segmentation.instance,
    }


def segmentation_message(segmentation: Segmentation) -> dict[str, Any]:
    """Return what a Segmentation says beside its arrays, as JSON values."""
    return {
        "classes": [{"id": c.id, "name": c.name, "color": list(c.color)} for c in segmentation.classes],
        "model": segmentation.model,
        "warnings": list(segmentation.warnings),
        "timing_ms": dict(segmentation.timing_ms),
        "instances": [[i.id, i.class_id, i.score, i.points] for i in segmentation.instances],
    }


@dataclass(frozen=True)
class ModelCard:
    """What a user should know of a model before sending it a cloud.

    Attributes:
        name: name by which requests ask for it.
        title: one line.
        family: network family, as Pointcept names it ("SpUNet-v1m1").
        classes: in the order of the network's outputs.
        inputs: names of the features that the network reads.
        grid_size: edge of a voxel in metres.
        parameters: number of weights.
        source: where the weights came from.
        about: free text fields (training data, accuracy, licence), shown as they are.
    """

    name: str
    title: str
    family: str
    classes: tuple[ClassInfo, ...]
    inputs: tuple[str, ...]
    grid_size: float
    parameters: int
    source: str
    about: Mapping[str, Any] = field(default_factory=dict)
