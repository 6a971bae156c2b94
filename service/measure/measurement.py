"""The boxes of a labelled cloud: one measurement for each object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.measure import planes
from service.measure.frame import Frame
from service.measure.planes import Floats, Plane
from service.values import BoxSize, Instance, MeasuredBox, Measurement, Segmentation, Support

_TOLERANCE_M = 0.01


def measure(coord: NDArray[np.float64], segmentation: Segmentation, frame: Frame) -> Measurement:
    """Return the boxes of a cloud.

    Args:
        coord: (N, 3) metres; rows may be NaN.
        segmentation: with `instance`.
        frame: the file's.
    """
    assert segmentation.instance is not None
    valid = np.isfinite(coord).all(axis=1)
    instance = np.where(valid, segmentation.instance, -2)
    shift = coord[valid].mean(axis=0) if valid.any() else np.zeros(3)
    coord = coord - shift
    rest = coord[instance == -1]
    found = planes.largest(rest, _TOLERANCE_M)
    warnings = []
    if not segmentation.instances:
        warnings.append("No box was found.")
    plane = None if found is None else found[0]
    support = None
    if plane is None:
        warnings.append("No plane was found that the boxes stand on.")
    else:
        if np.median(plane.height(coord[instance >= 0])) < 0 if (instance >= 0).any() else False:
            plane = plane.flipped()
        near = np.abs(plane.height(rest)) < _TOLERANCE_M
        rms = float(np.sqrt((plane.height(rest[near]) ** 2).mean()))
        point = (rest[near].mean(axis=0) + shift) / frame.metres_per_unit
        support = Support(tuple(point.tolist()), tuple(plane.normal.tolist()), rms)
    boxes = tuple(_box(coord[instance == one.id], one, plane, shift, frame) for one in segmentation.instances)
    up = None if plane is None else tuple(plane.normal.tolist())
    return Measurement(boxes, frame.metres_per_unit, up, support, tuple(warnings))


def _box(coord: Floats, instance: Instance, plane: Plane | None, shift: Floats, frame: Frame) -> MeasuredBox:
    if plane is None:
        return MeasuredBox(instance, None, "nothing was found that it stands on", (), "unknown")
    up = plane.normal
    flat = coord - np.outer(plane.height(coord), up)
    middle = flat.mean(axis=0)
    _values, axes = np.linalg.eigh((flat - middle).T @ (flat - middle))
    rotation = np.stack([axes[:, 2], np.cross(up, axes[:, 2]), up])
    low, high = np.percentile((coord - middle) @ rotation.T, [1, 99], axis=0)
    low[2] = 0.0
    size = high - low
    center = (low + high) / 2 @ rotation + middle
    around = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    signs = np.array([(*pair, height) for height in (-1, 1) for pair in around])
    corners = center + (signs * size / 2) @ rotation
    unit = frame.metres_per_unit
    volume = float(size.prod())
    made = BoxSize(
        tuple(size.tolist()),
        (0.02, 0.02, 0.02),
        volume,
        volume * 0.1,
        tuple(((center + shift) / unit).tolist()),
        tuple(tuple(row) for row in rotation.tolist()),
        tuple(tuple(row) for row in ((corners + shift) / unit).tolist()),
    )
    return MeasuredBox(instance, made, None, ("top",), "standing")
