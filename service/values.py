"""The values that travel through the service: frozen records of numpy arrays, and nothing that computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORED = -1
"""Label of a point that no model looked at (a coordinate that is NaN or infinite)."""


@dataclass(frozen=True)
class PointCloud:
    """A cloud as its file has it: points in file order, none dropped, coordinates in the file's own units.

    Attributes:
        coord: (N, 3) float64, or float32 where a client's tensors are that. Rows with NaN or infinity are invalid
            points; they keep their place.
        color: (N, 3) uint8, or None when the file has no colours.
        normal: (N, 3) float32, or None.
        intensity: (N,) float32 as stored in the file, or None.
        attributes: every other attribute by its name in the file; each (N,) or (N, k), any dtype.
        organized: (height, width) of a depth camera's image, or None for an unordered cloud.
        notes: what the reader had to guess or correct, in sentences; they become warnings of the answer.
        superpoint: (N,) the attribute of that name, any plain numbers, or None: which patch of a surface a point is of.
    """

    coord: NDArray[np.float64]
    color: NDArray[np.uint8] | None = None
    normal: NDArray[np.float32] | None = None
    intensity: NDArray[np.float32] | None = None
    attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    organized: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    superpoint: NDArray[Any] | None = None

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
        metres_per_unit: what the cloud's unit was taken to be: 0.001 where its size says that it is in millimetres.
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
    metres_per_unit: float = 1.0


@dataclass(frozen=True)
class Support:
    """The plane that things stand on.

    Attributes:
        point: (x, y, z) on it, in the file's units and frame.
        normal: (x, y, z) of length 1, away from what is beneath.
        rms_m: root of the mean squared distance of its points, metres.
    """

    point: tuple[float, ...]
    normal: tuple[float, ...]
    rms_m: float


@dataclass(frozen=True)
class BoxSize:
    """What was measured of one box; the three numbers are those of length, width and height.

    Attributes:
        size_m: metres; length >= width.
        size_uncertainty_m: half the width of the interval that holds the true edge in nine of ten cases, metres.
        volume_m3: their product.
        volume_uncertainty_m3: the same for the volume.
        center: (x, y, z) in the file's units and frame.
        rotation: rows are the unit axes of length, width and height in the file's frame.
        corners: eight (x, y, z) in the file's units and frame; the first four are the bottom, in their order around.
    """

    size_m: tuple[float, ...]
    size_uncertainty_m: tuple[float, ...]
    volume_m3: float
    volume_uncertainty_m3: float
    center: tuple[float, ...]
    rotation: tuple[tuple[float, ...], ...]
    corners: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class BoxPart:
    """What is known of a box not all of whose edges are; the three numbers are those of length, width and height.

    Attributes:
        size_m, size_uncertainty_m: as of BoxSize; None: not known.
        at_least_m: metres, what an edge that is not known has at least; None: it is known.
        volume_at_least_m3: from what the edges have at least.
        rotation: as of BoxSize.
    """

    size_m: tuple[float | None, ...]
    size_uncertainty_m: tuple[float | None, ...]
    at_least_m: tuple[float | None, ...]
    volume_at_least_m3: float
    rotation: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class MeasuredBox:
    """One object that was to be measured.

    Attributes:
        instance: the object, as the model found it.
        size: None where not all of it can be measured; `reason` says why.
        part: what is known then; None: nothing.
        faces_seen: top, front, back, left, right, bottom, the one of most points first; front is the side seen best.
        pose: standing, leaning, or unknown.
    """

    instance: Instance
    size: BoxSize | None
    part: BoxPart | None
    reason: str | None
    faces_seen: tuple[str, ...]
    pose: str


@dataclass(frozen=True)
class Measurement:
    """The boxes of a cloud.

    Attributes:
        boxes: one for each object of the segmentation, in its order.
        metres_per_unit: the file's unit.
        up: (x, y, z) of length 1 in the file's frame, away from what the boxes stand on; None: not known.
        support: the plane most of them stand on; None: there is none.
        warnings: sentences for the user, without those of the segmentation.
    """

    boxes: tuple[MeasuredBox, ...]
    metres_per_unit: float
    up: tuple[float, ...] | None
    support: Support | None
    warnings: tuple[str, ...]


def measurement_message(measurement: Measurement) -> dict[str, Any]:
    """Return a Measurement as JSON values."""
    return asdict(measurement)


def measurement_from(message: Mapping[str, Any]) -> Measurement:
    """Return the Measurement that `measurement_message` described."""
    boxes = []
    for one in message["boxes"]:
        size = None if one["size"] is None else BoxSize(**{name: _tuples(value) for name, value in one["size"].items()})
        part = None if one["part"] is None else BoxPart(**{name: _tuples(value) for name, value in one["part"].items()})
        boxes.append(
            MeasuredBox(Instance(**one["instance"]), size, part, one["reason"], tuple(one["faces_seen"]), one["pose"])
        )
    support = message["support"]
    return Measurement(
        tuple(boxes),
        message["metres_per_unit"],
        _tuples(message["up"]),
        None if support is None else Support(**{name: _tuples(part) for name, part in support.items()}),
        tuple(message["warnings"]),
    )


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list | tuple) else value


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
        metres_per_unit=message["metres_per_unit"],
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
        "metres_per_unit": segmentation.metres_per_unit,
    }


@dataclass(frozen=True)
class Classification:
    """What a model says of a cloud as a whole.

    Attributes:
        label: id of the class.
        scores: (C,) float32, probability of each class, in their order.
        classes: the classes that the ids mean.
        model: name of the model.
        points: of the cloud.
        warnings: sentences for the user.
        timing_ms: stage name to milliseconds.
    """

    label: int
    scores: NDArray[np.float32]
    classes: tuple[ClassInfo, ...]
    model: str
    points: int
    warnings: tuple[str, ...] = ()
    timing_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Embedding:
    """Features that an encoder has of a cloud's points, one row for each point of the input, in its order.

    Attributes:
        feature: (N, F) float16; NaN for invalid points.
        model: name of the model.
        warnings: sentences for the user.
        timing_ms: stage name to milliseconds.
    """

    feature: NDArray[np.float16]
    model: str
    warnings: tuple[str, ...] = ()
    timing_ms: Mapping[str, float] = field(default_factory=dict)


Answer = Segmentation | Classification | Embedding
"""What a model says of a cloud, by what it was asked for."""


def answer_arrays(answer: Answer) -> dict[str, NDArray[Any] | None]:
    """Return an answer's arrays by their names, None for those that it has not."""
    if isinstance(answer, Classification):
        return {"scores": answer.scores}
    if isinstance(answer, Embedding):
        return {"feature": answer.feature}
    return segmentation_arrays(answer)


def answer_message(answer: Answer) -> dict[str, Any]:
    """Return what an answer says beside its arrays, as JSON values; `timing_ms` is among them."""
    if isinstance(answer, Segmentation):
        return segmentation_message(answer)
    return {name: value for name, value in asdict(answer).items() if name not in answer_arrays(answer)}


def classification_from(message: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Classification:
    """Return the Classification that `answer_message` described, with its arrays beside it."""
    classes = tuple(ClassInfo(c["id"], c["name"], tuple(c["color"])) for c in message["classes"])
    rest = {"classes": classes, "warnings": tuple(message["warnings"])}
    return Classification(**{**message, **rest, "scores": arrays["scores"]})


def embedding_from(message: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Embedding:
    """Return the Embedding that `answer_message` described, with its arrays beside it."""
    return Embedding(**{**message, "warnings": tuple(message["warnings"]), "feature": arrays["feature"]})


TASKS = ("segment", "classify", "embed")
"""A label for each point; one class for a cloud; features of each point."""


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
        tasks: what it can do, out of TASKS; the first is what it was made for.
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
    tasks: tuple[str, ...] = ("segment",)
